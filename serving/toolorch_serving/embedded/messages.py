"""Messages as the chat template sees them, and the prompt that it makes of them."""

from __future__ import annotations

import json
from inspect import signature
from typing import Any

from transformers import PreTrainedTokenizerBase

from toolorch_serving.embedded.protocol import ChatRequest, RequestError

_KWARGS = "chat_template_kwargs"
_OWN = frozenset(signature(PreTrainedTokenizerBase.apply_chat_template).parameters) - {"documents"}
"""What the tokenizer takes for itself and no template sees: a template of the client's own, for instance."""


def render(tokenizer: PreTrainedTokenizerBase, body: ChatRequest) -> list[int]:
    """Return the token ids of a chat request's prompt.

    Raises:
        RequestError: The template does not take the messages, or the request has options that are none of its.
    """
    messages = template_messages(body.messages)
    own = sorted(body.chat_template_kwargs.keys() & _OWN)
    if own:
        raise RequestError(f"chat_template_kwargs must not hold {own[0]}: it is not the template's", _KWARGS)
    try:
        text = tokenizer.apply_chat_template(
            messages,
            tools=[tool.rendered() for tool in body.tools] if body.tools else None,
            tokenize=False,
            add_generation_prompt=body.add_generation_prompt,
            **body.chat_template_kwargs,
        )
    except Exception as error:
        # Templates raise errors of their own for conversations that they do not take.
        raise RequestError(f"the model's chat template refuses the messages: {error}", "messages") from error
    return list(tokenizer.encode(text, add_special_tokens=False))


def template_messages(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return messages as the chat template sees them, in the same form as vLLM passes them on.

    Text parts are joined with newlines, reasoning stands under both of its names, and the arguments of tool calls are
    objects; arguments that are not a JSON object become an empty one.
    """
    rendered = []
    for message in messages:
        result: dict[str, Any] = {"role": message["role"], "content": _text(message.get("content"))}
        if message["role"] == "assistant":
            reasoning = message.get("reasoning", message.get("reasoning_content"))
            if reasoning is not None:
                result["reasoning"] = result["reasoning_content"] = reasoning
            calls = message.get("tool_calls")
            if calls:
                result["tool_calls"] = [
                    _template_call(call) for call in (calls if isinstance(calls, list) else [calls])
                ]
        for key in ("tool_call_id", "name"):
            if isinstance(message.get(key), str):
                result[key] = message[key]
        rendered.append(result)
    return rendered


def _text(content: object) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise RequestError(f"a message's content must be a text or a list of parts, got {content!r}", "messages")
    parts = [part if isinstance(part, dict) else {"text": part} for part in content if part]
    other = [part.get("type") for part in parts if not isinstance(part.get("text"), str)]
    if other:
        raise RequestError(f"content parts must be text, got {other[0]}", "messages")
    return "\n".join(part["text"] for part in parts)


def _template_call(call: object) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(call, dict) or not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise RequestError("each of an assistant message's tool_calls needs function.name", "messages")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except json.JSONDecodeError:
            arguments = {}
    return {**call, "function": {**function, "arguments": arguments if isinstance(arguments, dict) else {}}}
