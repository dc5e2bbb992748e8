"""What LlamaIndex calls in the place of an orchestrator's tools.

A workflow looks a tool up by the name that the policy wrote, in the tools of the agent and in what its retriever finds.
The retriever of an orchestrator finds a stand-in for any name: an alias, a specialist, a name that nothing has. What
becomes of the call is decided where the run is known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llama_index.core.objects import ObjectRetriever
from llama_index.core.schema import QueryType
from llama_index.core.tools import AsyncBaseTool, BaseTool, ToolMetadata, ToolOutput, adapt_to_async_tool
from llama_index.core.workflow import Context
from workflows.runtime.types.results import StepWorkerStateContextVar

from toolorch_integrations.llamaindex.capture import reporter_of
from toolorch_integrations.llamaindex.state import load
from toolorch_integrations.llamaindex.tool_call import CallSite, Edit, WantedCall
from toolorch_integrations.steps import adrive, awithin

if TYPE_CHECKING:
    from toolorch_integrations.llamaindex.agent import OrchestratorAgent


class StandInRetriever(ObjectRetriever[Any]):
    """Finds a stand-in for any name, besides what the app's own retriever finds.

    Args:
        agent: Whose tools they stand for.
        own: The app's own retriever, if it has one.
    """

    def __init__(self, agent: OrchestratorAgent, own: ObjectRetriever[Any] | None) -> None:
        self._agent = agent
        self._own = own

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._own!r})"

    def retrieve(self, str_or_query_bundle: QueryType) -> list[Any]:
        """Return tools for a request, or for the name of a call."""
        found = self._own.retrieve(str_or_query_bundle) if self._own is not None else []
        return self._with_stand_in(found, str_or_query_bundle)

    async def aretrieve(self, str_or_query_bundle: QueryType) -> list[Any]:
        """Return tools for a request, or for the name of a call."""
        found = await self._own.aretrieve(str_or_query_bundle) if self._own is not None else []
        return self._with_stand_in(found, str_or_query_bundle)

    def _with_stand_in(self, found: list[BaseTool], query: QueryType) -> list[Any]:
        name = query if isinstance(query, str) else query.query_str
        self._agent.runs.found(found)
        return [*(adapt_to_async_tool(tool) for tool in found), StandIn(self._agent, name)]


class StandIn(AsyncBaseTool):
    """Stands for the tool or specialist that the policy calls by a name, for one call.

    Args:
        agent: Whose tool it is.
        name: What the policy wrote.
    """

    def __init__(self, agent: OrchestratorAgent, name: str) -> None:
        self._agent = agent
        self._metadata = ToolMetadata(
            description="", name=name, fn_schema=None, return_direct=agent.runs.returns_directly(name)
        )

    @property
    def metadata(self) -> ToolMetadata:
        """Name, and whether the result is the answer."""
        return self._metadata

    def call(self, *args: Any, **kwargs: Any) -> ToolOutput:
        """Fail: agents of LlamaIndex run on an event loop."""
        raise NotImplementedError("an orchestrator's tools are called by its workflow")

    async def acall(self, *args: Any, **kwargs: Any) -> ToolOutput:
        """Make the call within the budget and its time; whatever goes wrong becomes an observation."""
        agent = self._agent
        ctx = Context.get_step_context()
        event: Any = StepWorkerStateContextVar.get().event  # the ToolCall: only it knows the call's id
        state = await load(ctx, agent.name)
        assert state is not None
        run = await agent.runs.known(ctx, state)
        edit = state["run"]["edits"].get(event.tool_id)
        wanted = WantedCall(
            event.tool_id,
            event.tool_name,
            dict(event.tool_kwargs),
            event.tool_id in state["run"]["confirmed"],
            Edit(edit["name"], edit["arguments"]) if edit else None,
        )
        site = CallSite(
            run,
            agent.runs.callable_tools(run),
            [*agent.runs.messages(run), *state["scratchpad"]],
            ctx,
            agent.writer(ctx),
            reporter_of(),
        )
        step = agent.runs.rendering.call(wanted, site)
        return await adrive(step.steps(), lambda wanted: awithin(wanted.timeout, step.perform(wanted.request)))
