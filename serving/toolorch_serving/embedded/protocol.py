"""What a client may ask, in the words of vLLM's chat completions, and how it is told what is wrong."""

from __future__ import annotations

import json
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from toolorch_serving.embedded.sampling import Sampling
from toolorch_serving.embedded.unsupported import refusal
from toolorch_serving.error_body import error_body

_COLDEST = 1e-6
"""Lowest temperature over 0: lower ones make logits that are no numbers."""


class RequestError(Exception):
    """A request that cannot be served, with the parameter at fault."""

    def __init__(
        self, message: str, parameter: str | None, *, status: int = 400, kind: str = "BadRequestError"
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = error_body(message, kind, param=parameter, code=status)


class Function(BaseModel):
    """A function that the policy may call."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(BaseModel):
    """A tool as OpenAI writes it."""

    type: Literal["function"] = "function"
    function: Function

    def rendered(self) -> dict[str, Any]:
        """Return what the chat template sees: the same fields in the same order as vLLM passes on."""
        function = self.function.model_dump()
        if function["strict"] is None:
            del function["strict"]
        return {"type": self.type, "function": function}


class StreamOptions(BaseModel):
    """What a stream carries besides its pieces."""

    include_usage: bool = False


class SamplingRequest(BaseModel):
    """What chat completions, completions and generation by token ids have in common."""

    model_config = ConfigDict(extra="allow")
    prompt_field: ClassVar[str] = "prompt"

    model: str | None = None
    return_token_ids: bool | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    skip_special_tokens: bool = True

    def sampling(self, prompt_length: int, longest: int) -> Sampling:
        """Return how to sample; what the request leaves out is neutral.

        Args:
            prompt_length: Tokens in the prompt.
            longest: Most tokens of prompt and answer together.

        Raises:
            RequestError: It names the parameter that is out of range, or that this engine does not do.
        """
        refused = refusal(self.model_extra or {})
        if refused is not None:
            raise RequestError(refused[1], refused[0])
        if prompt_length >= longest:
            raise RequestError(
                f"the prompt has {prompt_length} tokens, and the model takes at most {longest} tokens with at least "
                f"one left to answer: shorten {self.prompt_field}",
                self.prompt_field,
            )
        field = "max_tokens" if self.max_completion_tokens is None else "max_completion_tokens"
        most = self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        if most is not None and not 1 <= most <= longest:
            raise RequestError(f"{field} must be from 1 to {longest} (the model's length), got {most}", field)
        names = ("temperature", "top_p", "top_k", "repetition_penalty")
        chosen = {name: value for name in names if (value := getattr(self, name)) is not None}
        result = Sampling(
            max_tokens=min(longest - prompt_length, longest if most is None else most),
            seed=None if self.seed == -1 else self.seed,  # as vLLM reads it
            top_logprobs=(self.top_logprobs or 0) if self.logprobs else 0,
            stop=tuple([self.stop] if isinstance(self.stop, str) else self.stop or []),
            include_stop=self.include_stop_str_in_output,
            ignore_eos=self.ignore_eos,
            **chosen,
        )
        self._check(result)
        return result

    def _check(self, chosen: Sampling) -> None:
        penalised = 0.01 <= chosen.repetition_penalty <= 100
        warm = _COLDEST <= chosen.temperature <= 2
        top = self.top_logprobs or 0
        _in_range("temperature", chosen.temperature, chosen.temperature == 0 or warm, f"0, or from {_COLDEST:g} to 2")
        _in_range("top_p", chosen.top_p, 0 < chosen.top_p <= 1, "over 0 and at most 1")
        _in_range("top_k", chosen.top_k, chosen.top_k >= -1, "0 (all tokens) or more")
        _in_range("repetition_penalty", chosen.repetition_penalty, penalised, "from 0.01 to 100")
        _in_range("seed", chosen.seed, chosen.seed is None or -(2**63) <= chosen.seed < 2**63, "a number of 64 bits")
        _in_range("top_logprobs", top, 0 <= top <= 20, "from 0 to 20")
        _in_range("top_logprobs", top, bool(self.logprobs or not top), "left out where logprobs is not true")
        _in_range("stop", list(chosen.stop), all(chosen.stop), "without empty texts")


class CountingRequest(SamplingRequest):
    """Where `logprobs` says how many other candidates are wanted of each token, as in OpenAI's text completions."""

    @model_validator(mode="before")
    @classmethod
    def _counted(cls, data: Any) -> Any:
        wanted = data.get("logprobs") if isinstance(data, dict) else None
        return {**data, "logprobs": True, "top_logprobs": wanted} if type(wanted) is int else data


class ChatRequest(SamplingRequest):
    """The body of a chat completion request. Fields that nobody knows are ignored, as by vLLM."""

    prompt_field: ClassVar[str] = "messages"

    messages: list[dict[str, Any]]
    tools: list[Tool] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = True
    stream: bool = False
    stream_options: StreamOptions | None = None
    add_generation_prompt: bool = True
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)

    @property
    def parses_calls(self) -> bool:
        """Whether tool calls are to be found in the answer."""
        return bool(self.tools) and self.tool_choice != "none"

    def check(self) -> None:
        """Refuse what this engine does not do.

        Raises:
            RequestError: It names the parameter.
        """
        if not self.messages:
            raise RequestError("messages must hold at least one message", "messages")
        for index, message in enumerate(self.messages):
            if not isinstance(message.get("role"), str):
                raise RequestError(f"messages[{index}].role must be a string", "messages")
        if self.tools == []:
            raise RequestError("tools must hold at least one tool, or be left out", "tools")
        if self.tool_choice not in (None, "none") and not self.tools:
            raise RequestError("tool_choice needs tools", "tool_choice")
        if self.tool_choice not in (None, "none", "auto"):
            raise RequestError(
                f"tool_choice {json.dumps(self.tool_choice)} is not supported by the embedded engine, which cannot "
                'constrain the policy: use "auto" or "none", or serve the policy with vLLM',
                "tool_choice",
            )
        strict = [tool.function.name for tool in self.tools or [] if tool.function.strict]
        if strict:
            raise RequestError(
                f"tools: strict is true for {', '.join(strict)}, and the embedded engine cannot constrain the policy: "
                "leave strict out, or serve the policy with vLLM",
                "tools",
            )


def _in_range(name: str, value: object, right: bool, wanted: str) -> None:
    if not right:
        raise RequestError(f"{name} must be {wanted}, got {value}", name)
