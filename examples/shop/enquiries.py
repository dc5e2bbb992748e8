"""What customers ask: enquiries of mixed kinds, made from a seed, each with the expected answer and a check.

(The obvious name for this module, `requests`, would hide the library of that name from scripts run in this folder.)

Split, by seed: training is everything below `HELD_OUT`, in shops 1 to `SHOPS`; held out is everything from there on, in
shop 0, whose products, prices and terms no training run has seen. Wordings are shared by both; numbers, names, products
and their combinations are drawn anew, except in small talk, which has a few fixed sentences.
"""

from __future__ import annotations

import functools
import itertools
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from examples.shop.documents import KINDS, Shop
from toolorch_serving.simulated.numbers import MONTHS
from toolorch_serving.simulated.solution import Question
from toolorch_serving.simulated.specialists import solve

HELD_OUT = 1_000_000
"""First seed of the held-out split."""

SHOPS = 60
"""Shops 1 to this number are for training; shop 0 is held out."""

NAMES = ("Anna", "Ben", "Clara", "David", "Emma", "Felix", "Greta", "Henry", "Ida", "Jonas", "Lena", "Max")
_PRICE_ASKED = ("What is the price of the {}?", "What does the {} cost?", "How much is the {}?")
_WEIGHT_ASKED = ("What is the weight of the {}?", "What does the {} weigh?", "How heavy is the {}?")
_OPENINGS = ("", "", "", "", "Hi! ", "Hello! ", "A question: ", "Please help. ")


@dataclass(frozen=True, slots=True)
class Enquiry:
    """One request of a customer.

    Attributes:
        kind: One of `KINDS_OF_ENQUIRY`.
        text: What the customer writes.
        expected: The right value.
        check: Whether the answer's last number must equal it, or its text contain it.
        shop: Seed of the shop whose documents it is about.
    """

    kind: str
    text: str
    expected: str
    check: Literal["number", "text"]
    shop: int


def solved(enquiry: Enquiry, answer: str) -> bool:
    """Return whether an answer gives the expected value."""
    if enquiry.check == "text":
        return re.search(rf"(?<![\w.])(?:{enquiry.expected})(?!\w)", answer, re.IGNORECASE) is not None
    numbers = re.findall(r"-?\d+(?:\.\d+)?(?:/\d+)?", answer.replace(",", ""))
    return bool(numbers) and abs(_value(numbers[-1]) - _value(enquiry.expected)) <= 0.006


def enquiry(seed: int, kind: str | None = None) -> Enquiry:
    """Return the enquiry of a seed, of a kind drawn from it unless one is given."""
    draw = random.Random(f"enquiry {seed}")
    number = draw.randint(1, SHOPS)
    number = 0 if seed >= HELD_OUT else number
    drawn = draw.choice(KINDS_OF_ENQUIRY)
    kind = kind or drawn
    opening = "" if kind == "small talk" else draw.choice(_OPENINGS)
    text, expected, check = _MAKERS[kind](draw, _shop(number))
    return Enquiry(kind, opening + text, expected, check, number)


def held_out(count: int) -> list[Enquiry]:
    """Return held-out enquiries, the kinds in turn."""
    kinds = itertools.cycle(KINDS_OF_ENQUIRY)
    return [enquiry(HELD_OUT + index, next(kinds)) for index in range(count)]


def demo_requests(count: int = 30) -> list[Enquiry]:
    """Return the demo's requests: held-out enquiries of mixed kinds, other ones than `held_out` gives."""
    kinds = itertools.cycle(KINDS_OF_ENQUIRY)
    made = [enquiry(2 * HELD_OUT + index, next(kinds)) for index in range(count)]
    random.Random(count).shuffle(made)
    return made


@functools.cache
def _shop(number: int) -> Shop:
    return Shop.open(number)


def _value(text: str) -> float:
    top, _, bottom = text.partition("/")
    return float(top) / (float(bottom) if bottom and float(bottom) else 1.0)


Made = tuple[str, str, Literal["number", "text"]]


def _small_talk(draw: random.Random, shop: Shop) -> Made:
    name = draw.choice(NAMES)
    text, expected = draw.choice((
        (f"Hello, I am {name}!", "hello"), (f"Hi, {name} here.", "hello"), ("Good morning!", "hello"),
        ("Hey there!", "hello"), ("Hello!", "hello"), ("Thanks a lot!", "welcome"),
        ("Thank you, that helped.", "welcome"), ("Many thanks!", "welcome"), ("Bye!", "goodbye"),
        ("Goodbye, see you soon.", "goodbye"), ("Who are you?", "assistant"), ("What can you do?", "assistant"),
    ))  # fmt: skip
    return text, expected, "text"


