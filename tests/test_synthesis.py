"""Synthesis from templates: verified, balanced, the same in every process, and solvable through both faces."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import typer
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command
from llama_index.core.workflow import HumanResponseEvent, InputRequiredEvent
from typer.testing import CliRunner

from toolorch_integrations import Endpoint, Specialist
from toolorch_integrations.cli.synthesize import synthesize as command
from toolorch_integrations.langgraph import ChatPolicy, create_orchestrator
from toolorch_integrations.llamaindex import OrchestratorAgent, PolicyLLM
from toolorch_integrations.testing import Reply, Request, ScriptedPolicy, turns_so_far
from toolorch_rl.conversation import from_messages
from toolorch_rl.environments import Environment, SchemaError
from toolorch_rl.quality import check, rules_of
from toolorch_rl.replay import verify
from toolorch_rl.synthesis import Mix, Split, conversation, domain, domains, make, read_domain, synthesize
from toolorch_rl.synthesis.mix import COUNT, MINIMUM
from toolorch_rl.synthesis.templates import TEMPLATES
from toolorch_rl.synthesis.world import SPECIALISTS
from toolorch_rl.tasks import PATTERNS, Task, TaskError, read_tasks, solved


@pytest.fixture(scope="module")
def tasks() -> list[Task]:
    """Four hundred tasks of all domains."""
    return list(synthesize(seed=11, count=400))


@pytest.fixture(scope="module")
def by_template() -> dict[tuple[str, str], Task]:
    """A task of each template, from changing domains."""
    found: dict[tuple[str, str], Task] = {}
    for pattern, templates in TEMPLATES.items():
        names = {item.__name__ for item in templates}
        for number in range(200):
            task = make(list(domains().values())[number % len(domains())], pattern, f"each-{number}")
            found.setdefault((pattern, task.template), task)
            if len(names) == sum(kind == pattern for kind, _ in found):
                break
    return found


# --- what is made ---


def test_there_are_at_least_ten_domains_and_every_pattern_in_each() -> None:
    assert len(domains()) >= 10
    for item in domains().values():
        place = Environment(item.schema)
        for pattern in PATTERNS:
            task = make(item, pattern, "all", place)
            assert task.pattern == pattern
            assert task.domain == item.name


def test_the_default_count_has_the_mix_and_reaches_the_minimum_counts() -> None:
    quotas = Mix().quotas(COUNT)
    assert quotas == {
        "single": 200, "sequential": 125, "parallel": 75, "chain": 50, "mixed": 20, "conditional": 15, "loop": 15,
    }  # fmt: skip
    assert sum(quotas.values()) == COUNT
    assert Mix().shortfalls(quotas) == {}
    assert Mix().shortfalls(Mix().quotas(COUNT - 10)) == {"longer": 1, "parallel": 2}
    assert MINIMUM == {"two-step": 100, "longer": 50, "parallel": 75, "mixed": 50}
    assert Mix(shares={"loop": 1, "single": 3}).quotas(10) == {
        "single": 8, "sequential": 0, "parallel": 0, "conditional": 0, "loop": 2, "chain": 0, "mixed": 0,
    }  # fmt: skip


def test_shapes_are_those_of_the_patterns(tasks: list[Task]) -> None:
    for task in tasks:
        shape = [len(turn) for turn in task.golden]
        match task.pattern:
            case "single":
                assert shape == [1]
            case "sequential":
                assert shape == [1, 1]
            case "parallel":
                assert shape == [2]
            case "chain":
                assert sum(shape) >= 3
                assert len(shape) >= 2
            case "conditional":
                assert shape in ([1], [1, 1])
            case "loop":
                assert len(shape) == 2
            case "mixed":
                assert sum(shape) >= 3
    widths = {len(turn) for task in tasks if task.pattern in ("loop", "chain", "mixed") for turn in task.golden[1:]}
    assert widths >= {1, 2, 3, 4}


def test_every_task_is_sound_and_depends_on_earlier_results_where_its_pattern_says_so(tasks: list[Task]) -> None:
    for task in tasks[::3]:
        verify(task)
    for task in tasks:
        later = [call for turn in task.golden[1:] for call in turn]
        if task.pattern in ("sequential", "chain", "loop"):
            assert all(call.sources for call in later), task.id
        for call in task.golden[0]:
            assert not call.sources


def test_every_template_is_used(by_template: dict[tuple[str, str], Task]) -> None:
    assert set(by_template) == {(pattern, item.__name__) for pattern, items in TEMPLATES.items() for item in items}


def test_ids_and_requests_vary(tasks: list[Task]) -> None:
    assert len({task.id for task in tasks}) == len(tasks)
    assert len({task.request for task in tasks}) == len(tasks)
    assert {task.initial.id_form for task in tasks} == {"prefix-number", "prefix_hex", "hex", "number"}


def test_worlds_are_drawn_anew(tasks: list[Task]) -> None:
    assert len({task.price_table for task in tasks}) > 30
    assert {specialist.name for task in tasks for specialist in task.specialists} == {s.name for s in SPECIALISTS}
    vectors = {
        (task.preferences.quality, task.preferences.cost, task.preferences.latency, *task.preferences.tools.items())
        for task in tasks
    }
    assert len(vectors) > 200
    assert 0.3 < sum(bool(task.catalog.aliases) for task in tasks) / len(tasks) < 0.7
    for task in tasks:
        view = task.full_catalog().view(task.catalog)
        for call in task.calls:
            assert view.alias(call.name)
        prices = {entry.name: entry.price.call for entry in view.entries}
        if task.budget.dollars is not None:
            assert sum(prices[call.name] for call in task.calls) < task.budget.dollars
        assert task.budget.turns is None or task.budget.turns > len(task.golden)
        for wish in task.preferences.tools:
            assert task.preferences.instruction is None or view.alias(wish) in task.preferences.instruction


def test_wrong_names_and_empty_requests_are_refused() -> None:
    with pytest.raises(SchemaError, match=r"'moon'.*projects"):
        list(synthesize(names=["moon"]))
    with pytest.raises(ValueError, match="names is empty"):
        list(synthesize(names=[]))
    with pytest.raises(ValueError, match="-1"):
        list(synthesize(count=-1))
    with pytest.raises(SchemaError, match="'void' is empty"):
        read_domain({"name": "void"})
    entity: dict[str, Any] = {"plural": "things", "label": "name", "fields": {"name": {"required": True}}}
    with pytest.raises(SchemaError, match=r"'flat'.*templates need all four"):
        read_domain({"name": "flat", "entities": {"thing": entity}})
    entity["fields"]["name"]["examples"] = ["{planet}"]
    with pytest.raises(SchemaError, match=r"thing\.name.*'planet'"):
        read_domain({"name": "flat", "entities": {"thing": entity}})


def test_a_domain_that_no_template_fits_is_named() -> None:
    plain = domain("projects")
    same = read_domain({
        "name": "same",
        "entities": {
            entity.name: {
                "plural": entity.plural,
                "label": entity.label,
                "fields": {
                    field.name: {**field.model_dump(exclude_defaults=True, exclude={"name", "examples"}),
                                 **({"examples": ["Same"]} if field.name == entity.label else {})}
                    for field in entity.fields
                },
            }
            for entity in plain.schema.entities
        },
        "links": [link.model_dump() for link in plain.schema.links],
    })  # fmt: skip
    with pytest.raises(TaskError, match=r"same-single-0.*single"):
        make(same, "single", "0")


# --- the same bytes ---


def test_another_process_makes_the_same_bytes() -> None:
    code = (
        "import hashlib, json; from toolorch_rl.synthesis import conversation, synthesize\n"
        "made = list(synthesize(seed=3, count=60))\n"
        "text = ''.join(task.to_json() + json.dumps(conversation(task)) for task in made)\n"
        "print(hashlib.sha256(text.encode()).hexdigest())"
    )
    made = list(synthesize(seed=3, count=60))
    text = "".join(task.to_json() + json.dumps(conversation(task)) for task in made)
    output = subprocess.check_output([sys.executable, "-c", code], text=True, env={"PYTHONHASHSEED": "77"})
    assert output.strip() == hashlib.sha256(text.encode()).hexdigest()
    assert text != "".join(task.to_json() for task in synthesize(seed=4, count=60))


# --- conversations ---


def test_conversations_are_whole(tasks: list[Task]) -> None:
    for task in tasks:
        row = conversation(task)
        messages = row["messages"]
        assert [message["role"] for message in messages[:2]] == ["system", "user"]
        assert messages[-1] == {"role": "assistant", "content": task.answer}
        names = {schema["function"]["name"] for schema in json.loads(row["tools"])}
        open_calls: list[str] = []
        for message in messages:
            if message.get("tool_calls"):
                assert not open_calls
                open_calls = [call["id"] for call in message["tool_calls"]]
                assert {call["function"]["name"] for call in message["tool_calls"]} <= names
                assert all(
                    isinstance(json.loads(call["function"]["arguments"]), dict) for call in message["tool_calls"]
                )
            elif message["role"] == "tool":
                assert message["tool_call_id"] == open_calls.pop(0)
            else:
                assert not open_calls


def test_destructive_calls_stand_after_a_yes(tasks: list[Task]) -> None:
    seen: Counter[tuple[str, str]] = Counter()
    for task in tasks:
        row = conversation(task)
        destructive = [call for call in task.calls if task.is_destructive(call)]
        assert (task.approval is not None) == bool(destructive) == bool(row["confirmations"])
        assert [item["name"] for item in row["confirmations"]] == [call.name for call in destructive]
        for item in row["confirmations"]:
            seen[item["decision"], item["by"]] += 1
        called = [call["id"] for message in row["messages"] for call in message.get("tool_calls", ())]
        from_results = any(call.sources for call in destructive)
        if from_results:
            question, reply = next(
                (first["content"], second["content"])
                for first, second in zip(row["messages"], row["messages"][1:], strict=False)
                if first["role"] == "assistant" and second["role"] == "user"
            )
            assert question.endswith("?")
            assert reply in task.follow_ups
            assert all(str(value) in question for call in destructive for value in call.arguments.values())
            assert {call.id in called for call in destructive} == {task.approval}
    assert set(seen) == {(a, b) for a in ("approve", "reject") for b in ("message", "prompt")}


def test_conversations_pass_the_quality_checks(tasks: list[Task]) -> None:
    for task in tasks:
        row = conversation(task)
        yes = [item["tool_call_id"] for item in row["confirmations"] if item["decision"] == "approve"]
        seen = from_messages(
            row["messages"],
            name=task.id,
            tools=json.loads(row["tools"]),
            confirmed=yes,
            aliases=task.full_catalog().view(task.catalog).aliases,
        )
        report = check(seen, **rules_of(task.schema_of_environment))
        assert report.passed, f"{task.id}: {report.text()}"


# --- splits ---


def test_splits_are_functions_of_the_seed(tasks: list[Task]) -> None:
    for by in ("task", "tool", "specialist", "price_table"):
        split = Split(by=by, seed=2)
        parts = [split.part(task) for task in tasks]
        assert parts == [Split(by=by, seed=2).part(Task.from_json(task.to_json())) for task in tasks]
        assert parts != [Split(by=by, seed=3).part(task) for task in tasks]
        assert 0.01 < parts.count("test") / len(parts) < 0.5
        train, test = split.divide(tasks)
        assert [task.id for task in test] == [
            task.id for task, part in zip(tasks, parts, strict=True) if part == "test"
        ]
        assert len(train) + len(test) == len(tasks)


def test_training_never_shows_what_is_held_out(tasks: list[Task]) -> None:
    tool = Split(by="tool", seed=2, share=0.15)
    train, test = tool.divide(tasks)
    held_out = {
        (name, tool_name)
        for name, item in domains().items()
        for tool_name in Environment(item.schema).operations
        if tool.holds_out(name, tool_name)
    }
    assert held_out
    shown = {(task.domain, entry.name) for task in train for entry in task.full_catalog().view(task.catalog).entries}
    assert shown.isdisjoint(held_out)
    assert all({(task.domain, call.name) for call in task.calls} & held_out for task in test)
    for task in train[::5]:
        verify(task)
        assert set(task.preferences.tools) <= set(task.catalog.allow or ())
    specialist = Split(by="specialist", seed=2)
    train, test = specialist.divide(tasks)
    assert {item.name for task in train for item in task.specialists}.isdisjoint(specialist.specialists)
    assert all({item.name for item in task.specialists} & set(specialist.specialists) for task in test)
    prices = Split(by="price_table", seed=2)
    train, test = prices.divide(tasks)
    assert {task.price_table for task in train}.isdisjoint(prices.price_tables)
    assert {task.price_table for task in test} <= set(prices.price_tables)


# --- both faces ---


@pytest.fixture(scope="module")
def sample(tasks: list[Task], by_template: dict[tuple[str, str], Task]) -> list[Task]:
    """Sixty tasks: one of each template, some that end with a refusal, and others."""
    refused = [task for task in tasks if task.approval is False][:6]
    return [*by_template.values(), *refused, *(task for task in tasks if task not in refused)][:60]


def script(task: Task) -> Any:
    """Return what a policy says that makes the golden calls and gives the answer."""
    view = task.full_catalog().view(task.catalog)
    turns = [Reply(calls=[(view.alias(call.name), call.arguments) for call in turn]) for turn in task.golden]

    def reply(request: Request) -> Reply | str:
        number = turns_so_far(request)
        return turns[number] if number < len(turns) else task.answer

    return reply


def with_endpoints(task: Task, url: str) -> list[Specialist]:
    return [
        item.model_copy(update={"endpoint": Endpoint(url=url, model="nobody-asks", max_tokens=16)})
        for item in task.specialists
    ]


def decisions(count: int, task: Task) -> list[dict[str, str]]:
    return [{"type": "approve" if task.approval else "reject"}] * count


def by_langgraph(task: Task, place: Environment, llm: ChatPolicy, url: str) -> str:
    agent = create_orchestrator(
        llm,
        place.langchain_tools(),
        specialists=with_endpoints(task, url),
        catalog=place.catalog(),
        preferences=task.preferences,
        budget=task.budget,
        changes=task.catalog,
        checkpointer=InMemorySaver(),
    )
    config: Any = {"configurable": {"thread_id": "only"}}
    result = agent.invoke({"messages": [("user", task.request)]}, config)
    while result.get("__interrupt__"):
        asked = result["__interrupt__"][0].value["action_requests"]
        result = agent.invoke(Command(resume={"decisions": decisions(len(asked), task)}), config)
    return str(result["messages"][-1].text)


async def by_llamaindex(task: Task, place: Environment, llm: PolicyLLM, url: str) -> str:
    agent = OrchestratorAgent(
        tools=place.llamaindex_tools(),
        llm=llm,
        specialists=with_endpoints(task, url),
        catalog=place.catalog(),
        preferences=task.preferences,
        budget=task.budget,
        changes=task.catalog,
        streaming=False,
    )
    handler = agent.run(user_msg=task.request)
    async for event in handler.stream_events():
        if isinstance(event, InputRequiredEvent):
            handler.ctx.send_event(HumanResponseEvent(decisions=decisions(len(event.action_requests), task)))
    output = await handler
    return output.response.content or ""


def seen(messages: list[dict[str, Any]]) -> list[tuple[str, str, list[tuple[str, Any]]]]:
    """Return role, text and calls of messages; ids of calls are the server's own."""
    return [
        (
            message["role"],
            message.get("content") or "",
            [
                (call["function"]["name"], json.loads(call["function"]["arguments"]))
                for call in message.get("tool_calls") or ()
            ],
        )
        for message in messages
    ]


