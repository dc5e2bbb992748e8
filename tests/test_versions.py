"""Which version answers a conversation: shares, threads, and both faces asking the same router."""

from __future__ import annotations

from typing import Any

import pytest

from toolorch_integrations.versions import Routes, VersionRouter, conversation, conversation_key


def test_the_share_is_kept_and_conversations_stay():
    routes = Routes("v1", "v2", 0.1)
    chosen = [routes.choose(f"thread-{number}") for number in range(5_000)]
    assert chosen.count("v2") == pytest.approx(500, rel=0.15)
    assert [routes.choose(f"thread-{number}") for number in range(5_000)] == chosen


def test_a_running_conversation_outlives_a_promotion_but_not_a_roll_back():
    now = [Routes("v1", "v2", 0.5)]
    router = VersionRouter(lambda: now[0], refresh=0.0)
    trying = next(f"t{n}" for n in range(99) if router.version_for(f"t{n}") == "v2")
    staying = next(f"t{n}" for n in range(99) if router.version_for(f"t{n}") == "v1")
    now[0] = Routes("v2")
    assert (router.version_for(staying), router.version_for(trying), router.version_for("new")) == ("v1", "v2", "v2")
    now[0] = Routes("v1", "v3", 0.5)
    router.version_for("look")
    now[0] = Routes("v1")
    assert {router.version_for(f"u{n}") for n in range(20)} == {"v1"}


def test_a_rolled_back_candidate_loses_its_conversations_at_once():
    now = [Routes("v1", "v2", 0.5)]
    router = VersionRouter(lambda: now[0], refresh=0.0)
    trying = next(f"t{n}" for n in range(99) if router.version_for(f"t{n}") == "v2")
    now[0] = Routes("v1")
    assert router.version_for(trying) == "v1"


def test_routes_that_cannot_be_read_stay_as_they_are():
    answers: list[Any] = [Routes("v1"), OSError("down"), Routes("v2")]

    def source() -> Routes:
        found = answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    router = VersionRouter(source, refresh=0.0)
    assert [router.version_for("a"), router.version_for("b")] == ["v1", "v2"]


def test_a_conversation_is_its_key_its_thread_or_its_first_words():
    select = [{"role": "system", "content": "s"}, {"role": "user", "content": "Problem: x\n\nDocuments: a"}]
    later = [{"role": "system", "content": "s"}, {"role": "user", "content": "Problem: x\n\nDocuments: a, b"}]
    assert conversation_key(select) == conversation_key(later)
    assert conversation_key(select, "thread-1") == "thread-1"
    with conversation("mine"):
        assert conversation_key(select, "thread-1") == "mine"


def test_both_faces_ask_the_router():
    from langchain_core.messages import HumanMessage
    from llama_index.core.base.llms.types import ChatMessage

    from toolorch_integrations.langgraph.versions import RoutedChatPolicy
    from toolorch_integrations.llamaindex.versions import RoutedPolicyLLM

    router = VersionRouter(lambda: Routes("v1", "v2", 0.5))
    chat = RoutedChatPolicy(model="v1", base_url="http://127.0.0.1:9/v1", router=router)
    llm = RoutedPolicyLLM("v1", "http://127.0.0.1:9/v1", router=router)
    seen = set()
    for number in range(20):
        text = f"question {number}"
        one = chat._get_request_payload([HumanMessage(text)])["model"]
        assert one == llm._request([ChatMessage(role="user", content=text)], {})["body"]["model"]
        seen.add(one)
    assert seen == {"v1", "v2"}


def test_a_version_that_is_set_around_a_run_goes_before_the_router():
    """So a held-out evaluation of the very app that is live chooses its version."""
    from langchain_core.messages import HumanMessage
    from llama_index.core.base.llms.types import ChatMessage

    from toolorch_integrations.langgraph.versions import RoutedChatPolicy
    from toolorch_integrations.llamaindex.versions import RoutedPolicyLLM
    from toolorch_integrations.overrides import policy_overrides

    url = "http://127.0.0.1:9/v1"
    router = VersionRouter(lambda: Routes("v1"))
    chat = RoutedChatPolicy(model="v1", base_url=url, router=router)
    llm = RoutedPolicyLLM("v1", url, router=router)

    def asked() -> set[str]:
        request = llm._request([ChatMessage(role="user", content="x")], {})
        return {chat._get_request_payload([HumanMessage("x")])["model"], request["body"]["model"]}

    with policy_overrides(model="v7"):
        assert asked() == {"v7"}
    with policy_overrides("http://other/v1", model="v7"):
        assert asked() == {"v1"}


def test_a_langgraph_thread_stays_on_one_version():
    from langchain_core.messages import HumanMessage
    from langchain_core.runnables import RunnableLambda

    from toolorch_integrations.langgraph.versions import RoutedChatPolicy

    router = VersionRouter(lambda: Routes("v1", "v2", 0.5))
    chat = RoutedChatPolicy(model="v1", base_url="http://127.0.0.1:9/v1", router=router)
    ask = RunnableLambda(lambda text: chat._get_request_payload([HumanMessage(text)])["model"])
    for thread in ("a", "b", "c", "d", "e"):
        config: Any = {"configurable": {"thread_id": thread}}
        assert {ask.invoke(f"{number}", config) for number in range(8)} == {Routes("v1", "v2", 0.5).choose(thread)}
