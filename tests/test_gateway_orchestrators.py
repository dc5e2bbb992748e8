"""From a configuration to runners: apps by import path, orchestrators built in, policy versions by conversation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.gateway_runs import ask, ended
from toolorch_integrations import Budget, Preferences
from toolorch_integrations.testing import Reply, ScriptedPolicy
from toolorch_integrations.versions import Routes, VersionRouter, tries
from toolorch_serving.gateway.config import GatewayConfig
from toolorch_serving.gateway.errors import ConfigError
from toolorch_serving.gateway.orchestrators import make_runners

CATALOG = """
[[tools]]
name = "code_interpreter"
price = { call = 0.002 }

[[specialists]]
name = "expert"
description = "Knows."
price = { input = 1.0, output = 2.0 }
endpoint = { url = "${EXPERT_URL}", model = "expert" }
"""


def config(**orchestrator: Any) -> GatewayConfig:
    return GatewayConfig(policy={"url": "http://127.0.0.1:9/v1", "model": "v1"}, orchestrators=[orchestrator])


@pytest.mark.parametrize("name", ["graph", "Holder.graph", "make_graph", "agent", "make_agent"])
def test_an_app_is_imported_by_its_path(name: str) -> None:
    runner = make_runners(config(name="shop", app=f"tests.gateway_apps:{name}"))["shop"]
    assert runner.name == "shop"
    assert [entry.name for entry in runner.catalog()] == ["delete_order", "look"]
    assert [entry.name for entry in runner.catalog() if entry.needs_confirmation] == ["delete_order"]


@pytest.mark.parametrize(
    ("app", "words"),
    [
        ("tests.no_such_module:graph", "the module 'tests.no_such_module' cannot be imported"),
        ("tests.gateway_apps:grph", "has no 'grph'; it has .*graph"),
        ("tests.gateway_apps:number", "it is a int: give a compiled LangGraph"),
        ("tests.gateway_apps:fails", "fails when called: RuntimeError: no database"),
        ("tests.gateway_apps:needs", "fails when called: TypeError"),
        ("tests.gateway_apps:plain_graph", "is no orchestrator: make it with create_orchestrator"),
    ],
)
def test_an_app_that_cannot_be_used_is_named_with_the_fix(app: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        make_runners(config(name="shop", app=app))
    assert str(error.value).startswith(f"orchestrators.0 (shop).app '{app}': ")


async def test_built_in_from_a_catalogue_and_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    catalog = tmp_path / "catalog.toml"
    catalog.write_text(CATALOG)
    script: list[Reply | str] = [Reply(calls=[("expert", {"task": "Think."})]), "Done."]
    with ScriptedPolicy(script) as policy, ScriptedPolicy(["Expert's word."], model="expert") as expert:
        monkeypatch.setenv("EXPERT_URL", expert.url)
        made = GatewayConfig(
            policy={"url": policy.url, "model": "v1", "price": {"input": 1.0, "output": 2.0}},
            orchestrators=[
                {
                    "catalog": catalog,
                    "tools": ["code_interpreter"],
                    "system_prompt": "Be kind.",
                    "budget": Budget(turns=4),
                    "preferences": Preferences(cost=1.0),
                }
            ],
        )
        runner = make_runners(made)["orchestrator"]
        entries = {entry.name: entry for entry in runner.catalog()}
        assert set(entries) == {"code_interpreter", "expert"}
        assert entries["code_interpreter"].price.call == 0.002
        assert entries["code_interpreter"].description
        end = await ended(runner.run(ask(budget=Budget(turns=9))))
        assert (end["status"], end["answer"], end["ledger"]["calls"]) == ("answered", "Done.", {"expert": 1})
        system = policy.requests[0]["messages"][0]["content"]
        assert "Be kind." in system
        assert "low cost matters" in system
        assert "4 turns" in system
        assert policy.requests[0]["model"] == "v1"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[tools]]\nname = 'fly'", "describes the tool 'fly'"),
        ("[[specialists]]\nname = 'a b'", "specialists"),
        ("[[specialists]]\nname = 'expert'\nendpoint = { url = '${NO_SUCH_URL}', model = 'm' }", "NO_SUCH_URL"),
        ("[[specialists]]\nname = 'expert'", "no `endpoint`"),
        ("nonsense", "Cannot read the catalogue"),
    ],
)
def test_a_bad_catalogue_is_named_with_the_fix(text: str, words: str, tmp_path: Path) -> None:
    catalog = tmp_path / "catalog.toml"
    catalog.write_text(text)
    with pytest.raises(ConfigError, match=words) as error:
        make_runners(config(name="shop", catalog=catalog))
    assert str(error.value).startswith(("orchestrators.0 (shop): ", "orchestrators.0 (shop).catalog: "))


def test_a_tool_that_there_is_not_and_a_key_that_is_not_set() -> None:
    with pytest.raises(ConfigError, match="no tool 'fly'"):
        make_runners(config(name="shop", tools=["fly"]))
    made = GatewayConfig(
        policy={"url": "http://127.0.0.1:9/v1", "key_variable": "NO_SUCH_KEY"},
        orchestrators=[{"tools": ["code_interpreter"]}],
    )
    with pytest.raises(ConfigError, match="NO_SUCH_KEY is not set"):
        make_runners(made)


async def test_a_candidate_gets_its_share_of_the_conversations(tmp_path: Path) -> None:
    router = VersionRouter(lambda: Routes("v1", "v2", 0.5))
    catalog = tmp_path / "catalog.toml"
    catalog.write_text(CATALOG.replace("${EXPERT_URL}", "http://127.0.0.1:9/v1"))
    with ScriptedPolicy(["Done."]) as policy:
        made = GatewayConfig(
            policy={"url": policy.url, "model": "v1"},
            orchestrators=[{"catalog": catalog, "tools": ["code_interpreter"]}],
        )
        runner = make_runners(made, router)["orchestrator"]
        threads = [f"thread-{number}" for number in range(8)]
        for thread in threads * 2:
            await ended(runner.run(ask(thread_id=thread)))
        asked = [request["model"] for request in policy.requests]
    expected = ["v2" if tries(thread, "v2", 0.5) else "v1" for thread in threads]
    assert set(expected) == {"v1", "v2"}
    assert asked == expected * 2
