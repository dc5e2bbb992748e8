"""Specialists that are given to several orchestrators, and the turns of a run, in the core and in both faces."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from toolorch_integrations import CatalogError, Endpoint, Specialist
from toolorch_integrations.langgraph import OrchestratorMiddleware
from toolorch_integrations.langgraph import SpecialistTool as LangGraphSpecialist
from toolorch_integrations.llamaindex import OrchestratorAgent, PolicyLLM
from toolorch_integrations.llamaindex import SpecialistTool as LlamaIndexSpecialist
from toolorch_integrations.specialist import SpecialistCaller, link_fallbacks
from toolorch_integrations.testing import ScriptedPolicy
from toolorch_integrations.turns import Kind, failed_turns, since_request


def expert(name: str, url: str = "http://127.0.0.1:9/v1", fallback: str | None = None) -> Specialist:
    return Specialist(name=name, endpoint=Endpoint(url=url, model="m"), retries=0, fallback=fallback)


def test_callers_are_linked_as_copies():
    first = SpecialistCaller(expert("a", fallback="b"))
    one = link_fallbacks([first, SpecialistCaller(expert("b", "http://127.0.0.1:1/v1", fallback="a"))])
    two = link_fallbacks([first, SpecialistCaller(expert("b", "http://127.0.0.1:2/v1"))])
    assert first.fallback is None
    assert one["a"].fallback is one["b"]
    assert one["b"].fallback is one["a"]
    assert two["a"].fallback is two["b"]


@pytest.mark.parametrize(
    ("names", "words"),
    [([("a", None), ("a", None)], "named 'a'"), ([("a", "c"), ("b", None)], "fallback of 'a' names 'c'")],
)
def test_callers_that_do_not_fit_together_are_refused(names: list[tuple[str, str | None]], words: str):
    with pytest.raises(CatalogError, match=words):
        link_fallbacks(SpecialistCaller(expert(name, fallback=fallback)) for name, fallback in names)


def in_langgraph(_: ScriptedPolicy, *given: Any) -> Mapping[str, LangGraphSpecialist]:
    return OrchestratorMiddleware(given)._specialists


def in_llamaindex(policy: ScriptedPolicy, *given: Any) -> Mapping[str, LlamaIndexSpecialist]:
    agent = OrchestratorAgent(llm=PolicyLLM("scripted", policy.url), specialists=given)
    return agent.runs._specialists


@pytest.mark.parametrize(("face", "tool"), [(in_langgraph, LangGraphSpecialist), (in_llamaindex, LlamaIndexSpecialist)])
def test_each_orchestrator_asks_its_own_fallback_of_a_shared_specialist(face: Callable[..., Any], tool: Any):
    shared = tool(expert("a", fallback="b"))
    with (
        ScriptedPolicy(["-"]) as policy,
        ScriptedPolicy(["First."], model="m") as first,
        ScriptedPolicy(["Second."], model="m") as second,
    ):
        one, two = (face(policy, shared, expert("b", server.url)) for server in (first, second))
        replies = [tools["a"].caller.call([{"role": "user", "content": "Go."}]).text for tools in (one, two)]
    assert replies == ["First.", "Second."]
    assert shared.caller.fallback is None


def test_turns_that_brought_nothing_but_errors_are_counted_from_the_end():
    reply, result, error = Kind.REPLY, Kind.RESULT, Kind.ERROR
    assert failed_turns([]) == 0
    assert failed_turns([reply]) == 0
    assert failed_turns([error, error, reply, Kind.OTHER, error, reply, result, error, reply]) == 2
    assert failed_turns([result, error, reply, error, reply]) == 0


def test_a_run_begins_after_the_newest_request():
    def asked(message: str) -> bool:
        return message == "ask"

    assert since_request(["ask", "a", "ask", "b", "c"], asked) == ["b", "c"]
    assert since_request(["a", "b"], asked) == ["a", "b"]
