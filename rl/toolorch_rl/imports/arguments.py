"""Arguments of a benchmark's tools as pydantic models, made from the JSON Schema that it describes them with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

_TYPES: dict[str, Any] = {
    "string": str,
    "integer": int,
    "float": float,
    "number": float,
    "boolean": bool,
    "dict": dict[str, Any],
    "object": dict[str, Any],
}


def arguments_of(tool: str, schema: Mapping[str, Any]) -> type[BaseModel]:
    """Return a model of a tool's arguments.

    Args:
        tool: Its name.
        schema: JSON Schema of an object, or BFCL's dialect of it (`dict` for object, `float` for number).
    """
    required = set(schema.get("required") or ())
    fields: dict[str, Any] = {}
    for name, item in (schema.get("properties") or {}).items():
        described = {"description": item["description"]} if item.get("description") else {}
        kind = _type(item)
        if name in required:
            fields[name] = (kind, Field(**described))
        else:
            fields[name] = (kind | None, Field(item.get("default"), **described))
    return create_model(f"{tool}_arguments", __config__=ConfigDict(extra="forbid"), **fields)


def _type(schema: Mapping[str, Any]) -> Any:
    if schema.get("enum"):
        return Literal[tuple(schema["enum"])]
    if schema.get("type") in ("array", "tuple"):
        return list[_type(schema.get("items") or {})]  # type: ignore[misc]
    return _TYPES.get(str(schema.get("type")), Any)
