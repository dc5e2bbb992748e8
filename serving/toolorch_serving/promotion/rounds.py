"""The whole round, again and again: wait for runs, reward them, train, and promote what is better.

Where a round stands is in one small file, written before each step, so that a loop whose process was killed goes on
where it was: training from its last checkpoint, a promotion from its last record. A round that fails says why, in the
log of rounds, and the next one goes on.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from toolorch_integrations.events import TraceStatus
from toolorch_integrations.store import TraceStore
from toolorch_rl.training.checkpoints import write_synced
from toolorch_rl.training.result import CARD
from toolorch_serving.promotion.errors import PromotionError
from toolorch_serving.promotion.records import PromotionRecord, PromotionRecords, Step

logger = logging.getLogger(__name__)

STATE, LOG = "round.json", "rounds.jsonl"
LOOK_EVERY = 5.0
"""Seconds between looks at the store."""


PAUSE = 60.0
"""Seconds after a round that failed: what failed it may pass."""


class Phase(StrEnum):
    """Where a round stands."""

    WAITING = "waiting"
    TRAINING = "training"
    PROMOTING = "promoting"


@dataclass(frozen=True, slots=True)
class Round:
    """A round, as its file has it."""

    number: int = 1
    phase: Phase = Phase.WAITING
    since: float = 0.0
    """Epoch second from which on traces are new to this round."""
    begun: float = 0.0
    """When it had waited long enough."""
    version: str = ""
    folder: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of the training, fixed when it begins: training only goes on with the same ones."""


@dataclass(frozen=True, slots=True)
class RoundResult:
    """How a round ended, as the log of rounds has it."""

    number: int
    outcome: str
    """promoted, stayed, rolled back, failed, or idle: no new traces came."""
    reason: str
    version: str
    seconds: float
    time: float


@dataclass(slots=True)
class Rounds:
    """The loop.

    Attributes:
        store: The app's traces.
        folder: For the loop's file and log, and for what is trained.
        name: The bare policy's name in the server; versions are called after it.
        base: The bare policy's folder or hub name.
        train: Trains with settings by the names of `TrainSettings`, and goes on where it was killed.
        promote: Brings a version in a folder to its end, or goes on with it.
        attach: Attaches rewards to traces since an epoch second, and returns to how many; None: the app does.
        settings: Of the training, besides policy, output and store.
        held_back: Share of the tasks that no round trains on, so that the estimates of all rounds can rest on them.
        new_traces: Ended traces that a round waits for.
        interval: Seconds after which it begins with fewer, if there is any.
        tell: Is told what happens, in words.
    """

    store: TraceStore
    folder: Path
    name: str
    base: str
    train: Callable[..., Any]
    promote: Callable[[str, Path], PromotionRecord]
    attach: Callable[[TraceStore, float], int] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    held_back: float = 0.25
    new_traces: int = 200
    interval: float = 3_600.0
    tell: Callable[[str], None] = logger.info
    clock: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        if self.new_traces < 1 or not self.interval > 0:
            raise PromotionError(
                f"new_traces is {self.new_traces} and interval {self.interval}: both must be more than nothing"
            )
        self.folder.mkdir(parents=True, exist_ok=True)

    def run(self) -> Iterator[RoundResult]:
        """Yield each round as it ends, for ever; whoever has enough stops asking."""
        while True:
            result = self.one()
            yield result
            if result.outcome == "failed":
                self.sleep(min(PAUSE, self.interval))

    def one(self) -> RoundResult:
        """Go on with the round that was interrupted, or make one, to its end."""
        state = self.state()
        started = since = self.clock()
        try:
            state = self._waited(state) if state.phase is Phase.WAITING else state
            if state.phase is Phase.WAITING:
                result = self._result(state, "idle", "no new traces came", started)
            else:
                state = self._trained(state) if state.phase is Phase.TRAINING else state
                last = self.promote(state.version, Path(state.folder))
                result = self._result(state, last.step.value, last.reason, started)
        except Exception as error:  # whatever training or a server does, the next round goes on
            logger.exception("round %d failed", state.number)
            state = self.state()
            since = state.since  # what was not rewarded is rewarded by the next round
            result = self._result(state, "failed", f"{state.phase.value}: {type(error).__name__}: {error}", started)
        self._log(result)
        self._save(Round(state.number + 1, since=state.begun or since))
        return result

    def state(self) -> Round:
        """Return where the loop stands.

        Raises:
            PromotionError: Its file cannot be read.
        """
        path = self.folder / STATE
        if not path.exists():
            return Round()
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            return Round(**{**found, "phase": Phase(found["phase"])})
        except (ValueError, TypeError, KeyError) as error:
            raise PromotionError(f"{path} is no state of a loop ({error}); remove it to begin a new round") from error

    def _waited(self, state: Round) -> Round:
        """Wait for enough traces, or long enough; return the state with what is to be trained."""
        begun = self.clock()
        self.tell(f"round {state.number}: waiting for {self.new_traces} new runs, at most {self.interval:g} s")
        while (number := self._new(state.since)) < self.new_traces:
            left = begun + self.interval - self.clock()
            if left <= 0:
                break
            self.sleep(min(LOOK_EVERY, left))
        if number == 0:
            return state
        now = self.clock()
        if self.attach is not None:
            self.tell(f"round {state.number}: rewards attached to {self.attach(self.store, state.since)} runs")
        version = f"{self.name}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now))}-{state.number}"
        folder = str(self.folder / version)
        values = {"held_back": self.held_back, **self.settings, "policy": self._incumbent(), "output": folder}
        training = replace(state, phase=Phase.TRAINING, begun=now, version=version, folder=folder, settings=values)
        return self._save(training)

    def _trained(self, state: Round) -> Round:
        self.tell(f"round {state.number}: training {state.version} from {state.settings['policy']}")
        # A process that was killed after training and before the next line leaves a folder that is whole.
        if not (Path(state.folder) / CARD).exists():
            where = self.store.file or self.store.url.render_as_string(hide_password=False)
            self.train(**state.settings, store=str(where))
        return self._save(replace(state, phase=Phase.PROMOTING))

    def _incumbent(self) -> str:
        """Return the folder of the version that serves."""
        records = PromotionRecords(self.store)
        current = records.routes(self.name).current
        history = records.history()
        # A version that a person promoted by its name alone has no folder there: the bare policy, for one.
        found = [one.folder for one in history if one.candidate == current and one.step is Step.PROMOTED and one.folder]
        return found[-1] if found else self.base

    def _new(self, since: float) -> int:
        traces = self.store.traces(since=since, app=self.settings.get("app"))
        number = 0
        for trace in traces:
            number += trace.status is not TraceStatus.RUNNING
            if number >= self.new_traces:
                break
        return number

    def _result(self, state: Round, outcome: str, reason: str, started: float) -> RoundResult:
        now = self.clock()
        return RoundResult(state.number, outcome, reason, state.version, now - started, now)

    def _save(self, state: Round) -> Round:
        path = self.folder / STATE
        write_synced(path, json.dumps(asdict(state)))
        return state

    def _log(self, result: RoundResult) -> None:
        self.tell(f"round {result.number}: {result.outcome}: {result.reason}")
        with (self.folder / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(result)) + "\n")
