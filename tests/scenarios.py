"""Recorded requests for the parity of the faces: what a scripted policy says, and what a caller asks for.

Every scenario is data; the tests drive each face through it and compare what reached the policy and what was traced.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from toolorch_integrations import Budget, CatalogFilter, Endpoint, Preferences, Price, Specialist
from toolorch_integrations.testing import Reply, Request

STOCK = {"tent": 2, "stove": 0, "map": 7, "rope": 12, "lamp": 1}


def search(query: str, limit: int = 3) -> str:
    """Search the shop's documents.

    Args:
        query: What to look for.
        limit: How many documents to return.
    """
    return f"{limit} documents on {query}"


async def stock(item: str) -> str:
    """Say how many pieces of an item are in stock."""
    if item not in STOCK:
        raise KeyError(item)
    return str(STOCK[item])


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def broken(reason: str) -> str:
    """Fail always."""
    raise RuntimeError(reason)


def delete_project(name: str) -> str:
    """Delete a project for good."""
    DELETED.append(name)
    return f"deleted {name}"


DELETED: list[str] = []
"""What `delete_project` has done."""

TOOLS: list[Callable[..., Any]] = [search, stock, add, broken, delete_project]


@dataclass(frozen=True)
class Scenario:
    """One request.

    Attributes:
        name: Kind and number.
        script: What the policy says, turn by turn, or a function of the request.
        request: The user's words.
        before: Earlier exchange of the conversation, as (role, text).
        options: Preferences, budget and catalogue view of the request.
        decisions: What a person says when asked about destructive calls.
        system_prompt: The app's own.
        prices: Price by catalogue name, for the catalogue.
    """

    name: str
    script: Sequence[Reply | str] | Callable[[Request], Reply | str]
    request: str = "Help me."
    before: Sequence[tuple[str, str]] = ()
    options: dict[str, Any] = field(default_factory=dict)
    decisions: Sequence[dict[str, Any]] = ()
    system_prompt: str | None = None
    prices: dict[str, Price] = field(default_factory=dict)


def call(name: str, /, **arguments: Any) -> tuple[str, dict[str, Any]]:
    """Return a scripted call."""
    return name, arguments


def calls(*wanted: tuple[str, Any], content: str = "", reasoning: str = "") -> Reply:
    """Return a scripted reply with calls."""
    return Reply(content, calls=wanted, reasoning=reasoning)


ITEMS = tuple(STOCK)
QUESTIONS = ("tents for two", "a stove that folds", "Grüße 🎉", 'a "quoted" word', "two\nlines")


def scenarios() -> list[Scenario]:
    """Return all scenarios, in a fixed order."""
    return [scenario for kind in KINDS.values() for scenario in kind()]


def single() -> list[Scenario]:
    """One call, or none."""
    found = [
        Scenario(f"single-{n}", [calls(call("search", query=q), content=c, reasoning=r), f"Answer: {q}"], request=q)
        for n, (q, (c, r)) in enumerate(
            itertools.product(QUESTIONS, (("", ""), ("Looking it up.\n", ""), ("", "hmm"), ("So.", "think\n\nmore")))
        )
    ]
    found += [Scenario(f"answer-{n}", [f"Just {q}"], request=q) for n, q in enumerate(QUESTIONS)]
    found += [
        Scenario(
            f"preferences-{n}",
            [calls(call("stock", item=item)), "Done."],
            request=f"Is there a {item}?",
            options={"preferences": Preferences(cost=n / 5, latency=1 - n / 5, tools={"search": n / 5})},
            system_prompt="You work for an outdoor shop." if n % 2 else None,
            before=[("user", "Hello"), ("assistant", "Hello, what can I do?")] * (n % 3),
        )
        for n, item in enumerate(ITEMS)
    ]
    return found


def sequential() -> list[Scenario]:
    """Several turns, each with one call."""
    return [
        Scenario(
            f"sequential-{length}-{n}",
            [
                *(
                    calls(call("search", query=f"{item} {turn}", limit=turn) if turn % 2 else call("add", a=turn, b=n))
                    for turn in range(length)
                ),
                f"All about {item}.",
            ],
            request=f"Tell me all about the {item}.",
        )
        for n, item in enumerate(ITEMS)
        for length in (2, 3, 5, 8)
    ]


def parallel() -> list[Scenario]:
    """Several calls in one turn, some of them equal."""
    return [
        Scenario(
            f"parallel-{width}-{n}",
            [
                calls(
                    *(
                        call("stock", item=ITEMS[(n + at) % 5]) if at % 3 else call("add", a=1, b=1)
                        for at in range(width)
                    )
                ),
                calls(call("search", query=item), call("search", query=item)),
                "Both.",
            ],
            request=f"{item} and more",
        )
        for n, item in enumerate(ITEMS)
        for width in (2, 3, 4, 6)
    ]


def conditional() -> list[Scenario]:
    """What comes next depends on what a tool said."""

    def decide(item: str) -> Callable[[Request], Reply | str]:
        def script(request: Request) -> Reply | str:
            last = request["messages"][-1]
            if last["role"] != "tool":
                return calls(call("stock", item=item))
            if last["content"] == "0":
                return calls(call("search", query=f"{item} delivery"))
            return f"The {item}: {last['content']}"

        return script

    return [
        Scenario(f"conditional-{n}-{m}", decide(item), request=f"{question}: {item}?")
        for n, item in enumerate((*ITEMS, "boat"))
        for m, question in enumerate(QUESTIONS[:4])
    ]


def loop() -> list[Scenario]:
    """The same call again and again, until a count is reached or the turns are used up."""

    def count(stop: int) -> Callable[[Request], Reply | str]:
        def script(request: Request) -> Reply | str:
            last = request["messages"][-1]
            value = int(last["content"]) if last["role"] == "tool" else 0
            return f"Counted to {value}." if value >= stop else calls(call("add", a=value, b=1))

        return script

    return [Scenario(f"loop-{stop}", count(stop), request=f"Count to {stop}.") for stop in range(1, 11)] + [
        Scenario(
            f"loop-cut-{turns}", count(100), request="Count to a hundred.", options={"budget": Budget(turns=turns)}
        )
        for turns in range(1, 11)
    ]


def failing() -> list[Scenario]:
    """Everything that can go wrong with a call or a reply."""
    bad: dict[str, Reply | str] = {
        "raises": calls(call("broken", reason="out of paper")),
        "missing": calls(call("stock", item="boat")),
        "unknown": calls(call("fly", to="moon")),
        "wrong-type": calls(call("add", a="one", b=2)),
        "coerced": calls(call("add", a="1", b="2")),
        "left-out": calls(call("add", a=1)),
        "added": calls(call("add", a=1, b=2, c=3)),
        "cut-json": Reply(calls=[("search", '{"query": ')]),
        "text-call": '<tool_call>\n{"name": "search", "arguments": {"query": }\n</tool_call>',
        "empty": "",
        "spaces": "  \n",
        "one-of-two": calls(call("broken", reason="x"), call("add", a=1, b=2)),
        "null": calls(call("search", query=None)),
        "empty-arguments": Reply(calls=[("search", "")]),
    }
    found = [
        Scenario(f"error-{name}-{ending}", [reply, *rest], request=f"Try {name}.", options={"budget": Budget(turns=6)})
        for name, reply in bad.items()
        for ending, rest in {
            "answered": ["Sorry."],
            "repaired": [calls(call("add", a=2, b=2)), "Four."],
            "given-up": [reply],
        }.items()
    ]
    others = {"catalog": CatalogFilter(deny=frozenset({"coder", "writer", "rescued"}))}
    found += [Scenario("error-nobody", [Reply("overloaded", status=503)], request="Anybody?", options=others)]
    found += [
        Scenario(f"error-server-{status}", [Reply("overloaded", status=status)], request="Anybody?")
        for status in (500, 503)
    ]
    return found


def over_budget() -> list[Scenario]:
    """A limit is reached: turns, or money on tools, specialists or the policy itself."""
    work = [calls(call("search", query="a")), calls(call("stock", item="map")), calls(call("add", a=1, b=2)), "Done."]
    found = [
        Scenario(f"budget-turns-{n}", work, request="Work.", options={"budget": Budget(turns=n)}) for n in range(6)
    ]
    found += [
        Scenario(
            f"budget-dollars-{n}",
            work,
            request="Work.",
            options={"budget": Budget(dollars=n * 0.01)},
            prices={"search": Price(call=0.01), "stock": Price(call=0.02)},
        )
        for n in range(6)
    ]
    found += [
        Scenario(
            f"budget-parallel-{n}",
            [calls(*[call("search", query=str(at)) for at in range(4)]), "Done."],
            request="Work.",
            options={"budget": Budget(dollars=n * 0.01)},
            prices={"search": Price(call=0.01)},
        )
        for n in range(1, 6)
    ]
    found += [
        Scenario(
            f"budget-specialist-{n}",
            [calls(call("coder", task="Write it.")), calls(call("coder")), "Done."],
            request="Program.",
            options={"budget": Budget(dollars=n * 0.002)},
        )
        for n in range(1, 6)
    ]
    return found


def destructive() -> list[Scenario]:
    """Calls that a person must confirm."""
    one = [calls(call("delete_project", name="alpha")), "Done."]
    two = [
        calls(call("delete_project", name="alpha"), call("add", a=1, b=2), call("delete_project", name="beta")),
        "Done.",
    ]
    approve, reject = {"type": "approve"}, {"type": "reject", "message": "not today"}
    plain_reject = {"type": "reject"}
    edit = {"type": "edit", "edited_action": {"name": "delete_project", "args": {"name": "gamma"}}}
    respond = {"type": "respond", "message": "Ask me tomorrow."}
    found = [
        Scenario(f"destructive-{n}", one, request="Clean up.", decisions=[decision])
        for n, decision in enumerate((approve, reject, plain_reject, edit, respond))
    ]
    found += [
        Scenario(f"destructive-two-{n}", two, request="Clean up.", decisions=list(pair))
        for n, pair in enumerate(itertools.product((approve, reject, edit, respond), repeat=2))
    ]
    return found


def handed_over() -> list[Scenario]:
    """Steps handed to specialists, with aliases, hidden entries, failures and fallbacks."""
    views = {
        "plain": {},
        "alias": {"catalog": CatalogFilter(aliases={"coder": "expert-1"})},
        "deny": {"catalog": CatalogFilter(deny=frozenset({"search"}))},
        "price": {"catalog": CatalogFilter(prices={"coder": Price(call=1.0)}, latencies={"coder": 3.0})},
        "shortlist": {"catalog": CatalogFilter(shortlist=1)},
    }
    found = []
    for view, options in views.items():
        name = "expert-1" if view == "alias" else "coder"
        found += [
            Scenario(f"specialist-{view}-request", [calls(call(name)), "Done."], "Program a tent.", options=options),
            Scenario(f"specialist-{view}-task", [calls(call(name, task="Do.")), "Done."], "Program.", options=options),
            Scenario(
                f"specialist-{view}-final",
                [calls(call("add", a=1, b=1)), calls(call(name, task="Do.", final=True)), "never said"],
                request="Program.",
                options=options,
            ),
            Scenario(
                f"specialist-{view}-two",
                [calls(call(name, task="One."), call("writer", task="Two.")), "Done."],
                request="Write.",
                before=[("user", "Hello"), ("assistant", "Hello.")],
                options=options,
            ),
        ]
    found += [
        Scenario("specialist-down", [calls(call("down", task="Do.", final=True)), "So be it."], request="Program."),
        Scenario("specialist-rescued", [calls(call("rescued", task="Do.", final=True)), "never"], request="Program."),
        Scenario("specialist-wrong", [calls(call("coder", final="perhaps")), "So be it."], request="Program."),
        Scenario("specialist-no-task", [calls(call("writer")), "So be it."], request="Write."),
    ]
    return found


KINDS: dict[str, Callable[[], list[Scenario]]] = {
    "single": single,
    "sequential": sequential,
    "parallel": parallel,
    "conditional": conditional,
    "loop": loop,
    "error": failing,
    "over budget": over_budget,
    "destructive": destructive,
    "handed over": handed_over,
}
"""Scenarios by what they are about."""


def specialists(url: str) -> list[Specialist]:
    """Return the specialists of the scenarios: two that answer at `url`, and two that nobody answers for."""
    helper = Endpoint(url=url, model="helper", max_tokens=200, timeout=5)
    nobody = Endpoint(url="http://127.0.0.1:9/v1", model="nobody", max_tokens=100, timeout=1)
    price = Price(input=1, output=5, call=0.001)
    return [
        Specialist(name="coder", description="Writes Python programs.", endpoint=helper, price=price),
        Specialist(name="writer", description="Writes letters.", endpoint=helper, context="task", latency=2.0),
        Specialist(name="down", description="Never there.", endpoint=nobody, retries=0),
        Specialist(name="rescued", description="Seldom there.", endpoint=nobody, retries=0, fallback="writer"),
    ]


def helper(request: Request) -> str:
    """Answer as a specialist: with the end of what was asked."""
    return "I did: " + request["messages"][-1]["content"][-40:]
