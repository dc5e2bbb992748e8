"""Learning from captured traces: data, rewards, training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from toolorch_rl.training import train

__all__ = ["train"]


def __getattr__(name: str) -> Any:
    """Import `train` when it is asked for: what only reads traces needs nothing of it."""
    if name == "train":
        from toolorch_rl.training import train

        return train
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
