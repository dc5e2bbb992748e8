"""What synthesis by model tells: progress on the way, and what came of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from toolorch_rl.metrics.estimates import Estimate, bootstrap, wilson
from toolorch_rl.synthesis.by_model.spending import StageCost
from toolorch_rl.tasks import Task


@dataclass(frozen=True, slots=True)
class Dropped:
    """Something that was given up; the rest went on.

    Attributes:
        stage: Where.
        item: What: a domain, a state, an intent, a task.
        reason: Why.
    """

    stage: str
    item: str
    reason: str

    def text(self) -> str:
        """Return it as one line."""
        return f"{self.stage}: {self.item}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a stage is.

    Attributes:
        stage: Its name.
        done: Its calls that have ended, those that stood in the work folder included.
        total: Its calls so far known.
        dropped: Items dropped in all stages.
        dollars: Spent in all stages.
    """

    stage: str
    done: int
    total: int
    dropped: int
    dollars: float


@dataclass
class Made:
    """What came of a synthesis.

    Attributes:
        tasks: Those that passed everything, in a fixed order.
        dropped: What was given up, with the reasons.
        stages: Cost by stage.
        tried: Tries that solved it and tries made, by task, for all tasks that were tried.
        complete: Whether as many tasks were made as were asked for.
    """

    tasks: list[Task] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    stages: Mapping[str, StageCost] = field(default_factory=dict)
    tried: dict[str, tuple[int, int]] = field(default_factory=dict)
    complete: bool = False

    @property
    def dollars(self) -> float:
        """What all stages have cost together."""
        return sum(stage.dollars for stage in self.stages.values())

    def pass_at_1(self) -> Estimate:
        """Return the share of tries that solve their task, with an interval over tasks."""
        solved, tries = [pair[0] for pair in self.tried.values()], [pair[1] for pair in self.tried.values()]
        return bootstrap(solved, tries, share=True, note="no task was tried")

    def pass_at_k(self) -> Estimate:
        """Return the share of tasks that at least one of their tries solves."""
        hits = sum(solved > 0 for solved, _ in self.tried.values())
        return wilson(hits, len(self.tried), note="no task was tried")

    def patterns(self) -> Counter[str]:
        """Return how many tasks of each pattern were made."""
        return Counter(task.pattern for task in self.tasks)
