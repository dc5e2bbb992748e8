"""A bare client of the policy protocol, for tests that look at the wire."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import httpx

from toolorch_serving.process import ServerProcess


@dataclass
class Reply:
    """One answer, put together from a response or from a stream."""

    prompt: list[int]
    tokens: list[int]
    logprobs: list[float]
    content: str
    reasoning: str
    calls: list[tuple[str, str]]
    finish: str
    usage: dict[str, int]
    events: list[dict[str, Any]] = field(default_factory=list)


class PolicyClient:
    """Asks one server."""

    def __init__(self, server: ServerProcess) -> None:
        # Idle connections may be reset by the server: one a request.
        limits = httpx.Limits(max_keepalive_connections=0)
        self.http = httpx.Client(base_url=server.root_url, timeout=60, trust_env=False, limits=limits)
        self.model = server.name

    def body(self, messages: list[dict[str, Any]], **options: Any) -> dict[str, Any]:
        defaults = {"temperature": 0, "max_tokens": 60, "return_token_ids": True, "logprobs": True}
        body = {"model": self.model, "messages": messages, **defaults, **options}
        # vLLM refuses an empty list.
        return {key: value for key, value in body.items() if key != "tools" or value}

    def post(self, messages: list[dict[str, Any]], **options: Any) -> httpx.Response:
        return self.http.post("/v1/chat/completions", json=self.body(messages, **options))

    def ask(self, messages: list[dict[str, Any]], **options: Any) -> Reply:
        response = self.post(messages, **options)
        assert response.status_code == 200, response.text
        data = response.json()
        (choice,) = data["choices"]
        message = choice["message"]
        return Reply(
            data["prompt_token_ids"],
            choice["token_ids"],
            [entry["logprob"] for entry in choice["logprobs"]["content"]],
            message["content"] or "",
            message.get("reasoning") or "",
            [(call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls") or []],
            choice["finish_reason"],
            data["usage"],
        )

    def stream(self, messages: list[dict[str, Any]], **options: Any) -> Reply:
        body = self.body(messages, stream=True, stream_options={"include_usage": True}, **options)
        with self.http.stream("POST", "/v1/chat/completions", json=body) as response:
            lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
        assert lines[-1] == "[DONE]"
        events = [json.loads(line) for line in lines[:-1]]
        reply = Reply(events[0]["prompt_token_ids"], [], [], "", "", [], "", events[-1]["usage"], events)
        for event in events:
            for choice in event["choices"]:
                _add(reply, choice)
        return reply


def _add(reply: Reply, choice: dict[str, Any]) -> None:
    delta = choice["delta"]
    reply.content += delta.get("content") or ""
    reply.reasoning += delta.get("reasoning") or ""
    reply.tokens += choice.get("token_ids") or []
    reply.logprobs += [entry["logprob"] for entry in (choice.get("logprobs") or {}).get("content") or []]
    reply.finish = choice["finish_reason"] or reply.finish
    for call in delta.get("tool_calls") or []:
        function = call["function"]
        if "name" in function:
            assert call["index"] == len(reply.calls)
            reply.calls.append((function["name"], function.get("arguments", "")))
        else:
            name, arguments = reply.calls[call["index"]]
            reply.calls[call["index"]] = (name, arguments + function["arguments"])