def _policy(draw: random.Random, shop: Shop) -> Made:
    fact = draw.choice(shop.facts)
    return draw.choice(fact.questions), re.escape(fact.expected).replace(r"\$", r"\$?"), "text"


def _product(draw: random.Random, shop: Shop) -> Made:
    product = draw.choice(shop.products)
    wording = draw.choice(_PRICE_ASKED + _WEIGHT_ASKED)
    expected = f"{product.price}" if wording in _PRICE_ASKED else re.escape(f"{product.weight:g}")
    return wording.format(product.name), expected, "text"


def _unknown(draw: random.Random, shop: Shop) -> Made:
    name = f"{draw.choice(shop.missing)} {draw.choice(list(KINDS))}"
    return draw.choice(_PRICE_ASKED + _WEIGHT_ASKED).format(name), "(?:could |can|do )not (?:find|know)", "text"


def _total(draw: random.Random, shop: Shop) -> Made:
    first, second = draw.sample(shop.products, 2)
    a, b = draw.randint(2, 5), draw.randint(2, 5)
    one, two = f"{a} {first.name}s", f"{b} {second.name}s"
    shape = draw.random()
    if shape < 0.3:
        text = draw.choice(("I am a member. What do I pay for {}?", "What do {} cost for a member?")).format(one)
        return text, f"{a * first.price * (100 - shop.member_discount) / 100:g}", "number"
    if shape < 0.5:
        text = draw.choice(("What do {} cost?", "How much do I pay for {}?")).format(one)
        return text, f"{a * first.price}", "number"
    text = draw.choice((
        "What do {} and {} cost together?", "How much do I pay for {} and {}?", "I need {} and {}. What is the total?",
    )).format(one, two)  # fmt: skip
    return text, f"{a * first.price + b * second.price}", "number"


def _comparison(draw: random.Random, shop: Shop) -> Made:
    first, second = draw.sample(shop.products, 2)
    word = draw.choice(("lighter", "heavier", "cheaper", "more expensive"))
    by_price = word in ("cheaper", "more expensive")
    values = (first.price, second.price) if by_price else (first.weight, second.weight)
    if values[0] == values[1]:
        return _comparison(draw, shop)
    least = word in ("lighter", "cheaper")
    best = first if (values[0] < values[1]) == least else second
    return f"Which is {word}, the {first.name} or the {second.name}?", f"the {best.name}", "text"


def _arithmetic(draw: random.Random, shop: Shop) -> Made:
    a, b = (draw.randint(*draw.choice(((1, 9), (10, 99), (100, 999)))) for _ in range(2))
    c = draw.randint(2, 9)
    text = draw.choice((
        f"What is {a} * {b}?", f"What is {a} times {b}?", f"Calculate {a} plus {b}.", f"What is {a} minus {b}?",
        f"What is {a} + {b}?", f"How much is {a} - {b}?", f"Compute {a} * {b} + {c}.", f"What is {a} + {b} + {c}?",
        f"Calculate ({a} + {b}) * {c}.", f"What is {a} * {c} - {b}?", f"What is {b}% of {a}?",
        f"Calculate {a} - {b} * {c}.",
    ))  # fmt: skip
    return _solve(text)


def _everyday(draw: random.Random, shop: Shop) -> Made:
    n = draw.randint(2, 90)
    text = draw.choice((
        f"How many metres are {n} kilometres?", f"How many kilometres are {n * 10} metres?",
        f"How many grams are {n} kilograms?", f"How many minutes are {n} hours?", f"How many hours are {n} days?",
        f"How many centimetres are {n} metres?", f"How many litres are {n * 100} millilitres?",
        f"Which date is {n} days {draw.choice(('after', 'before'))} {_date(draw, 2020, 2029)}?",
    ))  # fmt: skip
    return _solve(text)


