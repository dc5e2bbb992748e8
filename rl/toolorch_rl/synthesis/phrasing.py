"""Ways to say the same: what varies between requests that want the same thing."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from toolorch_rl.environments import EntitySpec, FieldSpec, Scalar
from toolorch_rl.said import spoken_date

_WRAPS = (
    "{Text}.",
    "{Text}.",
    "{Text}, please.",
    "Please {text}.",
    "Can you {text}?",
    "Could you {text}?",
    "I need you to {text}.",
    "Hi, please {text}.",
    "Would you {text}? Thanks.",
)
_OPENINGS = ("", "", "", "", "Hello. ", "Hi there. ", "Quick one: ", "Morning! ")


class Phrasing:
    """Draws wordings.

    Args:
        draw: Source of randomness.
    """

    def __init__(self, draw: random.Random) -> None:
        self._draw = draw
        self._quote = draw.choice(('"', '"', "'", ""))
        self._spoken_dates = draw.random() < 0.3

    def one(self, *wordings: str) -> str:
        """Return one of some wordings."""
        return self._draw.choice(wordings)

    def wish(self, text: str) -> str:
        """Return what a user says who wants something; `text` begins with a verb in lower case."""
        return self._draw.choice(_WRAPS).format(text=text, Text=text[0].upper() + text[1:])

    def question(self, text: str) -> str:
        """Return a question, perhaps with a greeting before it."""
        return self._draw.choice(_OPENINGS) + text

    def named(self, label: object) -> str:
        """Return a name as users write it, with quotes or without."""
        return f"{self._quote}{label}{self._quote}"

    def value(self, field: FieldSpec, value: Scalar) -> str:
        """Return a field's value as users write it."""
        if field.type == "date":
            return spoken_date(str(value)) if self._spoken_dates else str(value)
        if field.type == "boolean":
            return "yes" if value else "no"
        if field.type == "text":
            return self.named(value)
        return plain(value)

    def called(self, entity: EntitySpec, given: Mapping[str, Scalar]) -> str:
        """Return a new entry's name and optional fields as users state them; references are left out."""
        text = f"{self.one('called ', 'named ', '')}{self.named(given[entity.label])}"
        stated = [
            f"{field.words} {self.value(field, given[field.name])}"
            for field in entity.fields
            if field.name in given and field.name != entity.label and field.type != "reference"
        ]
        if not stated:
            return text
        if self._draw.random() < 0.25:
            return f"{text} ({', '.join(stated)})"
        return f"{text} with {listed(stated)}"


def plain(value: Scalar) -> str:
    """Return a value as people write it: no `.0` behind a whole number."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def listed(items: Sequence[str]) -> str:
    """Return items as a list in a sentence."""
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"


def counted(count: int, entity: EntitySpec) -> str:
    """Return a number of entries in words."""
    return f"{count} {entity.noun if count == 1 else entity.nouns}"


def states(entity: EntitySpec, field: FieldSpec, value: Scalar) -> str:
    """Return entries that have a value, in words: `tasks with priority high`."""
    return f"{entity.nouns} with {field.words} {plain(value)}"
