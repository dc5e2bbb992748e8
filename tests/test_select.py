"""The `select` rendering to the byte, and whole runs of it: what the published Orchestrator-8B was trained on."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.types import Command

from tests.doubles import chat_policy
from tests.select_world import (
    FULL,
    GOLDEN,
    QUESTION,
    TOOLS,
    Policy,
    catalog_of,
    choose,
    find,
    specialist_says,
    two_texts,
)
from toolorch_integrations import (
    Budget,
    Catalog,
    CatalogError,
    CatalogFilter,
    Endpoint,
    Preferences,
    Price,
    Specialist,
    Tool,
)
from toolorch_integrations.capture import capture
from toolorch_integrations.langgraph import SelectTools, create_orchestrator, ledger_of
from toolorch_integrations.select import (
    CODE_TOKENS,
    DOCUMENT_CHARACTERS,
    Context,
    Tokens,
    choices_of,
    function_schema,
    offered,
    step_messages,
)
from toolorch_integrations.select_replies import answer_in, code_in, documents_in, query_in
from toolorch_integrations.select_run import published_catalog
from toolorch_integrations.store import TraceStore
from toolorch_integrations.testing import Reply, ScriptedPolicy

# --- bytes ---


def schemas(changes: CatalogFilter | None = None, catalog: Catalog | None = None) -> list[dict[str, Any]]:
    view = (catalog or published_catalog()).view(changes)
    return [function_schema(function, choices) for function, choices in choices_of(view).items() if choices]


def described(schema: dict[str, Any]) -> str:
    return str(schema["function"]["parameters"]["properties"]["model"]["description"])


def test_the_published_tools_to_the_byte():
    expected = json.loads((GOLDEN / "select_tools.json").read_text())
    assert json.dumps(schemas()) == json.dumps(expected)  # the order of the keys counts


def test_the_published_prompt():
    system = {"role": "system", "content": "You are good at using tools."}
    empty = "Problem: X\n\n\n\nChoose an appropriate tool."
    assert step_messages("X", "") == [system, {"role": "user", "content": empty}]
    context = Context.of([{"documents": ["best", "second"]}, {"code": "print(1)", "output": "1"}])
    assert step_messages("X", context.text("X", Tokens()))[1]["content"] == (
        "Problem: X\n\nDocuments:\nDoc 1: second ...\n\nDoc 2: best ...\n\n"
        "\npython code and execution outputs:\n```python\nprint(1)\n```\n\n```output\n1\n```\n\n"
        "\n\nChoose an appropriate tool."
    )


def test_code_without_documents():
    context = Context.of([{"code": "print(1)", "output": "1"}])
    expected = "\npython code and execution outputs:\n```python\nprint(1)\n```\n\n```output\n1\n```\n\n"
    assert context.text("X", Tokens()) == expected


def test_aliases_prices_latencies_and_hidden_entries():
    changes = CatalogFilter(
        deny=frozenset({"answer-2", "answer-3", "answer-4", "answer-math-1"}),
        aliases={"answer-1": "expert-9"},
        prices={"answer-math-2": Price(input=0.00004, output=1200)},
        latencies={"answer-1": 0.5},
    )
    text = described(schemas(changes)[1])
    assert text.startswith("The model used to answer. Choices: ['expert-9', 'answer-math-2']. expert-9 exhibits strong")
    rows = text.split("average latency\n")[1].splitlines()
    assert rows == ["expert-9 | $1.25 | $10 | 0.5s", "answer-math-2 | $0.00004 | $1200 | 9s"]  # no $$ at this price


def test_the_misprint_is_that_entrys_only():
    entry = Specialist(name="other", capabilities=("answer", "search"), price=Price(input=0.2, output=0.2), latency=9)
    answer, search = schemas(catalog=Catalog([entry, Specialist(name="mute")]))
    assert described(answer).endswith("other | $0.2 | $0.2 | 9s")
    assert described(search).endswith("other | $0.2 | $0.2 | 9s")


def test_a_latency_that_nobody_knows():
    assert described(schemas(catalog=Catalog([Specialist(name="a", capabilities=("answer",))]))[0]).endswith(
        "a | $0 | $0 | unknown"
    )


def words(text: str) -> list[str]:
    return text.split(" ")


def test_documents_are_cut_and_not_repeated():
    long = "a" * (DOCUMENT_CHARACTERS + 5)
    context = Context.of([{"documents": [long, "b"]}, {"documents": ["c", "b"]}])
    assert context.documents == ["b", long, "c"]
    assert context.text("", Tokens()) == (
        f"Documents:\nDoc 1: b ...\n\nDoc 2: {'a' * DOCUMENT_CHARACTERS} ...\n\nDoc 3: c ...\n\n"
    )


def test_code_is_cut_from_the_front_by_the_policys_tokens():
    by_words = Tokens(words, " ".join)
    context = Context.of([{"code": "early", "output": "x " * CODE_TOKENS}, {"code": "late", "output": "y"}])
    code = context.text("", by_words).removeprefix("\npython code and execution outputs:\n")
    assert code.startswith("```\nx x ")
    assert code.endswith("```python\nlate\n```\n\n```output\ny\n```\n\n")
    assert len(words(code.removeprefix("```\n"))) == CODE_TOKENS
    short = Context.of([{"code": "early", "output": "x"}])
    assert short.text("", by_words).count("```") == 4  # a code part that is not cut gets no further fence


def test_documents_and_code_share_what_the_problem_leaves():
    by_words = Tokens(words, " ".join)
    context = Context.of([{"documents": [f"{n} " * 500 for n in range(60)]}])
    text = context.text("p " * 26_000, by_words)
    assert text.startswith("Documents:\n")
    assert len(words(text.removeprefix("Documents:\n"))) == 27_000 - 26_001
    assert text.endswith(" ...\n\n")
    assert context.text("p " * 30_000, by_words) == "Documents:\n"


def test_four_characters_count_as_a_token_without_a_tokenizer():
    assert Tokens().count("12345") == 2
    assert Tokens().keep_end("123456789", 2) == "23456789"
    assert Tokens().keep_end("123456789", 0) == ""
    with pytest.raises(ValueError, match="neither"):
        Tokens(encode=words)


def test_a_function_called_twice_in_a_row_is_left_out():
    functions = ["enhance_reasoning", "answer", "search"]
    assert offered(functions, ["search"]) == functions
    assert offered(functions, ["search", "search"]) == ["enhance_reasoning", "answer"]
    assert offered(functions, ["search", "answer", "search"]) == functions
    assert offered(functions, ["answer", "answer"], last=True) == ["answer"]
    assert offered(["answer"], ["answer", "answer"]) == ["answer"]


# --- replies of specialists ---


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        ("First\n```python\nx = 1\n```\nbetter\n```python\nprint(2)\n```", "print(2)"),
        ("```py\nprint(2)\n```", "print(2)"),
        ("```\nprint(2)\n```", "print(2)"),
        ("```python\nprint(2)", "print(2)"),
        ("```python\n\n```", None),
        ("I would compute it.", None),
    ],
)
def test_the_program_in_a_reply(reply: str, code: str | None):
    assert code_in(reply) == code


@pytest.mark.parametrize(
    ("reply", "query"),
    [
        ("No <query>tent\nsize</query> yes <query> crate size </query>", "crate size"),
        ("crate size", "crate size"),
        ("Let me think.\nI do not know.", None),
        ("<query> </query>", None),
        ("", None),
    ],
)
def test_the_query_in_a_reply(reply: str, query: str | None):
    assert query_in(reply) == query


def test_the_answer_in_a_reply():
    assert answer_in("<answer>6</answer> no: <answer> 12 </answer>") == "12"
    assert answer_in(" 12 tents ") == "12 tents"


@pytest.mark.parametrize(
    ("result", "documents"),
    [
        (["a", " ", "b"], ["a", "b"]),
        ([Document("a"), Document("b")], ["a", "b"]),
        ({"results": [{"title": "T", "content": "a"}, {"snippet": "b"}]}, ["T\na", "b"]),
        ('[{"text": "a"}, "b"]', ["a", "b"]),
        ([{"rows": 3}], ['{"rows": 3}']),
        ("42", ["42"]),
        ("first\n\nsecond", ["first\n\nsecond"]),
        ("a" * 1000 + "\n\n" + "b" * 1000, ["a" * 1000, "b" * 1000]),
        ("a" * 1300, ["a" * 1200, "a" * 100]),
        ("", []),
        ([], []),
    ],
)
def test_the_documents_in_a_result(result: Any, documents: list[str]):
    assert documents_in(result) == documents


# --- the catalogue ---


def test_endpoints_of_the_published_catalogue_come_from_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TOOLORCH_GPT5_URL", "http://127.0.0.1:4000/v1")
    monkeypatch.setenv("TOOLORCH_GPT5_MODEL", "mine")
    monkeypatch.setenv("TOOLORCH_GPT5_KEY_VARIABLE", "")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    catalog = published_catalog()
    endpoints = {entry.name: entry.endpoint for entry in catalog.specialists if entry.endpoint is not None}
    assert len(endpoints) == 12
    assert {endpoints[name].model for name in ("answer-1", "reasoner-1", "search-1")} == {"mine"}
    assert endpoints["answer-1"].url == "http://127.0.0.1:4000/v1"
    assert endpoints["answer-1"].key() is None
    assert endpoints["answer-2"].model == "gpt-5-mini"
    assert endpoints["answer-2"].key_variable == "OPENAI_API_KEY"


# --- runs ---


@pytest.fixture
def specialists() -> Iterator[ScriptedPolicy]:
    with ScriptedPolicy(specialist_says) as server:
        yield server


def orchestrator(policy: Policy, server: ScriptedPolicy, **options: Any) -> Any:
    given = {"catalog": catalog_of(server), "select": TOOLS, **options}
    return create_orchestrator(chat_policy(policy.server, price=Price(input=1, output=2)), rendering="select", **given)


def ask(agent: Any, **options: Any) -> dict[str, Any]:
    result: dict[str, Any] = agent.invoke({"messages": [("user", QUESTION)]}, **options)
    return result


def test_a_whole_run_to_the_byte(specialists: ScriptedPolicy):
    with Policy(*FULL) as policy:
        result = ask(orchestrator(policy, specialists))
    assert result["messages"][-1].text == "12"
    golden = json.loads((GOLDEN / "select_run.json").read_text())
    assert policy.prompts == [[tuple(message) for message in step] for step in golden["policy"]]
    tools = json.loads((GOLDEN / "select_tools.json").read_text())
    assert [json.dumps(request["tools"]) for request in policy.server.requests] == [json.dumps(tools)] * 3
    assert "tool_choice" not in policy.server.requests[0] or policy.server.requests[0]["tool_choice"] == "auto"
    asked = [[[m["role"], m["content"]] for m in request["messages"]] for request in specialists.requests]
    assert asked == golden["specialists"]


async def test_a_whole_run_on_the_event_loop_is_the_same(specialists: ScriptedPolicy):
    with Policy(*FULL) as policy:
        agent = orchestrator(policy, specialists)
        result = await agent.ainvoke({"messages": [("user", QUESTION)]})
    assert result["messages"][-1].text == "12"
    golden = json.loads((GOLDEN / "select_run.json").read_text())
    assert policy.prompts == [[tuple(message) for message in step] for step in golden["policy"]]


def test_everything_is_charged_at_this_requests_prices(specialists: ScriptedPolicy):
    catalog = catalog_of(specialists, Tool(name="find", price=Price(call=0.25)))
    with Policy(*FULL) as policy:
        agent = orchestrator(policy, specialists, catalog=catalog)
        result = ask(agent, context={"catalog": CatalogFilter(prices={"answer-1": Price(input=0, output=0, call=3)})})
    ledger = ledger_of(result)
    assert [(call.kind.value, call.name, call.status.value) for call in ledger] == [
        ("policy", "scripted", "ok"),
        ("specialist", "search-3", "ok"),
        ("tool", "find", "ok"),
        ("policy", "scripted", "ok"),
        ("specialist", "reasoner-1", "ok"),
        ("tool", "python", "ok"),
        ("policy", "scripted", "ok"),
        ("specialist", "answer-1", "ok"),
    ]
    by_name = {call.name: call for call in ledger}
    assert by_name["find"].dollars == 0.25
    assert by_name["answer-1"].dollars == 3.0
    searcher = by_name["search-3"]
    assert searcher.dollars == pytest.approx(0.8e-6 * (searcher.input_tokens + searcher.output_tokens))
    assert searcher.dollars > 0
    assert by_name["scripted"].dollars > 0


def test_preferences_are_joined_to_the_problem_for_the_policy_only(specialists: ScriptedPolicy):
    with Policy(*FULL) as policy:
        agent = orchestrator(policy, specialists, preferences=Preferences(cost=1, tools={"search-3": 1}))
        ask(agent, context={"catalog": CatalogFilter(aliases={"search-3": "search-x"})})
    said = "Preferences: low cost matters most of all; use search-x if at all possible."
    assert policy.prompts[0][1][1] == f"Problem: {QUESTION}\n\n{said}\n\n\n\nChoose an appropriate tool."
    assert all("Preferences" not in request["messages"][-1]["content"] for request in specialists.requests)


def test_earlier_exchange_reaches_the_specialists(specialists: ScriptedPolicy):
    with Policy(*FULL) as policy:
        before = [("user", "Do you sell tents?"), ("assistant", "Yes."), ("user", QUESTION)]
        orchestrator(policy, specialists).invoke({"messages": before})
    assert policy.prompts[0][1][1].startswith(f"Problem: {QUESTION}\n\n")
    asked = specialists.requests[0]["messages"]
    assert [(m["role"], m["content"]) for m in asked[:2]] == [("user", "Do you sell tents?"), ("assistant", "Yes.")]
    assert len(asked) == 3


def test_a_second_request_of_a_conversation_starts_with_an_empty_context(specialists: ScriptedPolicy):
    with Policy(*FULL, choose("answer", "answer-1")) as policy:
        agent = orchestrator(policy, specialists, checkpointer=InMemorySaver())
        config = {"configurable": {"thread_id": "one"}}
        ask(agent, config=config)
        agent.invoke({"messages": [("user", "And into 4?")]}, config)
    assert policy.prompts[3][1][1] == "Problem: And into 4?\n\n\n\nChoose an appropriate tool."
    assert policy.functions[3] == ["enhance_reasoning", "answer", "search"]


def test_the_last_turn_offers_answer_only(specialists: ScriptedPolicy):
    with Policy(choose("search", "search-1"), choose("answer", "answer-1")) as policy:
        result = ask(orchestrator(policy, specialists, budget=Budget(turns=2)))
    assert policy.functions == [["enhance_reasoning", "answer", "search"], ["answer"]]
    assert policy.server.requests[1].get("tool_choice", "auto") == "auto"
    assert result["messages"][-1].text == "12"


def test_a_last_turn_without_an_answer_ends_with_what_there_is(specialists: ScriptedPolicy):
    with Policy(choose("search", "search-1")) as policy:
        result = ask(orchestrator(policy, specialists, budget=Budget(turns=2)))
    assert len(policy.server.requests) == 2
    assert "The budget of turns ended" in result["messages"][-1].text
    assert "a crate holds 4" in result["messages"][-1].text
    assert len(specialists.requests) == 1


def test_a_dollar_budget_ends_the_run(specialists: ScriptedPolicy):
    catalog = catalog_of(specialists, Tool(name="find", price=Price(call=0.25)))
    with Policy(*FULL) as policy:
        result = ask(orchestrator(policy, specialists, catalog=catalog, budget=Budget(dollars=0.2)))
    assert len(policy.server.requests) == 1
    assert "The budget of dollars ended" in result["messages"][-1].text
    assert "a crate holds 4" in result["messages"][-1].text


def test_an_unknown_alias_costs_nothing_and_adds_nothing(specialists: ScriptedPolicy):
    with Policy(
        choose("search", "search-9"), choose("search", "answer-1"), Reply(calls=[("find", {"query": "x"})]), *FULL[2:]
    ) as policy:
        result = ask(orchestrator(policy, specialists))
    assert result["messages"][2].text == (
        "Error: there is no tool 'search-9'. Choose one of: search-1, search-2, search-3."
    )
    assert "there is no tool 'answer-1'" in result["messages"][4].text
    assert "there is no tool 'find'. Choose one of: enhance_reasoning, answer, search." in result["messages"][6].text
    assert len(specialists.requests) == 1  # three failed turns: a specialist answers, the policy is not asked again
    assert len(policy.server.requests) == 3
    assert len({prompt[1][1] for prompt in policy.prompts}) == 1
    assert (
        policy.functions == [["enhance_reasoning", "answer", "search"]] * 3
    )  # a call that was not made does not count
    statuses = [call.status.value for call in ledger_of(result) if call.kind.value == "tool"]
    assert statuses == ["unknown", "unknown", "unknown"]


def test_malformed_arguments_are_named(specialists: ScriptedPolicy):
    with Policy(Reply(calls=[("answer", {"name": "answer-1"})]), *FULL[2:]) as policy:
        result = ask(orchestrator(policy, specialists))
    assert "`model` must be one of answer-1, answer-2" in result["messages"][2].text
    assert result["messages"][-1].text == "12"


def test_the_policy_that_cannot_choose_is_replaced_by_an_answering_specialist(specialists: ScriptedPolicy):
    with Policy(choose("search", "search-1"), "It is 12.") as policy:
        result = ask(orchestrator(policy, specialists, fallback="answer-3"))
    assert result["messages"][-1].text == "12"  # the block of the specialist's reply, not the policy's text
    assert len(policy.server.requests) == 4
    asked = specialists.requests[-1]
    assert asked["model"] == "answer-3"
    assert "a crate holds 4" in asked["messages"][-1]["content"]


def test_twice_in_a_row(specialists: ScriptedPolicy):
    with Policy(choose("search", "search-1"), choose("search", "search-2"), *FULL[1:]) as policy:
        result = ask(orchestrator(policy, specialists))
    all_functions = ["enhance_reasoning", "answer", "search"]
    assert policy.functions == [all_functions, all_functions, ["enhance_reasoning", "answer"], all_functions]
    assert policy.prompts[2] == policy.prompts[1]  # the second search brought the same documents
    assert result["messages"][-1].text == "12"


def test_parallel_calls_join_the_context_in_order(specialists: ScriptedPolicy):
    both = Reply(calls=[("enhance_reasoning", {"model": "reasoner-1"}), ("search", {"model": "search-1"})])
    with Policy(both, *FULL[2:]) as policy:
        result = ask(orchestrator(policy, specialists))
    golden = json.loads((GOLDEN / "select_run.json").read_text())
    assert [list(message) for message in policy.prompts[1]] == golden["policy"][2]
    assert result["messages"][-1].text == "12"


def test_what_the_app_does_not_have_is_not_offered(specialists: ScriptedPolicy):
    with Policy(*FULL[2:]) as policy:
        ask(orchestrator(policy, specialists, select=None))
        ask(orchestrator(policy, specialists, select=SelectTools(search=find)))
        context = {"catalog": CatalogFilter(deny=frozenset({"find"}))}
        ask(orchestrator(policy, specialists), context=context)
    assert policy.functions == [["answer"], ["answer", "search"], ["enhance_reasoning", "answer"]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"catalog": Catalog([Specialist(name="a", capabilities=("search",))])}, "endpoint"),
        ({"catalog": Catalog()}, "`answer` among its capabilities"),
        ({"tools": [find]}, "'find' cannot be called"),
        ({"select": SelectTools(search=two_texts)}, "single text"),
        ({"rendering": "chat"}, "goes with"),
    ],
)
def test_what_does_not_fit_is_refused_at_once(specialists: ScriptedPolicy, options: dict[str, Any], message: str):
    given = {"catalog": catalog_of(specialists), "select": TOOLS, "rendering": "select", **options}
    with Policy() as policy, pytest.raises(CatalogError, match=message):
        create_orchestrator(chat_policy(policy.server), **given)


NUMBER = {"title": "Answer", "type": "object", "properties": {"number": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("options", "message"), [({"system_prompt": "Be kind."}, "system_prompt"), ({"response_format": NUMBER}, "format")]
)
def test_what_has_no_place_in_the_prompt_is_refused(specialists: ScriptedPolicy, options: Any, message: str):
    with Policy(*FULL) as policy, pytest.raises(CatalogError, match=message):
        ask(orchestrator(policy, specialists, **options))


def test_a_request_that_hides_all_who_answer_is_refused(specialists: ScriptedPolicy):
    with Policy(*FULL) as policy, pytest.raises(CatalogError, match="`answer` among its capabilities"):
        ask(orchestrator(policy, specialists), context={"catalog": {"allow": ["search-1", "find"]}})


# --- faults ---


@tool
def broken(code: str) -> str:
    """Run Python, badly."""
    raise RuntimeError("no sandbox")


@tool
def silent(code: str) -> str:
    """Run Python that prints nothing."""
    return "\n"


@tool
def hanging(code: str) -> str:
    """Run Python for ever."""
    time.sleep(2)
    return "late"


@pytest.mark.parametrize(
    ("interpreter", "status", "said"),
    [(broken, "error", "no sandbox"), (silent, "error", "brought nothing"), (hanging, "timeout", "did not answer")],
)
async def test_a_tool_that_fails_adds_nothing_and_its_specialist_is_charged(
    specialists: ScriptedPolicy, interpreter: Any, status: str, said: str
):
    with Policy(*FULL[1:]) as policy:
        agent = orchestrator(policy, specialists, select=SelectTools(interpreter=interpreter), tool_timeout=0.2)
        result = ask(agent)
        other = await agent.ainvoke({"messages": [("user", QUESTION)]})
    assert said in result["messages"][2].text
    assert result["messages"][2].status == "error"
    assert policy.prompts[1] == policy.prompts[0]
    calls = {call.name: call for call in ledger_of(result)}
    assert calls["reasoner-1"].dollars > 0
    assert calls[interpreter.name].status.value == status
    assert result["messages"][-1].text == "12"
    assert other["messages"][-1].text == "12"


def test_a_deadline_inside_the_apps_tool_does_not_lose_what_was_spent(specialists: ScriptedPolicy):
    with Policy(*FULL[1:]) as policy:
        agent = orchestrator(policy, specialists, select=SelectTools(interpreter=hanging), budget=Budget(seconds=1.0))
        result = ask(agent)
    calls = {call.name: call for call in ledger_of(result)}
    assert calls["reasoner-1"].dollars > 0
    assert calls["hanging"].status.value == "timeout"


def test_a_tool_is_tried_again_as_its_entry_says(specialists: ScriptedPolicy):
    tries: list[str] = []

    def unsteady(code: str) -> str:
        """Run Python at the second try."""
        tries.append(code)
        if len(tries) == 1:
            raise ConnectionError("gone")
        return "tents: 12"

    catalog = catalog_of(specialists, Tool(name="unsteady", retries=1))
    with Policy(*FULL[1:]) as policy:
        agent = orchestrator(policy, specialists, catalog=catalog, select=SelectTools(interpreter=unsteady))
        result = ask(agent)
    call = next(call for call in ledger_of(result) if call.name == "unsteady")
    assert (call.status.value, call.attempts, len(tries)) == ("ok", 2, 2)
    assert "tents: 12" in policy.prompts[1][1][1]


def test_a_useless_reply_is_paid_for_and_counts_as_a_failed_turn(specialists: ScriptedPolicy):
    with Policy(choose("answer", "answer-2"), *FULL[2:]) as policy:
        result = ask(orchestrator(policy, specialists))
    assert "it wrote an empty answer" in result["messages"][2].text
    assert result["messages"][2].status == "error"
    call = next(call for call in ledger_of(result) if call.name == "answer-2")
    assert call.status.value == "ok"
    assert call.dollars > 0
    assert result["messages"][-1].text == "12"


def test_the_fallback_of_a_specialist_whose_endpoint_is_down(specialists: ScriptedPolicy):
    down = Specialist(
        name="down",
        capabilities=("answer",),
        endpoint=Endpoint(url="http://127.0.0.1:9/v1", model="down"),
        retries=0,
        fallback="answer-4",
    )
    with Policy(choose("answer", "down"), choose("answer", "down"), *FULL[2:]) as policy:
        agent = orchestrator(policy, specialists, catalog=catalog_of(specialists, down))
        result = ask(agent)
        hidden = ask(agent, context={"catalog": CatalogFilter(deny=frozenset({"answer-4"}))})
    assert result["messages"][-1].text == "12"
    calls = [(call.name, call.status.value) for call in ledger_of(result) if call.kind.value == "specialist"]
    assert calls == [("down", "error"), ("answer-4", "ok")]
    assert "answer-4" not in [call.name for call in ledger_of(hidden)]


# --- checkpoints, people, capture ---


def test_a_run_goes_on_from_its_checkpoint_in_a_new_orchestrator(specialists: ScriptedPolicy, tmp_path: Path):
    config = {"configurable": {"thread_id": "one"}}
    catalog = catalog_of(specialists, Tool(name="python", destructive=True))
    with Policy(*FULL) as policy:
        with SqliteSaver.from_conn_string(str(tmp_path / "a.sqlite")) as saver:
            first = ask(orchestrator(policy, specialists, catalog=catalog, checkpointer=saver), config=config)
            assert len(specialists.requests) == 1  # the person is asked before the specialist that writes the code
        asked = first["__interrupt__"][0].value["action_requests"]
        assert [(action["name"], action["args"]) for action in asked] == [
            ("enhance_reasoning", {"model": "reasoner-1"})
        ]
        with SqliteSaver.from_conn_string(str(tmp_path / "a.sqlite")) as saver:
            again = orchestrator(policy, specialists, catalog=catalog, checkpointer=saver)
            result = again.invoke(Command(resume={"decisions": [{"type": "approve"}]}), config)
    assert result["messages"][-1].text == "12"
    golden = json.loads((GOLDEN / "select_run.json").read_text())
    assert policy.prompts == [[tuple(message) for message in step] for step in golden["policy"]]
    assert len(ledger_of(result)) == 8


def test_capture_holds_each_call_once(specialists: ScriptedPolicy, tmp_path: Path):
    url = f"sqlite:///{tmp_path / 'traces.db'}"
    with Policy(*FULL) as policy, capture(url):
        ask(orchestrator(policy, specialists))
    with TraceStore.open(url) as store:
        (trace,) = store.full_traces()
    names = [record.call.name for record in trace.calls]
    assert sorted(names) == ["answer-1", "find", "python", "reasoner-1", "search-3"]
    assert trace.answer == "12"
    assert len(list(trace.paths())) == 3  # each step is a prompt of its own
