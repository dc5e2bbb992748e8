"""Runs of the `select` rendering for tests of either face: scripted policy and specialists, and the app's two tools."""

from __future__ import annotations

from pathlib import Path

from toolorch_integrations import Catalog, Endpoint, Specialist, Tool
from toolorch_integrations.select_functions import SelectTools
from toolorch_integrations.select_run import published_catalog
from toolorch_integrations.testing import Reply, Request, ScriptedPolicy

GOLDEN = Path(__file__).parent / "golden"
QUESTION = "How many tents fit into 3 crates?"


def choose(function: str, model: str) -> Reply:
    return Reply(calls=[(function, {"model": model})])


def specialist_says(request: Request) -> str:
    """Play every specialist: the model's name says which."""
    model = str(request["model"])
    if model.startswith("search"):
        return "What is missing is a size. <query>tents in a crate</query>"
    if model.startswith("reasoner"):
        return "```python\nprint('tents:', 4 * 3)\n```"
    if model == "answer-2":
        return ""
    return "Four in each.\n<answer>12</answer>"


def catalog_of(server: ScriptedPolicy, *further: Specialist | Tool) -> Catalog:
    """Return the published catalogue with one scripted server behind all models."""
    entries = [
        entry.model_copy(update={"endpoint": Endpoint(url=server.url, model=entry.name), "retries": 0})
        for entry in published_catalog().specialists
    ]
    return Catalog([*entries, *further])


def find(query: str) -> list[str]:
    """Search the shop's documents."""
    return [f"About {query}: a crate holds 4.", "Crates are blue."]


def python(code: str) -> str:
    """Run Python."""
    return {"print('tents:', 4 * 3)": "tents: 12\n"}[code]


TOOLS = SelectTools(search=find, interpreter=python)


class Policy:
    """A scripted policy whose script is a list of steps, and what it was shown."""

    def __init__(self, *steps: Reply | str) -> None:
        self.steps = steps
        self.server = ScriptedPolicy(self._reply)

    def _reply(self, request: Request) -> Reply | str:
        return self.steps[min(len(self.server.requests), len(self.steps) - 1)]

    def __enter__(self) -> Policy:
        self.server.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.server.__exit__(*error)

    @property
    def prompts(self) -> list[list[tuple[str, str]]]:
        return [[(m["role"], m["content"]) for m in request["messages"]] for request in self.server.requests]

    @property
    def functions(self) -> list[list[str]]:
        return [[t["function"]["name"] for t in request["tools"]] for request in self.server.requests]


FULL = (choose("search", "search-3"), choose("enhance_reasoning", "reasoner-1"), choose("answer", "answer-1"))


def two_texts(first: str, second: str) -> str:
    """Take two texts."""
    return first + second
