"""Units, dates and small talk: what any model can do."""

from __future__ import annotations

import datetime as dt
import re
from fractions import Fraction

from toolorch_serving.simulated.numbers import MONTHS, date_of
from toolorch_serving.simulated.solution import Family, Question, Solution, Steps, family

_UNITS: dict[str, tuple[str, Fraction]] = {
    "kilometres": ("length", Fraction(1000)),
    "metres": ("length", Fraction(1)),
    "centimetres": ("length", Fraction(1, 100)),
    "kilograms": ("weight", Fraction(1000)),
    "grams": ("weight", Fraction(1)),
    "litres": ("volume", Fraction(1000)),
    "millilitres": ("volume", Fraction(1)),
    "hours": ("time", Fraction(60)),
    "minutes": ("time", Fraction(1)),
    "days": ("time", Fraction(1440)),
}
_UNIT = "|".join(sorted(_UNITS, key=len, reverse=True))
_TALK = (
    (r"\b(?:who are you|what are you|what can you do)\?", "I am the assistant of this shop."),
    (r"^\W*(?:many )?(?:thanks|thank you|cheers)\b[^?]*$", "You are welcome!"),
    (r"\b(?:bye|goodbye|see you)\b[^?]*$", "Goodbye, and enjoy the outdoors!"),
    (r"^\W*(?:hi|hello|hey|good (?:morning|evening|day))\b[^?]*$", "Hello! How can I help you?"),
)


@family("everyday", 1, rf"how many ({_UNIT}) (?:are|is|make)(?: in)? (\d+(?:\.\d+)?) ({_UNIT})")
def units(match: re.Match[str]) -> Steps:
    """Convert units; the error goes the wrong way."""
    wanted, amount, given = match[1].lower(), Fraction(match[2]), match[3].lower()
    if _UNITS[wanted][0] != _UNITS[given][0]:
        raise ValueError(f"{given} are no {wanted}")
    factor = _UNITS[given][1] / _UNITS[wanted][1]
    return amount * factor, amount / factor, f"Convert {given} to {wanted}."


@family("everyday", 2, rf"date is (\d+) days (after|before) (\d+) ({'|'.join(MONTHS)}) (\d+)")
def days(match: re.Match[str]) -> Steps:
    """Find the date so many days away; the error counts the first day too."""
    shift = dt.timedelta(days=int(match[1]) * (1 if match[2].lower() == "after" else -1))
    day = date_of(match[3], match[4], match[5]) + shift
    off = day - dt.timedelta(days=1)
    return _written(day), _written(off), "Go through the months."


def talk(question: Question) -> Solution | None:
    """Answer small talk; nobody gets that wrong, so both replies are the same."""
    if len(question.text) > 60:
        return None
    for pattern, reply in _TALK:
        if re.search(pattern, question.text, re.IGNORECASE):
            return Solution("talk", 1, reply, reply)
    return None


def _written(day: dt.date) -> str:
    return f"{day.day} {MONTHS[day.month - 1]} {day.year}"


EVERYDAY: tuple[Family, ...] = (units, days)
