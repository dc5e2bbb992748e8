"""What a server sampled, as a chat completion."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

RENDER, GENERATE, DERENDER = "/v1/chat/completions/render", "/inference/v1/generate", "/v1/chat/completions/derender"

UNCERTAIN = "swapping:"
"""Stands before a version's name while its weights are on their way, and for good if the trainer dies meanwhile."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A request to the server: a path below its root, and the JSON body."""

    path: str
    body: dict[str, Any]


def end_of(choice: Mapping[str, Any]) -> int | None:
    """Return the token that ended a reply; None where it was cut off."""
    if choice.get("finish_reason") != "stop" or isinstance(choice.get("stop_reason"), str):
        return None
    ids: list[int] = choice["token_ids"]
    return ids[-1] if ids else None


def parse(body: dict[str, Any], generated: dict[str, Any], prompt: array[int], end: int | None) -> list[Ask]:
    """Return the request that has the sampled ids parsed; none where there is nothing but the end."""
    choice = generated["choices"][0]
    # The chat endpoint does not count the end of a reply to its text; the parsing endpoint would.
    number = len(choice["token_ids"]) - (end is not None)
    if not number:
        return []
    logprobs = choice.get("logprobs") and {"content": choice["logprobs"]["content"][:number]}
    text = {**choice, "token_ids": choice["token_ids"][:number], "logprobs": logprobs}
    ask = {
        "model": body.get("model"),
        "generate_response": {**generated, "choices": [text]},
        "prompt_tokens": len(prompt),
        "prompt_token_ids": prompt.tolist(),
        "chat_request": body,
    }
    return [Ask(DERENDER, ask)]


def completion_of(
    body: Mapping[str, Any],
    generated: Mapping[str, Any],
    parsed: Mapping[str, Any] | None,
    prompt: array[int],
    kept: int,
) -> dict[str, Any]:
    """Return a chat completion.

    Args:
        body: The chat request.
        generated: What the server sampled.
        parsed: What it read in that; None for an empty reply.
        prompt: The ids that were sent.
        kept: How many of them were held.
    """
    choice = generated["choices"][0]
    message: dict[str, Any] = {"role": "assistant", "content": ""}
    logprobs: list[Any] = []
    if parsed is not None:
        message = dict(parsed["choices"][0]["message"])
        logprobs = list((parsed["choices"][0].get("logprobs") or {}).get("content") or ())
    calls = message.pop("tool_calls", None) or []
    if calls:
        message["tool_calls"] = calls[:1] if body.get("parallel_tool_calls") is False else calls
    exact = bool(body.get("return_token_ids"))
    finish = choice.get("finish_reason")
    answer: dict[str, Any] = {
        "index": 0,
        "message": message,
        "logprobs": {"content": logprobs + _unnamed(choice, len(logprobs))} if body.get("logprobs") else None,
        "finish_reason": "tool_calls" if calls and finish == "stop" else finish,
        "stop_reason": choice.get("stop_reason"),
        "token_ids": choice["token_ids"] if exact else None,
    }
    return {
        "id": generated["request_id"],
        "object": "chat.completion",
        "created": generated.get("created") or 0,
        "model": _version(generated.get("model") or body.get("model"), choice),
        "choices": [answer],
        "usage": generated["usage"],
        "prompt_token_ids": prompt.tolist() if exact else None,
        "held_tokens": kept,
    }


def _unnamed(choice: Mapping[str, Any], start: int) -> list[dict[str, Any]]:
    """Return log-probabilities whose tokens have not been decoded: that of the end."""
    content = (choice.get("logprobs") or {}).get("content") or []
    return [{"token": "", "logprob": entry["logprob"], "bytes": [], "top_logprobs": []} for entry in content[start:]]


def _version(model: str | None, choice: Mapping[str, Any]) -> str:
    """Return the policy version that sampled a reply.

    A server whose weights were reloaded in place goes on under its name; the version that the trainer gave the
    weights stands with the sampled tokens. See `toolorch_rl.weights`.
    """
    name = model or ""
    spans = [span["version"] for span in choice.get("weight_versions") or ()]
    versions = [version for version in spans if version.removeprefix(UNCERTAIN).startswith(f"{name}-")]
    return "+".join(dict.fromkeys(versions)) or name


def has_reasoning(reply: Mapping[str, Any]) -> bool:
    """Whether a reply holds reasoning, parsed or as text."""
    return bool(reply.get("reasoning")) or "</think>" in str(reply.get("content") or "")
