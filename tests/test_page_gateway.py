"""The page's main path in a real browser, against the real gateway, a real store and a LangGraph orchestrator."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.browser import LONGEST, accessibility_problems, chromium, new_context, new_page
from tests.gateway_runs import DELETE_TWO, Shop, runner_for
from tests.gateway_world import Serving, gateway, sha256
from toolorch_integrations.testing import Reply, ScriptedPolicy
from toolorch_serving.gateway.state import GatewayState

pytestmark = pytest.mark.browser
expect.set_options(timeout=LONGEST)

KEY = "key-of-a-person"
EVERYTHING = ["chat", "feedback", "read", "admin"]


@pytest.fixture
def browser() -> Iterator[Browser]:
    yield from chromium()


def test_from_a_question_to_a_reward(browser: Browser, tmp_path: Path) -> None:
    shop = Shop()
    script = [DELETE_TWO, Reply("Thinking of the rest.", calls=[("expert", {"task": "Think."})]), "All is clean."]
    with ScriptedPolicy(script) as policy, ScriptedPolicy(["Expert's word."], model="expert") as experts:

        def add(state: GatewayState) -> None:
            state.runners["shop"] = runner_for("langgraph", policy, experts, shop)

        keys = [{"name": "person", "sha256": sha256(KEY), "roles": EVERYTHING}]
        with gateway(tmp_path, add, keys=keys, policy={"url": policy.url}) as app, Serving(app) as served:
            _use(browser, served.url, shop)
            store = app.state.store
            feedback = [entry for head in store.traces() for entry in store.trace(head.id).feedback]
            assert [(entry.name, entry.score, entry.source) for entry in feedback] == [("user", 1.0, "person")]


def _use(browser: Browser, url: str, shop: Shop) -> None:
    page, troubles = new_page(new_context(browser))
    page.goto(f"{url}/orchestrator#/settings")
    page.get_by_label("Key", exact=True).fill(KEY)
    page.get_by_role("button", name="Use this key").click()
    page.get_by_role("link", name="Ask").click()
    expect(page.get_by_label("delete_order")).to_be_visible()  # the catalogue
    page.get_by_label("Low cost").press("End")
    page.get_by_label("Dollars").fill("0.5")
    page.get_by_label("Your question").fill("Clean up.")
    page.get_by_role("button", name="Ask", exact=True).click()

    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("1 of 2")
    assert shop.done == []  # nothing of the turn is done before the decisions
    dialog.get_by_role("button", name="Approve delete_order").click()
    expect(dialog).to_contain_text("2 of 2")
    dialog.get_by_role("button", name="Refuse").click()
    expect(page.get_by_role("region", name="Answer")).to_contain_text("All is clean.")
    assert sorted(shop.done) == ["delete 1", "look 1"]
    steps = page.get_by_role("list", name="Steps")
    expect(steps.get_by_role("heading")).to_have_text(["Turn 1", "Turn 2", "Turn 3"])
    expect(steps.locator(".call").filter(has_text="delete_order")).to_have_count(2)
    expect(steps).to_contain_text("deleted 1")
    expect(steps).to_contain_text("refused by a person")
    expect(steps).to_contain_text("Expert's word.")

    page.get_by_label("Good").check()
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_text("It will count").first).to_be_visible()
    page.get_by_role("link", name="Open the trace").click()
    expect(page.get_by_role("region", name="Ledger")).to_contain_text("delete_order")
    page.get_by_role("button", name="calls expert").click()
    expect(page.locator(".message")).to_contain_text("Thinking of the rest.")
    tokens = page.get_by_role("listbox", name="Tokens").get_by_role("option")
    expect(tokens.first).to_have_attribute("aria-label", re.compile(r"log-probability -\d\.\d+, probability \d"))
    assert accessibility_problems(page) == []
    page.get_by_role("link", name="Traces").first.click()
    expect(page.get_by_role("table")).to_contain_text("Clean up.")
    page.get_by_role("link", name="Routing").click()
    expect(page.get_by_role("region", name="Tools and specialists")).to_contain_text("delete_order")
    page.get_by_role("link", name="Versions").click()
    expect(page.get_by_role("region", name="Now")).to_contain_text("scripted")
    assert troubles == []
