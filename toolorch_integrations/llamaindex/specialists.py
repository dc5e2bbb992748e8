"""Specialists as ordinary LlamaIndex tools: they work in an orchestrator and in anybody's agent."""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from functools import partial
from typing import Annotated, Any

from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.llms.base import BaseLLM
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, MessageRole, TextBlock
from llama_index.core.base.response.schema import RESPONSE_TYPE
from llama_index.core.llms import CustomLLM
from llama_index.core.query_engine import CustomQueryEngine
from llama_index.core.tools import FunctionTool, ToolMetadata, ToolOutput
from llama_index.core.workflow import Context
from llama_index_instrumentation.dispatcher import active_instrument_tags, instrument_tags
from pydantic import BaseModel, Field

from toolorch_integrations.catalog import Catalog
from toolorch_integrations.completion import Completion, estimate_tokens
from toolorch_integrations.entry import Price, Specialist, specialist_parameters
from toolorch_integrations.errors import EndpointError
from toolorch_integrations.llamaindex.messages import conversation_of, text_of
from toolorch_integrations.prompt import text_of as plain_text
from toolorch_integrations.specialist import Ask, AsyncAsk, SpecialistCaller, SpecialistReply, link_fallbacks
from toolorch_integrations.workers import in_worker

SPECIALIST_TAGS = {"toolorch_role": "specialist"}
"""Marks model calls that capture must not take for the policy's."""

Source = BaseLLM | BaseQueryEngine
"""What can answer as a specialist."""


class SpecialistTool(FunctionTool):
    """A tool that hands a step to a specialist model.

    The output's text is the specialist's reply; its `raw_output` holds the calls that were made, with tokens, dollars
    and seconds (`{"calls": [...], "final": bool}`). An endpoint that fails is retried as often as the specialist says,
    then its fallback is asked; a reply that nobody could give is an observation that says so.

    Args:
        specialist: Name, description, price and, unless `source` is given, the endpoint.
        source: A LlamaIndex LLM or query engine to ask in place of an endpoint.

    Raises:
        CatalogError: There is neither an endpoint nor a source.

    Example:
        >>> from toolorch_integrations import Endpoint, Specialist
        >>> coder = SpecialistTool(Specialist(name="coder", description="Writes Python.",
        ...     endpoint=Endpoint(url="http://127.0.0.1:9/v1", model="coder")))
        >>> coder.metadata.name
        'coder'
    """

    def __init__(self, specialist: Specialist, source: Source | None = None) -> None:
        ask, aask = _asking(source, specialist.name)
        self._ask_through(SpecialistCaller(specialist, ask, aask))

    def _ask_through(self, caller: SpecialistCaller) -> None:
        specialist = caller.specialist
        self.caller = caller
        super().__init__(
            fn=self.call,
            metadata=ToolMetadata(
                name=specialist.name,
                description=specialist.text() or specialist.name,
                fn_schema=_TaskArguments if specialist.context == "task" else _ConversationArguments,
            ),
        )
        self.requires_context, self.ctx_param_name = True, "ctx"

    def asking_through(self, caller: SpecialistCaller) -> SpecialistTool:
        """Return this tool with another caller of its specialist: one that has its fallbacks."""
        tool = copy(self)
        tool._ask_through(caller)
        return tool

    @property
    def specialist(self) -> Specialist:
        """The catalogue entry."""
        return self.caller.specialist

    def call(self, *args: Any, **kwargs: Any) -> ToolOutput:
        """Ask with what `task` says; the conversation of an agent reaches it on the event loop only."""
        task, final, _ = _arguments(*args, **kwargs)
        return self._output(self.caller.call([], task), task, final)

    async def acall(self, *args: Any, **kwargs: Any) -> ToolOutput:
        """Ask with the conversation of the agent that calls."""
        task, final, context = _arguments(*args, **kwargs)
        conversation = [] if context is None else conversation_of(await _agent_messages(context))
        return self._output(await self.caller.acall(conversation, task), task, final)

    async def ask(
        self, conversation: Sequence[Mapping[str, Any]], names: Container[str], arguments: Mapping[str, Any]
    ) -> ToolOutput:
        """Ask about a conversation in OpenAI's chat format.

        Args:
            conversation: The run's messages so far.
            names: The specialists that the request shows: others are no fallback.
            arguments: `task` and `final`, as the policy wrote them.
        """
        task, final, _ = _arguments(**arguments)
        return self._output(await self.caller.limited_to(names).acall(conversation, task), task, final)

    def _output(self, reply: SpecialistReply, task: str | None, final: bool) -> ToolOutput:
        return ToolOutput(
            blocks=[TextBlock(text=reply.text)],
            tool_name=self.metadata.get_name(),
            raw_input={"args": [], "kwargs": {"task": task, "final": final}},
            raw_output=reply.artifact(final),
            is_error=not reply.ok,
        )


def as_specialist(
    source: Source, name: str, description: str = "", *, price: Price | None = None, **fields: Any
) -> SpecialistTool:
    """Make any LlamaIndex LLM or query engine a specialist.

    Args:
        source: Who answers.
        name: Name in the catalogue.
        description: What it is good at.
        price: What its tokens cost.
        fields: Further fields of `Specialist`.
    """
    return SpecialistTool(Specialist(name=name, description=description, price=price or Price(), **fields), source)


