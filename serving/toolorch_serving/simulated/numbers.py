"""Number theory, counting and old dates: what only the strongest specialist is good at."""

from __future__ import annotations

import datetime as dt
import math
import re
from fractions import Fraction

from toolorch_serving.simulated.solution import Family, Steps, family

MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_LARGEST = 10_000


def date_of(day: str, month: str, year: str) -> dt.date:
    """Return a date written as `14`, `July`, `1789`.

    Raises:
        ValueError: There is no such day.
    """
    return dt.date(int(year), MONTHS.index(month.capitalize()) + 1, int(day))


def _bounded(text: str) -> int:
    value = int(text)
    if value > _LARGEST:
        raise ValueError(f"{value} is more than {_LARGEST}")
    return value


@family("numbers", 3, r"how many zeros does (\d+)! end with")
def trailing_zeros(match: re.Match[str]) -> Steps:
    """Count the zeros at the end of a factorial; the error counts only the multiples of five."""
    n = _bounded(match[1])
    exact = sum(n // 5**power for power in range(1, 7))
    return exact, n // 5 if n // 5 != exact else exact + 1, "Count the factors of five."


@family("numbers", 3, r"last (two digits|digit) of (\d+)\^(\d+)")
def last_digits(match: re.Match[str]) -> Steps:
    """Find the last digits of a power; the error takes the exponent one too low."""
    modulus = 10 if match[1].lower() == "digit" else 100
    base, exponent = _bounded(match[2]), _bounded(match[3])
    right, wrong = pow(base, exponent, modulus), pow(base, exponent - 1, modulus)
    return right, wrong if wrong != right else (right + 2) % modulus, "Powers repeat in a cycle."


@family("numbers", 3, r"shortest paths.*?(\d+) by (\d+) grid")
def lattice_paths(match: re.Match[str]) -> Steps:
    """Count the shortest ways across a grid; the error multiplies the sides."""
    width, height = _bounded(match[1]), _bounded(match[2])
    return math.comb(width + height, width), width * height, "Choose which steps go right."


@family("numbers", 2, r"how many (?:positive )?divisors does (\d+) have")
def divisors(match: re.Match[str]) -> Steps:
    """Count the divisors; the error leaves out the number itself."""
    n = _bounded(match[1])
    count = sum(n % candidate == 0 for candidate in range(1, n + 1))
    return count, count - 1, "Multiply the exponents of its primes, each plus one."


@family("numbers", 2, r"greatest common divisor of (\d+) and (\d+)")
def common_divisor(match: re.Match[str]) -> Steps:
    """Find the greatest common divisor; the error stops a step early."""
    first, second = int(match[1]), int(match[2])
    exact = math.gcd(first, second)
    return exact, exact * 2 if exact == 1 else 1, "Divide with remainder until nothing is left."


@family("numbers", 3, r"probability of exactly (\d+) heads in (\d+) tosses")
def heads(match: re.Match[str]) -> Steps:
    """Compute a binomial probability; the error takes one arrangement only."""
    wanted, tosses = _bounded(match[1]), _bounded(match[2])
    return str(Fraction(math.comb(tosses, wanted), 2**tosses)), f"1/{2**tosses}", "Count the arrangements."


@family("numbers", 2, rf"weekday (?:was|did)(?: the)? (\d+) ({'|'.join(MONTHS)}) (\d+)")
def weekday(match: re.Match[str]) -> Steps:
    """Find the weekday of a date; the error is a day off."""
    day = date_of(*match.groups()).weekday()
    return WEEKDAYS[day], WEEKDAYS[(day + 1) % 7], "Count the days modulo seven."


NUMBERS: tuple[Family, ...] = (
    trailing_zeros, last_digits, lattice_paths, divisors, common_divisor, heads, weekday,
)  # fmt: skip
