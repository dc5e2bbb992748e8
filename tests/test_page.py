"""The page in a real browser, against the gateway's double."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect

from tests import page_data
from tests.browser import LONGEST, accessibility_problems, chromium, new_context, new_page
from tests.page_gateway import HOSTILE, PageGateway

pytestmark = pytest.mark.browser
expect.set_options(timeout=LONGEST)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    yield from chromium()


@pytest.fixture(scope="module")
def context(browser: Browser) -> BrowserContext:
    """One for all tests: its cache of the page's files saves half of their time."""
    return new_context(browser)


@pytest.fixture(scope="module")
def served() -> Iterator[PageGateway]:
    with PageGateway().serve() as served:
        yield served


@pytest.fixture
def gateway(served: PageGateway) -> PageGateway:
    served.reset()
    return served


@pytest.fixture
def page(context: BrowserContext, gateway: PageGateway) -> Iterator[Page]:
    opened, troubles = new_page(context)
    yield opened
    # The browser itself reports requests and HTML that were refused; all else is a fault of the page.
    assert [text for text in troubles if not re.search("Failed to load resource|TrustedHTML", text)] == []
    opened.close()


def view(page: Page, gateway: PageGateway, name: str = "ask") -> None:
    page.goto(f"{gateway.url}/orchestrator#/{name}")


def ask(page: Page, text: str) -> None:
    page.get_by_label("Your question").fill(text)
    page.get_by_role("button", name="Ask", exact=True).click()


def focused(page: Page) -> str:
    return str(page.evaluate("document.activeElement.textContent || document.activeElement.tagName"))


def steps(page: Page) -> Locator:
    return page.get_by_role("list", name="Steps").last


def test_a_question_is_answered_step_by_step(page: Page, gateway: PageGateway) -> None:
    view(page, gateway)
    ask(page, "What is the population of Tokyo?")
    expect(page.get_by_role("region", name="Answer")).to_contain_text("14.2 million")
    shown = steps(page)
    expect(shown.get_by_role("heading")).to_have_text(["Turn 1", "Turn 2", "Turn 3"])
    expect(shown).to_contain_text("The population changes, so I look for a recent figure")  # why
    search = shown.locator(".call").first
    expect(search).to_contain_text("search")
    expect(search).to_contain_text("done")
    expect(search).to_contain_text("$0.0011 · 0.8 s")
    expect(search).to_contain_text('{"query":"population of Tokyo 2026"}')
    search.locator("summary").click()
    expect(search).to_contain_text("tokyo/5")
    expect(page.locator(".totals")).to_contain_text(re.compile(r"Turns\s*3\s*Dollars\s*\$0.00224\s*Seconds\s*2.3 s"))
    expect(page.locator("#announcer")).to_contain_text("Calling analyst.")
    expect(page.locator("#announcer")).to_contain_text("Finished: 3 turns, 2 calls")
    # The next question goes on in the same conversation.
    ask(page, "And of Osaka?")
    expect(page.get_by_role("article")).to_have_count(2)
    expect(page.get_by_role("region", name="Answer")).to_have_count(2)
    assert [body.get("thread_id") for body in gateway.asked] == [None, "thread-1"]
    page.get_by_role("button", name="New conversation").click()
    ask(page, "Anew")
    expect(page.get_by_role("region", name="Answer")).to_have_count(1)
    assert "thread_id" not in gateway.asked[2]


def test_a_conversation_that_the_gateway_has_lost_is_said_and_begun_anew(page: Page, gateway: PageGateway) -> None:
    view(page, gateway)
    ask(page, "What is the population of Tokyo?")
    expect(page.get_by_role("region", name="Answer")).to_be_visible()
    ask(page, "Lost and found?")
    problem = page.locator(".problem")
    expect(problem).to_contain_text("another gateway has it")
    expect(problem).to_contain_text("The next question begins a new one.")
    problem.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("region", name="Answer")).to_have_count(2)
    assert [body.get("thread_id") for body in gateway.asked] == [None, "thread-1", None]


