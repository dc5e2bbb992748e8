"""The orchestrator as agent middleware: for people who keep their own `create_agent`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

from langchain.agents.middleware import AgentMiddleware
from langchain.agents.middleware.types import ExtendedModelResponse, ModelRequest, ModelResponse
from langchain_core.messages import ToolMessage
from langchain_core.tools import BaseTool
from langgraph.prebuilt.tool_node import ToolCallRequest
from langgraph.runtime import Runtime
from langgraph.types import Command

from toolorch_integrations.budget import Budget
from toolorch_integrations.catalog import Catalog, Catalogs
from toolorch_integrations.entry import AnyEntry, Price, Specialist
from toolorch_integrations.errors import CatalogError, EmptyMessagesError
from toolorch_integrations.langchain_tools import off_the_loop
from toolorch_integrations.langgraph.capture import reporter_of
from toolorch_integrations.langgraph.confirmation import ConfirmationMiddleware
from toolorch_integrations.langgraph.messages import conversation_of
from toolorch_integrations.langgraph.model_step import AskSpecialist, ModelStep
from toolorch_integrations.langgraph.pauses import noted, pauses_of
from toolorch_integrations.langgraph.quick import changed, signed
from toolorch_integrations.langgraph.rendering import ChatRendering, Rendering, as_tool, tool_entry, tool_key
from toolorch_integrations.langgraph.select_rendering import SelectRendering
from toolorch_integrations.langgraph.specialists import SpecialistTool
from toolorch_integrations.langgraph.state import OrchestratorState
from toolorch_integrations.langgraph.tool_step import Execute, ToolStep
from toolorch_integrations.preferences import Preferences
from toolorch_integrations.prompt import request_of
from toolorch_integrations.reporting import asks_policy
from toolorch_integrations.run import Run, Runs
from toolorch_integrations.run_options import RunOptions
from toolorch_integrations.run_state import RunState, catch_up, new_run, rebuilt
from toolorch_integrations.select_functions import SelectTools, check_rendering
from toolorch_integrations.specialist import link_fallbacks
from toolorch_integrations.steps import Steps, adrive, awithin, drive, within
from toolorch_integrations.view import CatalogFilter


class OrchestratorMiddleware(AgentMiddleware[OrchestratorState, Any, Any]):
    """Makes an agent of `create_agent` an orchestrator: specialists, preferences, budget, ledger and error handling.

    Add its `confirmation()` after it, so that a person is asked before anything of a turn with a destructive call
    runs. Without it each destructive call still asks, but calls beside it may run first.

    Args:
        specialists: Models that a step can be handed to, as catalogue entries with an endpoint or as tools.
        catalog: Descriptions, prices and rules for the agent's tools, by name; also further specialists. Tools that
            it does not name are free and described by themselves.
        preferences: What callers care about unless their context says otherwise.
        budget: Limits of a run unless its context says otherwise.
        changes: What is hidden, renamed, re-priced or shortlisted unless a run's context says otherwise.
        fallback: Name of the specialist that answers when the policy cannot; None takes the first.
        tool_timeout: Seconds until a tool is given up whose entry sets no timeout.
        price: What the policy's tokens cost, where its model does not say.
        confirm: Ask a person before destructive calls. False leaves that to the app.
        rendering: `chat`, the growing chat, or `select`, what NVIDIA's Orchestrator-8B expects: a specialist works at
            each step, and its `capabilities` say on what (`enhance_reasoning`, `answer`, `search`).
        select: The app's search and interpreter, for `select`.

    Raises:
        CatalogError: The catalogue and the specialists do not fit together.

    Example:
        >>> orchestrator = OrchestratorMiddleware(specialists=[coder], catalog=catalog)  # doctest: +SKIP
        >>> middleware = [orchestrator, orchestrator.confirmation()]  # doctest: +SKIP
        >>> agent = create_agent(policy, tools, middleware=middleware)  # doctest: +SKIP
    """

    state_schema = OrchestratorState

    def __init__(
        self,
        specialists: Iterable[Specialist | SpecialistTool] = (),
        *,
        catalog: Catalog | None = None,
        preferences: Preferences | None = None,
        budget: Budget | None = None,
        changes: CatalogFilter | None = None,
        fallback: str | None = None,
        tool_timeout: float = 60.0,
        price: Price | None = None,
        confirm: bool = True,
        rendering: Literal["chat", "select"] = "chat",
        select: SelectTools | None = None,
    ) -> None:
        super().__init__()
        self._catalog = catalog or Catalog()
        self._specialists = _specialist_tools(specialists, self._catalog)
        self.rendering = _rendering(rendering, select, list(self._specialists.values()), self._catalog, tool_timeout)
        self.tools: Sequence[BaseTool] = list(self.rendering.tools)
        if fallback is not None and fallback not in self._specialists:
            raise CatalogError(f"fallback names {fallback!r}; the specialists are {sorted(self._specialists)}.")
        self._options = RunOptions(
            preferences=preferences or Preferences(), budget=budget or Budget(), catalog=changes or CatalogFilter()
        )
        self._fallback = fallback
        self._tool_timeout = tool_timeout
        self._price = price or Price()
        self._confirm = confirm
        self._runs = Runs()
        self._catalogs = Catalogs()
        for name in ("wrap_model_call", "awrap_model_call", "wrap_tool_call", "awrap_tool_call"):
            setattr(self, name, signed(getattr(self, name)))

    @property
    def specialists(self) -> list[Specialist]:
        """The catalogue entries of all specialists."""
        return [tool.specialist for tool in self._specialists.values()]

    @property
    def options(self) -> RunOptions:
        """What a run goes by unless its context says otherwise."""
        return self._options

    def confirmation(self) -> ConfirmationMiddleware:
        """Return the middleware that asks a person where this one's catalogue says so; add it after this one."""
        declared = {entry.name: entry.destructive for entry in (*self._catalog, *self.specialists)}
        return ConfirmationMiddleware({**declared, **self.rendering.destructive})

    # --- hooks of the agent ---

    def before_agent(self, state: OrchestratorState, runtime: Runtime[Any]) -> dict[str, Any]:
        """Begin a run: read the request's context and set the clock.

        Raises:
            EmptyMessagesError: There is no message to work on.
        """
        if not state.get("messages"):
            raise EmptyMessagesError(
                "The orchestrator was called without messages. If it is a node of a graph whose state has no "
                "`messages`, add it with as_node(orchestrator, input_key=..., output_key=...)."
            )
        reporter = reporter_of()
        if reporter is not None:
            reporter.orchestrator_began()
        return {"run": new_run(self._options.with_context(runtime.context))}

    async def abefore_agent(self, state: OrchestratorState, runtime: Runtime[Any]) -> dict[str, Any]:
        """Do as `before_agent`."""
        return self.before_agent(state, runtime)

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ExtendedModelResponse[Any]:
        """Ask the policy within the budget, or end the run."""

        def perform(wanted: Any) -> Any:
            if isinstance(wanted, AskSpecialist):
                return within(wanted.timeout, partial(wanted.caller.call, wanted.conversation))
            with asks_policy(self._price):
                return within(wanted.timeout, partial(handler, wanted.request))

        return drive(self._model_steps(request), perform)

    # The two asynchronous hooks return awaitables and are no coroutine functions themselves: around one of those
    # LangChain's tracing goes to another thread and back twice a call, whether or not anything is traced.

    def awrap_model_call(  # type: ignore[override]
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> Awaitable[ExtendedModelResponse[Any]]:
        """Do as `wrap_model_call`, on the event loop."""

        async def perform(wanted: Any) -> Any:
            if isinstance(wanted, AskSpecialist):
                return await awithin(wanted.timeout, wanted.caller.acall(wanted.conversation))
            with asks_policy(self._price):
                return await awithin(wanted.timeout, handler(wanted.request))

        return adrive(self._model_steps(request), perform)

    def wrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], ToolMessage | Command[Any]]
    ) -> Any:
        """Make a call within the budget and its time; whatever goes wrong becomes an observation."""

        def perform(wanted: Execute) -> ToolMessage | Command[Any]:
            return within(wanted.timeout, partial(handler, wanted.request))

        return drive(self._tool_steps(request), perform)

    def awrap_tool_call(  # type: ignore[override]
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[ToolMessage | Command[Any]]]
    ) -> Awaitable[Any]:
        """Do as `wrap_tool_call`, on the event loop."""

        async def perform(wanted: Execute) -> ToolMessage | Command[Any]:
            awaited = changed(wanted.request, tool=off_the_loop(wanted.request.tool))
            return await awithin(wanted.timeout, handler(awaited))

        return adrive(self._tool_steps(request), perform)

    # --- the run behind a step ---

    def run_of(self, state: Mapping[str, Any], tools: Sequence[BaseTool | dict[str, Any]]) -> Run:
        """Return the run that a step belongs to, rebuilt from the state where this process has not seen it.

        Args:
            state: The agent's state.
            tools: The agent's tools.
        """
        stored: RunState = state["run"]
        run = self._runs.get(stored["id"], lambda: self._build(stored, state, tools))
        catch_up(run, stored, state.get("ledger") or ())
        pauses_of(run).step_begins(run.account, stored["updated"])
        reporter = reporter_of()
        if reporter is not None:
            reporter.run_began(run)
        return run

    def _build(self, stored: RunState, state: Mapping[str, Any], tools: Sequence[BaseTool | dict[str, Any]]) -> Run:
        return self.rendering.run(
            self.full_catalog(tools),
            **rebuilt(stored, state.get("ledger") or ()),
            request=request_of(conversation_of(state["messages"])),
            tool_timeout=self._tool_timeout,
            fallback=self._fallback,
        )

    def full_catalog(self, tools: Sequence[BaseTool | dict[str, Any]]) -> Catalog:
        """Return the catalogue with an entry for each of the agent's tools, tools before specialists.

        Raises:
            CatalogError: The agent has a tool of its provider's.
        """
        own = self.rendering.entries(as_tool(tool) for tool in tools)

        def make() -> Catalog:
            entries: list[AnyEntry] = [
                tool_entry(tool, self._catalog) for tool in own if not isinstance(tool, SpecialistTool)
            ]
            return Catalog([*entries, *(tool.specialist for tool in own if isinstance(tool, SpecialistTool))])

        return self._catalogs.get(tuple(tool_key(tool) for tool in own), make)

    def _model_steps(self, request: ModelRequest[Any]) -> Steps[ExtendedModelResponse[Any]]:
        self.rendering.check(request)
        run = self.run_of(request.state, request.tools)
        fallback = run.fallback
        step = ModelStep(
            run,
            request,
            self.rendering,
            self._specialists[fallback.name].caller.limited_to(run.view.aliases) if fallback is not None else None,
            self._price,
            reporter_of(),
            self._runs.end,
        )
        return noted(run, step.steps())

    def _tool_steps(self, request: ToolCallRequest) -> Steps[Any]:
        run = self.run_of(request.state, request.runtime.tools)
        tools = {tool.name: tool for tool in request.runtime.tools}
        step = ToolStep(run, request, tools, self.rendering, reporter_of(), confirm=self._confirm)
        return noted(run, step.steps())


def _rendering(
    name: str, select: SelectTools | None, specialists: list[SpecialistTool], catalog: Catalog, tool_timeout: float
) -> Rendering:
    check_rendering(name, select)
    if name == "select":
        return SelectRendering(select or SelectTools(), specialists, catalog, tool_timeout)
    return ChatRendering(specialists)


def _specialist_tools(given: Iterable[Specialist | SpecialistTool], catalog: Catalog) -> dict[str, SpecialistTool]:
    """Return all specialists as tools by name, each with its fallback."""
    tools = [
        item if isinstance(item, SpecialistTool) else SpecialistTool(item) for item in [*given, *catalog.specialists]
    ]
    linked = link_fallbacks(tool.caller for tool in tools)
    return {tool.name: tool.model_copy(update={"caller": linked[tool.specialist.name]}) for tool in tools}
