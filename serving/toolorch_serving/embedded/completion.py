"""The shape of responses: a chat completion, and the chunks of a streamed one."""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass, field
from typing import Any, Protocol

from transformers import PreTrainedTokenizerBase

from toolorch_serving.embedded.answer import Answer, AnswerReader, Call
from toolorch_serving.embedded.protocol import ChatRequest
from toolorch_serving.embedded.request import Step
from toolorch_serving.embedded.sampling import Sampled


class Named(Protocol):
    """What has the name of a model."""

    @property
    def model(self) -> str:
        """The name."""


@dataclass
class Completion:
    """One answer while it is written, in either shape."""

    request: ChatRequest
    tokenizer: PreTrainedTokenizerBase
    running: Named
    """Knows, from the first token on, the name of the model or adapter that answers."""
    prompt: list[int]
    reader: AnswerReader
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex[:16]}")
    created: int = field(default_factory=lambda: int(time.time()))
    tokens: int = 0
    """How many tokens have been written."""

    def whole(self, steps: list[Step]) -> dict[str, Any]:
        """Return the response to a request that is not streamed."""
        answer = self.reader.read("".join(step.text for step in steps), last=True)
        self.tokens = len(steps)
        message: dict[str, Any] = {
            "role": "assistant",
            "content": answer.content,
            "refusal": None,
            "annotations": None,
            "audio": None,
            "function_call": None,
            "reasoning": answer.reasoning,
        }
        calls = self._calls(answer)
        if calls:
            message["tool_calls"] = calls
        elif message["content"] is None and answer.reasoning is None:
            message["content"] = ""
        choice: dict[str, Any] = {
            "index": 0,
            "message": message,
            "logprobs": self._logprobs(steps),
            "finish_reason": "tool_calls" if calls else steps[-1].finish,
            "stop_reason": steps[-1].stop_reason,
            "token_ids": [step.sampled.token for step in steps] if self.request.return_token_ids else None,
        }
        return {
            **self._head("chat.completion"),
            "choices": [choice],
            "usage": self._usage(),
            "prompt_token_ids": self.prompt if self.request.return_token_ids else None,
        }

    def first(self) -> str:
        """Return the first event of a stream: the role, and the prompt's ids."""
        body = self._chunk({"role": "assistant", "content": ""})
        if self.request.return_token_ids:
            body["prompt_token_ids"] = self.prompt
        return _event(body)

    def next(self, step: Step) -> str | None:
        """Return the event of one more token, or None if it has nothing to tell."""
        self.tokens += 1
        answer = self.reader.read(step.text, last=step.finish is not None)
        delta: dict[str, Any] = {}
        if answer.reasoning is not None:
            delta["reasoning"] = answer.reasoning
        if answer.content is not None:
            delta["content"] = answer.content
        calls = self._calls(answer)
        if calls:
            delta["tool_calls"] = [{"index": index, **call} for index, call in enumerate(calls)]
        ids, logprobs = self.request.return_token_ids, self._logprobs([step])
        if not delta and not ids and logprobs is None and step.finish is None:
            return None
        body = self._chunk(delta)
        choice = body["choices"][0]
        choice["logprobs"] = logprobs
        if ids:
            choice["token_ids"] = [step.sampled.token]
        if step.finish is not None:
            choice["finish_reason"] = "tool_calls" if calls else step.finish
            choice["stop_reason"] = step.stop_reason
        return _event(body)

    def end(self) -> str:
        """Return the last events of a stream: the usage if it was asked for, and the end mark."""
        done = "data: [DONE]\n\n"
        options = self.request.stream_options
        if options is None or not options.include_usage:
            return done
        body = {**self._head("chat.completion.chunk"), "choices": [], "usage": self._usage()}
        return _event(body) + done

    def _calls(self, answer: Answer) -> list[dict[str, Any]]:
        calls = answer.calls[:1] if self.request.parallel_tool_calls is False else answer.calls
        return [_call(call) for call in calls]

    def _logprobs(self, steps: list[Step]) -> dict[str, Any] | None:
        if not self.request.logprobs:
            return None
        return {"content": [self._logprob(step.sampled) for step in steps]}

    def _logprob(self, sampled: Sampled) -> dict[str, Any]:
        return {
            **self._token(sampled.token, sampled.logprob),
            "top_logprobs": [self._token(token, logprob) for token, logprob in sampled.top],
        }

    def _token(self, token: int, logprob: float) -> dict[str, Any]:
        text = self.tokenizer.decode([token])
        assert isinstance(text, str)
        # JSON has no infinity; -9999 is vLLM's floor.
        return {"token": text, "logprob": max(logprob, -9999.0), "bytes": list(text.encode())}

    def _usage(self) -> dict[str, int]:
        prompt = len(self.prompt)
        return {"prompt_tokens": prompt, "total_tokens": prompt + self.tokens, "completion_tokens": self.tokens}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.running.model}

    def _chunk(self, delta: dict[str, Any]) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
        return {**self._head("chat.completion.chunk"), "choices": [choice]}


def _call(call: Call) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-tool-{uuid.uuid4().hex[:16]}",
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"