def test_choices_go_with_the_question(page: Page, gateway: PageGateway) -> None:
    view(page, gateway)
    page.get_by_label("Low cost").press("End")
    page.get_by_label("Speed").press("ArrowRight")
    page.get_by_label("Dollars").fill("0.05")
    page.get_by_label("Turns").fill("12")
    page.get_by_label("expert").select_option("Never")
    page.get_by_label("analyst").select_option("Prefer")
    page.get_by_label("Orchestrator").select_option("shop")
    ask(page, "hello")
    expect(page.get_by_role("region", name="Answer")).to_be_visible()
    expect(page.locator(".totals")).to_contain_text("$0.00224 of $0.05")
    expect(page.get_by_role("progressbar", name="Dollars of the budget")).to_have_attribute("max", "0.05")
    assert gateway.asked == [
        {
            "query": "hello",
            "orchestrator": "shop",
            "preferences": {"quality": 1, "cost": 1, "latency": 0.05},
            "budget": {"dollars": 0.05, "turns": 12},
            "forbidden": ["expert"],
            "preferred": ["analyst"],
        }
    ]
    # A budget that is no number of turns is refused here, with the browser's own words.
    page.get_by_role("spinbutton", name="Turns").fill("1.5")
    ask(page, "hello")
    expect(page.get_by_role("spinbutton", name="Turns")).to_be_focused()
    assert len(gateway.asked) == 1


def test_destructive_calls_are_decided_one_by_one(page: Page, gateway: PageGateway) -> None:
    view(page, gateway)
    ask(page, "delete the old project")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("delete_project")
    expect(dialog).to_contain_text("Old website")
    expect(dialog.get_by_role("button", name="Refuse")).to_be_focused()
    for _ in range(5):  # round and round, never out of the dialog
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.closest('dialog') !== null")
    page.keyboard.press("Shift+Tab")
    assert page.evaluate("document.activeElement.closest('dialog') !== null")
    dialog.get_by_role("button", name="Approve delete_project").click()
    expect(dialog).to_contain_text("send_email")
    page.keyboard.press("Escape")  # nothing is decided
    expect(dialog).to_be_hidden()
    assert len(gateway.asked) == 1
    expect(page.get_by_role("button", name="Decide on send_email")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")  # the first focus is on refusing
    expect(page.get_by_role("region", name="Answer")).to_contain_text("I did what you allowed.")
    calls = steps(page).locator(".call")
    expect(calls).to_have_count(2)
    expect(calls.nth(0)).to_contain_text("delete_project is done.")
    expect(calls.nth(1)).to_contain_text("refused by a person")
    decisions = {"d1": True, "d2": False}
    assert gateway.asked[1] == {
        "query": "",
        "decisions": decisions,
        "orchestrator": "orchestrator",
        "thread_id": "thread-1",
    }


def test_a_run_is_stopped_and_spends_no_more(page: Page, gateway: PageGateway) -> None:
    view(page, gateway)
    ask(page, "slow thing")
    expect(steps(page)).to_contain_text("running")
    expect(page.get_by_role("button", name="Ask", exact=True)).to_be_hidden()
    page.get_by_role("button", name="Stop the run").click()
    expect(page.get_by_role("article")).to_contain_text("Stopped.")
    expect(steps(page)).to_contain_text("stopped")
    assert gateway.cancelled.wait(LONGEST / 1000)
    expect(page.get_by_role("button", name="Ask", exact=True)).to_be_visible()


def test_thumbs_become_feedback(page: Page, gateway: PageGateway) -> None:
    view(page, gateway)
    ask(page, "hello")
    page.get_by_label("Poor").check()
    page.get_by_label("Comment (optional)").fill("Too long.")
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_text("It will count when the policy is retrained.").first).to_be_visible()
    expected = {"trace_id": page_data.TRACE_ID, "score": 0, "name": "user", "comment": "Too long."}
    assert gateway.feedback == [expected]


