"""A language model played by template, over real HTTP: it writes schemas, states, intents and tasks, and solves them.

It proves how synthesis by model deals with what models say, good and bad; it proves nothing about models. What goes
wrong is written into domains (`circle`, `keyless`, ...) and, with `faults`, into intents.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from toolorch_integrations.entry import Endpoint, Price, Specialist
from toolorch_integrations.testing import Reply, Request, ScriptedPolicy
from toolorch_rl.environments import EnvironmentSchema
from toolorch_rl.environments.catalog import operations_of
from toolorch_rl.replay import value_at
from toolorch_rl.synthesis.by_model import Try
from toolorch_rl.tasks import Task

WORDS = ("amber", "birch", "cobalt", "delta", "ember", "falcon", "garnet", "harbour", "indigo", "juniper", "kestrel")
PLACEHOLDER = re.compile(r"\{\{(\w+):([^{}]+)\}\}")
ROW = re.compile(r"^(\w+) (\S+): (\{.*\})$", re.MULTILINE)

SCHEMA: dict[str, Any] = {
    "description": "Shelves, books and readers.",
    "entities": [
        {"name": "shelf", "plural": "shelves", "label": "name", "fields": [{"name": "name", "required": True}]},
        {
            "name": "book",
            "plural": "books",
            "label": "title",
            "fields": [
                {"name": "title", "required": True},
                {"name": "shelf_id", "type": "reference", "refers_to": "shelf", "required": True},
                {"name": "status", "type": "choice", "choices": ["in", "lent", "lost"], "default": "in"},
                {"name": "pages", "type": "integer"},
            ],
        },
    ],
    "actions": [{"verb": "withdraw", "entity": "book", "sets": {"status": "lost"}, "destructive": True}],
}
ROWS: dict[str, Any] = {
    "shelf": {"s1": {"name": "North wall"}, "s2": {"name": "Cellar"}},
    "book": {
        "b1": {"title": "Tides of Lisbon", "shelf_id": "s1", "status": "in", "pages": 220},
        "b2": {"title": "A winter garden", "shelf_id": "s1", "status": "lent"},
        "b3": {"title": "Copper roads", "shelf_id": "s2", "status": "in", "pages": None},
    },
}


class ScriptedAuthor(ScriptedPolicy):
    """The model.

    Args:
        faults: What is wrong with the tasks of the first intents, in order; see `_fault`.
        clumsy: Wrap each answer in prose and a code fence, and cut the first answer to each question short.
        solves: Whether it solves a task, try by try, over and over.
    """

    def __init__(self, faults: Sequence[str] = (), *, clumsy: bool = False, solves: Sequence[bool] = (True,)) -> None:
        super().__init__(self._reply, model="author", exact=False)
        self.faults = list(faults)
        self.clumsy = clumsy
        self.solves = solves
        self.scripts: dict[str, dict[str, Any]] = {}
        self._number = 0
        self._begun: dict[str, int] = {}
        self._guard = threading.Lock()

    def asked(self, kind: str) -> list[dict[str, Any]]:
        """Return the requests of a kind: `schema`, `state`, `intents`, `task` or `solve`."""
        return [request for request in self.requests if _kind(request) == kind]

    def _reply(self, request: Request) -> Reply | str:
        kind = _kind(request)
        if kind == "solve":
            return self._solved(request)
        prompt = request["messages"][1]["content"]
        fault = next(iter(re.findall(r"\(fault (\w+)\)", prompt)), "")
        if fault == "refused":
            return Reply("the model is busy", status=500)
        if fault == "halfway":
            return Reply(body='{"id": "x", "choices": [{"message": {"content": "{\\"requ')
        if fault == "broken":
            return 'Here you are: {"request": "x", "turns": [[,]]}'
        with self._guard:
            answer = json.dumps(getattr(self, f"_{kind}")(prompt, fault))
        if not self.clumsy:
            return answer
        if len(request["messages"]) == 2:
            return answer[: len(answer) // 2]
        return f"<think>{{hm}}</think>Sure, {{here}} it is:\n```json\n{answer}\n```\nAnything else?"

    def _schema(self, prompt: str, _: str) -> Any:
        domain = prompt.splitlines()[0]
        if "circle" in domain:
            shelf = {"name": "book_id", "type": "reference", "refers_to": "book", "required": True}
            first = {**SCHEMA["entities"][0], "fields": [*SCHEMA["entities"][0]["fields"], shelf]}
            return {**SCHEMA, "entities": [first, SCHEMA["entities"][1]]}
        if "keyless" in domain:
            return {"description": "x", "entities": [{"name": "shelf", "plural": "shelves"}]}
        return SCHEMA

    def _state(self, prompt: str, _: str) -> Any:
        if "dangling" in prompt:
            book = {**ROWS["book"]["b1"], "shelf_id": "nowhere"}
            return {"rows": {**ROWS, "book": {"b1": book}}}
        return {"rows": ROWS, "links": {}}

    def _intents(self, prompt: str, _: str) -> Any:
        intents = []
        for pattern in re.findall(r"^\d+\. (\w+):", prompt, re.MULTILINE):
            self._number += 1
            fault = f" (fault {self.faults.pop(0)})" if self.faults else ""
            intents.append(f"Something {pattern}, number {self._number}{fault}")
        return {"intents": intents}

    def _task(self, prompt: str, fault: str) -> Any:
        if "harder version" in prompt:
            draft = self._harder(json.loads(re.findall(r"^\{.*\}$", prompt, re.MULTILINE)[-1]))
        else:
            pattern, number = re.findall(r"Something (\w+), number (\d+)", prompt)[0]
            draft = getattr(self, f"_draft_{pattern}")(_rows(prompt), f"{WORDS[int(number) % len(WORDS)]} {number}")
            draft = _fault(draft, fault)
        if "unsolvable" not in fault:
            self.scripts[draft["request"]] = draft
        return draft

    def _harder(self, draft: dict[str, Any]) -> dict[str, Any]:
        self._number += 1
        name = f"Annex {self._number}"
        first, *others = draft["turns"]
        extra = {"id": f"h{self._number}", "name": "create_shelf", "arguments": {"name": name}}
        return {
            **draft,
            "request": f"{draft['request']} Also add the shelf {name}.",
            "turns": [[*first, extra], *others],
            "answer": f"{draft['answer']} The shelf {name} is there too.",
            "must_say": [*draft["must_say"], [name]],
        }

    def _draft_single(self, _: Any, name: str) -> dict[str, Any]:
        call = {"id": "a", "name": "create_shelf", "arguments": {"name": name}}
        return _draft(f"Add a shelf called {name}.", [[call]], f"The shelf {name} is there.", [name])

    def _draft_parallel(self, _: Any, name: str) -> dict[str, Any]:
        names = [f"{name} left", f"{name} right"]
        calls = [{"id": n[-4:], "name": "create_shelf", "arguments": {"name": n}} for n in names]
        return _draft(f"Add the shelves {' and '.join(names)}.", [calls], f"Both are there: {names}.", names)

    def _draft_sequential(self, _: Any, name: str) -> dict[str, Any]:
        turns = [
            [{"id": "a", "name": "create_shelf", "arguments": {"name": name}}],
            [{"id": "b", "name": "create_book", "arguments": {"title": f"On {name}", "shelf_id": "{{a:id}}"}}],
        ]
        text = f"Add a shelf called {name} and put a new book on it, On {name}."
        return _draft(text, turns, f"The shelf {name} holds On {name}, {{{{b:id}}}}.", [name, f"On {name}", "{{b:id}}"])

    def _draft_chain(self, rows: Any, name: str) -> dict[str, Any]:
        turns = [
            [{"id": "a", "name": "search_books", "arguments": {"query": "Tides of Lisbon"}}],
            [{"id": "b", "name": "withdraw_book", "arguments": {"book_id": "{{a:books[0].id}}"}}],
            [
                {
                    "id": "c",
                    "name": "create_book",
                    "arguments": {"title": name, "shelf_id": "{{a:books[0].shelf_id}}"},
                }
            ],
        ]
        return _draft(
            f"Withdraw Tides of Lisbon and put {name} on the same shelf.",
            turns,
            f"Tides of Lisbon is withdrawn, and {name} took its place.",
            ["Tides of Lisbon", name],
        )

    def _draft_conditional(self, rows: Any, name: str) -> dict[str, Any]:
        status = next(row["status"] for row in rows["book"].values() if row["title"] == "A winter garden")
        look = [{"id": "a", "name": "search_books", "arguments": {"query": "A winter garden"}}]
        return _draft(
            f"If A winter garden is in, mark it lost; else tell me ({name}).",
            [look],
            f"A winter garden is {status}, so I left it.",
            [status],
        )

    def _draft_loop(self, rows: Any, name: str) -> dict[str, Any]:
        keys = sorted(key for key, row in rows["book"].items() if row["status"] == "in")
        change = [
            {
                "id": f"b{n}",
                "name": "update_book",
                "arguments": {"book_id": f"{{{{a:books[{n}].id}}}}", "status": "lent"},
            }
            for n in range(len(keys))
        ]
        look = [{"id": "a", "name": "list_books", "arguments": {"status": "in"}}]
        titles = [rows["book"][key]["title"] for key in keys]
        return _draft(f"Lend all books that are in to {name}.", [look, change], f"Lent: {titles}.", titles)

    def _draft_mixed(self, _: Any, name: str) -> dict[str, Any]:
        titles = [f"{name} one", f"{name} two"]
        turns = [
            [{"id": "a", "name": "create_shelf", "arguments": {"name": name}}],
            [
                {"id": title[-3:], "name": "create_book", "arguments": {"title": title, "shelf_id": "{{a:id}}"}}
                for title in titles
            ],
        ]
        return _draft(f"Make a shelf {name} with the books {titles}.", turns, f"{name} has {titles}.", [name, *titles])

    # --- solving ---

    def _solved(self, request: Request) -> Reply | str:
        """Make the calls of the task's draft, under the names that the request gives the tools."""
        messages = request["messages"]
        words = next(message["content"] for message in messages if message["role"] == "user")
        script = self.scripts.get(words)
        done = [message for message in messages if message["role"] == "assistant" and message.get("tool_calls")]
        if script is None:
            return "I do not know how."
        if not done:
            with self._guard:
                begun = self._begun[words] = self._begun.get(words, -1) + 1
            if not self.solves[begun % len(self.solves)]:
                return "I would rather not."
        results = dict(_results(script, messages, done))
        if len(done) == len(script["turns"]):
            return _filled(script["answer"], results)
        names = _names(request)
        return Reply(
            calls=[
                (names[call["name"]], {key: _filled(value, results) for key, value in call["arguments"].items()})
                for call in script["turns"][len(done)]
            ]
        )


