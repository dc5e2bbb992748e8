"""Scripted policies: the expert that the demo policy learns from, and two baselines.

Each is a function of what a policy sees, messages and tool schemas in OpenAI's format, to the message it replies with.
They know the wordings of `enquiries`, so they are for training, tests and comparison, not for customers.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from examples.shop.documents import Shop
from toolorch_integrations.prompt import Message, request_of, text_of
from toolorch_serving.simulated.mathematics import expression
from toolorch_serving.simulated.solution import Question
from toolorch_serving.simulated.specialists import solve

Reply = dict[str, Any]

SORRY = "Sorry, I cannot do that right now."
NOT_FOUND = "I could not find that in our documents."
TALK = {"welcome": "You are welcome!", "assistant": "I am the assistant of this shop.", "goodbye": "Goodbye!"}

_CAPABLE = {
    "reading": ("generalist", "expert"),
    "everyday": ("generalist", "expert"),
    "arithmetic": ("mathematician", "expert"),
    "mathematics": ("mathematician", "expert"),
    "code": ("coder", "expert"),
    "numbers": ("expert",),
}
_ANYBODY = ("expert", "mathematician", "coder", "generalist")
_LABEL = {
    "reading": "Read it out",
    "everyday": "Dates and units",
    "arithmetic": "Arithmetic",
    "mathematics": "Word problem",
    "code": "Code",
    "numbers": "Number theory",
}
_NAME = r"[A-Z]\w+ [a-z]+"
_PRODUCT = re.compile(
    rf"(?:What is the (?:price|weight) of|What does|How (?:much|heavy) is) the ({_NAME})(?: cost| weigh)?\?"
)
_COMPARED = re.compile(rf"Which is ([a-z ]+), the ({_NAME}) or the ({_NAME})\?")
_BOUGHT = re.compile(rf"(\d) ({_NAME}s)\b")
_QUERIES = {question: fact.query for fact in Shop.open(0).facts for question in fact.questions}


@dataclass(frozen=True, slots=True)
class Plan:
    """What an enquiry takes.

    Attributes:
        domain: Which skill; `talk` for none, `total` for a sum of prices.
        queries: What to search for.
        bought: Number and name of each product of a sum.
        member: Whether a sum is for a member.
    """

    domain: str
    queries: tuple[str, ...] = ()
    bought: tuple[tuple[str, str], ...] = ()
    member: bool = False


def plan(request: str) -> Plan:
    """Return what a request takes, by its wording. Queries are its own words: those are the easiest to copy."""
    if found := _PRODUCT.search(request):
        return Plan("reading", (f"the {found[1]}",))
    if found := _COMPARED.search(request):
        return Plan("reading", (f"the {found[2]}", f"the {found[3]}"))
    for question, query in _QUERIES.items():
        if question in request:
            return Plan("reading", (query,))
    bought = tuple(_BOUGHT.findall(request))
    if bought:
        member = "member" in request
        queries = [f"{count} {name}" for count, name in bought] + (["membership"] if member else [])
        return Plan("total", tuple(queries), bought, member)
    solution = solve(Question(request))
    return Plan(solution.domain if solution else "everyday")


@dataclass(frozen=True, slots=True)
class _Done:
    name: str
    arguments: Mapping[str, Any]
    result: str

    @property
    def failed(self) -> bool:
        return self.result.startswith("Error:")


def expert(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> Reply:
    """Reply as the demo policy should: the cheapest way that is capable, by what the prompt shows."""
    shown = {tool["function"]["name"]: tool["function"]["description"] for tool in tools}
    done = _done(messages)
    request = request_of(messages)
    steps = plan(request)
    if steps.domain == "talk":
        return _answer(_talk(request))
    if any("Answer now." in call.result for call in done):
        return _answer(SORRY)
    if steps.queries:
        reply = _search(steps, shown, done)
        if reply is not None:
            return reply
    if steps.domain in ("total", "arithmetic"):
        return _calculate(steps, request, shown, done)
    return _hand_over(steps.domain, shown, done)


def strongest(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> Reply:
    """Reply as a setup without routing does: search with the request itself, then the strongest specialist."""
    if not _done(messages):
        return _calls("", ("search_docs", {"query": request_of(messages)}))
    return _calls("", ("expert", {"final": True}))


class RandomChoice:
    """A policy that hands each request to a specialist by chance, after a search by chance."""

    def __init__(self, seed: int = 0) -> None:
        self._draw = random.Random(seed)

    def __call__(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> Reply:
        """Reply with a call drawn by chance."""
        names = [tool["function"]["name"] for tool in tools]
        specialists = [name for name in names if name not in ("search_docs", "run_python")]
        if not _done(messages) and self._draw.random() < 0.5:
            return _calls("", ("search_docs", {"query": request_of(messages)}))
        return _calls("", (self._draw.choice(specialists), {"final": True}))


def _search(steps: Plan, shown: Mapping[str, str], done: Sequence[_Done]) -> Reply | None:
    """Return the searches still to make, an answer that gives up, or None when all is found."""
    if "search_docs" not in shown:
        return _answer(SORRY)
    searches = [call for call in done if call.name == "search_docs"]
    if not searches:
        label = "Prices" if steps.domain == "total" else "Compare" if len(steps.queries) > 1 else "Shop question"
        return _calls(f"{label}: search_docs.", *(("search_docs", {"query": query}) for query in steps.queries))
    last = searches[-len(steps.queries) :] if len(searches) == len(steps.queries) else searches[len(steps.queries) :]
    failed = [call.arguments["query"] for call in last if call.failed]
    if failed and len(searches) > len(steps.queries):
        return _answer(SORRY)
    if failed:
        again = (("search_docs", {"query": f"shop {query}"}) for query in failed)
        return _calls("Search failed: again.", *again)
    if any(call.result.startswith("No document") for call in searches):
        return _answer(NOT_FOUND)
    return None


def _calculate(steps: Plan, request: str, shown: Mapping[str, str], done: Sequence[_Done]) -> Reply:
    ran = [call for call in done if call.name == "run_python"]
    if ran and not ran[-1].failed:
        return _answer(f"That makes ${ran[-1].result}." if steps.bought else f"The result is {ran[-1].result}.")
    if ran or "run_python" not in shown:
        return _hand_over("arithmetic", shown, done)
    if not steps.bought:
        return _calls("Arithmetic: run_python.", ("run_python", {"code": f"print({expression(request)})"}))
    texts = "\n".join(call.result for call in done)
    terms = []
    for count, name in steps.bought:
        price = re.search(rf"{name[:-1]}\. Price \$(\d+)", texts)
        if price is None:
            return _answer(NOT_FOUND)
        terms.append(f"{count} * {price[1]}")
    code = " + ".join(terms)
    if steps.member:
        percent = re.search(r"Members get (\d+)% off", texts)
        code += f" * (100 - {percent[1] if percent else 0}) / 100"
    return _calls("Add up: run_python.", ("run_python", {"code": f"print({code})"}))


def _hand_over(domain: str, shown: Mapping[str, str], done: Sequence[_Done]) -> Reply:
    """Choose the cheapest capable specialist that is shown and has not failed, and say the prices."""
    failed = {call.name for call in done if call.failed}
    ready = [name for name in _CAPABLE[domain] if name in shown and name not in failed]
    ready = ready or [name for name in _ANYBODY if name in shown and name not in failed][:1]
    if not ready:
        return _answer(SORRY)
    priced = [(_price(shown[name]), name) for name in ready]
    chosen = min(priced, key=lambda item: item[0])[1]
    said = ", ".join(f"{name} ${price:g}" for price, name in priced)
    return _calls(f"{_LABEL[domain]}: {said}.", (chosen, {"final": True}))


def _price(description: str) -> float:
    match = re.search(r"\$(\d+(?:\.\d+)?) in", description)
    return float(match[1]) if match else 0.0


def _talk(request: str) -> str:
    solution = solve(Question(request))
    text = solution.right if solution else ""
    return next((reply for word, reply in TALK.items() if word in text.lower()), "Hello! How can I help you?")


def _done(messages: Sequence[Message]) -> list[_Done]:
    """Return the calls of the newest request, with their results."""
    start = max((index for index, message in enumerate(messages) if message["role"] == "user"), default=0)
    made = {call["id"]: call["function"] for message in messages[start:] for call in message.get("tool_calls") or ()}
    return [
        _Done(function["name"], _arguments(function["arguments"]), text_of(message))
        for message in messages[start:]
        if message["role"] == "tool" and (function := made.get(message.get("tool_call_id")))
    ]


def _arguments(written: str | Mapping[str, Any]) -> Mapping[str, Any]:
    arguments: Mapping[str, Any] = json.loads(written) if isinstance(written, str) else written
    return arguments


def _answer(text: str) -> Reply:
    return {"role": "assistant", "content": text}


def _calls(text: str, *calls: tuple[str, Mapping[str, Any]]) -> Reply:
    return {
        "role": "assistant",
        "content": text,
        "tool_calls": [
            {
                "id": f"call_{random.getrandbits(48):012x}",
                "type": "function",
                "function": {"name": name, "arguments": json.dumps(arguments)},
            }
            for name, arguments in calls
        ],
    }
