"""One answer to be written: what the engine is asked, and what each token brings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch

from toolorch_serving.embedded.sampling import Sampled, Sampling
from toolorch_serving.embedded.text import TextStream

Finish = Literal["stop", "length"]


@dataclass(frozen=True)
class Step:
    """What one token brought."""

    sampled: Sampled
    text: str
    """New text; empty while a character or a stop text may still be incomplete."""
    finish: Finish | None = None
    stop_reason: str | None = None
    """The stop text that ended the answer."""


@dataclass(eq=False)
class Request:
    """One answer to be written."""

    prompt: list[int]
    sampling: Sampling
    deliver: Callable[[Step | Exception], object]
    """Called from the engine's thread for each token, and once with an exception if the engine fails."""
    adapter: str | None = None
    skip_special: bool = True
    version: str | None = None
    """Version of the weights that answer, from the first token on; None: those that were loaded at the start."""
    cancelled: bool = False
    """Set by the client's side when nobody waits any more."""
    tokens: list[int] = field(default_factory=list)
    text: TextStream | None = None
    generator: torch.Generator | None = None
