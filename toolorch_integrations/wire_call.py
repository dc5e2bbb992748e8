"""One call of an OpenAI-compatible endpoint as raw bytes, as a proxy sees it.

Making one costs nothing but the references to its bytes. It is decoded into events on the recorder's writer thread,
or in another process that reads it from a spool; never on an event loop.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from toolorch_integrations.entry import Price
from toolorch_integrations.events import (
    CallEnded,
    Event,
    Message,
    PolicyCalled,
    TokenIds,
    TraceEnded,
    TraceStarted,
    TraceStatus,
    sampling_of,
)
from toolorch_integrations.ledger import Call, CallKind, CallStatus
from toolorch_integrations.prompt import request_of, text_of
from toolorch_integrations.spool import FIRST_KIND, register
from toolorch_integrations.wire_answer import Answer, Choice, error_in, plain_message, quoted, read_answer

FRAMEWORK = "openai"
"""`framework` of traces that were captured on the wire."""
CUT_OFF = "cut_off"
"""`finish_reason` of a sampled message of which only the beginning came. It is kept, and not trained on."""

CALLER = "caller"
"""Under which a trace's metadata says whose API key began it."""

_LENGTHS = struct.Struct("<II")


@dataclass(slots=True)
class WireFacts:
    """What is known of a call beside its bytes; JSON-safe."""

    trace_id: str
    """32 hex digits."""
    path: str = "/v1/chat/completions"
    status: int = 200
    """HTTP status that the client was given."""
    stream: bool = False
    """Whether the answer is a stream of Server-Sent Events."""
    failure: str = ""
    """Why the answer is not whole, or not kept: the server was down, it broke off, the client went away ..."""
    app: str = ""
    caller: str = ""
    """Whose API key was used; empty where there are none."""
    thread_id: str = ""
    begun: float = 0.0
    """When the conversation began, epoch seconds."""
    started: float = 0.0
    seconds: float = 0.0
    waited: float = 0.0
    """Seconds between the conversation's answer before and this request: what its tool calls took at most."""
    repeated: bool = False
    """The same prompt was sent before in this conversation, so its tool results are known."""
    input_price: float = 0.0
    """Dollars per million tokens."""
    output_price: float = 0.0
    call_price: float = 0.0
    logprobs_mode: str = ""

    def price(self) -> Price:
        """Return what the call's tokens cost."""
        return Price(input=self.input_price, output=self.output_price, call=self.call_price)


@dataclass(slots=True)
class WireCall:
    """A call's bytes: an `EncodedEvents`."""

    facts: WireFacts
    request: bytes
    """Body of the request as the endpoint was sent it."""
    response: bytes = b""
    """Body of the answer; as much as came, where it was cut off."""

    @property
    def trace_id(self) -> str:
        """The trace that the call belongs to."""
        return self.facts.trace_id

    def size(self) -> int:
        """Return roughly how many bytes the call holds in memory."""
        return 1000 + len(self.request) + len(self.response)

    def pack(self) -> bytes:
        """Return the call as one piece of bytes, for a spool."""
        facts = orjson.dumps(self.facts)
        return b"".join((_LENGTHS.pack(len(facts), len(self.request)), facts, self.request, self.response))

    @classmethod
    def unpack(cls, data: bytes) -> WireCall:
        """Read what `pack` gave; facts that a later release has added are left out.

        Raises:
            ValueError: It is something else.
        """
        try:
            length, request = _LENGTHS.unpack_from(data)
            start = _LENGTHS.size + length
            found = orjson.loads(data[_LENGTHS.size : start])
            known = {key: value for key, value in found.items() if key in WireFacts.__dataclass_fields__}
            return cls(WireFacts(**known), data[start : start + request], data[start + request :])
        except (struct.error, TypeError, AttributeError, orjson.JSONDecodeError) as error:
            raise ValueError(f"{len(data)} bytes that are no call: {error}") from error

    def events(self) -> Iterator[Event]:
        """Yield what happened: the trace goes on, tool results came, the policy answered, the run is over.

        A run counts as answered when the policy asks for no call, and as interrupted when its answer was cut off. A
        later call of the same conversation goes on with the trace.
        """
        request = _object(self.request)
        messages = _messages(request)
        facts = self.facts
        yield TraceStarted(
            facts.trace_id,
            FRAMEWORK,
            facts.app,
            facts.thread_id,
            _request_in(messages),
            facts.begun or facts.started,
            metadata={CALLER: facts.caller} if facts.caller else {},
        )
        if not facts.repeated:
            yield from _tool_results(messages, facts)
        answer = self._answer()
        for place, (index, choice) in enumerate(sorted(answer.choices.items())):
            yield self._called(request, _prompt_of(request, messages, index), answer, choice, first=place == 0)
        if answer.error or not answer.whole:
            yield self._failed(request, messages, answer)
        ended = _ended(answer, facts)
        if ended is not None:
            yield ended

    def _answer(self) -> Answer:
        facts = self.facts
        if facts.status >= 400 or not self.response:
            said = error_in(_object(self.response)) or (quoted(self.response) if self.response else "no answer")
            return Answer(error=facts.failure or f"HTTP {facts.status}: {said}", whole=False)
        answer = read_answer(self.response, stream=facts.stream, conversation=facts.trace_id)
        if facts.failure and not facts.stream:
            return Answer(error=facts.failure, whole=False)
        answer.whole = answer.whole and not facts.failure and not answer.error
        if not answer.whole:
            answer.error = answer.error or facts.failure or "the stream ended before the answer did"
        return answer

    def _called(
        self, request: Mapping[str, Any], messages: list[Message], answer: Answer, choice: Choice, *, first: bool
    ) -> PolicyCalled:
        facts = self.facts
        whole = answer.whole or bool(choice.finish_reason)
        usage = _usage(answer, choice, first)
        return PolicyCalled(
            trace_id=facts.trace_id,
            messages=messages,
            reply=choice.message,
            prompt_token_ids=choice.prompt_token_ids,
            token_ids=choice.token_ids,
            logprobs=choice.logprobs,
            model=answer.model or str(request.get("model") or ""),
            response_id=answer.id,
            sampling=sampling_of(request) | ({"n": request["n"]} if (request.get("n") or 1) != 1 else {}),
            logprobs_mode=facts.logprobs_mode if choice.logprobs is not None else "",
            tools=request.get("tools"),
            finish_reason=choice.finish_reason if whole else CUT_OFF,
            usage=usage,
            started=facts.started,
            seconds=facts.seconds,
            dollars=facts.price().dollars(usage["prompt_tokens"], usage["completion_tokens"], int(first))
            if whole
            else 0.0,
            is_policy=whole,
            invalid_tool_calls=[call for call in choice.tool_calls if not _readable(call)],
        )

    def _failed(self, request: Mapping[str, Any], messages: list[Message], answer: Answer) -> PolicyCalled:
        """Return the ledger's entry of a call that gave no whole answer; what came of it costs what it costs."""
        facts = self.facts
        cut = [choice for choice in answer.choices.values() if not choice.finish_reason]
        tokens = sum(_number(choice.token_ids) for choice in cut)
        read = answer.usage.get("prompt_tokens") or (_number(cut[0].prompt_token_ids) if cut else 0)
        return PolicyCalled(
            trace_id=facts.trace_id,
            messages=messages,
            model=answer.model or str(request.get("model") or ""),
            response_id=answer.id,
            started=facts.started,
            seconds=facts.seconds,
            dollars=facts.price().dollars(read, tokens) if cut else 0.0,
            status=CallStatus.TIMEOUT if facts.status == 504 else CallStatus.ERROR,
            error=answer.error,
        )


