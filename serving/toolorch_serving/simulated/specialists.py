"""Simulated specialists: what each can do, costs and takes, and how one answers a prompt.

A specialist really solves its question. Whether its skill suffices is decided by a hash of seed, specialist and
question, so the same question always gets the same reply.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from toolorch_integrations.entry import Endpoint, Price, Specialist
from toolorch_serving.simulated.everyday import EVERYDAY, talk
from toolorch_serving.simulated.mathematics import MATHEMATICS
from toolorch_serving.simulated.numbers import NUMBERS
from toolorch_serving.simulated.programs import PROGRAMS
from toolorch_serving.simulated.reading import READING
from toolorch_serving.simulated.solution import Family, Question, Solution

FAMILIES: tuple[Family, ...] = (
    *PROGRAMS, *MATHEMATICS[:-1], *NUMBERS, *EVERYDAY, MATHEMATICS[-1], talk, *READING,
)  # fmt: skip
"""In the order in which they are tried: the narrow ones first."""

DOMAINS = ("talk", "everyday", "reading", "arithmetic", "mathematics", "code", "numbers")
UNKNOWN = "I do not know."


@dataclass(frozen=True, slots=True)
class SimulatedSpecialist:
    """A specialist with set skill, price and latency.

    Attributes:
        name: Model name, and name in the catalogue.
        description: What it is good at, for the policy.
        price: Documented only; the caller computes dollars from the usage that the server reports.
        latency: Seconds that a call takes.
        skill: Probability of a right reply by domain; each step of difficulty above 1 takes off 0.01.
        otherwise: The same for domains that `skill` leaves out.
        capabilities: Free words for the catalogue.
        families: The questions that it understands, tried in this order.
    """

    name: str
    description: str
    price: Price
    latency: float
    skill: Mapping[str, float] = field(default_factory=dict)
    otherwise: float = 0.0
    capabilities: tuple[str, ...] = ()
    families: tuple[Family, ...] = FAMILIES

    def probability(self, solution: Solution) -> float:
        """Return how probable a right reply to an understood question is."""
        skill = self.skill.get(solution.domain, self.otherwise)
        return max(0.0, skill - 0.01 * (solution.difficulty - 1))

    def answer(self, prompt: str, seed: int = 0) -> str:
        """Answer a prompt: rightly, wrongly where the skill does not suffice, or by saying that it does not know."""
        solution = solve(Question.parse(prompt), self.families)
        if solution is None:
            return UNKNOWN
        key = f"{seed}|{self.name}|{prompt}".encode()
        draw = int.from_bytes(hashlib.sha256(key).digest()[:8], "big") / 2**64
        return solution.right if draw < self.probability(solution) else solution.wrong

    def entry(self, url: str, **changes: object) -> Specialist:
        """Return the specialist's entry for a catalogue, answered by the server at `url`."""
        entry = Specialist(
            name=self.name,
            description=self.description,
            price=self.price,
            latency=self.latency,
            capabilities=self.capabilities,
            endpoint=Endpoint(url=url, model=self.name, timeout=30.0, max_tokens=256, temperature=0.0),
        )
        return Specialist.model_validate({**entry.model_dump(), **changes}) if changes else entry


def solve(question: Question, families: Sequence[Family] = FAMILIES) -> Solution | None:
    """Return the solution of a question of any of the families, or None."""
    return next((solution for family in families if (solution := family(question)) is not None), None)


SPECIALISTS: tuple[SimulatedSpecialist, ...] = (
    SimulatedSpecialist(
        name="generalist",
        description="Reads documents, dates, units.",
        price=Price(input=1, output=2),
        latency=0.05,
        skill={"talk": 1.0, "everyday": 0.97, "reading": 0.97, "arithmetic": 0.6, "mathematics": 0.25, "code": 0.25},
        otherwise=0.05,
        capabilities=("general",),
    ),
    SimulatedSpecialist(
        name="mathematician",
        description="Mathematics, word problems.",
        price=Price(input=4, output=8),
        latency=0.1,
        skill={"talk": 1.0, "everyday": 0.85, "reading": 0.6, "arithmetic": 0.99, "mathematics": 0.97, "code": 0.4},
        otherwise=0.2,
        capabilities=("math",),
    ),
    SimulatedSpecialist(
        name="coder",
        description="Python code.",
        price=Price(input=4, output=8),
        latency=0.1,
        skill={"talk": 1.0, "everyday": 0.85, "reading": 0.6, "arithmetic": 0.9, "mathematics": 0.4, "code": 0.97},
        otherwise=0.15,
        capabilities=("code",),
    ),
    SimulatedSpecialist(
        name="expert",
        description="Strongest at all, also number theory, counting, weekdays.",
        price=Price(input=16, output=32),
        latency=0.4,
        skill={"talk": 1.0},
        otherwise=0.99,
        capabilities=("general", "math", "code"),
    ),
)
"""The shop's four specialists; the expert costs sixteen times what the generalist costs."""
