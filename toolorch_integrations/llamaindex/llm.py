"""A LlamaIndex LLM for policies, which keeps token ids, log-probabilities, reasoning and usage.

`OpenAILike` pointed at vLLM reads reasoning but does not send it back, leaves the token ids of a stream in chunks that
it throws away, and adds a temperature, a tool choice and keys to tool schemas that the policy was not trained with.
`PolicyLLM` sends what it is given and nothing else, in `chat`, `achat`, `stream_chat` and `astream_chat` alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import httpx
import openai
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, ChatResponseAsyncGen, ChatResponseGen
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.tools import BaseTool
from llama_index.llms.openai.utils import resolve_tool_choice
from llama_index.llms.openai_like import OpenAILike  # type: ignore[import-untyped]

from toolorch_integrations.entry import Price
from toolorch_integrations.errors import EndpointError
from toolorch_integrations.llamaindex.completion import StreamedReply, response_of
from toolorch_integrations.llamaindex.messages import to_openai
from toolorch_integrations.overrides import overrides_for
from toolorch_integrations.per_loop import PerLoop
from toolorch_integrations.tokens import AsyncTokenTransport, TokenTransport, TokenTurns
from toolorch_integrations.versions import conversation_header

_NOT_IN_BODY = ("extra_body", "extra_headers", "extra_query", "timeout", "use_chat_completions")
_PATH = "/chat/completions"


class PolicyLLM(OpenAILike):  # type: ignore[misc]
    """A policy served by vLLM, by the embedded engine or by any OpenAI-compatible endpoint.

    `ChatResponse.raw` of a reply is the endpoint's completion as a dictionary; when streaming, that of the last
    response is the whole completion, put together from the chunks. `exact_data` reads the ids and log-probabilities
    from it. Reasoning stands in a `ThinkingBlock` and goes back to the server with later requests. Calls are
    `ToolCallBlock`s with their arguments as a dictionary, or as raw text where they could not be read.

    Args:
        model: Served model name; a LoRA adapter has one of its own.
        api_base: Base URL, `/v1` included.
        temperature: Sampling temperature; None leaves it to the server, and so do all other parameters that are not
            given.
        exact: Ask for token ids and log-probabilities. False for endpoints that refuse these parameters; traces of
            such runs are marked inexact.
        price: What the policy's tokens cost; free by default.
        logprobs_mode: What the server's log-probabilities are of, as vLLM calls it; it is recorded, not sent.
        tokens: Send token ids instead of messages, so that a conversation never drifts and stays one path: for
            training runs, see `toolorch_integrations.tokens`. True, or a `TokenTurns` that says how.
        fields: Further fields of `OpenAILike`: `max_tokens`, `context_window`, `additional_kwargs`, `timeout` ...

    Example:
        >>> policy = PolicyLLM("orchestrator", "http://127.0.0.1:8000/v1")  # doctest: +SKIP
        >>> exact_data(policy.chat([ChatMessage("Hello")])).token_ids  # doctest: +SKIP
        [9707, 0, 151645]
    """

    temperature: float | None = Field(None, ge=0, le=2)
    api_key: str | None = Field(None, exclude=True)
    context_window: int = 32768
    is_chat_model: bool = True
    is_function_calling_model: bool = True
    should_use_structured_outputs: bool = True
    exact: bool = True
    price: Price | None = None
    logprobs_mode: Literal["processed_logprobs", "raw_logprobs", ""] = "processed_logprobs"

    tokens: bool = False

    _turns: TokenTurns | None = PrivateAttr(default=None)
    _aclients: PerLoop[openai.AsyncOpenAI] = PrivateAttr(default_factory=PerLoop)

    def __init__(
        self,
        model: str,
        api_base: str,
        *,
        api_key: str = "none",
        temperature: float | None = None,
        timeout: float = 600.0,
        max_retries: int = 2,
        tokens: bool | TokenTurns = False,
        **fields: Any,
    ) -> None:
        if tokens and (fields.get("http_client") or fields.get("async_http_client")):
            raise ValueError("tokens and http_client exclude each other: give your client a TokenTransport instead")
        super().__init__(
            model=model,
            api_base=api_base,
            api_key=api_key,
            temperature=temperature,
            timeout=timeout,
            max_retries=max_retries,
            tokens=bool(tokens),
            **fields,
        )
        if tokens:
            self._turns = tokens if isinstance(tokens, TokenTurns) else TokenTurns()

    @classmethod
    def class_name(cls) -> str:
        """Return the name under which LlamaIndex serialises the class."""
        return "PolicyLLM"

    def _chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        request = self._request(messages, kwargs)
        return self._read(self._get_client().post(_PATH, cast_to=httpx.Response, **request))

    async def _achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        request = self._request(messages, kwargs)
        return self._read(await self._get_aclient().post(_PATH, cast_to=httpx.Response, **request))

    def _stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        request = self._request(messages, kwargs, stream=True)
        client = self._get_client()

        def responses() -> ChatResponseGen:
            reply = StreamedReply(self)
            chunks = client.post(_PATH, cast_to=object, stream=True, stream_cls=openai.Stream[object], **request)
            with chunks:
                for chunk in chunks:
                    yield from reply.add(chunk)
            yield reply.whole()

        return responses()

    async def _astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        request = self._request(messages, kwargs, stream=True)
        client = self._get_aclient()

        async def responses() -> ChatResponseAsyncGen:
            reply = StreamedReply(self)
            chunks = await client.post(
                _PATH, cast_to=object, stream=True, stream_cls=openai.AsyncStream[object], **request
            )
            async with chunks:
                async for chunk in chunks:
                    for response in reply.add(chunk):
                        yield response
            yield reply.whole()

        return responses()

    def _get_aclient(self) -> openai.AsyncOpenAI:
        """Return this event loop's client: connections cannot move between loops."""
        if self._aclient is not None or self._async_http_client is not None or not self.reuse_client:
            own: openai.AsyncOpenAI = super()._get_aclient()
            return own
        return self._aclients.here(self._new_aclient)

    def _new_aclient(self) -> openai.AsyncOpenAI:
        credentials = self._get_credential_kwargs(is_async=True)
        # The client's own would close its connections when it is collected, on a loop that is not theirs.
        transport = None if self._turns is None else AsyncTokenTransport(self._turns)
        credentials["http_client"] = openai.DefaultAsyncHttpxClient(timeout=self.timeout, transport=transport)
        return openai.AsyncOpenAI(**credentials)

    def _get_credential_kwargs(self, is_async: bool = False) -> dict[str, Any]:
        credentials: dict[str, Any] = super()._get_credential_kwargs(is_async)
        if self._turns is not None and not is_async:
            transport = TokenTransport(self._turns)
            credentials["http_client"] = openai.DefaultHttpxClient(timeout=self.timeout, transport=transport)
        return credentials

    def _request(
        self, messages: Sequence[ChatMessage], kwargs: Mapping[str, Any], *, stream: bool = False
    ) -> dict[str, Any]:
        """Return a request as the arguments of the OpenAI client's plain `post`, which sends it as it is."""
        given = {"temperature": self.temperature, "max_tokens": self.max_tokens, **kwargs, **self.additional_kwargs}
        body: dict[str, Any] = {
            "messages": [_sent(message) for message in messages],
            "model": self.model,
            **{key: value for key, value in given.items() if value is not None and key not in _NOT_IN_BODY},
            "stream": stream,
        }
        if stream:
            body["stream_options"] = {"include_usage": True, **(given.get("stream_options") or {})}
        if self.exact or self.logprobs:
            body.setdefault("logprobs", True)
        if self.top_logprobs:
            body.setdefault("top_logprobs", self.top_logprobs)
        if self.exact:
            body["return_token_ids"] = True
        body |= given.get("extra_body") or {}
        body |= overrides_for(self.api_base)
        options = {
            "headers": {**conversation_header(body["messages"]), **(given.get("extra_headers") or {})},
            "params": given.get("extra_query"),
            "timeout": given.get("timeout"),
        }
        return {"body": body, "options": {key: value for key, value in options.items() if value is not None}}

    def _read(self, response: httpx.Response) -> ChatResponse:
        try:
            return response_of(self, response.json())
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise EndpointError(
                f"{self.api_base} gave no chat completion for model {self.model!r}: {response.text[:200]!r}",
                retryable=True,
            ) from error

    def _prepare_chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        tool_choice: str | dict[str, Any] | None = None,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Return the arguments of `chat`: the tools' schemas as they are, and a tool choice only where one is asked.

        `parallel_tool_calls` is not sent: vLLM samples the further calls all the same and only hides them.
        """
        messages = list(chat_history or ())
        if user_msg is not None:
            messages.append(ChatMessage(role="user", content=user_msg) if isinstance(user_msg, str) else user_msg)
        schemas = [tool.metadata.to_openai_tool(skip_length_check=True) for tool in tools]
        if strict if strict is not None else self.strict:
            schemas = [{**schema, "function": {**schema["function"], "strict": True}} for schema in schemas]
        prepared: dict[str, Any] = {"messages": messages, **kwargs}
        if schemas:
            prepared["tools"] = schemas
            if tool_required or tool_choice is not None:
                prepared["tool_choice"] = resolve_tool_choice(tool_choice, tool_required)
        return prepared


def _sent(message: ChatMessage) -> dict[str, Any]:
    """Return a message as the server is to get it."""
    sent = to_openai(message)
    if sent["role"] != "assistant":
        return sent
    if sent.get("reasoning"):  # servers differ in the name they read
        sent["reasoning_content"] = sent["reasoning"]
    if sent.get("tool_calls") and isinstance(sent.get("content"), str):
        # vLLM leaves the newline before <tool_call> in the content, and Qwen's template writes it again.
        sent["content"] = sent["content"].removesuffix("\n") or None
    return sent
