"""The demo's world: its documents can be found, its tools are real, its questions have answers, its routing pays."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, Qwen3ForCausalLM

from examples.shop import scripted
from examples.shop.catalog import catalog
from examples.shop.documents import Shop
from examples.shop.enquiries import HELD_OUT, KINDS_OF_ENQUIRY, Enquiry, demo_requests, enquiry, held_out, solved
from examples.shop.evaluate_policy import attempt
from examples.shop.oracle import baselines, measure
from examples.shop.synthesis import (
    Run,
    World,
    _executed,
    answer_one,
    default_world,
    perform,
    run,
    withheld_runs,
    world,
    worlds,
)
from examples.shop.tools import execute, run_python, search, search_docs
from toolorch_integrations import observation
from toolorch_integrations.budget import Budget
from toolorch_integrations.entry import Price
from toolorch_integrations.preferences import Preferences
from toolorch_integrations.prompt import system_prompt
from toolorch_integrations.view import CatalogFilter
from toolorch_rl.evaluation import HEADROOM, headroom, named, share_of

POLICY = Path(scripted.__file__).parent / "policy"


def test_documents_are_short_and_differ_from_shop_to_shop() -> None:
    shop, other = Shop.open(0), Shop.open(1)
    assert len(shop.documents) == 60
    assert max(map(len, shop.documents)) < 200
    assert shop == Shop.open(0)
    prices, others = ({product.name: product.price for product in place.products} for place in (shop, other))
    assert sum(prices.get(name) == price for name, price in others.items()) < 5
    assert f"Members get {shop.member_discount}% off." in " ".join(shop.documents)


@pytest.mark.parametrize("seed", range(4))
def test_search_finds_products_and_facts(seed: int) -> None:
    shop = Shop.open(seed)
    for product in shop.products:
        assert search(shop, f"3 {product.name}s").startswith(f"{product.name}. Price ${product.price}.")
    for fact in shop.facts:
        for query in (fact.query, *fact.questions):
            assert fact.expected in search(shop, query), query
    first, second = shop.products[:2]
    both = search(shop, f"What do 2 {first.name}s and 3 {second.name}s cost?")
    assert first.name in both
    assert second.name in both
    assert search(shop, f"price of the {shop.missing[0]} tent") == "No document found."
    assert search(shop, "347 * 29") == "No document found."


def test_tools_work_as_langchain_tools() -> None:
    assert "Members get" in search_docs.invoke({"query": "membership"})
    assert run_python.invoke({"code": "print(2 * 189 + 3 * 45)"}) == "513"
    assert run_python.invoke({"code": "import math\nprint(math.comb(5, 2))"}) == "10"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("print(1 / 0)", "ZeroDivisionError"),
        ("print(", "SyntaxError"),
        ("while True: pass", "took over|exit status"),
        ("x = 'a' * 10**10", "MemoryError"),
        ("import os\nwith open('made-by-the-shop', 'w') as f: f.write('x')", "Error"),
    ],
)
def test_programs_fail_in_bounds(code: str, message: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        execute(code)


def test_programs_see_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_SECRET", "x")
    assert execute("import os\nprint(os.environ.get('SHOP_SECRET'))") == "None"


@pytest.mark.parametrize("code", ["print(2 * 189 + 3 * 45)", "print((233 + 29) * 6)", "print(18 * 61 / 100)"])
def test_shortcut_of_synthesis_prints_what_the_tool_prints(code: str) -> None:
    assert _executed(code) == execute(code)


def test_enquiries_are_reproducible_and_split() -> None:
    assert [enquiry(seed) for seed in range(50)] == [enquiry(seed) for seed in range(50)]
    training = {
        enquiry(seed, kind).text for seed in range(300) for kind in ("price total", "arithmetic", "mathematics")
    }
    later = [item for item in held_out(330) if item.kind in ("price total", "arithmetic", "mathematics")]
    assert sum(item.text in training for item in later) <= 2
    assert {item.shop for item in held_out(33)} == {0}
    assert all(enquiry(seed).shop > 0 for seed in range(200))
    requests = demo_requests(30)
    assert {item.kind for item in requests} == set(KINDS_OF_ENQUIRY)
    assert not {item.text for item in requests if item.kind == "price total"} & {item.text for item in later}
    assert enquiry(HELD_OUT) == enquiry(HELD_OUT)


@pytest.mark.parametrize(
    ("check", "expected", "answer", "right"),
    [
        ("number", "513", "That makes $513.", True),
        ("number", "513", "2 x $189 + 3 x $45 makes $513.00", True),
        ("number", "513", "That makes $514.", False),
        ("number", "5/16", "The answer is 5/16.", True),
        ("number", "5/16", "The answer is 5.", False),
        ("number", "1240", "It is 1,240.", True),
        ("number", "3", "I do not know.", False),
        ("text", "the Wolf axe", "Compare Fern axe $3 and Wolf axe $5. It is the Wolf axe.", True),
        ("text", "the Wolf axe", "Compare Fern axe $3 and Wolf axe $5. It is the Fern axe.", False),
        ("text", r"\$?29", "Membership costs $29 a year.", True),
        ("text", r"\$?29", "Membership costs $129 a year.", False),
    ],
)
def test_checker(check: Any, expected: str, answer: str, right: bool) -> None:
    assert solved(Enquiry("any", "?", expected, check, 0), answer) is right


def test_world_rewards_routing() -> None:
    enquiries = held_out(165)
    expert = measure("expert", scripted.expert, enquiries)
    arms = baselines(enquiries)
    strongest, chance, oracle = (named(arms, name) for name in ("always-strongest", "random", "oracle"))
    assert expert.solved.value >= 0.97
    assert share_of(expert, strongest) <= 0.3
    assert chance.solved.value < strongest.solved.value <= expert.solved.value
    assert oracle.solved.value >= max(arm.solved.value for arm in arms)
    assert headroom(arms) <= HEADROOM


def _place(changes: CatalogFilter | None = None) -> World:
    view = catalog().view(changes)
    return World(view, system_prompt(None, Preferences(), Budget(), view))


def _asked(text: str) -> list[dict[str, Any]]:
    return [{"role": "system", "content": "x"}, {"role": "user", "content": text}]


def _called(reply: dict[str, Any]) -> list[str]:
    return [call["function"]["name"] for call in reply.get("tool_calls") or ()]


def test_expert_reads_the_catalogue() -> None:
    hard = _asked("What is the larger root of x^2 - 7x + 12 = 0?")
    assert _called(scripted.expert(hard, _place().schemas())) == ["mathematician"]
    dear = _place(CatalogFilter(prices={"mathematician": Price(input=32, output=64)}))
    assert _called(scripted.expert(hard, dear.schemas())) == ["expert"]
    denied = _place(CatalogFilter(deny=frozenset({"mathematician"})))
    assert _called(scripted.expert(hard, denied.schemas())) == ["expert"]
    nobody = _place(CatalogFilter(allow=frozenset({"search_docs"})))
    assert scripted.expert(hard, nobody.schemas())["content"] == scripted.SORRY
    assert scripted.expert(hard, [])["content"] == scripted.SORRY


def test_expert_recovers_from_errors() -> None:
    place, messages = _place(), _asked("What is the larger root of x^2 - 7x + 12 = 0?")
    reply = scripted.expert(messages, place.schemas())
    error = observation.failed("mathematician", "it answered 500")
    messages += [reply, {"role": "tool", "tool_call_id": reply["tool_calls"][0]["id"], "content": error}]
    assert _called(scripted.expert(messages, place.schemas())) == ["expert"]

    messages = _asked("What do 2 Alder tents and 3 Birch stoves cost together?")
    reply = scripted.expert(messages, place.schemas())
    assert _called(reply) == ["search_docs", "search_docs"]
    results = [observation.timed_out("search_docs", 5), "Birch stove. Price $45. Weight 0.4 kg. Burns gas."]
    messages.append(reply)
    messages += [
        {"role": "tool", "tool_call_id": call["id"], "content": result}
        for call, result in zip(reply["tool_calls"], results, strict=True)
    ]
    again = scripted.expert(messages, place.schemas())
    assert [json.loads(call["function"]["arguments"])["query"] for call in again["tool_calls"]] == [
        "shop 2 Alder tents"
    ]
    found = "Alder tent. Price $189. Weight 2.1 kg. Two doors."
    messages += [again, {"role": "tool", "tool_call_id": again["tool_calls"][0]["id"], "content": found}]
    code = scripted.expert(messages, place.schemas())["tool_calls"][0]["function"]
    assert json.loads(code["arguments"]) == {"code": "print(2 * 189 + 3 * 45)"}


def test_expert_stops_when_the_budget_is_used_up() -> None:
    place, messages = _place(), _asked("What is 3 * 4?")
    reply = scripted.expert(messages, place.schemas())
    error = "Error: run_python was not called: the budget of turns is used up. Answer now."
    messages += [reply, {"role": "tool", "tool_call_id": reply["tool_calls"][0]["id"], "content": error}]
    assert scripted.expert(messages, place.schemas()) == {"role": "assistant", "content": scripted.SORRY}


def test_synthesised_runs_are_complete_and_varied() -> None:
    made = [(place, item) for place, runs in worlds(5_000, 12, 12) for item in runs]
    assert all(item.answer and item.messages[-1]["role"] == "assistant" for _, item in made)
    assert len({place.system for place, _ in made}) > 5
    assert len({place.view.names for place, _ in made}) > 4
    texts = [str(message["content"]) for _, item in made for message in item.messages if message["role"] == "tool"]
    assert any(text.startswith("Error:") for text in texts)
    assert {len(item.enquiries) for _, item in made} == {1, 2}
    assert world(3).view.fingerprint() == world(3).view.fingerprint()
    place = world(7)
    assert [message["content"] for message in run(place, 9).messages] == [m["content"] for m in run(place, 9).messages]
    for item in withheld_runs(20):
        assert item.written[-1]
        assert not item.messages[-1].get("tool_calls")


def test_calls_that_fail_are_observations() -> None:
    place = default_world()
    messages = _asked("What is 3 * 4?")
    assert perform(place, messages, "run_python", '{"code": "print(1/0)"}', 0).startswith("Error: run_python failed")
    assert perform(place, messages, "nobody", "{}", 0).startswith("Error: nobody failed")
    assert perform(place, messages, "search_docs", "{broken", 0).startswith("Error: search_docs failed")
    assert perform(place, messages, "expert", '{"final": true}', 0) == "3 * 4 = 12."


def test_second_request_of_a_conversation_starts_afresh() -> None:
    place = default_world()
    made = Run([], [{"role": "system", "content": place.system}], [False])
    first, second = enquiry(HELD_OUT + 5, "product"), enquiry(HELD_OUT + 6, "arithmetic")
    for asked in (first, second):
        answer_one(place, made, asked, random.Random(0), scripted.expert, 0.0)
        assert solved(asked, made.answer)


def test_committed_policy_is_small_and_works() -> None:
    torch.set_num_threads(1)
    assert sum(file.stat().st_size for file in POLICY.iterdir()) < 10e6
    model = Qwen3ForCausalLM.from_pretrained(POLICY, dtype=torch.float32)
    assert not model.config.tie_word_embeddings
    enquiries = demo_requests(33)
    made = attempt(model, AutoTokenizer.from_pretrained(POLICY), enquiries, [default_world()] * len(enquiries))
    assert sum(solved(item.enquiry, item.answer or "") for item in made) >= 0.85 * len(made)
    assert sum(item.chosen for item in made) >= 0.9 * sum(item.turns for item in made)
    assert not any(item.drifted for item in made)
