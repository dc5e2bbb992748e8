"""Values for the fields of entries, drawn from a domain's examples and words."""

from __future__ import annotations

import datetime as dt
import random
import re

from toolorch_rl.environments import FieldSpec, Scalar
from toolorch_rl.synthesis.domains import SLOT, Domain

_FIRST_DAY = dt.date(2026, 1, 1).toordinal()
_DAYS = 540


class Values:
    """Draws values.

    Args:
        domain: Whose examples and words.
        draw: Source of randomness.
    """

    def __init__(self, domain: Domain, draw: random.Random) -> None:
        self._words = domain.words
        self._draw = draw

    def of(self, field: FieldSpec) -> Scalar:
        """Return a value for a field that is no reference."""
        draw = self._draw
        match field.type:
            case "choice":
                return draw.choice(field.choices)
            case "date":
                return dt.date.fromordinal(_FIRST_DAY + int(draw.random() * _DAYS)).isoformat()
            case "integer":
                return 1 + int(draw.random() * 120)
            case "number":
                return (1 + int(draw.random() * 80)) / 2
            case "boolean":
                return draw.random() < 0.5
            case _:
                return self.text(field)

    def text(self, field: FieldSpec) -> str:
        """Return a text for a field."""
        text = SLOT.sub(self._word, self._draw.choice(field.examples or ("{remark}",)))
        text = SLOT.sub(self._word, text)  # a word may have slots of its own
        return text[0].upper() + text[1:]

    def other(self, field: FieldSpec, value: Scalar) -> Scalar:
        """Return a value that a field does not have yet."""
        new = self.of(field)
        while new == value:
            new = self.of(field)
        return new

    def _word(self, slot: re.Match[str]) -> str:
        return self._draw.choice(self._words[slot.group(1)])