class Sure:
    """A solver that asks nobody and knows the golden state; it fails the first `failures` tries of each task."""

    name = "sure"

    def __init__(self, failures: Callable[[Task], int] = lambda task: 0) -> None:
        self.failures = failures
        self.tries: list[tuple[str, int]] = []

    def bound(self, task: Task) -> float:
        return 0.001

    async def __call__(self, task: Task, number: int) -> Try:
        self.tries.append((task.id, number))
        right = number >= self.failures(task)
        return Try(task.answer if right else "", task.golden_state, 10, 5, 0.001)


def author_at(url: str, **fields: Any) -> Specialist:
    endpoint = Endpoint(url=url, model="author", max_tokens=512, **fields)
    return Specialist(name="author", endpoint=endpoint, price=Price(input=1, output=2), retries=0)


def _kind(request: Mapping[str, Any]) -> str:
    prompt = request["messages"][1]["content"]
    marks = {"Design the": "schema", "Fill it": "state", "Think of": "intents", '"must_say"': "task"}
    if "tools" in request:
        return "solve"
    return next((kind for mark, kind in marks.items() if mark in prompt), "solve")


def _draft(request: str, turns: list[Any], answer: str, must_say: list[str]) -> dict[str, Any]:
    return {"request": request, "turns": turns, "answer": answer, "must_say": [[item] for item in must_say]}