def _mathematics(draw: random.Random, shop: Shop) -> Made:
    n = draw.randint
    one, two = draw.sample(NAMES, 2)
    x, y, a, b, d, e = n(1, 9), n(1, 9), n(2, 9), n(2, 9), n(2, 9), n(2, 9)
    later = n(2, 3)
    now = later + n(1, 3)
    start, target, added = draw.choice(((50, 40, 20), (60, 40, 10), (80, 50, 20), (70, 45, 30), (90, 60, 15)))
    text = draw.choice((
        f"{one} and {two} are {n(10, 99)} km apart and walk towards each other at {a} km/h and {b} km/h. "
        "After how many hours do they meet?",
        f"Solve {a}x + {b}y = {a * x + b * y} and {d}x - {e}y = {d * x - e * y}. What is {draw.choice('xy')}?",
        f"{one} paints the hut in {a} hours, and {two} in {a + b} hours. How many hours do both take together?",
        f"A price rises by {a * 5}% and then falls by {b * 5}%. What is the total change in percent?",
        f"{one} is {now} times as old as {two}. In {(now - later) * n(2, 9)} years {one} will be {later} times as old "
        f"as {two}. How old is {two} now?",
        f"How many litres of {added}% juice must be added to {n(2, 40)} litres of {start}% juice "
        f"to get {target}% juice?",
        f"What are ${n(2, 49) * 10} worth after {n(2, 5)} years at {n(2, 9)}% interest a year?",
        f"What is the {draw.choice(('larger', 'smaller'))} root of x^2 - {x + y}x + {x * y} = 0?",
    ))  # fmt: skip
    return _solve(text)


def _code(draw: random.Random, shop: Shop) -> Made:
    n = draw.randint
    values = [n(1, 30) for _ in range(n(3, 6))]
    word = draw.choice(("tent", "stove", "rope", "lamp", "forest", "summit", "valley"))
    program = draw.choice((
        f"x = {values}\nx.sort()\nprint(x[{draw.choice((0, 1, -1, -2))}])",
        f"x = {values}\nprint(sum(v for v in x if v % {n(2, 3)} == 0))",
        f"s = '{word}'\nprint(s[::-1].upper())",
        f"s = '{word}'\nprint(s[{n(0, 1)}:{n(3, 4)}] * {n(2, 3)})",
        f"t = {n(0, 5)}\nfor i in range({n(3, 9)}):\n    t += i * {n(2, 4)}\nprint(t)",
        f"x = {values}\nprint([v * {n(2, 5)} for v in x][1:])",
        f"d = {{}}\nfor c in '{word}{word[:2]}':\n    d[c] = d.get(c, 0) + 1\nprint(max(d.values()) + {n(0, 5)})",
        f"a, b = {n(0, 3)}, {n(1, 4)}\nwhile b < {n(20, 90)}:\n    a, b = b, a + b\nprint(b)",
    ))  # fmt: skip
    opening = draw.choice(("What does this Python code print?", "What will this program print?"))
    return _solve(f"{opening}\n{program}")


def _expert(draw: random.Random, shop: Shop) -> Made:
    n = draw.randint
    tosses = n(4, 9)
    text = draw.choice((
        f"How many zeros does {n(20, 400)}! end with?", f"What is the last digit of {n(2, 19)}^{n(20, 400)}?",
        f"What are the last two digits of {n(3, 19)}^{n(20, 400)}?",
        f"How many shortest paths lead across a {n(3, 9)} by {n(3, 9)} grid?",
        f"How many divisors does {n(30, 990)} have?",
        f"What is the greatest common divisor of {n(20, 90) * tosses} and {n(20, 90) * tosses}?",
        f"What is the probability of exactly {n(1, 3)} heads in {tosses} tosses?",
        f"Which weekday was {_date(draw, 1700, 1899)}?",
    ))  # fmt: skip
    return _solve(text)


def _date(draw: random.Random, first: int, last: int) -> str:
    return f"{draw.randint(1, 28)} {draw.choice(MONTHS)} {draw.randint(first, last)}"


def _solve(text: str) -> Made:
    solution = solve(Question(text))
    if solution is None:
        raise ValueError(f"no family of questions understands {text!r}")
    value = solution.right.rpartition("It prints: ")[2].rpartition("The answer is ")[2]
    value = value.removesuffix(".") if "answer is" in solution.right else value.rpartition(" = ")[2].removesuffix(".")
    if re.fullmatch(r"-?\d+(?:\.\d+)?(?:/\d+)?", value):
        return text, value, "number"
    return text, re.escape(value), "text"


_MAKERS: dict[str, Callable[[random.Random, Shop], Made]] = {
    "small talk": _small_talk,
    "policy": _policy,
    "product": _product,
    "unknown product": _unknown,
    "price total": _total,
    "comparison": _comparison,
    "arithmetic": _arithmetic,
    "everyday": _everyday,
    "mathematics": _mathematics,
    "code": _code,
    "expert only": _expert,
}
KINDS_OF_ENQUIRY = tuple(_MAKERS)
"""All kinds, in the order of the tables."""
