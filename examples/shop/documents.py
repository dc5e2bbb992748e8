"""The documents of an outdoor shop: about 60, short, and made anew for each seed.

Names, prices, weights and terms differ from shop to shop, so that an assistant has to read them. Shop 0 is the demo's.
"""

from __future__ import annotations

import random
import tomllib
from dataclasses import dataclass
from pathlib import Path

BRANDS = (
    "Alder", "Aspen", "Birch", "Cedar", "Clover", "Coral", "Crane", "Delta", "Eagle", "Ember", "Falcon", "Fern",
    "Flint", "Forest", "Fox", "Glacier", "Granite", "Harbour", "Hawk", "Hazel", "Heron", "Hunter", "Iris", "Island",
    "Ivy", "Juniper", "Kestrel", "Lake", "Larch", "Lynx", "Maple", "Marsh", "Meadow", "Moor", "Moss", "Nordic", "Oak",
    "Ocean", "Osprey", "Otter", "Pine", "Polar", "Raven", "Ridge", "River", "Robin", "Sierra", "Storm", "Summit",
    "Swift", "Thistle", "Trail", "Valley", "Willow", "Wolf",
)  # fmt: skip
KINDS: dict[str, tuple[int, int, float, float, str]] = {
    "tent": (90, 390, 1.2, 4.8, "Sleeps two, with two doors"),
    "stove": (25, 140, 0.1, 0.9, "Burns gas and boils a litre in four minutes"),
    "backpack": (60, 280, 0.9, 2.6, "Holds 60 litres and has a rain cover"),
    "jacket": (70, 390, 0.3, 1.1, "Waterproof, with a hood"),
    "lamp": (15, 90, 0.1, 0.4, "Shines for 40 hours on one charge"),
    "bottle": (10, 50, 0.1, 0.6, "Keeps tea hot for a day"),
    "rope": (60, 240, 2.9, 4.5, "60 metres long, for lead climbing"),
    "hammock": (30, 150, 0.4, 1.2, "Carries 180 kg"),
    "mat": (20, 190, 0.3, 1.0, "Inflates by itself"),
    "axe": (40, 160, 0.4, 0.9, "Forged steel with a wooden handle"),
}
"""Least and highest price in dollars, least and highest weight in kg, and a remark, by kind of product."""

PRODUCTS = 42

_POLICIES = Path(__file__).with_name("policies.toml").read_text(encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Product:
    """A product of the shop; `price` in dollars, `weight` in kg."""

    name: str
    price: int
    weight: float


@dataclass(frozen=True, slots=True)
class Fact:
    """Something a document says.

    Attributes:
        query: What to search for.
        expected: What a right answer contains.
        questions: Ways to ask for it.
    """

    query: str
    expected: str
    questions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Shop:
    """A shop: its products, what its documents say, and the documents themselves.

    Attributes:
        products: What it sells.
        facts: What its policies say.
        documents: All documents, title first.
        member_discount: Percent off for members.
        missing: Brands that it does not sell.
    """

    products: tuple[Product, ...]
    facts: tuple[Fact, ...]
    documents: tuple[str, ...]
    member_discount: int
    missing: tuple[str, ...]

    @classmethod
    def open(cls, seed: int = 0) -> Shop:
        """Return the shop of a seed."""
        draw = random.Random(f"shop {seed}")
        brands = draw.sample(BRANDS, len(BRANDS))
        products = []
        for brand in brands[:PRODUCTS]:
            kind, (low, high, light, heavy, _) = draw.choice(list(KINDS.items()))
            weight = draw.randint(round(light * 10), round(heavy * 10)) / 10
            products.append(Product(f"{brand} {kind}", draw.randint(low, high), weight))
        documents = [_described(product) for product in products]
        policies, facts, discount = _policies(draw)
        documents += policies
        draw.shuffle(documents)
        return cls(tuple(products), tuple(facts), tuple(documents), discount, tuple(brands[PRODUCTS:]))


def _described(product: Product) -> str:
    remark = KINDS[product.name.split()[1]][4]
    return f"{product.name}. Price ${product.price}. Weight {product.weight:g} kg. {remark}."


def _policies(draw: random.Random) -> tuple[list[str], list[Fact], int]:
    """Write the policies of a shop; the last value is what members get off, in percent."""
    documents, facts, discount = [], [], 0
    for document in tomllib.loads(_POLICIES)["documents"]:
        sentences = []
        for fact in document["facts"]:
            value = draw.choice(fact["values"])
            if document["title"] == "Membership" and "off" in fact["sentence"]:
                discount = value
            sentences.append(fact["sentence"].format(n=value))
            facts.append(Fact(document["title"].lower(), fact["answer"].format(n=value), tuple(fact["questions"])))
        documents.append(f"{document['title']}. {' '.join(sentences)}")
    return documents, facts, discount