@pytest.mark.parametrize(
    ("question", "cause", "fix"),
    [
        ("limit", "has used its 5 requests a minute", "Try again in 12.0 s"),
        ("fail", "is the one at [policy] url running?", "policy_unreachable"),
        ("cut", "ended the stream before the run had ended", "Ask again"),
    ],
)
def test_errors_say_cause_and_fix(page: Page, gateway: PageGateway, question: str, cause: str, fix: str) -> None:
    view(page, gateway)
    ask(page, question)
    trouble = page.locator(".problem")
    expect(trouble).to_contain_text(cause)
    expect(trouble).to_contain_text(fix)
    expect(page.locator("#announcer")).to_contain_text(cause)  # said aloud
    expect(page.get_by_text("running", exact=True)).to_have_count(0)


def test_a_key_that_is_entered_later_shows_what_it_may_use(page: Page, gateway: PageGateway) -> None:
    gateway.keys = {"secret": {"chat"}}
    view(page, gateway)
    choices = page.get_by_role("complementary")
    expect(choices).to_contain_text("no API key that this gateway knows")
    choices.get_by_role("link", name="Open settings").click()
    page.get_by_label("Key", exact=True).fill("secret")
    page.get_by_role("button", name="Use this key").click()
    page.get_by_role("link", name="Ask").click()
    expect(choices.get_by_label("Orchestrator")).to_have_value("orchestrator")
    expect(choices.get_by_label("analyst")).to_be_visible()
    expect(choices.locator(".problem")).to_have_count(0)


def test_trying_again_reads_who_can_be_asked_and_what_it_may_use(page: Page, gateway: PageGateway) -> None:
    gateway.keys = {"secret": {"chat"}}
    view(page, gateway)
    choices = page.get_by_role("complementary")
    retry = choices.get_by_role("button", name="Try again")
    expect(retry).to_be_visible()
    gateway.keys = {}
    retry.click()
    expect(choices.get_by_label("Orchestrator")).to_have_value("orchestrator")
    expect(choices.get_by_label("analyst")).to_be_visible()


def test_a_refused_question_is_asked_again(page: Page, gateway: PageGateway) -> None:
    view(page, gateway)
    ask(page, "limit me")
    page.get_by_label("Your question").fill("What I write meanwhile")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".problem")).to_have_count(1)
    expect(page.get_by_label("Your question")).to_have_value("What I write meanwhile")
    assert [body["query"] for body in gateway.asked] == ["limit me", "limit me"]


def test_what_does_not_end_a_run_is_a_note(page: Page, gateway: PageGateway) -> None:
    view(page, gateway)
    ask(page, "noted")
    expect(page.get_by_role("region", name="Answer")).to_be_visible()
    expect(steps(page)).to_contain_text("Note: The search is limited")
    expect(page.locator(".problem")).to_have_count(0)


def test_html_from_servers_stays_text(page: Page, gateway: PageGateway) -> None:
    view(page, gateway)
    ask(page, f"hostile {HOSTILE}")
    expect(page.get_by_role("region", name="Answer")).to_contain_text(HOSTILE)
    expect(steps(page)).to_contain_text(HOSTILE)
    for bad in (HOSTILE, f"{page_data.TRACE_ID}{HOSTILE}"):
        gateway.traces[0] |= {"request": bad, "app": bad, "status": bad}
        view(page, gateway, "traces")
        expect(page.get_by_role("table")).to_contain_text("onerror")
    assert page.locator("main img, main script, main b").count() == 0
    assert page.evaluate("window.hacked") is None
    # Even a fault of the page's own code could not put HTML in: the browser refuses it.
    with pytest.raises(Exception, match="TrustedHTML"):
        page.evaluate("document.body.innerHTML = '<b>x</b>'")


