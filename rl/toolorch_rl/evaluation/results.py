"""What an evaluation keeps of a run of a task, and its file: a JSON object a line.

A line is written as soon as its run has ended, so a file that ends in mid-line is one whose writer was killed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from toolorch_rl.evaluation.errors import EvaluationError
from toolorch_rl.metrics.table import RunScores
from toolorch_rl.rewards.features import RunFeatures


class TaskResult(BaseModel):
    """How a run of a task went.

    Attributes:
        task_id: The task.
        pattern: What the task exercises; may be empty.
        domain: Of the task; may be empty.
        solved: Whether the run solved it.
        dollars: Of all its calls, the policy's own included; None: nothing had a price.
        seconds: Wall clock during which a call was under way; None: no call was timed.
        reward: What the run was worth, on whatever scale its maker chose; None: it was not rewarded.
        calls: Tool and specialist calls that were made, by catalogue name.
        answer: The run's last words.
        reason: Why it is not solved, or how it failed; empty when it is solved.
        failed: It came to no end of its own: it crashed, timed out, or its policy could not be asked.
        scores: How its calls compare with the golden ones; None: there was nothing to compare.
        traces: Ids of its captured traces, where they were kept.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    task_id: str
    pattern: str = ""
    domain: str = ""
    solved: bool
    dollars: float | None = Field(None, ge=0, allow_inf_nan=False)
    seconds: float | None = Field(None, ge=0, allow_inf_nan=False)
    reward: float | None = Field(None, allow_inf_nan=False)
    calls: Mapping[str, int] = Field(default_factory=dict)
    answer: str = ""
    reason: str = ""
    failed: bool = False
    scores: RunScores | None = None
    traces: tuple[str, ...] = ()

    @classmethod
    def of(cls, features: RunFeatures, task_id: str = "", pattern: str = "", domain: str = "") -> Self:
        """Return the result of a run whose features are known."""
        return cls(
            task_id=task_id or features.run,
            pattern=pattern,
            domain=domain,
            solved=features.solved,
            dollars=features.dollars,
            seconds=features.seconds,
            calls=features.calls,
        )

    def features(self) -> RunFeatures:
        """Return the run as the reward's equations take it."""
        return RunFeatures(self.task_id, self.calls, self.solved, self.dollars, self.seconds)


def write_results(path: str | Path, results: Iterable[TaskResult]) -> int:
    """Write results to a file of their own; return how many there were."""
    count = 0
    with Path(path).open("w", encoding="utf-8") as file:
        for result in results:
            file.write(_line(result))
            count += 1
    return count


def read_results(path: str | Path, *, cut_short: bool = False) -> list[TaskResult]:
    """Read results: a file of lines, or the `results` of a whole report in JSON.

    Args:
        path: What `write_results`, an evaluation or `toolorch eval --json` wrote.
        cut_short: Leave out a last line that is not whole, as a writer that was killed leaves it.

    Raises:
        EvaluationError: A line is no result; the message names file, line and field.
        OSError: The file cannot be read.
    """
    text = Path(path).read_text(encoding="utf-8")
    report = _report(text)
    if report is not None:
        return [_result(json.dumps(item), f"{path}, result {place}") for place, item in enumerate(report, 1)]
    lines = text.splitlines(keepends=True)
    if lines and lines[0].startswith(_HEAD):
        lines[0] = ""
    if lines and cut_short and not lines[-1].endswith("\n"):
        lines.pop()
    return [_result(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]


class ResultsFile:
    """A file that results are added to as they come, so that an interrupted evaluation goes on where it was.

    Its first line says what was evaluated, and how. Runs that failed are not kept when it is opened again: they are
    tried anew.

    Args:
        path: The file.
        settings: What decides the results, JSON-safe; an evaluation with other settings does not go on in it.
        fresh: Begin anew, whatever the file holds.

    Attributes:
        done: Results that it held already.

    Raises:
        EvaluationError: It holds an evaluation with other settings, or something else.
    """

    def __init__(self, path: str | Path, settings: Mapping[str, Any], *, fresh: bool = False) -> None:
        self.path = Path(path)
        self.done: list[TaskResult] = []
        if not fresh and self.path.exists() and self.path.stat().st_size:
            self._check(settings)
            self.done = [item for item in read_results(self.path, cut_short=True) if not item.failed]
        part = self.path.with_name(f"{self.path.name}.part")
        part.write_text(json.dumps({"evaluation": settings}) + "\n" + "".join(map(_line, self.done)), encoding="utf-8")
        part.replace(self.path)
        self._file = self.path.open("a", encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, result: TaskResult) -> None:
        """Write a result at once."""
        self._file.write(_line(result))
        self._file.flush()

    def _check(self, settings: Mapping[str, Any]) -> None:
        with self.path.open(encoding="utf-8") as file:
            first = file.readline()
        try:
            held = json.loads(first)["evaluation"]
        except (ValueError, LookupError, TypeError):
            raise EvaluationError(
                f"{self.path} is there and holds no evaluation: give another file, or begin anew (--fresh)"
            ) from None
        for name in dict.fromkeys([*held, *settings]):
            if held.get(name) != settings.get(name):
                raise EvaluationError(
                    f"{self.path} holds an evaluation with another {name}, {held.get(name)!r} and not "
                    f"{settings.get(name)!r}: give another file, or begin anew (--fresh)"
                )


_HEAD = '{"evaluation": '


def _line(result: TaskResult) -> str:
    return result.model_dump_json(exclude_defaults=True) + "\n"


def _result(line: str, where: str) -> TaskResult:
    try:
        return TaskResult.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise EvaluationError(
            f"{where} is no result of an evaluation: {field + ': ' if field else ''}{first['msg']}"
        ) from error


def _report(text: str) -> list[Any] | None:
    """Return the results of a report; None: the text is none."""
    try:
        found = json.loads(text)
    except ValueError:
        return None
    results = found.get("results") if isinstance(found, dict) else None
    return results if isinstance(results, list) else None
