"""Events as bytes and back: orjson for the recorder's own, and what other modules register for theirs."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import orjson

from toolorch_integrations.errors import StoreError
from toolorch_integrations.events import (
    CallEnded,
    EncodedEvents,
    Event,
    PolicyCalled,
    TraceAnnotated,
    TraceEnded,
    TraceStarted,
    TraceStatus,
)
from toolorch_integrations.ledger import Call, CallStatus

T = TypeVar("T")

FIRST_KIND = 16
"""Kinds below belong to the recorder's own events."""

_EVENTS: dict[int, type[Any]] = {1: TraceStarted, 2: TraceAnnotated, 3: PolicyCalled, 4: CallEnded, 5: TraceEnded}
_LATER = {FIRST_KIND: "toolorch_integrations.wire_call"}
"""Modules that register a kind as they are imported: a process that never made such an event may have to read one."""


class UnknownKindError(StoreError):
    """A spool holds a kind of record that no module of this process knows."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Kind:
    cls: type[Any]
    pack: Callable[[Any], bytes]
    unpack: Callable[[bytes], Any]


_kinds: dict[int, _Kind] = {}
_numbers: dict[type[Any], int] = {}


def register(kind: int, cls: type[T], pack: Callable[[T], bytes], unpack: Callable[[bytes], T]) -> None:
    """Teach spools a class of their own format; call it where the class is defined.

    Args:
        kind: Number in the file, 16 to 255; it stands for the class in all releases to come.
        cls: Has `trace_id`, `size()` and `events()`; see `events.EncodedEvents`.
        pack: Returns an object's bytes; called by the thread that puts it.
        unpack: Returns the object of such bytes.

    Raises:
        ValueError: The number is out of range, or stands for another class.
    """
    if not FIRST_KIND <= kind <= 255:
        raise ValueError(f"kind {kind} of {cls.__name__}: give a number from {FIRST_KIND} to 255")
    known = _kinds.get(kind)
    if known is not None and known.cls.__qualname__ != cls.__qualname__:
        raise ValueError(f"kind {kind} of {cls.__name__} stands for {known.cls.__name__}: give another number")
    _kinds[kind] = _Kind(cls, pack, unpack)
    _numbers[cls] = kind


def pack(event: Event | EncodedEvents) -> tuple[int, bytes]:
    """Return an event's kind and bytes.

    Raises:
        TypeError: It is no event, and its class is not registered.
    """
    number = _numbers.get(type(event))
    if number is None:
        raise TypeError(f"a recorder takes the events of toolorch_integrations.events, got {event!r}")
    return number, _kinds[number].pack(event)


def unpack(kind: int, payload: bytes) -> Event | EncodedEvents:
    """Return the event of a record.

    Raises:
        UnknownKindError: No module of this process knows the kind.
        ValueError: The bytes are not what `pack` gives.
        TypeError: As above.
    """
    if kind not in _kinds and kind in _LATER:
        importlib.import_module(_LATER[kind])
    if kind not in _kinds:
        raise UnknownKindError(f"a spool holds records of kind {kind}, which this release does not know; upgrade it")
    found: Event | EncodedEvents = _kinds[kind].unpack(payload)
    return found


def _pack_event(event: Any) -> bytes:
    if isinstance(event, PolicyCalled):
        event = _with_finite_logprobs(event)
    try:
        return orjson.dumps(event, default=_simple, option=orjson.OPT_SERIALIZE_NUMPY)
    except TypeError:  # Lone surrogates, keys that are no text, integers of more than 64 bits: Python's own JSON.
        fields = {field.name: getattr(event, field.name) for field in dataclasses.fields(event)}
        return json.dumps(fields, default=_simple).encode()


def _with_finite_logprobs(event: PolicyCalled) -> PolicyCalled:
    """Return the event with non-finite log-probabilities as text, which JSON has no numbers for."""
    if event.logprobs is None or math.isfinite(np.sum(event.logprobs) if _is_array(event.logprobs) else _sum(event)):
        return event
    return dataclasses.replace(event, logprobs=[str(float(value)) for value in event.logprobs])  # type: ignore[misc]


def _sum(event: PolicyCalled) -> float:
    return math.fsum(event.logprobs or ()) if not _mixed(event) else math.nan


def _mixed(event: PolicyCalled) -> bool:
    """Whether both infinities are there, which `fsum` refuses to add."""
    values = event.logprobs or ()
    return math.inf in values and -math.inf in values


def _is_array(value: object) -> bool:
    return isinstance(value, np.ndarray)


def _simple(value: Any) -> Any:
    """Return what JSON has a form for; as `plain.to_json`, what it does not know is kept as its text."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return list(value)
    return str(value)


def _unpack_event(cls: type[Any]) -> Callable[[bytes], Any]:
    names = {field.name for field in dataclasses.fields(cls)}

    def unpack_one(payload: bytes) -> Any:
        try:
            found = orjson.loads(payload)
        except orjson.JSONDecodeError:  # What Python's own JSON wrote.
            found = json.loads(payload)
        fields = {name: value for name, value in found.items() if name in names}  # Not those of later releases.
        if cls is TraceEnded:
            fields["status"] = TraceStatus(fields["status"])
        elif cls is CallEnded:
            fields["call"] = Call.from_dict(fields["call"])
        elif cls is PolicyCalled:
            fields["status"] = CallStatus(fields["status"])
            if fields["logprobs"] is not None and str in map(type, fields["logprobs"]):
                fields["logprobs"] = [float(value) for value in fields["logprobs"]]
        return cls(**fields)

    return unpack_one


for _number, _cls in _EVENTS.items():
    _kinds[_number] = _Kind(_cls, _pack_event, _unpack_event(_cls))
    _numbers[_cls] = _number
