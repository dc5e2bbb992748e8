"""How online training makes and chooses its runs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from toolorch_integrations.preferences import Preferences
from toolorch_rl.filters import unknown_filter
from toolorch_rl.rewards import OURS, Preset, preset
from toolorch_rl.rollouts import RolloutError, RolloutSettings
from toolorch_rl.training.settings import TrainSettings


@dataclass(frozen=True, slots=True)
class OnlineSettings:
    """What happens between rollouts and trainer.

    Attributes:
        groups: Groups a step: tasks, with `rollouts.repetitions` runs each.
        rollouts: How runs are made.
        ahead: Groups that may be under way or ready beyond those of the next step, in steps: 0 trains on the newest
            weights and lets the policy server wait for the trainer; 1 keeps both busy.
        max_staleness: Runs of a policy more than so many published versions old are not trained on, and counted.
        publish_every: Steps between published versions.
        preferences: Whose reward is trained for; None: each run's own caller's.
        preset: How rewards are normalised, and which groups are too even to learn from.
        policy_seconds: Seconds that each policy call counts; see `rollouts.rewards_of`.
        filters: Names of `toolorch_rl.filters.FILTERS` that drop runs before rewards are computed.
        rounds: Batches of groups that a step may draw to find some to learn from.
        vocabulary: How many tokens the model has, where runs are to be checked against it.
        max_length: Runs with a row of more tokens are not trained on, and counted; `train_online` takes it from the
            training's settings.
        timeout: Seconds that a step waits for its runs.
        seconds: Training ends with the first step after so many; None: when its steps are done.
    """

    groups: int = 16
    rollouts: RolloutSettings = field(default_factory=RolloutSettings)
    ahead: float = 1.0
    max_staleness: int = 4
    publish_every: int = 1
    preferences: Preferences | None = None
    preset: Preset = OURS
    policy_seconds: float | None = None
    filters: tuple[str, ...] = ()
    rounds: int = 5
    vocabulary: int | None = None
    max_length: int | None = None
    timeout: float = 3600.0
    seconds: float | None = None

    def agreed(self, training: TrainSettings) -> OnlineSettings:
        """Return the settings with what a training's own say of `preferences`, `preset` and `filters`.

        Raises:
            RolloutError: Both say something, and not the same.
        """
        named = preset(training.preset)
        said: dict[str, tuple[Any, Any, Any]] = {
            "preferences": (self.preferences, training.preferences, None),
            "preset": (self.preset, named, OURS),
            "filters": (self.filters, training.filters, ()),
        }
        found = {}
        for name, (here, there, default) in said.items():
            if default not in (here, there) and here != there:
                raise RolloutError(
                    f"{name} is given twice, and not alike: {here!r} in OnlineSettings and {there!r} in TrainSettings"
                )
            found[name] = there if here == default else here
        return replace(self, **found)

    def __post_init__(self) -> None:
        for name in ("groups", "publish_every", "rounds"):
            if getattr(self, name) < 1:
                raise RolloutError(f"{name} is {getattr(self, name)}: it must be at least 1")
        unknown = unknown_filter(self.filters)
        if unknown is not None:
            raise RolloutError(f"filters: {unknown}")
        if self.ahead < 0 or self.max_staleness < 0:
            raise RolloutError("ahead and max_staleness must be 0 or more")
        if self.rollouts.repetitions < 2:
            raise RolloutError("rollouts.repetitions must be 2 or more: a run is judged by the others of its group")
