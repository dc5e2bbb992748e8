"""The answer's last number is the reference, within a tolerance and in any unit of the same kind."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from toolorch_rl.verifiers.verdict import NO_ANSWER, Verdict, VerifierError, answer_of, shortened

UNITS: dict[str, tuple[str, float]] = {
    **{name: ("length", factor) for name, factor in
       {"mm": 1e-3, "cm": 1e-2, "m": 1.0, "km": 1e3, "inch": 0.0254, "ft": 0.3048, "mi": 1609.344}.items()},
    **{name: ("mass", factor) for name, factor in
       {"mg": 1e-6, "g": 1e-3, "kg": 1.0, "t": 1e3, "lb": 0.45359237, "oz": 0.028349523125}.items()},
    **{name: ("time", factor) for name, factor in
       {"ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}.items()},
    **{name: ("volume", factor) for name, factor in {"ml": 1e-3, "l": 1.0}.items()},
    **{name: ("speed", factor) for name, factor in {"m/s": 1.0, "km/h": 1 / 3.6, "mph": 0.44704}.items()},
    "usd": ("dollars", 1.0), "eur": ("euros", 1.0), "gbp": ("pounds", 1.0),
    "%": ("share", 0.01),
}  # fmt: skip
"""Kind and factor to the kind's base, by unit. Other words after a number ("3 apples") are no unit."""

_LONG = {
    "millimet": "mm", "centimet": "cm", "kilomet": "km", "met": "m", "inch": "inch", "foot": "ft", "feet": "ft",
    "mile": "mi", "milligram": "mg", "kilogram": "kg", "gram": "g", "tonne": "t", "pound": "lb", "ounce": "oz",
    "millisecond": "ms", "sec": "s", "minute": "min", "hour": "h", "hr": "h", "day": "d", "millilit": "ml", "lit": "l",
    "dollar": "usd", "euro": "eur", "percent": "%", "per cent": "%", "kmh": "km/h", "kph": "km/h",
    "kilometers per hour": "km/h", "kilometres per hour": "km/h", "miles per hour": "mph",
    "meters per second": "m/s", "metres per second": "m/s",
}  # fmt: skip
_SUFFIXES = ("", "s", "es", "er", "ers", "re", "res", "ond", "onds")
_NAMES = {stem + end: unit for stem, unit in _LONG.items() for end in _SUFFIXES} | {unit: unit for unit in UNITS}
_SIGNS = {"$": "usd", "\u20ac": "eur", "\u00a3": "gbp"}

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][+-]?\d+)?|\.\d+"
_NUMBER = re.compile(
    rf"(?P<before>(?<![\w.)])[-\u2212+]|[-\u2212](?=[$\u20ac\u00a3]))?(?P<sign>[$\u20ac\u00a3])?"
    rf"(?<![\w.])(?P<first>{_DIGITS})"
    rf"(?:(?P<mixed>\s+(?P<top>\d+)/(?P<bottom>\d+))|\s*/\s*(?P<divisor>{_DIGITS}))?"
)
_FRACTION = re.compile(r"(?<=\d)\\[dt]?frac\{(\d+)\}\{(\d+)\}")
_PURE_FRACTION = re.compile(r"\\[dt]?frac\{([^{}]+)\}\{([^{}]+)\}")
_UNIT = re.compile(r"\s*(%|[a-zA-Z]+(?:/[a-zA-Z]+)?(?: per [a-zA-Z]+)?)")


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number and its unit."""

    value: float
    unit: str = ""
    """Key of `UNITS`; empty where there is none that is known."""

    def text(self) -> str:
        """Return it as a reason quotes it."""
        return f"{self.value:.12g}{' ' if self.unit else ''}{self.unit}"


@dataclass(frozen=True, slots=True)
class NumericVerifier:
    """Compares numbers: decimals, thousands with commas, fractions (`3/4`, `1 1/2`, LaTeX's) and percentages.

    A unit that only one of the two has does not count, unless `unit_required`.

    Attributes:
        relative: Tolerance as a share of the reference.
        absolute: Tolerance in the reference's unit; the wider of the two holds.
        unit_required: The answer must have a unit where the reference has one.

    Example:
        >>> NumericVerifier().verify("1.5 km", "First 3 m, in all 1,500 metres.").passed
        True
    """

    relative: float = 1e-6
    absolute: float = 1e-9
    unit_required: bool = False

    def verify(self, reference: Any, outcome: Any) -> Verdict:
        """Judge an answer by its last number; the reference is a number or a text that holds one.

        Raises:
            VerifierError: The reference holds no finite number.
        """
        wanted = _reference(reference)
        answer = answer_of(outcome)
        if not answer.strip():
            return NO_ANSWER
        found = last_quantity(answer)
        if found is None:
            return Verdict(0.0, False, f"there is no number in {shortened(answer)}")
        if self.unit_required and wanted.unit and not found.unit:
            return Verdict(0.0, False, f"the answer {found.text()} has no unit; it must be {wanted.text()}")
        value, goal = found.value, wanted.value
        if wanted.unit and found.unit:
            (kind, factor), (other, base) = UNITS[found.unit], UNITS[wanted.unit]
            if kind != other:
                return Verdict(0.0, False, f"the answer {found.text()} is a {kind}, not a {other}")
            value = value * factor / base
        # Where the reference has no unit, 50 % may stand for 0.5 as well as for 50.
        values = [value, value * 0.01] if found.unit == "%" and not wanted.unit else [value]
        if any(math.isclose(number, goal, rel_tol=self.relative, abs_tol=self.absolute) for number in values):
            return Verdict(1.0, True, f"the answer is {found.text()}")
        return Verdict(0.0, False, f"the answer {found.text()} is not {wanted.text()}")


def last_quantity(text: str) -> Quantity | None:
    """Return the last number in a text with its unit, or None."""
    text = _PURE_FRACTION.sub(r"\1/\2", _FRACTION.sub(r" \1/\2", text)).replace("\\%", "%").replace("\\$", "$")
    last: re.Match[str] | None = None
    for match in _NUMBER.finditer(text):
        last = match
    if last is None:
        return None
    value = _number(last["first"])
    if last["mixed"]:
        value += _divided(float(last["top"]), float(last["bottom"]))
    elif last["divisor"]:
        value = _divided(value, _number(last["divisor"]))
    if last["before"] in ("-", "\u2212"):
        value = -value
    if last["sign"]:
        return Quantity(value, _SIGNS[last["sign"]])
    return Quantity(value, _unit(text[last.end() :]))


def _unit(rest: str) -> str:
    match = _UNIT.match(rest)
    if match is None:
        return ""
    words = match[1].lower()
    return _NAMES.get(words) or _NAMES.get(words.split()[0], "")


def _number(digits: str) -> float:
    return float(digits.replace(",", ""))


def _divided(top: float, bottom: float) -> float:
    return top / bottom if bottom else math.nan


def _reference(reference: Any) -> Quantity:
    if isinstance(reference, Quantity):
        found: Quantity | None = reference
    elif isinstance(reference, (int, float)) and not isinstance(reference, bool):
        found = Quantity(float(reference))
    elif isinstance(reference, str):
        found = last_quantity(reference)
    else:
        found = None
    if found is None or not math.isfinite(found.value):
        raise VerifierError(f"reference must be a number or a text that holds one, got {shortened(reference)}")
    if found.unit and found.unit not in UNITS:
        raise VerifierError(f"unit {found.unit!r} of the reference is not known; give one of {', '.join(UNITS)}")
    return found
