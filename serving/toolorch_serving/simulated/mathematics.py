"""Arithmetic and word problems: read from the text, solved exactly with fractions."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from fractions import Fraction

from toolorch_serving.simulated.solution import Family, Question, Solution, Steps, family, number

_NUMBER = r"(\d+(?:\.\d+)?)"
_OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_WORDS = ((r"\btimes\b|\bmultiplied by\b", "*"), (r"\bplus\b", "+"), (r"\bminus\b", "-"), (r"\bdivided by\b", "/"))


def expression(text: str) -> str | None:
    """Return the arithmetic expression that a text asks for, in Python's notation, or None."""
    percent = re.search(rf"{_NUMBER} ?(?:%|percent) of {_NUMBER}", text)
    if percent:
        return f"{percent[2]} * {percent[1]} / 100"
    for words, sign in _WORDS:
        text = re.sub(words, sign, text)
    found = re.search(r"\(?\d[\d.\s()+*/-]*[+*/-][\d.\s()+*/-]*\d\)?", text)
    return found[0].strip() if found else None


def evaluate(source: str) -> Fraction:
    """Work out an expression of numbers, brackets and the four operations, exactly.

    Raises:
        ValueError: It is something else.
    """
    try:
        return _value(ast.parse(source, mode="eval").body)
    except SyntaxError as error:
        raise ValueError(f"{source!r} is no arithmetic") from error


def _value(node: ast.expr) -> Fraction:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return Fraction(str(node.value))
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_value(node.left), _value(node.right))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    raise ValueError(f"{ast.unparse(node)!r} is no arithmetic")


def arithmetic(question: Question) -> Solution | None:
    """Solve a plain calculation; the error is a lost carry."""
    if not re.match(r"(?i)(?:\W|\w)*?(?:what is|calculate|work out|compute|how much is)", question.text):
        return None
    source = expression(question.text)
    if source is None:
        return None
    try:
        value = evaluate(source)
    except (ValueError, ZeroDivisionError):
        return None
    difficulty = 1 if len(source) < 10 else 2
    right, wrong = (f"{source} = {number(result)}." for result in (value, value - 10 if value > 20 else value + 1))
    return Solution("arithmetic", difficulty, right, wrong)


@family("mathematics", 2, rf"{_NUMBER} km apart.*?at {_NUMBER} km/h and {_NUMBER} km/h")
def meeting(match: re.Match[str]) -> Steps:
    """Let two walk towards each other; the error leaves one of them standing."""
    distance, first, second = (Fraction(part) for part in match.groups())
    together = first + second
    return distance / together, distance / first, f"Together they close {number(together)} km an hour."


@family("mathematics", 2, r"(\d+)x \+ (\d+)y = (\d+) and (\d+)x - (\d+)y = (-?\d+).*?what is ([xy])")
def system(match: re.Match[str]) -> Steps:
    """Solve two equations with two unknowns; the error returns the other unknown."""
    a, b, c, d, e, f = (Fraction(part) for part in match.groups()[:6])
    determinant = -a * e - b * d
    x, y = (-c * e - b * f) / determinant, (a * f - c * d) / determinant
    wanted, other = (x, y) if match[7].lower() == "x" else (y, x)
    return wanted, other if other != wanted else wanted + 1, f"The determinant is {number(determinant)}."


@family("mathematics", 2, rf"in {_NUMBER} hours.*?in {_NUMBER} hours.*?together")
def work(match: re.Match[str]) -> Steps:
    """Let two share a piece of work; the error takes the mean."""
    first, second = Fraction(match[1]), Fraction(match[2])
    return first * second / (first + second), (first + second) / 2 + 1, "Rates add up: 1/t = 1/a + 1/b."


@family("mathematics", 2, rf"rises by {_NUMBER}% and then falls by {_NUMBER}%")
def percentages(match: re.Match[str]) -> Steps:
    """Apply two changes in percent one after the other; the error adds them."""
    up, down = Fraction(match[1]), Fraction(match[2])
    total = (1 + up / 100) * (1 - down / 100) * 100 - 100
    return total, up - down, "The factors multiply."


@family("mathematics", 3, r"is (\d+) times as old as.*?in (\d+) years.*?(\d+) times as old")
def ages(match: re.Match[str]) -> Steps:
    """Relate ages now and later; the error forgets that both grow older."""
    now, years, later = (Fraction(part) for part in match.groups())
    younger = years * (later - 1) / (now - later)
    forgot = years / (now - later)
    return younger, forgot if forgot != younger else younger + 1, "Set up one equation for the younger age."


@family(
    "mathematics",
    3,
    rf"{_NUMBER}% (?:solution|juice|fuel).*?{_NUMBER} litres of {_NUMBER}%.*?to (?:get|make) {_NUMBER}%",
)
def mixture(match: re.Match[str]) -> Steps:
    """Find how much to add to a mixture; the error swaps the parts."""
    added, litres, start, target = (Fraction(part) for part in match.groups())
    amount = litres * (start - target) / (target - added)
    return amount, litres * (target - added) / (start - target) + 1, "Balance what is dissolved."


@family("mathematics", 2, rf"\${_NUMBER}.*?after (\d+) years at {_NUMBER}%")
def interest(match: re.Match[str]) -> Steps:
    """Compute compound interest; the error is simple interest."""
    capital, years, rate = Fraction(match[1]), int(match[2]), Fraction(match[3])
    return (
        round(capital * (1 + rate / 100) ** years, 2),
        round(capital * (1 + rate * (years + 1) / 100), 2),
        f"It grows by the factor {number(1 + rate / 100)} each year.",
    )


@family("mathematics", 3, r"(larger|smaller) root of x\^2 - (\d+)x \+ (\d+) = 0")
def quadratic(match: re.Match[str]) -> Steps:
    """Find a root of a quadratic equation with rational roots; the error returns the other."""
    half = Fraction(match[2]) / 2
    root = Fraction(round(float(half * half - Fraction(match[3])) ** 0.5 * 2)) / 2
    if (half + root) * (half - root) != Fraction(match[3]):
        raise ValueError("the roots are not rational")
    larger, smaller = half + root, half - root
    wanted, other = (larger, smaller) if match[1].lower() == "larger" else (smaller, larger)
    return wanted, other if other != wanted else wanted + 1, "Complete the square."


MATHEMATICS: tuple[Family, ...] = (
    meeting, system, work, percentages, ages, mixture, interest, quadratic, arithmetic,
)  # fmt: skip
