"""JSON Schemas of tool arguments in one canonical form, so that every framework's tools render to the same prompt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError, best_match
from pydantic_core import ErrorDetails
from referencing import Registry

_KEPT = (
    "type",
    "description",
    "enum",
    "const",
    "format",
    "pattern",
    "minimum",
    "maximum",
    "minItems",
    "maxItems",
    "default",
    "items",
    "properties",
    "required",
    "anyOf",
    "oneOf",
    "allOf",
)


def canonical_parameters(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON Schema with references inlined, generated titles dropped and keys in a fixed order.

    LangChain, LlamaIndex and pydantic describe the same function with different keys in different orders. The policy's
    prompt must not depend on which of them wrote the schema.

    Args:
        schema: JSON Schema of an object. References point into its own `$defs`.
    """
    canonical = _canonical(schema, schema.get("$defs", {}), ())
    canonical.pop("description", None)  # the tool's own description, once more
    return {"type": "object", "properties": {}, **canonical}


def _canonical(schema: Any, definitions: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(schema, Mapping):  # `true`: anything
        return {}
    reference = schema.get("$ref")
    if isinstance(reference, str):
        name = reference.rsplit("/", 1)[-1]
        if name in path or name not in definitions:  # a recursive type cannot be inlined: say what it is and stop
            return {"type": "object", "description": name}
        merged = {**definitions[name], **{key: value for key, value in schema.items() if key != "$ref"}}
        return _canonical(merged, definitions, (*path, name))
    result: dict[str, Any] = {}
    for key in _KEPT:
        if key not in schema:
            continue
        value = schema[key]
        if key == "properties":
            if not isinstance(value, Mapping):
                continue
            value = {name: _canonical(item, definitions, path) for name, item in value.items()}
        elif key in ("anyOf", "oneOf", "allOf"):
            value = [_canonical(item, definitions, path) for item in value]
        elif key == "items" and isinstance(value, Mapping):
            value = _canonical(value, definitions, path)
        elif key == "default" and value is None:  # "optional" is already said by its absence from `required`
            continue
        result[key] = value
    return _without_null(result)


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Write an optional `anyOf [X, null]` as X: the absence from `required` says it."""
    choices = schema.get("anyOf")
    if not choices:
        return schema
    if {} in choices:  # anything
        return {key: value for key, value in schema.items() if key != "anyOf"}
    real = [choice for choice in choices if choice.get("type") != "null"]
    if len(real) != 1:
        return schema | {"anyOf": real or choices}
    rest = {key: value for key, value in schema.items() if key != "anyOf"}
    merged = real[0] | rest
    return {key: merged[key] for key in _KEPT if key in merged}


def argument_problem(parameters: Mapping[str, Any], arguments: Any) -> str | None:
    """Say what keeps arguments from fitting a tool's JSON Schema; None when they fit, or nobody can tell.

    The whole schema counts, with the limits that its canonical form leaves out.
    """
    validator = Draft202012Validator({"type": "object", **parameters}, registry=Registry())  # which fetches nothing
    try:
        error = best_match(validator.iter_errors(arguments))
    except Exception:  # a schema that cannot be read: the library raises whatever it comes across
        return None
    if error is None:
        return None
    error = _beside_null(error)
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path).lstrip(".")
    return f"{where}: {error.message}" if where else error.message


def validation_problem(errors: Iterable[ErrorDetails]) -> str:
    """Return pydantic's errors in the form of `argument_problem`, a line for each."""
    lines = [(".".join(map(str, error["loc"])), error["msg"]) for error in errors]
    return "\n".join(f"{where}: {message}" if where else message for where, message in lines)


def _beside_null(error: ValidationError) -> ValidationError:
    """Return what is wrong with an optional value: that it is not null either goes without saying."""
    real = [inner for inner in error.context or () if inner.validator_value != "null"]
    if error.validator != "anyOf" or len({inner.schema_path[0] for inner in real}) != 1:
        return error
    return best_match(real) or error
