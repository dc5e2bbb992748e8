"""The arguments of an environment's tools as pydantic models, from which all schemas are made."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from toolorch_rl.environments.operations import Operation
from toolorch_rl.environments.schema import FieldSpec
from toolorch_rl.said import article

_TYPES: dict[str, Any] = {
    "text": str,
    "date": str,
    "reference": str,
    "integer": int,
    "number": float,
    "boolean": bool,
}


def arguments_model(operation: Operation) -> type[BaseModel]:
    """Return a model of a tool's arguments."""
    fields: dict[str, Any] = {}
    for field in operation.arguments:
        kind = Literal[field.choices] if field.type == "choice" else _TYPES[field.type]
        options: dict[str, Any] = {"description": _description(field)} if _description(field) else {}
        fields[field.name] = (kind, Field(**options)) if field.required else (kind | None, Field(None, **options))
    return create_model(f"{operation.name}_arguments", __config__=ConfigDict(extra="forbid"), **fields)


def _description(field: FieldSpec) -> str:
    parts = [field.description or (f"Id of {article(field.refers_to.replace('_', ' '))}." if field.refers_to else "")]
    if field.type == "date":
        parts.append("YYYY-MM-DD.")
    if field.default is not None:
        parts.append(f"{field.default} by default.")
    return " ".join(part for part in parts if part)
