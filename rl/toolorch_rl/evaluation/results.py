"""What an evaluation keeps of a run of a task, and its file: a JSON object a line.

A line is written as soon as its run has ended, so a file that ends in mid-line is one whose writer was killed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Self

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
            file.write(result.model_dump_json(exclude_defaults=True) + "\n")
            count += 1
    return count


def read_results(path: str | Path, *, cut_short: bool = False) -> list[TaskResult]:
    """Read results.

    Args:
        path: What `write_results` or an evaluation wrote.
        cut_short: Leave out a last line that is not whole, as a writer that was killed leaves it.

    Raises:
        EvaluationError: A line is no result; the message names file, line and field.
        OSError: The file cannot be read.
    """
    results = []
    lines = Path(path).read_text(encoding="utf-8").splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        if not line.strip() or (cut_short and number == len(lines) and not line.endswith("\n")):
            continue
        try:
            results.append(TaskResult.model_validate_json(line))
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            raise EvaluationError(
                f"{path}, line {number} is no result of an evaluation: {field + ': ' if field else ''}{first['msg']}"
            ) from error
    return results
