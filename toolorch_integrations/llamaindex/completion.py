"""Reading an endpoint's chat completions, whole or streamed, into LlamaIndex responses that lose nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ContentBlock,
    LogProb,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)

from toolorch_integrations.errors import EndpointError
from toolorch_integrations.llamaindex.messages import call_block

if TYPE_CHECKING:
    from toolorch_integrations.llamaindex.llm import PolicyLLM


@dataclass(frozen=True, slots=True)
class ExactData:
    """What a server says of a reply's tokens.

    Attributes:
        prompt_token_ids: The server's own ids of the whole prompt.
        token_ids: Sampled ids, the end-of-turn token included.
        logprobs: One for each of `token_ids`, natural logarithm; None where the server gave none.
    """

    prompt_token_ids: Sequence[int]
    token_ids: Sequence[int]
    logprobs: Sequence[float] | None


def exact_data(response: ChatResponse) -> ExactData | None:
    """Return the token ids and log-probabilities of a `PolicyLLM`'s reply; None where the endpoint gives no ids.

    Args:
        response: What `chat` or `achat` returned, or the last response of a stream.
    """
    raw = response.raw
    if not isinstance(raw, Mapping) or raw.get("prompt_token_ids") is None or not raw.get("choices"):
        return None
    choice = raw["choices"][0]
    if choice.get("token_ids") is None:
        return None
    content = (choice.get("logprobs") or {}).get("content")
    logprobs = [token["logprob"] for token in content] if content else None
    return ExactData(raw["prompt_token_ids"], choice["token_ids"], logprobs)


def response_of(llm: PolicyLLM, data: Mapping[str, Any]) -> ChatResponse:
    """Return a whole completion as a response.

    Raises:
        LookupError: It is no chat completion.
        TypeError: Likewise.
    """
    choice = data["choices"][0]
    message: Mapping[str, Any] = choice["message"]
    blocks = _blocks(
        message.get("reasoning") or message.get("reasoning_content") or "",
        message.get("content") or "",
        [
            call_block(call.get("id") or "", call["function"]["name"] or "", call["function"]["arguments"] or "")
            for call in message.get("tool_calls") or ()
        ],
    )
    return ChatResponse(
        message=ChatMessage(role=MessageRole.ASSISTANT, blocks=blocks),
        raw=data,
        logprobs=_logprobs(choice) if llm.logprobs else None,
        additional_kwargs=_usage(llm, data),
    )


class StreamedReply:
    """A reply that comes in chunks.

    Token ids ride on all chunks, also on those without text: a tool parser holds text back, never ids.

    Args:
        llm: Whose reply it is.
    """

    def __init__(self, llm: PolicyLLM) -> None:
        self._llm = llm
        self._data: dict[str, Any] = {}
        self._text = ""
        self._reasoning = ""
        self._calls: list[dict[str, str]] = []
        self._ids: list[int] | None = None
        self._logprobs: list[Any] = []
        self._finish_reason: str | None = None

    def add(self, chunk: Any) -> Iterator[ChatResponse]:
        """Take a chunk; yield what is new in it for people who read along.

        Raises:
            EndpointError: The server reports an error in the middle of the stream.
        """
        if not isinstance(chunk, Mapping):
            return
        if chunk.get("error"):
            raise EndpointError(f"{self._llm.api_base} broke off the stream: {chunk['error']}", retryable=True)
        for key, value in chunk.items():
            if key != "choices" and value is not None:
                self._data[key] = value
        for choice in chunk.get("choices") or ():
            delta: Mapping[str, Any] = choice.get("delta") or {}
            if choice.get("token_ids") is not None:
                self._ids = (self._ids or []) + choice["token_ids"]
            self._logprobs += (choice.get("logprobs") or {}).get("content") or ()
            self._finish_reason = choice.get("finish_reason") or self._finish_reason
            text = delta.get("content") or ""
            reasoning = delta.get("reasoning") or delta.get("reasoning_content") or ""
            self._text += text
            self._reasoning += reasoning
            for piece in delta.get("tool_calls") or ():
                self._add_call(piece)
            if text or reasoning or delta.get("tool_calls"):
                yield ChatResponse(
                    message=ChatMessage(role=MessageRole.ASSISTANT, blocks=self._partial_blocks()),
                    delta=text,
                    raw=chunk,
                    additional_kwargs={"thinking_delta": reasoning} if reasoning else {},
                )

    def whole(self) -> ChatResponse:
        """Return the whole reply: the stream's last response.

        Raises:
            EndpointError: The stream held no reply.
        """
        if self._finish_reason is None:
            raise EndpointError(
                f"{self._llm.api_base} gave no whole chat completion for model {self._llm.model!r}: "
                "the stream ended early",
                retryable=True,
            )
        message: dict[str, Any] = {"role": "assistant", "content": self._text or None}
        if self._reasoning:
            message["reasoning"] = self._reasoning
        if self._calls:
            message["tool_calls"] = [
                {"id": c["id"], "type": "function", "function": {"name": c["name"], "arguments": c["arguments"]}}
                for c in self._calls
            ]
        choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": self._finish_reason}
        if self._ids is not None:
            choice["token_ids"] = self._ids
        if self._logprobs:
            choice["logprobs"] = {"content": self._logprobs}
        response = response_of(self._llm, {**self._data, "object": "chat.completion", "choices": [choice]})
        response.delta = ""
        return response

    def _add_call(self, piece: Mapping[str, Any]) -> None:
        index = piece.get("index") or 0
        while len(self._calls) <= index:
            self._calls.append({"id": "", "name": "", "arguments": ""})
        call = self._calls[index]
        function: Mapping[str, Any] = piece.get("function") or {}
        call["id"] = piece.get("id") or call["id"]
        call["name"] += function.get("name") or ""
        call["arguments"] += function.get("arguments") or ""

    def _partial_blocks(self) -> list[ContentBlock]:
        calls = [
            ToolCallBlock(tool_call_id=call["id"], tool_name=call["name"], tool_kwargs=call["arguments"])
            for call in self._calls
        ]
        return _blocks(self._reasoning, self._text, calls)


def _blocks(reasoning: str, text: str, calls: Sequence[ToolCallBlock]) -> list[ContentBlock]:
    blocks: list[ContentBlock] = []
    if reasoning:
        blocks.append(ThinkingBlock(content=reasoning))
    if text or not calls:
        blocks.append(TextBlock(text=text))
    return [*blocks, *calls]


def _usage(llm: PolicyLLM, data: Mapping[str, Any]) -> dict[str, Any]:
    usage = data.get("usage")
    if not usage:
        return {}
    counts = {key: usage.get(key) or 0 for key in ("prompt_tokens", "completion_tokens", "total_tokens")}
    if llm.price is None:
        return counts
    return {**counts, "dollars": llm.price.dollars(counts["prompt_tokens"], counts["completion_tokens"])}


def _logprobs(choice: Mapping[str, Any]) -> list[list[LogProb]]:
    tokens = (choice.get("logprobs") or {}).get("content") or ()
    return [
        [
            LogProb(token=token["token"], logprob=token["logprob"], bytes=token.get("bytes") or [])
            for token in found.get("top_logprobs") or [found]
        ]
        for found in tokens
    ]
