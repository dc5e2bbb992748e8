"""Model aliases of a definitions file as specialists, whose endpoints come from environment variables."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from toolorch_integrations.entry import Endpoint, Price, Specialist, is_name
from toolorch_integrations.errors import MissingVariableError
from toolorch_serving.tools.definitions import Definitions, ModelDefinition, ToolDefinition
from toolorch_serving.tools.errors import DefinitionError

_CHOICES = re.compile(r"Choices:\s*(\[[^\]]*\])\.?")
_ROW = r"\s*\|\s*\$+([\d.]+)\s*\|\s*\$+([\d.]+)\s*\|\s*([\d.]+)\s*s"
"""Prices per million tokens read and written, and seconds, as the released definitions tell them to the policy."""


def specialists_of(found: Definitions, functions: Sequence[str], path: str | Path) -> list[Specialist]:
    """Return the specialists among which the policy chooses for the functions of the file.

    Description, price and latency come from `models`, else from the description of the argument `model`.

    Args:
        found: What the file holds.
        functions: Names of the functions with an argument `model` that count.
        path: The file, for messages.

    Raises:
        DefinitionError: The choices of a function cannot be read.
        MissingVariableError: A model's endpoint is not set; the message names the variable.
    """
    capabilities: dict[str, list[str]] = {}
    said: dict[str, dict[str, Any]] = {}
    for tool in found.tools:
        if tool.name not in functions or tool.model_schema is None:
            continue
        for alias in choices_of(tool, path):
            capabilities.setdefault(alias, []).append(tool.name)
            said.setdefault(alias, _said_of(alias, tool, path))
    unknown = [alias for alias in found.models if alias not in capabilities]
    if unknown:
        raise DefinitionError(f"{path}: models.{unknown[0]} is offered by no tool: add it to the choices of one.")
    return [
        _specialist(alias, found.models.get(alias, ModelDefinition()), said[alias], tuple(names), path)
        for alias, names in capabilities.items()
    ]


def choices_of(tool: ToolDefinition, path: str | Path) -> list[str]:
    """Return the aliases of a function: the `enum` of its argument `model`, or the choices of its description.

    Raises:
        DefinitionError: There is neither.
    """
    schema = tool.model_schema or {}
    choices = schema.get("enum")
    if choices is None:
        found = _CHOICES.search(str(schema.get("description", "")))
        try:
            choices = ast.literal_eval(found.group(1)) if found else None
        except (SyntaxError, ValueError):
            choices = None
    if not isinstance(choices, list) or not choices or not all(isinstance(c, str) and is_name(c) for c in choices):
        raise DefinitionError(
            f"{path}: {tool.name}.parameters.properties.model names no models: give `enum`, a list of aliases."
        )
    return choices


def _said_of(alias: str, tool: ToolDefinition, path: str | Path) -> dict[str, Any]:
    """Return what the argument's description says of a model, in the words and the table of the released files."""
    text = str((tool.model_schema or {}).get("description", ""))
    choices = choices_of(tool, path)
    facts: dict[str, Any] = {}
    row = re.search(re.escape(alias) + _ROW, text)
    if row is not None:
        facts["price"] = Price(input=float(row[1]), output=float(row[2]))
        facts["latency"] = float(row[3])
    words = _CHOICES.split(text)[-1].partition("The table below")[0].partition("Model |")[0]
    described = _sentences(words, choices).get(alias)
    if described:
        facts["description"] = described
    return facts


def _sentences(words: str, aliases: Sequence[str]) -> dict[str, str]:
    """Return what stands behind each alias, up to the next one; the aliases stand in the order of the choices."""
    begins: list[tuple[str, int, int]] = []
    position = 0
    for alias in aliases:
        found = re.compile(rf"(?:^|(?<=\s)){re.escape(alias)}:?\s+").search(words, position)
        if found is not None:
            begins.append((alias, found.start(), found.end()))
            position = found.end()
    ends = [start for _, start, _ in begins[1:]] + [len(words)]
    return {alias: words[behind:end].strip() for (alias, _, behind), end in zip(begins, ends, strict=False)}


def _specialist(
    alias: str, model: ModelDefinition, said: Mapping[str, Any], capabilities: tuple[str, ...], path: str | Path
) -> Specialist:
    own = model.model_dump(include={"description", "price", "latency", "fallback"}, exclude_none=True)
    return Specialist(name=alias, capabilities=capabilities, endpoint=_endpoint(alias, model, path), **{**said, **own})


def _endpoint(alias: str, model: ModelDefinition, path: str | Path) -> Endpoint:
    begins = model.variable or re.sub(r"\W", "_", alias).upper()
    url = os.environ.get(f"{begins}_API_URL")
    if not url:
        raise MissingVariableError(
            f"{path}: the model {alias!r} has its endpoint in the environment variable {begins}_API_URL, which is not "
            f"set: export it (and {begins}_API_KEY where the endpoint takes a key), or take the model out of the file."
        )
    key = f"{begins}_API_KEY"
    limits = model.model_dump(include={"timeout", "max_tokens", "temperature"}, exclude_none=True)
    return Endpoint(
        url=url.rstrip("/").removesuffix("/chat/completions"),
        model=model.model or os.environ.get(f"{begins}_MODEL") or alias,
        key_variable=key if os.environ.get(key) else None,
        **limits,
    )