def _object(body: bytes) -> dict[str, Any]:
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return data if isinstance(data, dict) else {}


def _messages(request: Mapping[str, Any]) -> list[Message]:
    found = request.get("messages")
    if isinstance(found, list):
        return [plain_message(message) for message in found if isinstance(message, dict)]
    return _prompt_of(request, [], 0)


def _prompt_of(request: Mapping[str, Any], messages: list[Message], index: int) -> list[Message]:
    """Return the messages that a choice answers: those of the chat, or one without a role for a text completion.

    A request for text completions may hold several prompts, each with `n` choices.
    """
    prompt = request.get("prompt")
    if messages or prompt is None:
        return messages
    if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
        prompt = prompt[min(index // int(request.get("n") or 1), len(prompt) - 1)]
    return [{"content": prompt}] if isinstance(prompt, str) else []


def _request_in(messages: Sequence[Message]) -> str:
    """Return the user's words: the newest user message, or the prompt of a text completion."""
    chat = [message for message in messages if message.get("role")]
    return request_of(chat) if chat else "".join(text_of(message) for message in messages)


def _tool_results(messages: Sequence[Message], facts: WireFacts) -> Iterator[CallEnded]:
    """Yield the calls whose results stand behind the newest assistant message."""
    last = max((place for place, message in enumerate(messages) if message.get("role") == "assistant"), default=None)
    if last is None:
        return
    calls = [call for call in messages[last].get("tool_calls") or () if isinstance(call, dict)]
    asked = {call.get("id"): call.get("function") or {} for call in calls}
    for message in messages[last + 1 :]:
        call_id = message.get("tool_call_id")
        if message.get("role") != "tool" or call_id not in asked:
            continue
        name = str(asked[call_id].get("name") or message.get("name") or "")
        call = Call(CallKind.TOOL, name, seconds=facts.waited, call_id=str(call_id))
        arguments = _arguments(asked[call_id].get("arguments"))
        yield CallEnded(facts.trace_id, call, arguments, text_of(message), facts.started - facts.waited)


def _arguments(text: Any) -> Any:
    try:
        return orjson.loads(text) if isinstance(text, str) else text
    except orjson.JSONDecodeError:
        return text


def _readable(call: Mapping[str, Any]) -> bool:
    return isinstance(_arguments((call.get("function") or {}).get("arguments")), dict)


def _usage(answer: Answer, choice: Choice, first: bool) -> dict[str, int]:
    """Return a choice's tokens: all choices share one prompt, which the first counts."""
    read = answer.usage.get("prompt_tokens") or _number(choice.prompt_token_ids)
    wrote = answer.usage.get("completion_tokens", 0) // len(answer.choices)
    if choice.token_ids is not None:
        wrote = len(choice.token_ids)
    return {"prompt_tokens": read if first else 0, "completion_tokens": wrote}


def _number(ids: TokenIds | None) -> int:
    return 0 if ids is None else len(ids)


def _ended(answer: Answer, facts: WireFacts) -> TraceEnded | None:
    now = facts.started + facts.seconds
    if answer.error and answer.choices:
        return TraceEnded(facts.trace_id, TraceStatus.INTERRUPTED, error=answer.error, ended=now)
    if answer.error:
        return TraceEnded(facts.trace_id, TraceStatus.ERROR, error=answer.error, ended=now)
    if any(choice.tool_calls for choice in answer.choices.values()):
        return None  # The run waits for its tools.
    text = next((text_of(choice.message) for choice in answer.choices.values()), "")
    return TraceEnded(facts.trace_id, answer=text, ended=now)


register(FIRST_KIND, WireCall, WireCall.pack, WireCall.unpack)
