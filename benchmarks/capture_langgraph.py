"""What exact capture adds to a policy call in process, and what it costs to receive the larger response.

    python benchmarks/capture_langgraph.py

Each call has 2,000 prompt ids and 150 completion ids with log-probabilities. The first pair of figures is the same
model call with and without capture, in turn, on replies that are already decoded: what capture itself adds, bar 0.2 ms.
The second pair is a whole call over loopback, with ids and log-probabilities asked for and without: what the exact
response costs the client to receive and decode. Both are medians of one run; disk use is of a growing conversation.
"""

from __future__ import annotations

import gc
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import RunnableLambda

from toolorch_integrations.capture import capture
from toolorch_integrations.langgraph import ChatPolicy

PROMPT, COMPLETION, ROUNDS = 2000, 150, 400
BAR_MILLISECONDS, BAR_BYTES = 0.2, 4096


def logprobs() -> dict[str, Any]:
    """Return log-probabilities of a completion in OpenAI's format."""
    token = {"token": " word", "logprob": -0.123456, "bytes": [32, 119, 111, 114, 100], "top_logprobs": []}
    return {"content": [dict(token) for _ in range(COMPLETION)]}


class Decoded(BaseChatModel):
    """A model whose reply is there already, as a policy server would have sent it."""

    @property
    def _llm_type(self) -> str:
        return "decoded"

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        metadata = {
            "prompt_token_ids": list(range(PROMPT)),
            "token_ids": list(range(COMPLETION)),
            "logprobs": logprobs(),
            "model_name": "policy",
        }
        message = AIMessage("word " * COMPLETION, response_metadata=metadata)
        return ChatResult(generations=[ChatGeneration(message=message)])


def timed(call: Callable[[], object]) -> float:
    """Return the milliseconds of a call."""
    started = time.perf_counter()
    call()
    return (time.perf_counter() - started) * 1000


def capture_adds(folder: Path) -> tuple[float, float]:
    """Return the median milliseconds of a call without and with capture."""
    model, messages = Decoded(), [HumanMessage("word " * 200)]
    plain: list[float] = []
    captured: list[float] = []
    for _ in range(20):
        model.invoke(messages)
    gc.disable()
    for _ in range(ROUNDS // 20):
        plain += [timed(lambda: model.invoke(messages)) for _ in range(20)]
        with capture(folder / "added.db") as session:
            model.invoke(messages)
            for _ in range(20):
                session.flush()  # the writer works between calls, as it does while a policy samples
                captured.append(timed(lambda: model.invoke(messages)))
        gc.collect()
    return statistics.median(plain), statistics.median(captured)


def receiving_costs() -> tuple[float, float]:
    """Return the median milliseconds of a whole call without and with exact data, over loopback."""
    bodies = {exact: _body(exact) for exact in (False, True)}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # or a large reply waits 40 ms for an acknowledgement

        def do_POST(self) -> None:
            request = self.rfile.read(int(self.headers["Content-Length"]))
            body = bodies[b"return_token_ids" in request]
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    models = {exact: ChatPolicy(model="policy", base_url=url, exact=exact) for exact in bodies}
    times: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(ROUNDS // 2):
        for exact, model in models.items():
            times[exact].append(timed(lambda model=model: model.invoke("word")))  # type: ignore[misc]
    server.shutdown()
    return statistics.median(times[False]), statistics.median(times[True])


def bytes_a_call(folder: Path, calls: int = 10) -> float:
    """Return the bytes on disk that a call adds in a conversation of ten calls that ends at 2,000 prompt ids."""
    path = folder / "grows.db"
    conversations = 20
    with capture(path):
        pass
    empty = _size(path)
    with capture(path):
        for number in range(conversations):
            _conversation(number, calls)
    return (_size(path) - empty) / (conversations * calls)


def _conversation(number: int, calls: int) -> None:
    model = _Growing(base=number)

    def run(_: Any) -> str:
        messages: list[BaseMessage] = [HumanMessage("word " * 40)]
        for _turn in range(calls):
            reply = model.invoke(messages)
            messages += [reply, HumanMessage("result " * 5)]
        return "done"

    RunnableLambda(run).invoke("go")


class _Growing(BaseChatModel):
    base: int

    @property
    def _llm_type(self) -> str:
        return "growing"

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        first, prompt = self.base * 7, 200 + len(messages) // 2 * (COMPLETION + 30)
        metadata = {
            "prompt_token_ids": list(range(first, first + prompt)),
            "token_ids": list(range(first + prompt, first + prompt + COMPLETION)),
            "logprobs": logprobs(),
            "model_name": "policy",
        }
        message = AIMessage("word " * 30, response_metadata=metadata)
        return ChatResult(generations=[ChatGeneration(message=message)])


def _body(exact: bool) -> bytes:
    choice: dict[str, Any] = {
        "index": 0,
        "message": {"role": "assistant", "content": "word " * COMPLETION},
        "finish_reason": "stop",
    }
    data: dict[str, Any] = {"id": "x", "object": "chat.completion", "created": 1, "model": "policy"}
    if exact:
        data["prompt_token_ids"] = list(range(PROMPT))
        choice |= {"token_ids": list(range(COMPLETION)), "logprobs": logprobs()}
    usage = {"prompt_tokens": PROMPT, "completion_tokens": COMPLETION, "total_tokens": PROMPT + COMPLETION}
    return json.dumps({**data, "choices": [choice], "usage": usage}).encode()


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.parent.glob(path.name + "*"))


def main() -> None:
    """Print the figures beside their bars."""
    with tempfile.TemporaryDirectory() as name:
        plain, captured = capture_adds(Path(name))
        print(f"a call, reply decoded already   {plain:7.3f} ms, captured {captured:7.3f} ms")
        print(f"  capture adds                  {captured - plain:7.3f} ms    (bar: {BAR_MILLISECONDS} ms)")
        small, large = receiving_costs()
        print(f"a whole call over loopback      {small:7.3f} ms, with ids and log-probabilities {large:7.3f} ms")
        print(f"  receiving them adds           {large - small:7.3f} ms    (ratio {large / small:.2f})")
        size = bytes_a_call(Path(name))
        print(f"on disk, growing conversation   {size:7.0f} bytes a call    (bar: {BAR_BYTES})")


if __name__ == "__main__":
    main()