def test_traces_are_listed_filtered_and_paged(page: Page, gateway: PageGateway) -> None:
    view(page, gateway, "traces")
    rows = page.get_by_role("table").locator("tbody tr")
    expect(rows).to_have_count(25)
    page.get_by_role("link", name="Older").click()
    expect(page).to_have_url(re.compile("before=25"))
    page.get_by_role("link", name="Newest").click()
    page.get_by_label("Status").select_option("Failed")
    page.get_by_role("button", name="Filter").click()
    expect(rows).to_have_count(10)
    expect(rows.first).to_contain_text("✕ Failed")
    page.get_by_label("App").fill("nobody")
    page.get_by_role("button", name="Filter").click()
    expect(page.get_by_text("No trace fits")).to_be_visible()
    gateway.traces.clear()
    page.get_by_role("link", name="Clear").click()
    expect(page.get_by_text("No traces yet")).to_be_visible()


def test_a_trace_shows_branches_tokens_and_ledger(page: Page, gateway: PageGateway) -> None:
    view(page, gateway, f"traces/{page_data.TRACE_ID}")
    messages = page.get_by_role("group", name="Messages").get_by_role("button")
    expect(messages).to_have_count(10)
    expect(messages.nth(6)).to_contain_text("after 5, branch 1")
    expect(messages.nth(7)).to_contain_text("after 1, branch 2")
    # Two lanes, and an edge for each message but the first.
    assert (
        len(
            set(
                page.locator(".lanes [cx], .lanes rect").evaluate_all(
                    "all => all.map((e) => Math.round(e.getBBox().x + e.getBBox().width / 2))"
                )
            )
        )
        == 2
    )
    expect(page.locator(".lanes .edges path")).to_have_count(9)
    messages.nth(2).click()
    detail = page.locator(".message")
    expect(detail).to_contain_text("Message 2 · assistant")
    expect(detail).to_contain_text("Calls search")
    tokens = page.get_by_role("listbox", name="Tokens").get_by_role("option")
    tokens.first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(page.locator(".readout")).to_have_text(
        'token 3: " changes,", id 102, log-probability -0.4155, probability 66.0 %'
    )
    expect(page.get_by_role("list", name="Probability of a token").get_by_role("listitem")).to_have_count(5)
    ledger = page.get_by_role("region", name="Ledger").get_by_role("row")
    expect(ledger).to_have_count(8)  # head, four turns, two calls, total
    expect(ledger.last).to_contain_text("$0.00225")
    expect(page.get_by_role("region", name="Feedback and rewards")).to_contain_text("outcome 1 · cost -0.002")
    view(page, gateway, "traces/none")
    expect(page.locator(".problem")).to_contain_text("There is no trace 'none'.")


def test_routing_as_chart_and_as_table(page: Page, gateway: PageGateway) -> None:
    view(page, gateway, "routing")
    card = page.get_by_role("region", name="Tools and specialists")
    bars = card.get_by_role("img")
    expect(bars).to_have_count(24)
    bars.first.focus()
    page.keyboard.press("ArrowRight")
    expect(card.locator(".readout")).to_contain_text("search 33 %, expert 46 %")
    card.get_by_text("As a table").click()
    expect(card.get_by_role("table")).to_contain_text("20 (33 %)")
    expect(card.get_by_role("row")).to_have_count(24)  # a head, and the hours that had runs


def test_versions_are_promoted_and_rolled_back_with_a_reason(page: Page, gateway: PageGateway) -> None:
    gateway.keys = {"admin-key": {"read", "admin"}, "reader-key": {"read"}}
    view(page, gateway, "versions")
    expect(page.locator(".problem")).to_contain_text("Enter an API key of this gateway in the settings.")
    page.get_by_role("link", name="Open settings").click()
    page.get_by_label("Key", exact=True).fill("reader-key")
    page.get_by_role("button", name="Use this key").click()
    page.get_by_role("link", name="Versions").click()
    page.get_by_role("button", name="Promote policy-v1").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()
    dialog.get_by_role("button", name="Promote").click()
    expect(dialog).to_be_visible()  # without a reason nothing happens
    dialog.get_by_label("Reason").fill("v2 is too dear")
    dialog.get_by_role("button", name="Promote").click()
    expect(page.locator(".problem")).to_contain_text("lacks the role admin")
    assert gateway.versions["current"] == "policy-v2"
    page.evaluate("sessionStorage.setItem('toolorch.key', 'admin-key')")
    page.get_by_role("button", name="Promote policy-v1").click()
    dialog.get_by_label("Reason").fill("v2 is too dear")
    dialog.get_by_role("button", name="Promote").click()
    expect(page.get_by_text("policy-v1 was promoted.").first).to_be_visible()
    expect(page.get_by_role("region", name="History").get_by_role("row").nth(1)).to_contain_text("v2 is too dear")
    page.get_by_role("button", name="Roll back").click()
    dialog.get_by_label("Reason").fill("v1 was worse")
    dialog.get_by_role("button", name="Roll back").click()
    expect(page.get_by_role("region", name="Now")).to_contain_text("policy-v2")
    assert gateway.versions["history"][-1]["reason"] == "v1 was worse"


