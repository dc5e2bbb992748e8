"""JSON text, deep copies in JSON's own types, and a canonical form of messages."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import orjson

_AS_PYTHON = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_SUBCLASS


def to_json(value: Any) -> str:
    """Return compact JSON; what JSON does not know is kept as its text, a plain enumeration's member as its value."""
    found = _quick_json(value)
    return _slow_json(value) if found is None else found.decode()


def plain(value: Any) -> Any:
    """Return a deep copy in JSON's own types, so that later changes by the app do not reach the graph."""
    found = _quick_json(value)
    return json.loads(_slow_json(value)) if found is None else orjson.loads(found)


def _quick_json(value: Any) -> bytes | None:
    """Return JSON made by orjson; None: the standard library's is to be asked.

    It knows NaN, integers of any size, surrogates, keys and objects that orjson refuses, or writes in other words. As
    orjson writes null for NaN, a null may be one.
    """
    try:
        found = orjson.dumps(value, option=_AS_PYTHON)
    except TypeError:
        return None
    return None if b"null" in found else found


def _slow_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)


def canonical(message: Mapping[str, Any]) -> str:
    """Return a message in a form that is equal for messages that mean the same.

    Keys are sorted, empty values are left out, and tool calls are reduced to id, name and parsed arguments.
    """
    kept = {key: value for key, value in message.items() if value not in (None, "", [], {})}
    if "tool_calls" in kept:
        kept["tool_calls"] = [_canonical_call(call) for call in kept["tool_calls"]]
    return json.dumps(kept, sort_keys=True, ensure_ascii=False, default=str)


def _canonical_call(call: Mapping[str, Any]) -> list[Any]:
    function: Mapping[str, Any] = call.get("function") or {}
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        with contextlib.suppress(ValueError):
            arguments = json.loads(arguments)
    return [call.get("id"), function.get("name"), arguments]


def content_hash(value: Any) -> str:
    """Return 32 hex digits that are equal for equal JSON values."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def storable(text: str) -> str:
    """Return a text that every database takes: no NUL, no lone surrogates."""
    if "\x00" in text:
        text = text.replace("\x00", "\N{REPLACEMENT CHARACTER}")
    if text.isascii():
        return text
    return text.encode("utf-8", "replace").decode("utf-8")


def storable_json(value: Any) -> str:
    """Return JSON text that every database takes and that reads back as the same value."""
    found = _quick_json(value)
    if found is not None:
        return found.decode()
    text = _slow_json(value)
    with contextlib.suppress(UnicodeEncodeError):
        if text.isascii() or text.encode():
            return text
    return json.dumps(value, separators=(",", ":"), default=str)
