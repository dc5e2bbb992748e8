"""Rows packed into prefix tries, and models that read them: what rows have in common is forwarded once.

`pack` folds rows into tries, `terms_of` says what their trained tokens are, and `logprobs_of` gives the model's
log-probabilities of these, as if every row had been read by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from toolorch_rl.packing.errors import PackingError
from toolorch_rl.packing.terms import Terms, terms_of
from toolorch_rl.packing.trie import PackedRows, pack

if TYPE_CHECKING:
    from toolorch_rl.packing.forward import Scores, logprobs_of
    from toolorch_rl.packing.models import Attention, Support, set_attention, support

__all__ = [
    "Attention",
    "PackedRows",
    "PackingError",
    "Scores",
    "Support",
    "Terms",
    "logprobs_of",
    "pack",
    "set_attention",
    "support",
    "terms_of",
]

_WITH_TORCH = {
    "Attention": "models",
    "Support": "models",
    "set_attention": "models",
    "support": "models",
    "Scores": "forward",
    "logprobs_of": "forward",
}


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is first asked for."""
    if name not in _WITH_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_WITH_TORCH[name]}"), name)
