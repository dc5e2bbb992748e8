"""Specialists as ordinary LangChain tools: they work in an orchestrator and in anybody's agent."""

from __future__ import annotations

import time
from collections.abc import Container, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal

from langchain_core.language_models import BaseChatModel, SimpleChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool
from langgraph.prebuilt import InjectedState
from pydantic import BaseModel, Field

from toolorch_integrations.completion import Completion, estimate_tokens
from toolorch_integrations.entry import Price, Specialist, specialist_parameters
from toolorch_integrations.errors import EndpointError
from toolorch_integrations.langgraph.messages import conversation_of
from toolorch_integrations.specialist import SpecialistCaller
from toolorch_integrations.workers import in_worker

SPECIALIST_METADATA = {"toolorch_role": "specialist"}
"""Marks model calls that capture must not take for the policy's."""


class SpecialistTool(BaseTool):
    """A tool that hands a step to a specialist model.

    The result is the specialist's reply; the artifact holds the calls that were made, with tokens, dollars and
    seconds (`{"calls": [...], "final": bool}`). An endpoint that fails is retried as often as the specialist says,
    then its fallback is asked; a reply that nobody could give is an observation that says so.

    Args:
        specialist: Name, description, price and, unless `model` is given, the endpoint.
        model: A LangChain chat model to call in place of an endpoint.

    Raises:
        CatalogError: There is neither an endpoint nor a model.

    Example:
        >>> from toolorch_integrations import Endpoint, Specialist
        >>> coder = SpecialistTool(Specialist(name="coder", description="Writes Python.",
        ...     endpoint=Endpoint(url="http://127.0.0.1:9/v1", model="coder")))
        >>> coder.name
        'coder'
    """

    caller: SpecialistCaller
    response_format: Literal["content", "content_and_artifact"] = "content_and_artifact"

    def __init__(self, specialist: Specialist, model: BaseChatModel | None = None) -> None:
        asked = _ChatModel(model, specialist.name) if model is not None else None
        super().__init__(
            name=specialist.name,
            description=specialist.text() or specialist.name,
            args_schema=_TaskArguments if specialist.context == "task" else _ConversationArguments,
            caller=SpecialistCaller(specialist, asked.ask if asked else None, asked.aask if asked else None),
        )

    def limited_to(self, names: Container[str]) -> SpecialistTool:
        """Return this tool with only those fallbacks, for a request that hides the others."""
        return self.model_copy(update={"caller": self.caller.limited_to(names)})

    @property
    def specialist(self) -> Specialist:
        """The catalogue entry."""
        return self.caller.specialist

    def _run(
        self, task: str | None = None, final: bool = False, messages: Sequence[BaseMessage] | None = None
    ) -> tuple[str, dict[str, Any]]:
        reply = self.caller.call(conversation_of(messages or ()), task)
        return reply.text, reply.artifact(final)

    async def _arun(
        self, task: str | None = None, final: bool = False, messages: Sequence[BaseMessage] | None = None
    ) -> tuple[str, dict[str, Any]]:
        reply = await self.caller.acall(conversation_of(messages or ()), task)
        return reply.text, reply.artifact(final)


def as_specialist(
    model: BaseChatModel, name: str, description: str = "", *, price: Price | None = None, **fields: Any
) -> SpecialistTool:
    """Make any LangChain chat model a specialist.

    Args:
        model: Who answers.
        name: Name in the catalogue.
        description: What it is good at.
        price: What its tokens cost.
        fields: Further fields of `Specialist`.
    """
    return SpecialistTool(Specialist(name=name, description=description, price=price or Price(), **fields), model)


class _ChatModel:
    """Asks a LangChain chat model in the core's terms."""

    def __init__(self, model: BaseChatModel, name: str) -> None:
        self.model = model
        self.name = name

    def ask(self, messages: list[dict[str, Any]]) -> Completion:
        started = time.monotonic()
        try:
            reply = self.model.invoke(messages, {"metadata": SPECIALIST_METADATA})
        except Exception as error:  # each provider has error classes of its own
            raise EndpointError(f"{type(error).__name__}: {error}") from error
        return self._read(reply, messages, started)

    async def aask(self, messages: list[dict[str, Any]]) -> Completion:
        started = time.monotonic()
        config: RunnableConfig = {"metadata": SPECIALIST_METADATA}
        try:
            if _has_coroutine(self.model):
                reply = await self.model.ainvoke(messages, config)
            else:
                reply = await in_worker(partial(self.model.invoke, messages, config))
        except Exception as error:  # each provider has error classes of its own
            raise EndpointError(f"{type(error).__name__}: {error}") from error
        return self._read(reply, messages, started)

    def _read(self, reply: AIMessage, messages: list[dict[str, Any]], started: float) -> Completion:
        usage: Mapping[str, Any] = reply.usage_metadata or {}
        return Completion(
            text=reply.text,
            model=reply.response_metadata.get("model_name") or self.name,
            input_tokens=usage.get("input_tokens") or estimate_tokens(messages),
            output_tokens=usage.get("output_tokens") or len(reply.text) // 4 + 1,
            seconds=time.monotonic() - started,
            attempts=1,
        )


def _has_coroutine(model: BaseChatModel) -> bool:
    """Whether a model is asked on the event loop; LangChain asks others in the loop's own threads, which may hang."""
    kind: Any = type(model)
    if not isinstance(model, BaseChatModel):  # such as a model with bound arguments: it has a way of its own
        return True
    defaults = BaseChatModel._agenerate, SimpleChatModel._agenerate
    return kind._agenerate not in defaults or kind._astream is not BaseChatModel._astream


_PROPERTIES = specialist_parameters()["properties"]
_TASK = specialist_parameters("task")["properties"]["task"]["description"]
Final = Annotated[bool, Field(description=_PROPERTIES["final"]["description"])]
Messages = Annotated[list[Any] | None, InjectedState("messages")]


class _ConversationArguments(BaseModel):
    task: Annotated[str | None, Field(description=_PROPERTIES["task"]["description"])] = None
    final: Final = False
    messages: Messages = None


class _TaskArguments(BaseModel):
    task: Annotated[str, Field(description=_TASK)]
    final: Final = False
    messages: Messages = None