@pytest.mark.parametrize("face", ["langgraph", "llamaindex"])
async def test_golden_calls_solve_every_task_through_the_face(face: str, sample: list[Task]) -> None:
    assert len(sample) == 60
    assert {task.pattern for task in sample} == set(PATTERNS)
    assert {task.approval for task in sample} == {None, True, False}
    failed = []
    working: list[Any] = [None]
    with ScriptedPolicy(lambda request: working[0](request), exact=False) as policy:
        chat = ChatPolicy(model="scripted", base_url=policy.url, max_retries=0)
        llm = PolicyLLM("scripted", policy.url, max_retries=0)
        for task in sample:
            working[0] = script(task)
            with task.open() as place:
                if face == "langgraph":
                    answer = by_langgraph(task, place, chat, policy.url)
                else:
                    answer = await by_llamaindex(task, place, llm, policy.url)
                state = place.state()
            verdict = solved(task, state, answer)
            if not verdict.passed:
                failed.append((task.id, verdict.reason))
            if not task.follow_ups:  # what a policy is trained on is what it will see
                row = conversation(task)
                assert seen(policy.requests[-1]["messages"]) == seen(row["messages"][:-1]), task.id
                assert policy.requests[-1]["tools"] == json.loads(row["tools"]), task.id
    assert failed == []


