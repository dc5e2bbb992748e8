"""Requests that none of an app's tools can settle, and that a specialist gets whole: its reply is the answer."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

from toolorch_integrations.entry import Specialist
from toolorch_integrations.view import CatalogView

_WORDS = {
    "language": ("French", "Spanish", "German", "Polish", "Italian"),
    "topic": ("the late delivery", "the new opening hours", "the price change", "the broken lift", "our summer party"),
    "program": ("sorts a list of dates", "counts the words of a text", "merges two tables", "checks an email address"),
    "name": ("Ada", "Ivan", "Mara", "Noor", "Pedro", "Tess"),
    "city": ("Lima", "Oslo", "Porto", "Turin", "York"),
    "figure": ("12", "17", "240", "365", "48", "900"),
}

_REQUESTS = {
    "mathematician": ("What is {figure} to the power of {figure}?", "Solve x * x - {figure} x = {figure}."),
    "statistician": ("What is the standard deviation of {figure}, {figure} and {figure}?",),
    "coder": ("Write a program that {program}.", "I need a function that {program}."),
    "code-reviewer": ("Review my program that {program}. Where are its faults?",),
    "writer": ("Write a letter to {name} about {topic}.", "Draft a short report on {topic}."),
    "editor": ("Shorten this text: we are sorry for {topic}, {name}.", "Polish my note about {topic}."),
    "translator": ("Translate into {language}: we are sorry for {topic}.", "How do I say {topic} in {language}?"),
    "lawyer": ("Is a contract without a date valid in {city}?", "Which rules hold for {topic} in {city}?"),
    "scientist": ("Why is the sky over {city} blue?", "How long does light take for {figure} kilometres?"),
    "planner": ("Break this goal into steps: move our office to {city}.", "Plan the work on {topic} for me."),
}
"""By the specialist that is asked; the generalists get what nobody else is there for."""


def handover(draw: random.Random, specialists: Sequence[Specialist], view: CatalogView) -> list[dict[str, Any]]:
    """Return the messages of a run that a shown specialist ends: the cheapest generalist where no other is shown.

    Args:
        draw: Source of randomness.
        specialists: Those shown, at least one.
        view: Under which names and at which prices.
    """
    experts = [item for item in specialists if item.name in _REQUESTS]
    if experts:
        chosen = draw.choice(experts)
        request = draw.choice(_REQUESTS[chosen.name])
    else:
        entries = {entry.name: entry for entry in view.entries}
        chosen = min(specialists, key=lambda item: entries[item.name].price.input)
        request = draw.choice([text for texts in _REQUESTS.values() for text in texts])
    for word, choices in _WORDS.items():
        while f"{{{word}}}" in request:
            request = request.replace(f"{{{word}}}", draw.choice(choices), 1)
    call = {"name": view.alias(chosen.name), "arguments": json.dumps({"final": True})}
    return [
        {"role": "user", "content": request},
        {"role": "assistant", "content": "", "tool_calls": [{"id": "call_0", "type": "function", "function": call}]},
    ]
