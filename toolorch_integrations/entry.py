"""Entries of the catalogue: what a tool or specialist is called, is good at, costs and takes."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from toolorch_integrations.errors import MissingVariableError
from toolorch_integrations.safety import is_destructive
from toolorch_integrations.schema import canonical_parameters

MAX_TOKENS = 2048
"""Output tokens of a specialist's call, where its endpoint says nothing else."""

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def is_name(text: str) -> bool:
    """Say whether policy servers take a text as the name of a tool."""
    return _NAME.fullmatch(text) is not None


class Price(BaseModel):
    """What an entry costs.

    Attributes:
        input: Dollars per million input tokens.
        output: Dollars per million output tokens.
        call: Dollars per call.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    input: float = Field(0.0, ge=0)
    output: float = Field(0.0, ge=0)
    call: float = Field(0.0, ge=0)

    def dollars(self, input_tokens: int = 0, output_tokens: int = 0, calls: int = 1) -> float:
        """Return the price of `calls` calls that read and wrote so many tokens together."""
        return (self.input * input_tokens + self.output * output_tokens) / 1e6 + self.call * calls

    def sentence(self) -> str:
        """Return the price in words, or an empty string when the entry is free."""
        parts = []
        if self.input or self.output:
            parts.append(f"${self.input:g} in, ${self.output:g} out per million tokens")
        if self.call:
            parts.append(f"${self.call:g} a call")
        return ", ".join(parts)


class Endpoint(BaseModel):
    """An OpenAI-compatible chat endpoint.

    Attributes:
        url: Base URL, `/v1` included.
        model: Model name to ask for.
        key_variable: Environment variable that holds the API key; None or an empty text sends none.
        timeout: Seconds until a call is given up.
        max_tokens: Most output tokens of a call; also bounds what a call can cost.
        max_tokens_field: Under which name that is sent; OpenAI's reasoning models take only the longer one.
        temperature: Sampling temperature; None leaves it to the server.
        headers: Sent with every request.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str
    model: str
    key_variable: str | None = None
    timeout: float = Field(120.0, gt=0)
    max_tokens: int = Field(MAX_TOKENS, gt=0)
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    temperature: float | None = None
    headers: Mapping[str, str] = Field(default_factory=dict)

    def key(self) -> str | None:
        """Return the API key, or None when the endpoint needs none.

        Raises:
            MissingVariableError: The variable is not set.
        """
        if not self.key_variable:
            return None
        try:
            return os.environ[self.key_variable]
        except KeyError:
            raise MissingVariableError(
                f"The endpoint of model {self.model!r} takes its key from the environment variable "
                f"{self.key_variable}, which is not set: export it, or drop `key_variable`."
            ) from None


class Entry(BaseModel):
    """What tools and specialists have in common.

    Attributes:
        name: Unique in the catalogue: letters, digits, `_`, `.` and `-`, 64 at most.
        description: What it is good at; the policy reads it.
        price: What it costs.
        latency: Typical seconds of a call; None when unknown.
        capabilities: Free words such as `math` or `code`; the `select` rendering reads its functions from them.
        destructive: Whether a person must confirm each call; None leaves it to the name.
        timeout: Seconds until a call is given up; None leaves it to the face or the endpoint.
        retries: Further tries after a call that failed in a way that may pass.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    description: str = ""
    price: Price = Price()
    latency: float | None = Field(None, ge=0)
    capabilities: tuple[str, ...] = ()
    destructive: bool | None = None
    timeout: float | None = Field(None, gt=0)
    retries: int = Field(0, ge=0, le=10)

    @model_validator(mode="after")
    def _check_name(self) -> Self:
        if not is_name(self.name):
            raise ValueError(f"name {self.name!r} must be 1 to 64 letters, digits, '_', '.' or '-'")
        return self

    @property
    def needs_confirmation(self) -> bool:
        """Whether a person must say yes before each call."""
        return is_destructive(self.name, self.destructive)

    def text(self) -> str:
        """Return description, price and latency as the policy reads them."""
        facts = [self.price.sentence(), f"about {self.latency:g} s" if self.latency else ""]
        stated = "; ".join(fact for fact in facts if fact)
        return f"{self.description} ({stated})".strip() if stated else self.description


class Tool(Entry):
    """A function whose arguments the policy writes.

    Attributes:
        parameters: JSON Schema of the arguments.
    """

    kind: Literal["tool"] = "tool"
    parameters: dict[str, Any] = Field(default_factory=lambda: {"type": "object", "properties": {}})

    def function_schema(self, name: str) -> dict[str, Any]:
        """Return the function schema under the name that the request gives the tool."""
        return _function(name, self.text(), canonical_parameters(self.parameters))


class Specialist(Entry):
    """A model that a step can be handed to.

    Attributes:
        endpoint: Where it answers; None when a face calls it through an object of its framework.
        system_prompt: Its system message, if any.
        fallback: Specialist to call when this one fails.
        context: Whether it sees the whole request with all results so far (`conversation`) or only the task that
            the policy writes (`task`).
    """

    kind: Literal["specialist"] = "specialist"
    endpoint: Endpoint | None = None
    system_prompt: str | None = None
    fallback: str | None = None
    context: Literal["conversation", "task"] = "conversation"
    retries: int = Field(2, ge=0, le=10)

    def function_schema(self, name: str) -> dict[str, Any]:
        """Return the function schema under the name that the request gives the specialist."""
        return _function(name, self.text(), specialist_parameters(self.context))

    def upper_bound(self, input_tokens: int) -> float:
        """Return the most that one call can cost, in dollars, for a conversation of at most `input_tokens` tokens.

        A model that a face brings along is taken to write as much as an endpoint does by default.
        """
        own = len((self.system_prompt or "").encode())
        return self.price.dollars(input_tokens + own, self.endpoint.max_tokens if self.endpoint else MAX_TOKENS)


AnyEntry = Tool | Specialist


def specialist_parameters(context: str = "conversation") -> dict[str, Any]:
    """Return the JSON Schema of a specialist's arguments."""
    optional = context == "conversation"
    return {
        "type": "object",
        "properties": {
            "task": {
                "type": "string",
                "description": "What to do. Leave out to hand over the request and all results."
                if optional
                else "What to do, complete in itself.",
            },
            "final": {"type": "boolean", "description": "true: the reply is the answer to the user."},
        },
        **({} if optional else {"required": ["task"]}),
    }


def _function(name: str, description: str, parameters: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}
