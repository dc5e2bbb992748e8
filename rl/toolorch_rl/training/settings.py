"""What a training run is asked to do."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from toolorch_integrations.events import TraceStatus
from toolorch_integrations.preferences import Preferences
from toolorch_rl.filters import unknown_filter
from toolorch_rl.rewards import PRESETS
from toolorch_rl.training.errors import TrainingError


class Method(StrEnum):
    """How a policy learns from runs."""

    SFT = "sft"
    """Say again what the best runs said."""
    DPO = "dpo"
    """Prefer the better of two runs of a task."""
    KTO = "kto"
    """Prefer runs that were found good, and avoid those found bad; no pairs needed."""
    REPLAY = "replay"
    """Policy gradient on captured runs, weighed by how likely the policy would make them now."""
    ONLINE = "online"
    """The same on runs that are made while it trains."""


LEARNING_RATES = {
    Method.SFT: (2e-4, 2e-5),
    Method.DPO: (1e-5, 1e-6),
    Method.KTO: (1e-5, 1e-6),
    Method.REPLAY: (1e-5, 1e-6),
    Method.ONLINE: (1e-5, 1e-6),
}
"""Defaults of a method, with an adapter and without: TRL's for the preference methods, the paper's for the gradients,
ten times as much for an adapter."""

OF_STORED = (
    "status", "app", "thread", "model", "since", "limit", "max_staleness",
    "feedback", "feedback_scale", "feedback_threshold", "group_by", "held_back",
)  # fmt: skip
"""Settings that choose and judge captured traces. `online` makes its runs, and its verifier judges them."""


class TrainSettings(BaseModel):
    """All settings of a training run; each has a default but where the policy is and where the result goes."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    policy: str
    """Folder or hub name of the policy that is trained; a folder with an adapter goes on training that adapter."""
    output: Path
    """Folder for the result; checkpoints go below it. A run that was killed goes on from there."""
    method: Method = Method.REPLAY
    """How."""

    # Which runs
    store: str = "sqlite:///traces.db"
    """Trace store: a file or database URL. Not read by `online`."""
    status: TraceStatus | None = None
    """Only traces that ended so."""
    app: str | None = None
    """Only traces of this app."""
    thread: str | None = None
    """Only traces of this conversation."""
    model: str | None = None
    """Only traces that this policy version answered."""
    since: float | None = Field(None, gt=0)
    """Only traces of the last so many seconds."""
    limit: int | None = Field(None, ge=1)
    """Only the newest so many traces."""
    max_staleness: int | None = Field(None, ge=0)
    """`replay`: leave out runs of a policy more than so many versions older than the newest; None: take all."""
    filters: tuple[str, ...] = ()
    """Names of `toolorch_rl.filters.FILTERS` that drop runs before rewards are computed."""

    # What counts
    preset: str = "ours"
    """How rewards are normalised, and what `clip_low`, `clip_high` and `kl` are where they are not given: paper,
    released_script or ours."""
    preferences: Preferences | None = None
    """Whose reward is trained for; None: each run's own caller's."""
    feedback: str = "user"
    """Name of the feedback that says what is solved where no verifier does; for `dpo` and `kto` it goes first."""
    feedback_scale: tuple[float, float] = (0.0, 1.0)
    """Worst and best score that people can give: (1, 5) for stars. Scores off it are refused, and counted."""
    feedback_threshold: float = 0.5
    """Least score that counts as solved, or as liked, as a share of the way from the worst to the best."""
    group_by: str | None = None
    """Key of the traces' metadata that names the task; None: `task` where a trace has it, else the request."""
    held_back: float = Field(0.0, ge=0, lt=1)
    """Share of the tasks whose runs are not trained on, for an estimate to rest on; always the same tasks."""
    margin: float = Field(0.0, ge=0)
    """`dpo`: least difference of reward in a pair. `kto`: least distance from the middle of the group."""
    best: float = Field(0.25, gt=0, le=1)
    """`sft`: share of each group's solved runs that is taken, at least one; ties are all taken."""
    min_reward: float = 0.0
    """`sft`: a run has to earn more than this."""
    pairs: int = Field(4, ge=1)
    """`dpo`: most pairs of a group; those furthest apart are taken."""
    pair_on: Literal["run", "decision"] = "run"
    """`dpo`: compare all that the policy wrote in two runs, or only the first turn in which they differ."""
    credit: Literal["run", "call"] = "run"
    """`replay`: whether a turn is charged for what the whole run cost, or only for what it and later turns called."""

    # The policy gradient
    clip_low: float | None = Field(None, ge=0, le=1)
    """Tokens whose probability has fallen further than this share below what it was sampled with, and would be pushed
    down more, no longer train. None: the preset's for `online`; no such limit for `replay`, which has to go far."""
    clip_high: float | None = Field(None, ge=0)
    """The same for tokens that rise."""
    truncate: float = Field(4.0, ge=1)
    """Greatest weight of a token; larger ones count as this, which trades variance for a small bias."""
    regression: float | None = Field(None, gt=0)
    """`replay`: in place of the gradient say again what was sampled, each run weighing exp(advantage / this), at most
    `truncate` (advantage-weighted regression, arXiv 1910.00177). It cannot collapse, and learns from runs that were
    sampled at random, where the gradient first learns which choice is best on average; 0.3 with `truncate` 20 is a
    good start. It stays near the policy that made the runs, so it is for a first round."""
    entropy: float = Field(0.0, ge=0)
    """Weight of the policy's entropy, in nats a token, in what is maximised."""
    kl: float | None = Field(None, ge=0)
    """Weight of the divergence from the policy that training began with; None: the preset's."""
    beta: float = Field(0.1, gt=0)
    """`dpo`, `kto`: how closely the trained policy stays to the one it began with."""

    # Optimisation
    epochs: float = Field(3.0, gt=0)
    """Passes over the data."""
    steps: int | None = Field(None, ge=1)
    """Optimiser steps, in place of `epochs`; `online` needs them."""
    batch: int = Field(32, ge=1)
    """Rollouts (`replay`), rows (`sft`, `kto`) or pairs (`dpo`) of a step, over all processes. For the latter three it
    must divide by processes times `micro_batch`, or by the processes where they have a smaller share."""
    micro_batch: int = Field(4, ge=1)
    """Most rows or pairs at a time on one device (`sft`, `dpo`, `kto`)."""
    token_budget: int = Field(16_384, ge=1)
    """Most tokens that a device forwards at a time (`replay`, `online`); a longer row goes alone."""
    max_length: int | None = Field(None, ge=2)
    """Rows with more tokens are refused, and counted; nothing is ever cut. None: what the policy's positions allow."""
    learning_rate: float | None = Field(None, gt=0)
    """None: the method's own, see `LEARNING_RATES`."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Of the learning rate, after the warm-up."""
    warmup: int = Field(0, ge=0)
    """Steps until the full learning rate."""
    weight_decay: float = Field(0.0, ge=0)
    """Of AdamW."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Longer gradients are shortened to this."""
    seed: int = 0
    """Of the order of the data and of new adapters' weights."""

    # The model
    lora_rank: int | None = Field(16, ge=1)
    """Rank of the adapter; None, or 0, trains all weights."""
    lora_alpha: int | None = Field(None, ge=1)
    """Scale of the adapter; None: twice the rank."""
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    """Above 0 the first importance weights of an online step are no longer 1."""
    lora_targets: tuple[str, ...] = ()
    """Names of the modules that get an adapter; empty: all linear layers but the output head."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the computation. auto: bfloat16 on a GPU that has it, float32 else."""
    gradient_checkpointing: bool | None = None
    """Compute activations twice and keep few; None: on a GPU."""

    # The course of it
    save_every: int = Field(50, ge=1)
    """Steps between checkpoints; there is one at the end too."""
    keep: int = Field(2, ge=1)
    """Checkpoints that are kept."""
    log_every: int = Field(1, ge=1)
    """Steps between lines of the log."""
    report_to: tuple[str, ...] = ()
    """Where metrics go besides the terminal and `metrics.jsonl`: tensorboard, wandb or others of transformers."""
    run_name: str | None = None
    """Name of the run there."""
    restart: bool = False
    """Begin anew where the output folder holds a run that did not end."""

    @field_validator("preset")
    @classmethod
    def _known_preset(cls, value: str) -> str:
        if value not in PRESETS:
            raise ValueError(f"there is no preset {value!r}; choose one of {', '.join(PRESETS)}")
        return value

    @field_validator("filters")
    @classmethod
    def _known_filters(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        unknown = unknown_filter(value)
        if unknown is not None:
            raise ValueError(unknown)
        return value

    @field_validator("feedback_scale")
    @classmethod
    def _two_ends(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[0] == value[1]:
            raise ValueError(f"it needs two different ends, the worst score and the best, got {value}")
        return value

    @field_validator("lora_rank", mode="before")
    @classmethod
    def _no_adapter(cls, value: Any) -> Any:
        """Take 0 for None, which TOML cannot say."""
        return None if value == 0 and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _fits(self) -> TrainSettings:
        if self.method is Method.ONLINE and self.steps is None:
            raise ValueError("steps: online training has no passes over data; give the number of steps")
        given = [name for name in OF_STORED if getattr(self, name) != type(self).model_fields[name].default]
        if self.method is Method.ONLINE and given:
            raise ValueError(
                f"{given[0]}: online training reads no captured traces; leave it out"
                + (", or give it as OnlineSettings.max_staleness" if given[0] == "max_staleness" else "")
            )
        if self.method is Method.ONLINE and self.credit == "call":
            raise ValueError(
                "credit: online training judges whole runs; leave it at run, or capture runs and use replay"
            )
        if self.method is Method.KTO and self.micro_batch < 2:
            raise ValueError("micro_batch: kto estimates a divergence within a micro-batch; it must be 2 or more")
        if math.isfinite(self.clip[1]) and self.truncate < 1 + self.clip[1]:
            raise ValueError(f"truncate: {self.truncate:g} is under 1 + clip_high, which would never be reached")
        if self.regression is not None and self.method is not Method.REPLAY:
            raise ValueError(f"regression: it is for replay, not for {self.method}; leave it out")
        if self.lora_targets and self.lora_rank is None:
            raise ValueError("lora_targets: there is no adapter without lora_rank")
        return self

    @property
    def rate(self) -> float:
        """The learning rate."""
        return self.learning_rate or LEARNING_RATES[self.method][self.lora_rank is None]

    @property
    def clip(self) -> tuple[float, float]:
        """How far below and above 1 a token's importance weight may be before it no longer trains."""
        named = PRESETS[self.preset]
        low, high = (named.clip_low, named.clip_high) if self.method is Method.ONLINE else (1.0, math.inf)
        return (low if self.clip_low is None else self.clip_low, high if self.clip_high is None else self.clip_high)

    @property
    def kl_weight(self) -> float:
        """The weight of the divergence from the policy that training began with."""
        return PRESETS[self.preset].kl if self.kl is None else self.kl

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> TrainSettings:
        """Return settings from plain values.

        Raises:
            TrainingError: A value is bad; the message names the field and what it may be.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            faults = [
                f"{name}: {entry['msg'].removeprefix('Value error, ')}"
                if (name := _place(entry["loc"]))
                else entry["msg"].removeprefix("Value error, ")
                for entry in error.errors()
            ]
            raise TrainingError(f"training settings: {'; '.join(faults)}") from error

    @classmethod
    def read(cls, path: str | Path, **more: Any) -> TrainSettings:
        """Return settings from a TOML or JSON file.

        Args:
            path: The file.
            **more: Values that take the place of the file's.

        Raises:
            TrainingError: The file cannot be read, or a value is bad.
        """
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
            values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
        except (OSError, ValueError) as error:
            raise TrainingError(f"training settings {path}: {error}") from error
        if not isinstance(values, dict):
            raise TrainingError(f"training settings {path}: need a table of names and values")
        return cls.of({**values, **more})


def _place(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location)


def value_of(word: str) -> tuple[str, Any]:
    """Read `name=value` as a command line has it; the value is JSON where it reads as such, else text."""
    name, _, text = word.partition("=")
    try:
        return name.strip().replace("-", "_"), json.loads(text)
    except ValueError:
        return name.strip().replace("-", "_"), text
