"""What a training run began with, and so which tasks a policy knows from its training."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from toolorch_integrations.trace import Trace
from toolorch_rl.training.checkpoints import reason_not_written, write_synced
from toolorch_rl.training.errors import TrainingError
from toolorch_rl.training.settings import TrainSettings
from toolorch_rl.training.tasks import task_name, task_names, withheld

CHECKPOINTS = "checkpoints"
"""Folder of the checkpoints in the output folder."""

PLAN = "plan.json"
"""The plan's file in the output folder."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a training run began with: one that goes on after a kill reads the same.

    Attributes:
        settings: Hash of those that may not change; empty where no training run writes to the folder.
        policy: What was trained.
        traces: Ids of all runs that were read; None before they were, and where the policy made its own.
        tasks: All names of those that were trained on, see `tasks.task_names`; None before they are known, and in plans
            of older releases.
        group_by: Key of the traces' metadata that names the task.
    """

    settings: str
    policy: str = ""
    traces: list[str] | None = None
    tasks: list[str] | None = None
    group_by: str | None = None

    @classmethod
    def read(cls, folder: Path) -> Plan:
        """Return the plan of an output folder.

        Raises:
            OSError: There is none.
            ValueError: It cannot be read.
        """
        found = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        try:
            return cls(**found)
        except TypeError as error:
            raise ValueError(f"{folder / PLAN} is no plan of a training run: {error}") from error

    def write(self, folder: Path) -> None:
        """Write the plan to an output folder."""
        write_synced(folder / PLAN, json.dumps(asdict(self)))

    @classmethod
    def after(cls, policy: str | Path) -> Plan:
        """Return the plan of what has come of a policy, or of a training's output folder, by no further tasks."""
        return cls("", policy_name(policy), tasks=[])

    def of(self, traces: Sequence[Trace], settings: TrainSettings) -> Plan:
        """Return the plan with the runs that were read, and the tasks of those that were not withheld."""
        trained = [trace for trace in traces if withheld(trace, settings) is None]
        names = {name for trace in trained for name in task_names(trace, settings.group_by)}
        return replace(self, traces=[trace.id for trace in traces], tasks=sorted(names))

    def with_tasks(self, names: Iterable[str]) -> Plan:
        """Return the plan with further tasks that were trained on."""
        return replace(self, tasks=sorted({*(self.tasks or ()), *names}))


def add_tasks(folder: Path, names: Iterable[str]) -> None:
    """Add tasks that were trained on to the plan of an output folder.

    Raises:
        TrainingError: The plan cannot be read, or not be written.
    """
    try:
        Plan.read(folder).with_tasks(names).write(folder)
    except (OSError, ValueError) as error:
        reason = reason_not_written(error, folder) or error
        raise TrainingError(f"{folder / PLAN} cannot say what was trained on: {reason}") from error


def is_output(folder: Path) -> bool:
    """Return whether a training run has begun to write to a folder."""
    try:
        return bool(Plan.read(folder).settings)
    except FileNotFoundError:
        return False
    except (OSError, ValueError):
        return True  # whose plan was damaged


def policy_name(policy: str | Path) -> str:
    """Return a policy's name as plans hold it: a folder is found from any working directory."""
    return str(Path(policy).resolve()) if Path(policy).is_dir() else str(policy)


@dataclass(frozen=True, slots=True)
class TrainedOn:
    """What a policy, and those that it was trained from, were trained on.

    Attributes:
        plans: Of their training runs; those of policies that no training run here has made are not known.
    """

    plans: tuple[Plan, ...] = ()

    @classmethod
    def read(cls, folder: str | Path) -> TrainedOn:
        """Return what the policy in a folder was trained on; nothing where the folder does not say.

        The folder may be a checkpoint below a training's output, or a version that an online training has served.

        Raises:
            TrainingError: It says so in a file that cannot be read.
        """
        return cls(tuple(_plans(Path(folder))))

    def among(self, traces: Sequence[Trace]) -> frozenset[str]:
        """Return the ids of the runs whose tasks it was trained on, whoever made them: it may know them by heart."""
        found: set[str] = set()
        for plan in self.plans:
            names = {trace.id: task_name(trace, plan.group_by) for trace in traces}
            tasks = set(plan.tasks or ())
            if plan.tasks is None:
                tasks = {names[one] for one in plan.traces or () if one in names}
            found.update(one for one, name in names.items() if name in tasks)
        return frozenset(found)


def _plans(folder: Path) -> Iterator[Plan]:
    seen: set[Path] = set()
    while folder.resolve() not in seen:
        seen.add(folder.resolve())
        output = folder.parent.parent if folder.parent.name == CHECKPOINTS else folder
        try:
            plan = Plan.read(output)
        except (FileNotFoundError, NotADirectoryError):
            return
        except (OSError, ValueError) as error:
            raise TrainingError(
                f"nobody can tell what {folder} was trained on, since {output / PLAN} cannot be read: {error}; mend it"
            ) from error
        yield plan
        if not plan.policy:  # of an older release
            return
        folder = Path(plan.policy)
