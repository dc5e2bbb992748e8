"""Whether an answer says what it must: words as people write them, numbers and dates in any usual form."""

from __future__ import annotations

import datetime as dt
import re
from functools import lru_cache

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_DATE = re.compile(r"(\d{4})-(\d{2})-(\d{2})")
_MARKUP = re.compile(r"[*`\"“”]|(?<!\w)_|_(?!\w)")
MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
_SMALL = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


def says(answer: str, phrase: str) -> bool:
    """Say whether an answer holds a phrase as whole words.

    Case, spacing and markup do not matter. A number may be written otherwise (`1,250.0` for `1250`, `three` for `3`), a
    date too (`5 March 2026` and `March 5` for `2026-03-05`).
    """
    text = _plain(answer)
    wanted = _plain(phrase)
    if not wanted:
        return True
    date = _DATE.fullmatch(wanted)
    if date:
        return any(_holds(text, form) for form in _dates(wanted))
    if _NUMBER.fullmatch(wanted):
        number = float(wanted)
        if any(float(found) == number for found in _numbers(text)):
            return True
        return number.is_integer() and 0 <= number < len(_SMALL) and _holds(text, _SMALL[int(number)])
    return _holds(text, wanted)


def _plain(text: str) -> str:
    return " ".join(_THOUSANDS.sub("", _MARKUP.sub("", text.replace("\u2019", "'"))).casefold().split())


def _numbers(text: str) -> list[str]:
    """Return the numbers that stand alone; those within an id or a date are none."""
    return re.findall(r"(?<![\w.:/-])-?\d+(?:\.\d+)?(?![\w/-]|[.:]\d)", text)


def _holds(text: str, phrase: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(phrase)}(?![\w-])", text) is not None


@lru_cache(4096)
def _dates(text: str) -> tuple[str, ...]:
    try:
        day = dt.date.fromisoformat(text)
    except ValueError:
        return (text,)
    month = MONTHS[day.month - 1].lower()
    forms = (f"{day.day} {month}", f"{month} {day.day}", f"{day.day} {month[:3]}", f"{month[:3]} {day.day}")
    return text, *forms


def spoken_date(text: str) -> str:
    """Return a date of the form YYYY-MM-DD as people say it, `5 March 2026`."""
    day = dt.date.fromisoformat(text)
    return f"{day.day} {MONTHS[day.month - 1]} {day.year}"


def article(noun: str) -> str:
    """Return a noun with its indefinite article."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