def test_everything_by_keyboard(page: Page, gateway: PageGateway) -> None:
    view(page, gateway)
    page.keyboard.press("Tab")
    assert focused(page) == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.get_by_label("Your question").focus()
    page.keyboard.type("What is the population of Tokyo?")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("link", name="Open the trace")).to_be_visible()
    expect(page.get_by_label("Your question")).to_be_focused()
    _tab_to(page, "Poor", backwards=True)  # into a group of radio buttons from behind
    page.keyboard.press("ArrowUp")
    _tab_to(page, "Send")
    page.keyboard.press("Enter")
    expect(page.get_by_text("It will count").first).to_be_visible()
    assert gateway.feedback[0]["score"] == 1
    _tab_to(page, "Open the trace", backwards=True)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_be_focused()
    _tab_to(page, "9 assistant")
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    expect(page.locator(".message")).to_contain_text("Message 0 · system")


def _tab_to(page: Page, text: str, *, backwards: bool = False) -> None:
    name = "document.activeElement.labels?.[0]?.textContent || document.activeElement.textContent"
    for _ in range(40):
        page.keyboard.press("Shift+Tab" if backwards else "Tab")
        if str(page.evaluate(name)).startswith(text):
            return
    pytest.fail(f"{text!r} is not reached by the Tab key")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_views_are_accessible_and_fit_a_phone(browser: Browser, gateway: PageGateway, scheme: Any) -> None:
    page, troubles = new_page(new_context(browser, viewport={"width": 360, "height": 740}, color_scheme=scheme))
    for name in ("ask", "traces", f"traces/{page_data.TRACE_ID}", "routing", "versions", "settings"):
        view(page, gateway, name)
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        expect(page.locator(".loading")).to_have_count(0)
        assert accessibility_problems(page) == [], name
        assert page.evaluate("document.documentElement.scrollWidth") == 360, name
        cut = "all => all.filter((box) => box.scrollWidth > box.clientWidth + 1).map((box) => box.textContent)"
        assert page.locator(".table, .card").evaluate_all(cut) == [], name
    view(page, gateway)
    ask(page, "What is the population of Tokyo?")
    expect(page.get_by_role("region", name="Answer")).to_be_visible()
    ask(page, "delete it")
    expect(page.get_by_role("dialog")).to_be_visible()
    assert accessibility_problems(page) == []
    page.keyboard.press("Escape")
    for summary in page.locator("aside summary").all():
        summary.click()
    expect(page.get_by_label("expert")).to_be_visible()
    assert accessibility_problems(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert troubles == []
    page.context.close()


def test_the_check_of_accessibility_finds_what_is_wrong(page: Page) -> None:
    page.set_content(
        "<main><h1 id=a>One</h1><h3 id=a>Three</h3><button></button><p style='color: #999'>Pale</p></main>"
    )
    found = " ".join(accessibility_problems(page))
    for problem in ("no name: button", "id twice: a", "heading jumps to 3", "0 of header nav", "contrast 2.8"):
        assert problem in found


def test_motion_stops_where_it_is_not_wanted(browser: Browser, gateway: PageGateway) -> None:
    page, _ = new_page(new_context(browser, reduced_motion="reduce"))
    view(page, gateway)
    ask(page, "slow thing")
    spinner = page.locator(".spinner").first
    expect(spinner).to_be_visible()
    assert spinner.evaluate("element => getComputedStyle(element).animationName") == "none"
    page.context.close()


def test_files_are_cached_by_their_content_and_nothing_else_is_served(gateway: PageGateway) -> None:
    with httpx.Client(base_url=gateway.url) as client:
        document = client.get("/orchestrator")
        policy = document.headers["content-security-policy"]
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy
        assert document.headers["cache-control"] == "no-cache"
        assert re.search(r"<script(?![^>]*\ssrc=)|\sstyle=|\son\w+=|https?://", document.text) is None
        links = re.findall(r'(?:href|src)="(orchestrator/static/[^"]+)"', document.text)
        assert len(links) > 20
        for link in links:
            answer = client.get(f"/{link}")
            assert (answer.status_code, answer.headers["cache-control"]) == (200, "public, max-age=31536000, immutable")
            assert answer.headers["x-content-type-options"] == "nosniff"
        known = {"If-None-Match": answer.headers["etag"]}
        assert client.get(f"/{links[-1]}", headers=known).status_code == 304
        other = client.get("/orchestrator/static/0123456789abcdef/app.js")
        assert (other.status_code, other.headers["cache-control"]) == (200, "no-cache")
        for path in ("static/none.js", "static/../page.py", "static/%2e%2e/page.py", "static/a/b/app.js", "static/"):
            assert client.get(f"/orchestrator/{path}").status_code == 404


_STREAM = (
    'event: a\r\ndata: {"text": "é"}\r\n\r\n: ping\n\nevent: empty\n\n'
    "event:b\ndata: [1,\ndata: 2]\n\rdata: 3\r\rdata: 4"
)


def test_events_are_read_wherever_the_stream_is_cut(page: Page, gateway: PageGateway) -> None:
    view(page, gateway)
    read = """async (bytes) => {
      const { parseEvents } = await import(new URL("orchestrator/static/-/sse.js", location.href));
      const all = [];
      for (let cut = 0; cut <= bytes.length; cut += 1) {
        const pieces = [bytes.slice(0, cut), bytes.slice(cut)].map((piece) => Uint8Array.from(piece));
        const events = [];
        const stream = new ReadableStream({
          start(controller) {
            for (const piece of pieces) controller.enqueue(piece);
            controller.close();
          },
        });
        for await (const event of parseEvents(stream)) events.push(event);
        all.push(JSON.stringify(events));
      }
      return [...new Set(all)];
    }"""
    [found] = page.evaluate(read, list(_STREAM.encode()))  # the same, wherever it is cut
    assert json.loads(found) == [
        {"event": "a", "data": {"text": "é"}},
        {"event": "b", "data": [1, 2]},
        {"event": "message", "data": 3},
    ]  # what the stream leaves unfinished is dropped


def test_numbers_and_lanes(page: Page, gateway: PageGateway) -> None:
    view(page, gateway)
    shown = page.evaluate("""async () => {
      const { dollars, seconds } = await import(new URL("orchestrator/static/-/format.js", location.href));
      const money = [0, 25, 1.005, 0.2, 0.0573, 0.001, 0.0000123, -0.002];
      return [money.map(dollars), [0, 0.0421, 2.31, 119.99, 725].map(seconds)];
    }""")
    assert shown == [
        ["$0", "$25.00", "$1.00", "$0.20", "$0.0573", "$0.001", "$0.0000123", "-$0.002"],
        ["0 ms", "42 ms", "2.3 s", "120.0 s", "12 min 5 s"],
    ]
    # A branch of 1 at 4, which itself branches; and a second root, which takes the lane that has become free.
    parents = [None, 0, 1, 2, 1, 4, 4, None, 7]
    lanes = page.evaluate(
        """async (parents) => {
          const { layout } = await import(new URL("orchestrator/static/-/graph.js", location.href));
          return [...layout(parents.map((parent, index) => ({ index, parent }))).lanes.values()];
        }""",
        parents,
    )
    assert lanes == [0, 0, 0, 0, 1, 1, 0, 0, 0]
