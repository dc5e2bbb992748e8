"""The runs of one agent: what its context's store says, and the core's objects behind it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence

from llama_index.core.agent.workflow.agent_context import AgentContext
from llama_index.core.base.llms.types import ChatMessage, ToolCallBlock
from llama_index.core.memory import BaseMemory
from llama_index.core.tools import AsyncBaseTool, BaseTool
from llama_index_instrumentation.dispatcher import active_instrument_tags

from toolorch_integrations.catalog import Catalog, Catalogs
from toolorch_integrations.entry import AnyEntry, Specialist
from toolorch_integrations.errors import CatalogError
from toolorch_integrations.llamaindex.capture import reporter_of
from toolorch_integrations.llamaindex.messages import conversation_of
from toolorch_integrations.llamaindex.select_rendering import make_rendering
from toolorch_integrations.llamaindex.specialists import SpecialistTool, specialist_tools
from toolorch_integrations.llamaindex.state import (
    AgentState,
    load,
    mark_of,
    new_state,
    options_of,
    save,
)
from toolorch_integrations.llamaindex.tools import HANDOFF, as_tools, tool_entry, tool_key
from toolorch_integrations.prompt import request_of
from toolorch_integrations.run import Run, Runs
from toolorch_integrations.run_options import RunOptions
from toolorch_integrations.run_state import catch_up, rebuilt
from toolorch_integrations.select_functions import SelectTools
from toolorch_integrations.specialist import SpecialistCaller


class AgentRuns:
    """All that an agent knows of its tools and runs.

    Args:
        tools: The app's own tools.
        specialists: Models that a step can be handed to.
        catalog: What the app's catalogue says of the tools, and further specialists.
        options: What callers care about unless a run says otherwise.
        fallback: Name of the specialist that answers when the policy cannot.
        tool_timeout: Seconds until a tool is given up whose entry sets no timeout.
        rendering: How the policy is asked: "chat" or "select".
        select: The app's search and interpreter, for `select`.

    Attributes:
        rendering: What the policy is shown, and what its calls stand for.

    Raises:
        CatalogError: Tools, specialists and catalogue do not fit together.
    """

    def __init__(
        self,
        tools: Sequence[AsyncBaseTool],
        specialists: Sequence[Specialist | SpecialistTool],
        catalog: Catalog,
        options: RunOptions,
        *,
        fallback: str | None,
        tool_timeout: float,
        rendering: str = "chat",
        select: SelectTools | None = None,
    ) -> None:
        given = [tool for tool in tools if isinstance(tool, SpecialistTool)]
        self._specialists = specialist_tools([*given, *specialists], catalog)
        own = [tool for tool in tools if not isinstance(tool, SpecialistTool)]
        self.rendering = make_rendering(rendering, select, own, self._specialists, catalog, tool_timeout)
        self._own = {tool.metadata.get_name(): tool for tool in self.rendering.tools}
        self._found: dict[str, AsyncBaseTool] = {}
        self._catalog = catalog
        self._own_options = options
        self._fallback = fallback
        self._tool_timeout = tool_timeout
        self._runs = Runs()
        self._in_mid_turn = Runs()
        self._catalogs = Catalogs()
        self._check([*self.rendering.tools, *given])

    @property
    def tools(self) -> Sequence[AsyncBaseTool]:
        """All tools, specialists last."""
        return [*self._own.values(), *self._specialists.values()]

    @property
    def own_options(self) -> RunOptions:
        """What a run goes by unless its context says otherwise."""
        return self._own_options

    async def options(self, ctx: AgentContext) -> RunOptions:
        """Return what a run with a context goes by."""
        return await options_of(ctx, self._own_options)

    async def enter(
        self, ctx: AgentContext, agent: str, messages: Sequence[ChatMessage], tools: Sequence[BaseTool]
    ) -> tuple[AgentState, Run]:
        """Return the run that a step belongs to: one that goes on, or a new one.

        Args:
            ctx: The workflow's context.
            agent: The agent's name.
            messages: The conversation without the steps of this run.
            tools: What LlamaIndex gives the agent: its own tools, what was retrieved, the handoff.
        """
        workflow_run = str(active_instrument_tags.get().get("llamaindex.run_id", ""))
        state = await load(ctx, agent)
        handoff = next((tool for tool in tools if tool.metadata.name == HANDOFF and tool not in self.tools), None)
        offered = [*self._retrieved(tools), *([handoff] if handoff is not None else [])]
        begins = state is None or not await self._goes_on(ctx, state, messages, workflow_run)
        if state is None or begins:
            state = new_state(await self.options(ctx), messages, state)
        self._in_mid_turn.end(state["run"]["id"])
        run = self._runs.get(state["run"]["id"], lambda: self._build(state, messages, offered))
        catch_up(run, state["run"], state["ledger"])
        if begins or state["run"]["workflow_run"] != workflow_run:
            reporter = reporter_of()
            if reporter is not None:
                reporter.run_began(run, resumed=not begins)
            if not begins:
                run.account.stood_still(state["run"]["updated"])
            state["run"] = {**state["run"], "workflow_run": workflow_run}
            await save(ctx, agent, state)
        return state, run

    async def known(self, ctx: AgentContext, state: AgentState) -> Run:
        """Return the run of a state that a step of the same run has stored.

        Where another process has taken that step, this one does for the rest of the turn without the handoff, which
        LlamaIndex calls by itself; the next step brings all that the policy is shown.
        """
        run_id = state["run"]["id"]
        run = self._runs.find(run_id) or self._in_mid_turn.find(run_id)
        if run is None:
            memory: BaseMemory | None = await ctx.store.get("memory", default=None)
            messages = await memory.aget() if memory is not None else []
            run = self._in_mid_turn.get(run_id, lambda: self._build(state, messages, list(self._found.values())))
            run.framework_data.setdefault("messages", messages)
        return run

    def end(self, state: AgentState) -> None:
        """Let go of a run that has given its answer."""
        self._runs.end(state["run"]["id"])
        self._in_mid_turn.end(state["run"]["id"])

    def resumed(self, run: Run, state: AgentState) -> None:
        """Take note that a person has answered: the time of waiting does not count."""
        run.account.stood_still(state["run"]["updated"])  # in another process that was counted as it took the run up
        state["run"] = {**state["run"], "paused": run.account.paused, "updated": time.time()}

    async def messages_of(
        self, run: Run, state: AgentState, messages: list[ChatMessage], memory: BaseMemory
    ) -> list[ChatMessage]:
        """Return the conversation without the steps of this run.

        A step that is taken again for a person's answer gets other messages from LlamaIndex than it had.
        """
        if state["run"]["pending"] is not None:
            messages = run.framework_data.get("messages") or await memory.aget()
        run.framework_data["messages"] = messages
        return messages

    def messages(self, run: Run) -> Sequence[ChatMessage]:
        """Return the conversation that a run began with."""
        messages: Sequence[ChatMessage] = run.framework_data.get("messages", ())
        return messages

    def fallback(self, run: Run) -> SpecialistCaller | None:
        """Return the specialist that answers when the policy cannot."""
        specialist = run.fallback
        if specialist is None:
            return None
        return self._specialists[specialist.name].caller.limited_to(run.view.aliases)

    def callable_tools(self, run: Run) -> Mapping[str, AsyncBaseTool]:
        """Return all tools and specialists by catalogue name."""
        return {**self._found, **self._own, **self._specialists}

    def found(self, tools: Iterable[BaseTool]) -> None:
        """Take note of tools that the app's retriever has found: a call may come later."""
        for tool in as_tools(tools):
            self._found[tool.metadata.get_name()] = tool

    def returns_directly(self, name: str) -> bool:
        """Whether a tool's result is the answer."""
        tool = {**self._found, **self._own}.get(name)
        return tool is not None and self.rendering.returns_directly(tool)

    def entry_name(self, run: Run, call: ToolCallBlock) -> str:
        """Return the catalogue name of what a call names, or what it names where there is no such entry."""
        names = run.view.names
        return run.view.resolve(call.tool_name).name if call.tool_name in names else call.tool_name

    async def _goes_on(
        self, ctx: AgentContext, state: AgentState, messages: Sequence[ChatMessage], workflow_run: str
    ) -> bool:
        """Whether a stored run goes on; if not, it has ended, or was cancelled and is given up.

        A context that was restored has another workflow run, but the same conversation, and is not at its beginning.
        """
        stored = state["run"]
        if not stored["open"]:
            return False
        if stored["workflow_run"] == workflow_run:
            return True
        under_way = stored["pending"] is not None or await ctx.store.get("num_iterations", default=0) > 0
        return under_way and stored["mark"] == mark_of(messages)

    def _build(self, state: AgentState, messages: Sequence[ChatMessage], offered: Sequence[BaseTool]) -> Run:
        return self.rendering.run(
            self.full_catalog(offered),
            **rebuilt(state["run"], state["ledger"]),
            request=request_of(conversation_of(messages)),
            tool_timeout=self._tool_timeout,
            fallback=self._fallback,
        )

    def full_catalog(self, offered: Sequence[BaseTool]) -> Catalog:
        """Return the catalogue with an entry for each tool: the app's, retrieved ones, specialists, the handoff."""

        def make() -> Catalog:
            entries: dict[str, AnyEntry] = {}
            retrieved = [tool for tool in offered if tool.metadata.name != HANDOFF]
            handoff = [tool for tool in offered if tool.metadata.name == HANDOFF]
            for tool in [*self._own.values(), *retrieved, *self._specialists.values(), *handoff]:
                entries.setdefault(tool.metadata.get_name(), tool_entry(tool, self._catalog))
            return Catalog(entries.values())

        return self._catalogs.get(tuple(tool_key(tool) for tool in offered), make)

    def _retrieved(self, tools: Sequence[BaseTool]) -> list[AsyncBaseTool]:
        offered = {tool.metadata.name for tool in tools if tool.metadata.name in self._found}
        return [tool for name, tool in self._found.items() if name in offered]

    def _check(self, tools: Sequence[AsyncBaseTool]) -> None:
        names = [tool.metadata.get_name() for tool in tools]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise CatalogError(f"Two tools are named {twice!r}: rename one.")
        both = next((name for name in self._own if name in self._specialists), None)
        if both is not None:
            raise CatalogError(f"{both!r} is a tool of the agent and a specialist: rename one.")
        if HANDOFF in self._specialists:
            raise CatalogError(f"A specialist is named {HANDOFF!r}, which LlamaIndex keeps for itself: rename it.")
        if self._fallback is not None and self._fallback not in self._specialists:
            raise CatalogError(f"fallback names {self._fallback!r}; the specialists are {sorted(self._specialists)}.")
        unknown = [entry.name for entry in self._catalog.tools if entry.name not in self._own]
        if unknown:
            raise CatalogError(f"The catalogue describes the tool {unknown[0]!r}, which is not among `tools`: {names}.")