def specialist_tools(given: Sequence[Specialist | SpecialistTool], catalog: Catalog) -> dict[str, SpecialistTool]:
    """Return all specialists as tools by name, each with its fallback.

    Raises:
        CatalogError: Two share a name, or a fallback names none of them.
    """
    tools = [
        item if isinstance(item, SpecialistTool) else SpecialistTool(item) for item in [*given, *catalog.specialists]
    ]
    linked = link_fallbacks(tool.caller for tool in tools)
    return {name: tool.asking_through(caller) for tool, (name, caller) in zip(tools, linked.items(), strict=True)}


def _asking(source: Source | None, name: str) -> tuple[Ask | None, AsyncAsk | None]:
    if source is None:
        return None, None
    asked: _Llm | _Engine = _Engine(source, name) if isinstance(source, BaseQueryEngine) else _Llm(source, name)
    return asked.ask, asked.aask


class _Llm:
    """Asks a LlamaIndex LLM in the core's terms."""

    def __init__(self, llm: BaseLLM, name: str) -> None:
        self.llm = llm
        self.name = name

    def ask(self, messages: list[dict[str, Any]]) -> Completion:
        started = time.monotonic()
        with _asked():
            return self._read(self.llm.chat(_chat_messages(messages)), messages, started)

    async def aask(self, messages: list[dict[str, Any]]) -> Completion:
        started = time.monotonic()
        with _asked():
            return self._read(await self._achat(_chat_messages(messages)), messages, started)

    async def _achat(self, messages: Sequence[ChatMessage]) -> ChatResponse:
        if _is(type(self.llm).achat, CustomLLM.achat):  # It would hold the event loop itself up.
            return await in_worker(partial(self.llm.chat, messages))
        return await self.llm.achat(messages)

    def _read(self, response: ChatResponse, messages: list[dict[str, Any]], started: float) -> Completion:
        text = text_of(response.message)
        usage = response.additional_kwargs
        raw = response.raw
        model = raw.get("model") if isinstance(raw, dict) else getattr(raw, "model", None)
        return Completion(
            text=text,
            model=model if isinstance(model, str) else self.llm.metadata.model_name or self.name,
            input_tokens=usage.get("prompt_tokens") or estimate_tokens(messages),
            output_tokens=usage.get("completion_tokens") or len(text) // 4 + 1,
            seconds=time.monotonic() - started,
            attempts=1,
        )


class _Engine:
    """Asks a LlamaIndex query engine: the last message is the query."""

    def __init__(self, engine: BaseQueryEngine, name: str) -> None:
        self.engine = engine
        self.name = name

    def ask(self, messages: list[dict[str, Any]]) -> Completion:
        started = time.monotonic()
        with _asked():
            return self._read(self.engine.query(plain_text(messages[-1])), messages, started)

    async def aask(self, messages: list[dict[str, Any]]) -> Completion:
        started = time.monotonic()
        with _asked():
            return self._read(await self._aquery(plain_text(messages[-1])), messages, started)

    async def _aquery(self, query: str) -> RESPONSE_TYPE:
        engine = self.engine
        if isinstance(engine, CustomQueryEngine) and _is(type(engine).acustom_query, CustomQueryEngine.acustom_query):
            return await in_worker(partial(engine.query, query))
        return await engine.aquery(query)

    def _read(self, response: RESPONSE_TYPE, messages: list[dict[str, Any]], started: float) -> Completion:
        text = str(response)
        return Completion(
            text=text,
            model=self.name,
            input_tokens=estimate_tokens(messages),
            output_tokens=len(text) // 4 + 1,
            seconds=time.monotonic() - started,
            attempts=1,
        )


def _is(method: Callable[..., Any], default: Callable[..., Any]) -> bool:
    """Whether a class has a method from its base, which LlamaIndex's instrumentation wraps anew in each class."""
    return method.__qualname__ == default.__qualname__


@contextmanager
def _asked() -> Iterator[None]:
    """Mark what happens inside as a specialist's, and make its errors the core's."""
    with instrument_tags({**active_instrument_tags.get(), **SPECIALIST_TAGS}):
        try:
            yield
        except Exception as error:  # each provider has error classes of its own
            raise EndpointError(f"{type(error).__name__}: {error}") from error


def _chat_messages(messages: Sequence[dict[str, Any]]) -> list[ChatMessage]:
    return [ChatMessage(role=MessageRole(m["role"]), blocks=[TextBlock(text=plain_text(m))]) for m in messages]


def _arguments(
    task: str | None = None, final: bool = False, ctx: Context | None = None
) -> tuple[str | None, bool, Context | None]:
    return task, final, ctx


async def _agent_messages(context: Context) -> list[ChatMessage]:
    """Return what an agent of LlamaIndex has in front of it: its memory and the steps of this run."""
    memory = await context.store.get("memory", default=None)
    scratchpad: list[ChatMessage] = await context.store.get("scratchpad", default=[])
    return [*(await memory.aget() if memory is not None else ()), *scratchpad]


_PROPERTIES = specialist_parameters()["properties"]
_TASK = specialist_parameters("task")["properties"]["task"]["description"]
Final = Annotated[bool, Field(description=_PROPERTIES["final"]["description"])]


class _ConversationArguments(BaseModel):
    task: Annotated[str | None, Field(description=_PROPERTIES["task"]["description"])] = None
    final: Final = False


class _TaskArguments(BaseModel):
    task: Annotated[str, Field(description=_TASK)]
    final: Final = False
