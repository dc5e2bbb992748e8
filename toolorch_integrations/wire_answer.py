"""What a completions endpoint answered, read from the raw bytes of its body: JSON, or a stream of events.

Understands OpenAI's chat completions and text completions with vLLM's token ids. Nothing here raises: what cannot be
read is said in `Answer.error`, and what a stream had sent before it was cut off is kept.
"""

from __future__ import annotations

import contextlib
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson

from toolorch_integrations.events import Message, TokenIds
from toolorch_integrations.prompt_ids import MARK, PromptIds

_prompts = PromptIds()
_SHOWN = 300
"""Characters of an unreadable body that an error quotes."""


@dataclass(slots=True)
class Choice:
    """One of the answers to a request."""

    message: Message = field(default_factory=dict)
    """What the server sampled; without a role from a text completion."""
    token_ids: TokenIds | None = None
    logprobs: list[float] | None = None
    prompt_token_ids: TokenIds | None = None
    finish_reason: str = ""

    @property
    def tool_calls(self) -> list[dict[str, Any]]:
        """The calls that the message asks for."""
        calls: list[dict[str, Any]] = self.message.get("tool_calls") or []
        return calls


@dataclass(slots=True)
class Answer:
    """A whole answer, or as much of it as came."""

    id: str = ""
    model: str = ""
    choices: dict[int, Choice] = field(default_factory=dict)
    """By index."""
    usage: dict[str, int] = field(default_factory=dict)
    error: str = ""
    """What the server said went wrong, or why the body cannot be read."""
    whole: bool = True
    """False: a stream that ended before its choices did."""


def read_answer(body: bytes, *, stream: bool, conversation: str = "") -> Answer:
    """Read the body of an answer.

    Args:
        body: As it came over the wire.
        stream: Whether it is a stream of Server-Sent Events.
        conversation: Whose prompts begin alike; empty: not known.
    """
    short, prompt = _prompts.cut(conversation, body) if conversation else (body, None)
    try:
        answer = _read_stream(short) if stream else _read_json(short)
        for choice in answer.choices.values():
            if prompt is not None and isinstance(choice.prompt_token_ids, list) and choice.prompt_token_ids == MARK:
                choice.prompt_token_ids = prompt
        return answer
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        return Answer(error=f"the answer is no completion ({error!r}): {quoted(body)}")


def quoted(body: bytes) -> str:
    """Return the beginning of a body for an error message."""
    return repr(body[:_SHOWN].decode(errors="replace"))


def error_in(data: Mapping[str, Any]) -> str:
    """Return what an error body says, in OpenAI's form or FastAPI's; empty: it is none."""
    error = data.get("error") or data.get("detail") or (data.get("object") == "error" and data.get("message"))
    if not error:
        return ""
    return str(error.get("message") or error) if isinstance(error, Mapping) else str(error)


def _read_json(body: bytes) -> Answer:
    data = orjson.loads(body)
    error = error_in(data)
    if error:
        return Answer(error=error)
    answer = Answer()
    _read_head(answer, data)
    for place, found in enumerate(data["choices"]):
        choice = answer.choices[found.get("index", place)] = Choice(finish_reason=found.get("finish_reason") or "")
        choice.message = plain_message(found["message"]) if "message" in found else {"content": found["text"]}
        choice.token_ids = _array(found.get("token_ids"))
        choice.logprobs = _logprobs(found)
        choice.prompt_token_ids = _array(found.get("prompt_token_ids") or data.get("prompt_token_ids"))
    return answer


def _read_stream(body: bytes) -> Answer:
    answer = Answer()
    parts: dict[int, _Parts] = {}
    prompt: list[int] | None = None
    ended = False
    for data in _events(body):
        if data is None:
            ended = True
            continue
        answer.error = answer.error or error_in(data)
        _read_head(answer, data)
        prompt = data.get("prompt_token_ids") or prompt
        for found in data.get("choices") or ():
            parts.setdefault(found.get("index", 0), _Parts()).add(found)
    for index in sorted(parts):
        answer.choices[index] = choice = parts[index].choice()
        if choice.prompt_token_ids is None:
            choice.prompt_token_ids = _array(prompt)
    answer.whole = bool(parts) and (ended or all(choice.finish_reason for choice in answer.choices.values()))
    return answer


