"""A LangChain chat model for policies, which keeps token ids, log-probabilities, reasoning and usage.

`ChatOpenAI` pointed at vLLM drops the reasoning and the token ids and does not send reasoning back. `ChatPolicy`
overrides private hooks of `BaseChatOpenAI` to keep them, in `invoke`, `ainvoke`, `stream` and `astream` alike;
`tests/test_chat_policy.py` fails when a release of langchain-openai moves one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, cast

import httpx
import openai
import orjson
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LangSmithParams, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.runnables.config import var_child_runnable_config
from langchain_core.utils.function_calling import convert_to_openai_function
from langchain_openai.chat_models.base import (
    BaseChatOpenAI,
    _convert_to_openai_response_format,
    _handle_openai_api_error,
    _handle_openai_bad_request,
)
from pydantic import Field, PrivateAttr, SecretStr, model_validator

from toolorch_integrations.entry import Price
from toolorch_integrations.errors import EndpointError
from toolorch_integrations.langgraph.loop_clients import client_here
from toolorch_integrations.overrides import overrides_for
from toolorch_integrations.per_loop import PerLoop
from toolorch_integrations.tokens import AsyncTokenTransport, TokenTransport, TokenTurns
from toolorch_integrations.versions import conversation_header

EXACT_KEYS = ("prompt_token_ids", "token_ids", "logprobs")
"""Keys of `response_metadata` that hold what capture needs and a conversation does not."""


class ChatPolicy(BaseChatOpenAI):
    """A policy served by vLLM, by the embedded engine or by any OpenAI-compatible endpoint.

    A reply's `response_metadata` holds `prompt_token_ids` and `token_ids` (lists of int, the server's own),
    `logprobs` (OpenAI's format, one entry for each of `token_ids`), `id` and, where `price` is set, `dollars`.
    Reasoning stands in `additional_kwargs["reasoning_content"]` and goes back to the server with later requests.

    Args:
        model: Served model name; a LoRA adapter has one of its own.
        base_url: Base URL, `/v1` included.
        exact: Ask for token ids and log-probabilities. False for endpoints that refuse these parameters; traces of
            such runs are marked inexact.
        price: What the policy's tokens cost; free by default.
        logprobs_mode: What the server's log-probabilities are of, as vLLM calls it; it is recorded, not sent.
        tokens: Send token ids instead of messages, so that a conversation never drifts and stays one path: for
            training runs, see `toolorch_integrations.tokens`. True, or a `TokenTurns` that says how.

    Example:
        >>> policy = ChatPolicy(model="orchestrator", base_url="http://127.0.0.1:8000/v1")  # doctest: +SKIP
        >>> policy.invoke("Hello").response_metadata["token_ids"]  # doctest: +SKIP
        [9707, 0, 151645]
    """

    openai_api_key: SecretStr | None = Field(default=SecretStr("none"), alias="api_key")
    stream_usage: bool = True
    exact: bool = True
    price: Price | None = None
    logprobs_mode: Literal["processed_logprobs", "raw_logprobs", ""] = "processed_logprobs"
    tokens: bool | TokenTurns = Field(default=False, exclude=True)

    _clients: PerLoop[openai.AsyncOpenAI] = PrivateAttr(default_factory=PerLoop)

    @model_validator(mode="before")
    @classmethod
    def _send_tokens(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not values.get("tokens"):
            return values
        if values.get("http_client") or values.get("http_async_client"):
            raise ValueError("tokens and http_client exclude each other: give your client a TokenTransport instead")
        turns = values["tokens"] if isinstance(values["tokens"], TokenTurns) else TokenTurns()
        return {
            **values,
            "http_client": openai.DefaultHttpxClient(transport=TokenTransport(turns)),
            "http_async_client": openai.DefaultAsyncHttpxClient(transport=AsyncTokenTransport(turns)),
        }

    @property
    def _llm_type(self) -> str:
        return "toolorch-policy"

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        payload = self._get_request_payload(messages, stop=stop, **kwargs)
        self._ensure_sync_client_available()
        with _langchain_errors():
            response = self.root_client.post("/chat/completions", cast_to=httpx.Response, **_request(payload))
        return self._create_chat_result(self._decode(response))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        payload = self._get_request_payload(messages, stop=stop, **kwargs)
        with _langchain_errors():
            response = await self._client_here().post("/chat/completions", cast_to=httpx.Response, **_request(payload))
        return self._create_chat_result(self._decode(response))

    async def _astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
        model, client = self, self._client_here()
        if client is not self.root_async_client:  # LangChain's own code streams, from the client that the model holds
            model = self.model_copy(update={"root_async_client": client, "async_client": client.chat.completions})
        async for chunk in super(ChatPolicy, model)._astream(*args, **kwargs):
            yield chunk

    def _client_here(self) -> openai.AsyncOpenAI:
        """Return the client for the running event loop; one of the app's own serves all loops."""
        shared: openai.AsyncOpenAI = self.root_async_client
        return shared if self.http_async_client is not None else client_here(shared, self._clients)

    def _decode(self, response: httpx.Response) -> dict[str, Any]:
        """Read a response as plain data: a pydantic object for each token would cost more than the call itself."""
        try:
            data = orjson.loads(response.content)
        except orjson.JSONDecodeError:
            data = None
        if not isinstance(data, dict):
            raise EndpointError(
                f"{self.openai_api_base} gave no JSON object for model {self.model_name!r}: {response.text[:200]!r}",
                retryable=True,
            )
        return data

    @property
    def _default_params(self) -> dict[str, Any]:
        return {**super()._default_params, **overrides_for(self.openai_api_base)}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop, **kwargs)
        params["ls_provider"] = "vllm"
        return params

    def _get_request_payload(
        self, input_: LanguageModelInput, *, stop: list[str] | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        payload: dict[str, Any] = super()._get_request_payload(input_, stop=stop, **kwargs)
        extra: dict[str, Any] = dict(payload.get("extra_body") or {})
        if self.exact:
            payload.setdefault("logprobs", True)
            extra["return_token_ids"] = True
        if "response_format" in payload:
            # Where the client sees it, it parses the reply itself, and one that does not fit is lost with its ids.
            wanted = payload.pop("response_format")
            extra["response_format"] = wanted if isinstance(wanted, dict) else _response_format(wanted)
        if extra:
            payload["extra_body"] = extra
        named = conversation_header(payload["messages"], thread_of_run())
        payload["extra_headers"] = {**named, **(payload.get("extra_headers") or {})}
        messages = self._convert_input(input_).to_messages()
        for message, sent in zip(messages, payload["messages"], strict=True):
            if not isinstance(message, AIMessage):
                continue
            reasoning = message.additional_kwargs.get("reasoning_content")
            if reasoning:
                sent["reasoning"] = sent["reasoning_content"] = reasoning
            if sent.get("tool_calls") and isinstance(sent.get("content"), str):
                # vLLM leaves the newline before <tool_call> in the content, and Qwen's template writes it again.
                sent["content"] = sent["content"].removesuffix("\n") or None
        return payload

    def _create_chat_result(
        self, response: dict[str, Any] | openai.BaseModel, generation_info: dict[str, Any] | None = None
    ) -> ChatResult:
        try:
            result = super()._create_chat_result(response, generation_info)
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise EndpointError(
                f"{self.openai_api_base} gave no chat completion for model {self.model_name!r}: {error}", retryable=True
            ) from error
        data = response if isinstance(response, dict) else _extras(response)
        for generation, choice in zip(result.generations, data["choices"], strict=True):
            message = generation.message
            metadata = {key: data[key] for key in ("id", "held_tokens") if data.get(key) is not None}
            if data.get("prompt_token_ids") is not None and choice.get("token_ids") is not None:
                metadata |= {"prompt_token_ids": data["prompt_token_ids"], "token_ids": choice["token_ids"]}
                metadata["logprobs_mode"] = self.logprobs_mode
            message.response_metadata = {**message.response_metadata, **metadata, **self._cost(message)}
            reasoning = _reasoning(choice.get("message") or {})
            if reasoning:
                message.additional_kwargs["reasoning_content"] = reasoning
        return result

    def _convert_chunk_to_generation_chunk(
        self, chunk: dict[str, Any], default_chunk_class: type, base_generation_info: dict[str, Any] | None
    ) -> ChatGenerationChunk | None:
        generation: ChatGenerationChunk | None = super()._convert_chunk_to_generation_chunk(
            chunk, default_chunk_class, base_generation_info
        )
        if generation is None or not isinstance(generation.message, AIMessageChunk):
            return generation
        chunk = chunk.get("chunk", chunk)
        info: dict[str, Any] = (
            {"id": chunk["id"]} if chunk.get("id") else {}
        )  # equal ids stay one when chunks are added
        if chunk.get("prompt_token_ids") is not None:  # the first chunk only: lists are joined
            info |= {"prompt_token_ids": chunk["prompt_token_ids"], "logprobs_mode": self.logprobs_mode}
            if chunk.get("held_tokens") is not None:
                info["held_tokens"] = chunk["held_tokens"]
        for choice in chunk.get("choices") or ():
            if choice.get("token_ids"):
                info["token_ids"] = choice["token_ids"]
            reasoning = _reasoning(choice.get("delta") or {})
            if reasoning:
                generation.message.additional_kwargs["reasoning_content"] = reasoning
        if generation.message.usage_metadata is not None:
            info |= self._cost(generation.message)
        if info:
            generation.generation_info = {**(generation.generation_info or {}), **info}
        return generation

    def with_structured_output(
        self,
        schema: dict[str, Any] | type | None = None,
        *,
        method: Literal["function_calling", "json_mode", "json_schema"] = "json_schema",
        include_raw: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """Return a model whose replies fit `schema`; vLLM enforces a JSON schema while it samples."""
        if method == "json_schema" and schema is not None:  # as LangChain's JSON mode, which reads the reply's text
            kwargs = {
                "response_format": _response_format(schema, strict),
                "ls_structured_output_format": {"kwargs": {"method": method, "strict": strict}, "schema": schema},
                **kwargs,
            }
            return super().with_structured_output(schema, method="json_mode", include_raw=include_raw, **kwargs)
        return super().with_structured_output(schema, method=method, include_raw=include_raw, strict=strict, **kwargs)

    def _cost(self, message: BaseMessage) -> dict[str, float]:
        usage = getattr(message, "usage_metadata", None)
        if self.price is None or usage is None:
            return {}
        return {"dollars": self.price.dollars(usage["input_tokens"], usage["output_tokens"])}


def thread_of_run() -> str:
    """Return the LangGraph thread that the calling code runs for, or an empty text."""
    config = var_child_runnable_config.get() or {}
    return str((config.get("configurable") or {}).get("thread_id") or "")


@contextmanager
def _langchain_errors() -> Iterator[None]:
    """Raise the OpenAI client's errors as `BaseChatOpenAI` does, so that LangChain's own middleware knows them."""
    try:
        yield
    except openai.BadRequestError as error:
        _handle_openai_bad_request(error)
    except openai.APIError as error:
        _handle_openai_api_error(error)


def _request(payload: dict[str, Any]) -> dict[str, Any]:
    """Return a payload as the arguments of the OpenAI client's plain `post`, which sends it as it is."""
    body = {key: value for key, value in payload.items() if key not in _NOT_IN_BODY}
    options = {
        "headers": payload.get("extra_headers"),
        "params": payload.get("extra_query"),
        "timeout": payload.get("timeout"),
    }
    return {
        "body": body | (payload.get("extra_body") or {}),
        "options": {key: value for key, value in options.items() if value is not None},
    }


def _response_format(schema: dict[str, Any] | type, strict: bool | None = None) -> dict[str, Any]:
    """Return a schema as the server takes it; a class is enforced to the letter unless that is not wanted."""
    if isinstance(schema, dict):
        return cast("dict[str, Any]", _convert_to_openai_response_format(schema, strict=strict))
    function = convert_to_openai_function(schema, strict=strict is not False)
    return {"type": "json_schema", "json_schema": {"schema": function.pop("parameters"), **function}}


_NOT_IN_BODY = frozenset({"extra_body", "extra_headers", "extra_query", "timeout"})


def without_exact_data(message: AIMessage) -> AIMessage:
    """Return a copy of a reply without token ids and log-probabilities.

    A conversation that is checkpointed must not hold them: each message would carry its whole prompt's ids, and the
    state would grow with the square of its length. Capture has taken them by then.
    """
    kept = {key: value for key, value in message.response_metadata.items() if key not in EXACT_KEYS}
    return message.model_copy(update={"response_metadata": kept})


def _reasoning(message: Mapping[str, Any]) -> str | None:
    return message.get("reasoning") or message.get("reasoning_content")


def _extras(response: openai.BaseModel) -> dict[str, Any]:
    """Return what the OpenAI client keeps of vLLM's own fields, without dumping the whole response again."""
    data = dict(response.model_extra or {})
    data["id"] = getattr(response, "id", None)
    data["choices"] = [
        {**(choice.model_extra or {}), "message": dict(choice.message.model_extra or {})}
        for choice in getattr(response, "choices", None) or ()
    ]
    return data
