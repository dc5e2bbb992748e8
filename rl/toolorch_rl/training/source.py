"""Where a policy gradient's examples come from: captured traces, or rollouts that are made as it trains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from toolorch_rl.rows import Example

if TYPE_CHECKING:
    from torch import nn


class ExampleSource(Protocol):
    """Gives a batch a step, and hears when a step is done.

    All methods are called in the main process only, from the thread that trains; the trainer shares the examples out
    among the processes. Steps count optimiser steps from 0. A resumed run calls `restore` before its first batch.
    """

    def next_batch(self, step: int, policy_version: str) -> list[Example]:
        """Return the examples of a step.

        Args:
            step: The step that they are for; after a resume the first step that no checkpoint holds.
            policy_version: Name of the policy that trains, as `after_step` gave it last.

        Returns:
            All rows of the rollouts of the step; the rows of a rollout stay together. An empty list ends the training.

        Raises:
            ToolorchError: There is nothing to train on, or what makes the examples has failed for good.
        """
        ...

    def after_step(self, step: int, model: nn.Module) -> str | None:
        """Hear that a step is done; a live source publishes the weights here.

        A resumed run begins with this for the last step that its checkpoint holds.

        Args:
            step: The step that is done.
            model: The trained model, unwrapped; with an adapter, the `peft` model. Its weights are whole, or shards
                where they are sharded among processes; then this method is called in every process.

        Returns:
            The name under which the weights now serve, or None where it has not changed.
        """
        ...

    def metrics(self) -> dict[str, float]:
        """Return figures of the batch that was given last, such as `reward` or `staleness`, for the log."""
        ...

    def tasks(self) -> set[str]:
        """Return the names of the tasks that it has given runs of since it began, as `tasks.task_names` has them.

        They are added to the training's plan. A source of the runs that the plan was made of need not name them.
        """
        ...

    def state(self) -> dict[str, Any]:
        """Return the source's position as JSON; each checkpoint holds it. A source that goes by the step needs none."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a position that `state` returned."""
        ...


class StepSource:
    """What a source need not write: it neither publishes weights nor has a position but the step.

    Nor does it name the tasks of its runs.
    """

    def after_step(self, step: int, model: nn.Module) -> str | None:
        """Publish nothing."""
        return None

    def metrics(self) -> dict[str, float]:
        """Return no figures."""
        return {}

    def tasks(self) -> set[str]:
        """Return no names."""
        return set()

    def state(self) -> dict[str, Any]:
        """Return no position."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Go by the step."""
