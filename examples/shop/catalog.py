"""The shop's catalogue: its two tools and the four simulated specialists."""

from __future__ import annotations

from typing import Any

from examples.shop.tools import TOOLS
from toolorch_integrations.catalog import Catalog
from toolorch_integrations.entry import AnyEntry, Tool
from toolorch_serving.simulated.specialists import SPECIALISTS

APP_PROMPT = "You are the assistant of an outdoor shop."
"""The app's own words in the policy's system message."""


def catalog(url: str = "http://127.0.0.1:1/v1") -> Catalog:
    """Return the catalogue with specialists that answer at `url` (`SimulatedSpecialists.url`)."""
    schemas: list[Any] = [tool.tool_call_schema for tool in TOOLS]
    entries: list[AnyEntry] = [
        Tool(name=tool.name, description=tool.description, parameters=schema.model_json_schema())
        for tool, schema in zip(TOOLS, schemas, strict=True)
    ]
    return Catalog([*entries, *(specialist.entry(url) for specialist in SPECIALISTS)])
