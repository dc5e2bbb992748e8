"""The JSON in a model's answer, whatever stands around it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from toolorch_rl.synthesis.by_model.errors import AnswerError

_THOUGHT = re.compile(r"<think>.*?(</think>|\Z)", re.DOTALL)
_BEGIN = re.compile(r'\{(?=\s*["}])')
_SCANNED = 200
"""Opening braces that are tried as the beginning of the object."""

Answer = TypeVar("Answer", bound=BaseModel)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)


def object_in(text: str) -> dict[str, Any]:
    """Return the JSON object in an answer: alone, in a code fence, or with prose around it.

    Raises:
        AnswerError: There is none, or it is broken or cut short; the message says where.
    """
    plain = _THOUGHT.sub("", text)
    found: dict[str, Any] | None = None
    length, place, fault = 0, 0, ""
    for _ in range(_SCANNED):
        begin = _BEGIN.search(plain, place)
        if begin is None:
            break
        place = begin.start()
        try:
            value, end = _DECODER.raw_decode(plain, place)
        except (ValueError, RecursionError) as error:
            fault = fault or _fault(error)
            place += 1
            continue
        if isinstance(value, dict) and end - place > length:
            found, length = value, end - place
        place = end
    # An object within one that is broken is not the answer.
    if fault or found is None:
        raise AnswerError(fault or "there is no JSON object in it")
    return found


def read(model: type[Answer], data: Mapping[str, Any]) -> Answer:
    """Return an answer as a model of it.

    Raises:
        AnswerError: Keys are missing, unknown or of the wrong type; the message names the first three.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, item['loc'])) or 'the object'}: {item['msg']}" for item in error.errors()[:3]]
        raise AnswerError("; ".join(faults)) from error


def _fault(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        if error.pos >= len(error.doc.rstrip()) or "Unterminated" in error.msg:
            return "the JSON ends before it is complete: be shorter"
        near = error.doc[max(0, error.pos - 20) : error.pos + 20]
        return f"the JSON is broken: {error.msg} near {near!r}"
    return "the JSON is nested too deep" if isinstance(error, RecursionError) else f"the JSON is broken: {error}"
