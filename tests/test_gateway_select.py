"""Policies that speak `select` behind the gateway: an orchestrator that is built in, and apps of either framework."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.doubles import chat_policy
from tests.gateway_runs import FACES, ask, ended, events_of
from tests.gateway_world import Serving, gateway
from tests.select_world import FULL, GOLDEN, QUESTION, TOOLS, Policy, catalog_of, choose, specialist_says
from toolorch_integrations import Budget, CatalogFilter, Price, Tool
from toolorch_integrations.langgraph import create_orchestrator
from toolorch_integrations.llamaindex import OrchestratorAgent, PolicyLLM
from toolorch_integrations.testing import Reply, ScriptedPolicy
from toolorch_serving.gateway.config import GatewayConfig
from toolorch_serving.gateway.errors import ConfigError
from toolorch_serving.gateway.orchestrators import as_runner, make_runners
from toolorch_serving.gateway.runner import FaceRunner
from toolorch_serving.gateway.threads import Threads

MODELS = {"reasoner-1": "enhance_reasoning", "answer-1": "answer", "search-3": "search"}


def golden() -> list[list[tuple[str, str]]]:
    run = json.loads((GOLDEN / "select_run.json").read_text())
    return [[(role, content) for role, content in step] for step in run["policy"]]


def definition(name: str, argument: str, implementation: str) -> dict[str, Any]:
    """Return a definition of a tool that the tests' own module holds."""
    parameters = {"type": "object", "properties": {argument: {"type": "string"}}, "required": [argument]}
    return {
        "type": "function",
        "function": {"name": name, "description": name, "parameters": parameters},
        "implementation": f"tests.select_world:{implementation}",
        "price": {"call": 0.25},
    }


def configured(folder: Path, specialists: ScriptedPolicy, **fields: Any) -> dict[str, Any]:
    """Return the section of an orchestrator that is built in from a catalogue and a definitions file."""
    catalog = folder / "catalog.toml"
    catalog.write_text(
        "\n".join(
            f'[[specialists]]\nname = "{name}"\ncapabilities = ["{function}"]\nprice = {{ input = 1.0 }}\nretries = 0\n'
            f'endpoint = {{ url = "{specialists.url}", model = "{name}" }}'
            for name, function in MODELS.items()
        )
    )
    tools = folder / "tools.json"
    tools.write_text(
        json.dumps([definition("search", "query", "find"), definition("code_interpreter", "code", "python")])
    )
    return {"catalog": catalog, "tools_file": tools, "rendering": "select", **fields}


# --- built in ---


def test_a_built_in_orchestrator_that_a_client_asks(tmp_path: Path) -> None:
    with (
        ScriptedPolicy(specialist_says) as specialists,
        Policy(*FULL) as policy,
        gateway(
            tmp_path,
            None,
            policy={"url": policy.server.url, "model": "v1", "price": {"input": 1.0, "output": 2.0}},
            orchestrators=[configured(tmp_path, specialists, budget={"turns": 9})],
        ) as app,
        Serving(app) as serving,
        httpx.Client(base_url=serving.url) as client,
    ):
        body = {"model": "orchestrator", "messages": [{"role": "user", "content": QUESTION}]}
        answer = client.post("/v1/chat/completions", json=body).json()
        assert answer["choices"][0]["message"]["content"] == "12"
        assert app.state.flush(10)
        (head,) = client.get("/v1/traces").json()["data"]
        trace = client.get(f"/v1/traces/{head['id']}").json()
        shown = [entry["name"] for entry in client.get("/v1/catalog").json()["data"]]
    assert policy.prompts == golden()
    assert policy.functions == [["enhance_reasoning", "answer", "search"]] * 3
    assert {request["model"] for request in policy.server.requests} == {"v1"}
    assert sorted(shown) == sorted(["search", "code_interpreter", *MODELS])
    calls = sorted(call["name"] for call in trace["calls"])
    assert calls == sorted(["search", "code_interpreter", *MODELS])
    assert head["totals"]["turns"] == 3
    assert head["totals"]["dollars"] > 0.5
    sampled = [node for node in trace["nodes"] if node.get("tokens") and node["role"] == "assistant"]
    assert len(sampled) == 3  # each step is a prompt of its own, and the ids of each reply are there


