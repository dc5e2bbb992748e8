"""Multi-turn tasks of the Berkeley Function Calling Leaderboard, version 4 (package `bfcl-eval`).

The leaderboard's own classes run, in this process: install the package, or give the folder of a checkout. A run has
solved a task when, at the end of each of the user's turns, the objects are in the state that the golden calls leave,
and the results of the golden calls are among those that the run has seen (its `multi_turn_checker`).
"""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from functools import cache, cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args

from toolorch_rl.imports.arguments import arguments_of
from toolorch_rl.imports.source import BenchmarkError, importable
from toolorch_rl.imports.task import ImportedTask, LeftOut, Stage
from toolorch_rl.imports.toolkit import Toolkit, ToolkitEnvironment
from toolorch_rl.tasks import GoldenCall

Category = Literal["base", "long_context", "miss_func", "miss_param"]

_NEW_TOOLS = "I have updated some more functions you can choose from. What about now?"
"""What the leaderboard says in the place of a turn without words, in which hidden tools come back."""


def bfcl_tasks(category: Category = "base", checkout: str | Path | None = None) -> Iterator[ImportedTask | LeftOut]:
    """Give the multi-turn tasks of a category; those that cannot be imported with the reason.

    Args:
        category: `base`, `long_context`, `miss_func` (a tool comes late) or `miss_param` (a value comes late).
        checkout: Folder that holds the package `bfcl_eval`; by default it is installed.

    Raises:
        BenchmarkError: The package is not there, or there is no such category.

    Example:
        >>> tasks = [task for task in bfcl_tasks() if isinstance(task, ImportedTask)]  # doctest: +SKIP
    """
    if category not in get_args(Category):
        raise BenchmarkError(f"category is {category!r}: choose one of {', '.join(get_args(Category))}")
    with importable("bfcl_eval", checkout, "pip install bfcl-eval"):
        data = Path(str(import_module("bfcl_eval").__path__[0])) / "data"
        backend = import_module("bfcl_eval.constants.executable_backend_config")
    name = f"BFCL_v4_multi_turn_{category}.json"
    golden = {row["id"]: row["ground_truth"] for row in _rows(data / "possible_answer" / name)}
    for row in _rows(data / name):
        try:
            yield _Source(row, golden[row["id"]], category, data, backend).task()
        except (KeyError, ValueError) as error:
            yield LeftOut(str(row.get("id")), f"{type(error).__name__}: {error}")


class _Source:
    """One row of the leaderboard's data."""

    def __init__(
        self, row: Mapping[str, Any], golden: list[list[str]], category: Category, data: Path, backend: Any
    ) -> None:
        self.row = row
        self.golden = golden
        self.long = category == "long_context"
        self.classes = {name: _class(backend.CLASS_FILE_PATH_MAPPING[name], name) for name in row["involved_classes"]}
        self.stateless = set(backend.STATELESS_CLASSES)
        hidden = set(row.get("excluded_function") or ())
        documents = [
            document
            for name in self.classes
            for document in _documents(data / "multi_turn_func_doc" / backend.MULTI_TURN_FUNC_DOC_FILE_MAPPING[name])
            if document["name"] not in hidden
        ]
        self.descriptions = {document["name"]: document["description"] for document in documents}
        self.models = {
            document["name"]: arguments_of(document["name"], document["parameters"]) for document in documents
        }

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """What the user says and what is to be done, turn by turn."""
        missing = {int(turn): set(names) for turn, names in (self.row.get("missed_function") or {}).items()}
        stages = []
        for number, (said, calls) in enumerate(zip(self.row["question"], self.golden, strict=True)):
            stages.append(
                Stage(
                    "\n".join(message["content"] for message in said) or _NEW_TOOLS,
                    tuple(self._call(text, f"call_{number}_{place}") for place, text in enumerate(calls)),
                    frozenset(name for turn, names in missing.items() if turn > number for name in names),
                )
            )
        return tuple(stages)

    def task(self) -> ImportedTask:
        return ImportedTask(
            id=self.row["id"],
            domain="bfcl " + " ".join(sorted(self.classes)),
            stages=self.stages,
            start=self.start,
            judge_run=self.judge,
        )

    def start(self) -> ToolkitEnvironment:
        objects = {name: kind() for name, kind in self.classes.items()}
        for name, item in objects.items():
            if name not in self.stateless:
                item._load_scenario(deepcopy(self.row["initial_config"].get(name, {})), long_context=self.long)
        methods: dict[str, Callable[..., Any]] = {}
        for item in objects.values():
            methods |= {name: method for name, method in inspect.getmembers(item, inspect.ismethod) if name[0] != "_"}
        return ToolkitEnvironment(
            Toolkit(
                self.descriptions,
                self.models,
                lambda name, arguments: _text(methods[name](**arguments)),
                lambda: {
                    name: deepcopy({key: value for key, value in vars(item).items() if key[0] != "_"})
                    for name, item in objects.items()
                },
            )
        )

    @cached_property
    def wanted(self) -> ToolkitEnvironment:
        """The environment after the golden calls."""
        environment = self.start()
        for stage in self.stages:
            for call in stage.golden:
                try:
                    environment.call_text(call.name, call.arguments)
                except ValueError:
                    continue  # some golden calls fail, and the leaderboard wants to see them fail
            environment.end_stage()
        return environment

    def judge(self, environment: ToolkitEnvironment, answer: str) -> Iterator[str]:
        states = environment.states or [environment.state()]
        if len(states) < len(self.golden):
            yield f"the run ended after {len(states)} of the user's {len(self.golden)} turns"
            return
        seen: list[str] = []
        for stage, (state, wanted) in enumerate(zip(states, self.wanted.states, strict=False)):
            seen += [call.text for call in environment.made if call.stage == stage]
            if not self.golden[stage]:
                continue
            if state != wanted:
                yield f"turn {stage + 1} leaves another state"
            left = list(seen)
            for call in self.wanted.made:
                if call.stage == stage and call.text in left:
                    left.remove(call.text)
                elif call.stage == stage:
                    yield f"turn {stage + 1} has not seen the result of {call.name}"

    def _call(self, text: str, call_id: str) -> GoldenCall:
        """Read a golden call such as `mv('a', destination='b')`; it is parsed, never evaluated."""
        tree = ast.parse(text, mode="eval").body
        if not isinstance(tree, ast.Call) or not isinstance(tree.func, ast.Name):
            raise ValueError(f"golden call {text!r} is no plain call")
        if tree.func.id not in self.models:
            raise ValueError(f"golden call {text!r} is of a tool that is not shown")
        try:
            positional = dict(
                zip(self.models[tree.func.id].model_fields, map(ast.literal_eval, tree.args), strict=False)
            )
            named = {str(item.arg): ast.literal_eval(item.value) for item in tree.keywords}
        except ValueError:
            raise ValueError(f"golden call {text!r} has arguments that are no plain values") from None
        return GoldenCall(id=call_id, name=tree.func.id, arguments=positional | named)


@cache
def _class(module: str, name: str) -> type[Any]:
    found: type[Any] = getattr(import_module(module), name)
    return found


@cache
def _documents(path: Path) -> list[dict[str, Any]]:
    return list(_rows(path))


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        raise BenchmarkError(f"{path} is missing: install a whole bfcl-eval, 2025 or later")
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def _text(result: Any) -> str:
    if isinstance(result, dict):
        return json.dumps(result, default=str)
    return str(result)