# --- the command ---


def test_the_command_writes_tasks_and_conversations(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(command)
    runner = CliRunner()
    out = tmp_path / "made.jsonl"
    result = runner.invoke(app, ["--out", str(out), "--count", "30", "--seed", "6", "--domains", "shop, clinic"])
    assert result.exit_code == 0, result.output
    assert [task.to_json() for task in read_tasks(out)] == [
        task.to_json() for task in synthesize(6, 30, ["shop", "clinic"])
    ]
    assert "each domain lacks" in result.output
    result = runner.invoke(app, ["--out", str(out), "--count", "5", "--format", "messages"])
    assert result.exit_code == 0, result.output
    assert [set(json.loads(line)) for line in out.read_text().splitlines()] == [
        {"id", "domain", "pattern", "messages", "tools", "confirmations"}
    ] * 5
    kept = out.read_bytes()
    result = runner.invoke(app, ["--out", str(out), "--domains", "moon"])
    assert result.exit_code == 1
    assert "'moon'" in result.output
    assert out.read_bytes() == kept
    assert [path.name for path in tmp_path.iterdir()] == ["made.jsonl"]


def test_the_command_writes_the_parts_of_a_split(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(command)
    out = tmp_path / "made.jsonl"
    given = ["--out", str(out), "--count", "80", "--seed", "6"]
    result = CliRunner().invoke(app, [*given, "--split", "tool", "--split-seed", "5", "--split-share", "0.1"])
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "made.split.json", "made.test.jsonl", "made.train.jsonl",
    ]  # fmt: skip
    split = Split.model_validate_json((tmp_path / "made.split.json").read_text())
    assert split == Split(by="tool", seed=5, share=0.1)
    parts = [[task.to_json() for task in read_tasks(tmp_path / f"made.{name}.jsonl")] for name in ("train", "test")]
    assert parts == [[task.to_json() for task in part] for part in split.divide(synthesize(6, 80))]
    assert all(parts)
    assert f"{len(parts[1])} in" in result.output
    kept = {path: path.read_bytes() for path in tmp_path.iterdir()}
    result = CliRunner().invoke(app, [*given, "--split", "tool", "--domains", "moon"])
    assert result.exit_code == 1
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == kept
