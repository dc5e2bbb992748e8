"""A scripted policy server: a test double for apps, over real HTTP, without a model.

It speaks the protocol of vLLM (OpenAI chat completions, streams, tool calls, token ids, log-probabilities), but what it
says comes from a script. It proves how an app uses a policy; it proves nothing about policies. Its tokens are the
UTF-8 bytes of a fixed chat format, so prompts of a conversation extend each other exactly.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from toolorch_integrations.prompt import OBSERVER

Request = Mapping[str, Any]


@dataclass(frozen=True)
class Reply:
    """One scripted reply.

    Attributes:
        content: Text of the reply.
        calls: Name and arguments of each tool call; arguments may be a string, to send broken JSON.
        reasoning: Reasoning text, sent in a field of its own.
        status: HTTP status; another than 200 sends `content` as an error.
        body: Sent as it is in place of a completion, for endpoints that answer nonsense.
        delay: Seconds to wait before the reply.
    """

    content: str = ""
    calls: Sequence[tuple[str, Mapping[str, Any] | str]] = ()
    reasoning: str = ""
    status: int = 200
    body: str | None = None
    delay: float = 0.0


Script = Sequence[Reply | str] | Callable[[Request], "Reply | str"]


class ScriptedPolicy:
    """Serves a script on loopback, for as long as its `with` block lasts.

    Args:
        script: The replies of a run in order (the n-th turn after the user's message gets the n-th; the last repeats),
            or a function of the request. A plain string is a reply without calls.
        model: Served model name.
        exact: Whether it gives token ids and log-probabilities when asked.

    Attributes:
        requests: The bodies of all requests, in order of arrival.
        headers: Their headers, by names in lower case.

    Example:
        >>> with ScriptedPolicy([Reply(calls=[("search", {"query": "tents"})]), "Two tents."]) as policy:
        ...     policy.url.startswith("http://127.0.0.1:")
        True
    """

    def __init__(self, script: Script, *, model: str = "scripted", exact: bool = True) -> None:
        self.model = model
        self.exact = exact
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self._script = script
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    @property
    def url(self) -> str:
        """Base URL, `/v1` included."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def reply_to(self, request: Request) -> Reply:
        """Return what the script says to a request."""
        if callable(self._script):
            reply = self._script(request)
        else:
            reply = self._script[min(turns_so_far(request), len(self._script) - 1)]
        return Reply(reply) if isinstance(reply, str) else reply

    def completion(self, request: Request, reply: Reply) -> dict[str, Any]:
        """Return a chat completion in vLLM's format."""
        prompt_ids = encode(render(request["messages"], request.get("tools")))
        message = _message(reply, len(self.requests))
        ids = encode(render_reply(message))
        finish = "tool_calls" if reply.calls else "stop"
        choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": finish}
        data: dict[str, Any] = {
            "id": f"chatcmpl-{len(self.requests):016x}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": self.model,
            "choices": [choice],
            "usage": {
                "prompt_tokens": len(prompt_ids),
                "completion_tokens": len(ids),
                "total_tokens": len(prompt_ids) + len(ids),
            },
        }
        if self.exact and request.get("return_token_ids"):
            data["prompt_token_ids"] = prompt_ids
            choice["token_ids"] = ids
        if self.exact and request.get("logprobs"):
            choice["logprobs"] = {"content": [_logprob(token, index) for index, token in enumerate(ids)]}
        return data


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024  # with the usual 5, the sixth of many calls at once waits a second


def turns_so_far(request: Request) -> int:
    """Return how many assistant messages follow the newest message of the user."""
    count = 0
    for message in reversed(request["messages"]):
        if message["role"] == "user" and message.get("name") != OBSERVER:
            break
        count += message["role"] == "assistant"
    return count


def render(messages: Sequence[Request], tools: Sequence[Request] | None = None) -> str:
    """Return a prompt in the fixed chat format, ready for a reply."""
    head = f"<|tools|>{json.dumps(tools)}<|end|>" if tools else ""
    body = "".join(
        render_reply(message, "<|assistant|>")
        if message["role"] == "assistant"
        else f"<|{message['role']}|>{_text(message)}<|end|>"
        for message in messages
    )
    return f"{head}{body}<|assistant|>"


def render_reply(message: Request, head: str = "") -> str:
    """Return an assistant message in the fixed chat format."""
    reasoning = message.get("reasoning") or ""
    calls = "".join(
        f"<|call|>{call['function']['name']} {_canonical(call['function']['arguments'])}"
        for call in message.get("tool_calls") or ()
    )
    return f"{head}{f'<|think|>{reasoning}<|/think|>' if reasoning else ''}{_text(message)}{calls}<|end|>"


def encode(text: str) -> list[int]:
    """Return the tokens of a text: its UTF-8 bytes."""
    return list(text.encode())


def _text(message: Request) -> str:
    content = message.get("content") or ""
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def _canonical(arguments: str) -> str:
    try:
        return json.dumps(json.loads(arguments), ensure_ascii=False)
    except ValueError:
        return arguments


def _message(reply: Reply, number: int) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": reply.content or None}
    if reply.reasoning:
        message["reasoning"] = reply.reasoning
    if reply.calls:
        message["tool_calls"] = [
            {
                "id": f"chatcmpl-tool-{number:08x}{index:08x}",
                "type": "function",
                "function": {
                    "name": name,
                    "arguments": arguments if isinstance(arguments, str) else json.dumps(arguments),
                },
            }
            for index, (name, arguments) in enumerate(reply.calls)
        ]
    return message


def _logprob(token: int, index: int) -> dict[str, Any]:
    value = -(1 + (token * 31 + index * 17) % 97) / 100
    return {"token": chr(token), "logprob": value, "bytes": [token], "top_logprobs": []}


def _chunks(data: Mapping[str, Any], include_usage: bool) -> Iterator[dict[str, Any]]:
    """Split a completion as vLLM does: the role and prompt ids first, then pieces with their ids, then usage."""
    head = {key: data[key] for key in ("id", "created", "model")} | {"object": "chat.completion.chunk"}
    choice = data["choices"][0]
    message = choice["message"]
    first: dict[str, Any] = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
    ids_of_prompt = {"prompt_token_ids": data["prompt_token_ids"]} if "prompt_token_ids" in data else {}
    yield {**head, **ids_of_prompt, "choices": [first]}
    deltas: list[dict[str, Any]] = []
    if message.get("reasoning"):
        deltas.append({"reasoning": message["reasoning"]})
    text = message["content"] or ""
    deltas += [{"content": text[start : start + 8]} for start in range(0, len(text), 8)]
    for index, call in enumerate(message.get("tool_calls") or ()):
        function = call["function"]
        named = {"index": index, "id": call["id"], "type": "function", "function": {"name": function["name"]}}
        deltas.append({"tool_calls": [named]})
        deltas.append({"tool_calls": [{"index": index, "function": {"arguments": function["arguments"]}}]})
    deltas.append({})
    ids, logprobs = choice.get("token_ids"), (choice.get("logprobs") or {}).get("content")
    size = -(-len(ids or logprobs or ()) // len(deltas))
    for number, delta in enumerate(deltas):
        piece: dict[str, Any] = {"index": 0, "delta": delta, "finish_reason": None}
        if ids:
            piece["token_ids"] = ids[number * size : (number + 1) * size]
        if logprobs:
            piece["logprobs"] = {"content": logprobs[number * size : (number + 1) * size]}
        if number == len(deltas) - 1:
            piece["finish_reason"] = choice["finish_reason"]
        yield {**head, "choices": [piece]}
    if include_usage:
        yield {**head, "choices": [], "usage": data["usage"]}


def _handler(policy: ScriptedPolicy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # or a large reply waits 40 ms for an acknowledgement

        def do_GET(self) -> None:
            self._send(200, {"object": "list", "data": [{"id": policy.model, "object": "model"}]})

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if not self.path.endswith("/completions"):
                self._send(404, {"error": {"message": f"there is no {self.path} here", "type": "error", "code": 404}})
                return
            reply = policy.reply_to(request)
            policy.requests.append(request)
            policy.headers.append({name.lower(): value for name, value in self.headers.items()})
            if reply.delay:
                time.sleep(reply.delay)
            if reply.body is not None:
                self._send_text(reply.status, reply.body)
            elif reply.status != 200:
                self._send(reply.status, {"error": {"message": reply.content, "type": "error", "code": reply.status}})
            elif request.get("stream"):
                usage = bool((request.get("stream_options") or {}).get("include_usage"))
                self._stream(_chunks(policy.completion(request, reply), usage))
            else:
                self._send(200, policy.completion(request, reply))

        def _send(self, status: int, data: Mapping[str, Any]) -> None:
            self._send_text(status, json.dumps(data))

        def _send_text(self, status: int, text: str) -> None:
            body = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _stream(self, chunks: Iterator[dict[str, Any]]) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for line in (*(json.dumps(chunk) for chunk in chunks), "[DONE]"):
                event = f"data: {line}\n\n".encode()
                self.wfile.write(f"{len(event):x}\r\n".encode() + event + b"\r\n")
            self.wfile.write(b"0\r\n\r\n")

        def log_message(self, *_: Any) -> None:
            """Stay silent: a test double has nothing to log."""

        def handle(self) -> None:
            try:
                super().handle()
            except ConnectionError:
                self.close_connection = True

    return Handler