def _fault(draft: dict[str, Any], fault: str) -> dict[str, Any]:
    """Put a fault into a task."""
    match fault:
        case "fails":
            call = {"id": "z", "name": "get_book", "arguments": {"book_id": "BOO-0"}}
            return {**draft, "request": f"{draft['request']} (BOO-0)", "turns": [[call]]}
        case "nothing":
            call = {"id": "z", "name": "search_books", "arguments": {"query": "Copper roads"}}
            said = {"answer": "Copper roads is there.", "must_say": [["Copper roads"]]}
            return {**draft, **said, "request": "Is there Copper roads?", "turns": [[call]]}
        case "unasked":
            call = {"id": "z", "name": "delete_book", "arguments": {"book_id": "BOO-1"}}
            return {**draft, "turns": [[call]]}
        case "unsaid":
            return {**draft, "must_say": [*draft["must_say"], ["rhubarb"]]}
        case "misshapen":
            return {**draft, "turns": [draft["turns"][0], [{"id": "y", "name": "list_shelves", "arguments": {}}]]}
        case "same":
            call = {"id": "z", "name": "create_shelf", "arguments": {"name": "Attic"}}
            said = {"answer": "The Attic is there.", "must_say": [["Attic"]]}
            return {**draft, **said, "request": "Add a shelf called Attic.", "turns": [[call]]}
        case "unsolvable":
            return {**draft, "request": f"Perhaps {draft['request']}"}
    return draft


def _rows(prompt: str) -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for entity, key, row in ROW.findall(prompt):
        rows.setdefault(entity, {})[key] = json.loads(row)
    return rows


def _results(script: Any, messages: Sequence[Any], done: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    texts = {message["tool_call_id"]: message["content"] for message in messages if message["role"] == "tool"}
    for turn, message in zip(script["turns"], done, strict=False):
        for call, made in zip(turn, message["tool_calls"], strict=True):
            yield call["id"], json.loads(texts[made["id"]])


def _filled(value: Any, results: Mapping[str, Any]) -> Any:
    if not isinstance(value, str):
        return value
    return PLACEHOLDER.sub(lambda found: str(value_at(results[found[1]], found[2])), value)


def _names(request: Request) -> dict[str, str]:
    """Return what the request calls each tool: descriptions keep what aliases hide."""
    schema = EnvironmentSchema.from_dict({**SCHEMA, "name": "any"})
    names = {operation.description: name for name, operation in operations_of(schema).items()}
    shown = [tool["function"] for tool in request["tools"]]
    return {
        name: tool["name"]
        for tool in shown
        for description, name in names.items()
        if tool["description"].startswith(description)
    }