async def test_a_request_of_a_built_in_orchestrator_has_its_own_budget(tmp_path: Path) -> None:
    with ScriptedPolicy(specialist_says) as specialists, Policy(choose("search", "search-3")) as policy:
        config = GatewayConfig(
            policy={"url": policy.server.url, "model": "v1"}, orchestrators=[configured(tmp_path, specialists)]
        )
        runner = make_runners(config)["orchestrator"]
        end = await ended(runner.run(ask(QUESTION, budget=Budget(turns=2))))
    assert policy.functions[1] == ["answer"]
    assert end["status"] == "budget"
    assert "a crate holds 4" in end["answer"]


def test_a_built_in_orchestrator_whose_specialists_do_not_answer_is_refused(tmp_path: Path) -> None:
    with ScriptedPolicy(specialist_says) as specialists:
        section = configured(tmp_path, specialists)
    section["catalog"].write_text(section["catalog"].read_text().replace('["answer"]', '["search"]'))
    config = GatewayConfig(policy={"url": "http://127.0.0.1:9/v1", "model": "v1"}, orchestrators=[section])
    with pytest.raises(ConfigError, match=r"orchestrators.0 \(orchestrator\): .*`answer` among its capabilities"):
        make_runners(config)


# --- apps ---


def runner_of(face: str, policy: Policy, specialists: ScriptedPolicy, **options: Any) -> FaceRunner:
    catalog = catalog_of(specialists, Tool(name="python", destructive=True, price=Price(call=0.25)))
    given: dict[str, Any] = {"rendering": "select", "select": TOOLS, "catalog": catalog, **options}
    app: Any
    if face == "langgraph":
        app = create_orchestrator(chat_policy(policy.server), **given)
    else:
        app = OrchestratorAgent(llm=PolicyLLM("scripted", policy.server.url, max_retries=0), **given)
    runner = as_runner("tents", app, Threads())
    assert isinstance(runner, FaceRunner)
    return runner


@pytest.mark.parametrize("face", FACES)
async def test_a_run_waits_for_a_person_and_goes_on_with_what_it_has_found(face: str) -> None:
    with ScriptedPolicy(specialist_says) as specialists, Policy(*FULL) as policy:
        runner = runner_of(face, policy, specialists)
        assert {"find", "python", "answer-1"} <= {entry.name for entry in runner.catalog()}
        waiting = await ended(runner.run(ask(QUESTION)))
        assert waiting["status"] == "interrupted"
        (asked,) = waiting["confirmations"]
        assert (asked["tool"], asked["arguments"]) == ("enhance_reasoning", {"model": "reasoner-1"})
        assert len(specialists.requests) == 1
        decided = ask("", thread_id=waiting["thread_id"], decisions={asked["call_id"]: True})
        events = await events_of(runner.run(decided))
        again = await ended(runner.run(ask("And into 4?", thread_id=waiting["thread_id"])))
    end = events[-1]
    assert (end["status"], end["answer"]) == ("answered", "12")
    assert end["ledger"]["calls"] == {"search-3": 1, "find": 1, "reasoner-1": 1, "python": 1, "answer-1": 1}
    assert policy.prompts[:3] == golden()
    assert policy.prompts[3][1][1] == "Problem: And into 4?\n\n\n\nChoose an appropriate tool."
    assert again["answer"] == "12"


@pytest.mark.parametrize("face", FACES)
async def test_a_request_that_hides_all_who_answer_ends_with_an_error(face: str) -> None:
    with ScriptedPolicy(specialist_says) as specialists, Policy(Reply("Never.")) as policy:
        runner = runner_of(face, policy, specialists)
        changes = CatalogFilter(allow=frozenset({"search-1", "find"}))
        end = await ended(runner.run(ask(QUESTION, changes=changes)))
    assert (end["status"], end["error"]["status"]) == ("error", 400)
    assert "`answer` among its capabilities" in end["error"]["message"]
    assert policy.prompts == []