def _read_head(answer: Answer, data: Mapping[str, Any]) -> None:
    answer.id = data.get("id") or answer.id
    answer.model = data.get("model") or answer.model
    for key in ("prompt_tokens", "completion_tokens"):
        number = (data.get("usage") or {}).get(key)
        if number is not None:
            answer.usage[key] = int(number)


def _events(body: bytes) -> Iterator[dict[str, Any] | None]:
    """Yield the data of each event, None for the mark of the end; half an event at the end is left out."""
    for line in body.splitlines():
        if not line.startswith(b"data:"):
            continue
        text = line[5:].strip()
        if text == b"[DONE]":
            yield None
            continue
        with contextlib.suppress(orjson.JSONDecodeError):
            data = orjson.loads(text)
            if isinstance(data, dict):
                yield data


class _Parts:
    """Puts one choice of a stream together."""

    def __init__(self) -> None:
        self._chat = False
        self._texts: dict[str, list[str]] = {}
        self._calls: dict[int, dict[str, Any]] = {}
        self._ids: list[int] | None = None
        self._logprobs: list[float] | None = None
        self._prompt: list[int] | None = None
        self._finish_reason = ""

    def add(self, found: Mapping[str, Any]) -> None:
        delta = found.get("delta")
        if delta is None:
            self._add_text("content", found.get("text"))
        else:
            self._chat = True
            self._add_text("content", delta.get("content"))
            self._add_text("reasoning", delta.get("reasoning") or delta.get("reasoning_content"))
            for call in delta.get("tool_calls") or ():
                self._add_call(call)
        self._ids = _joined(self._ids, found.get("token_ids"))
        self._logprobs = _joined(self._logprobs, _logprobs(found))
        self._prompt = found.get("prompt_token_ids") or self._prompt
        self._finish_reason = found.get("finish_reason") or self._finish_reason

    def choice(self) -> Choice:
        message: Message = {"role": "assistant"} if self._chat else {}
        message |= {key: "".join(texts) for key, texts in self._texts.items()}
        if self._calls:
            message["tool_calls"] = [self._calls[index] for index in sorted(self._calls)]
        return Choice(message, _array(self._ids), self._logprobs, _array(self._prompt), self._finish_reason)

    def _add_text(self, key: str, text: str | None) -> None:
        if text:
            self._texts.setdefault(key, []).append(text)

    def _add_call(self, delta: Mapping[str, Any]) -> None:
        index = delta.get("index", 0)
        call = self._calls.setdefault(index, {"id": "", "type": "function", "function": {"name": "", "arguments": ""}})
        call["id"] = delta.get("id") or call["id"]
        function = delta.get("function") or {}
        call["function"]["name"] += function.get("name") or ""
        call["function"]["arguments"] += function.get("arguments") or ""


def _array(ids: list[int] | None) -> TokenIds | None:
    """Return ids as the array that the graph wants, which `array` makes of a list three times as fast as numpy."""
    if ids is None:
        return None
    try:
        return np.frombuffer(array("I", ids), np.uint32)
    except (OverflowError, TypeError, ValueError):  # None of it is an id: for the graph to refuse, or nothing at all.
        return ids


def _joined(have: list[Any] | None, more: list[Any] | None) -> list[Any] | None:
    if more is None:
        return have
    if have is None:
        return list(more)
    have.extend(more)
    return have


def _logprobs(choice: Mapping[str, Any]) -> list[float] | None:
    """Return the log-probability of each sampled id, of a chat's format or a text completion's."""
    logprobs = choice.get("logprobs") or {}
    if logprobs.get("content") is not None:
        return [token["logprob"] for token in logprobs["content"]]
    found: list[float] | None = logprobs.get("token_logprobs")
    return found


def plain_message(message: Mapping[str, Any]) -> Message:
    """Return a message without its empty fields; reasoning has one name."""
    if all(message.values()):
        kept = dict(message)
    else:
        kept = {key: value for key, value in message.items() if value not in (None, "", [], {})}
    reasoning = kept.pop("reasoning_content", None)
    if reasoning:
        kept.setdefault("reasoning", reasoning)
    return kept
