"""`create_orchestrator`: a drop-in for LangChain's `create_agent`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langchain_core.tools import BaseTool
from langgraph.graph.state import CompiledStateGraph

from toolorch_integrations.budget import Budget
from toolorch_integrations.catalog import Catalog
from toolorch_integrations.entry import Price, Specialist
from toolorch_integrations.errors import CatalogError, EmptyMessagesError
from toolorch_integrations.langgraph.middleware import OrchestratorMiddleware
from toolorch_integrations.langgraph.rendering import as_tool
from toolorch_integrations.langgraph.specialists import SpecialistTool
from toolorch_integrations.langgraph.state import OrchestratorContext
from toolorch_integrations.preferences import Preferences
from toolorch_integrations.select_functions import SelectTools
from toolorch_integrations.view import CatalogFilter


def create_orchestrator(
    policy: BaseChatModel,
    tools: Sequence[BaseTool | Callable[..., Any]] | None = None,
    *,
    specialists: Iterable[Specialist | SpecialistTool] = (),
    catalog: Catalog | None = None,
    preferences: Preferences | None = None,
    budget: Budget | None = None,
    changes: CatalogFilter | None = None,
    fallback: str | None = None,
    tool_timeout: float = 60.0,
    price: Price | None = None,
    rendering: Literal["chat", "select"] = "chat",
    select: SelectTools | None = None,
    confirm: bool = True,
    middleware: Sequence[AgentMiddleware[Any, Any, Any]] = (),
    context_schema: type[Any] | None = OrchestratorContext,
    **agent_options: Any,
) -> CompiledStateGraph[Any, Any, Any, Any]:
    """Make an agent that at each step calls tools, hands the step to a specialist, or answers, within a budget.

    Args:
        policy: The chat model that decides; `ChatPolicy` keeps what exact capture needs.
        tools: The app's own tools; `middleware` may bring more. Tools that a model's provider runs, given as
            dictionaries, are refused.
        specialists: Models that a step can be handed to.
        catalog: Prices, descriptions and rules for the tools by name, and further specialists.
        preferences: What callers care about; a request's context may say otherwise.
        budget: Limits of a run, likewise.
        changes: What is hidden, renamed, re-priced or shortlisted, likewise.
        fallback: Name of the specialist that answers when the policy cannot; None takes the first.
        tool_timeout: Seconds until a tool is given up whose catalogue entry sets no timeout.
        price: What the policy's tokens cost, where its model does not say.
        rendering: `chat`, the growing chat, or `select`, what NVIDIA's Orchestrator-8B expects: a specialist works at
            each step, and its `capabilities` say on what (`enhance_reasoning`, `answer`, `search`).
        select: The app's search and interpreter, for `select`, which has no place for other `tools`.
        confirm: Ask a person before destructive calls. False leaves that to the app.
        middleware: The app's own middleware, run inside the orchestrator's.
        context_schema: Schema of the request's context; keep the keys of `OrchestratorContext` in your own.
        agent_options: All that `create_agent` takes besides: `system_prompt`, `response_format`, `checkpointer`,
            `store`, `name` ...

    Returns:
        A compiled graph with `messages` and `ledger` in its result.

    Raises:
        CatalogError: Tools, specialists and catalogue do not fit together.

    Example:
        >>> agent = create_orchestrator(policy, [search], specialists=[coder, mathematician],
        ...     preferences=Preferences(cost=0.6), budget=Budget(dollars=0.05, turns=12))  # doctest: +SKIP
        >>> agent.invoke({"messages": [("user", "Prove it.")]})["messages"][-1].text  # doctest: +SKIP
    """
    own = [as_tool(tool) for tool in tools or ()]
    theirs = [as_tool(tool) for each in middleware for tool in getattr(each, "tools", ())]
    orchestrator = OrchestratorMiddleware(
        specialists,
        catalog=catalog,
        preferences=preferences,
        budget=budget,
        changes=changes,
        fallback=fallback,
        tool_timeout=tool_timeout,
        price=price if price is not None else getattr(policy, "price", None),
        rendering=rendering,
        select=select,
        confirm=confirm,
    )
    before: list[AgentMiddleware[Any, Any, Any]] = [orchestrator]
    confirmation = orchestrator.confirmation()
    agent_tools = [*own, *theirs, *orchestrator.tools]
    if confirm and any(confirmation.concerns(tool.name) for tool in agent_tools):
        before.append(confirmation)
    names = [tool.name for tool in orchestrator.rendering.entries(agent_tools)]
    unknown = [entry.name for entry in (catalog.tools if catalog else ()) if entry.name not in names]
    if unknown:
        raise CatalogError(f"The catalogue describes the tool {unknown[0]!r}, which is not among `tools`: {names}.")
    return create_agent(policy, own, middleware=[*before, *middleware], context_schema=context_schema, **agent_options)


def as_node(
    orchestrator: Runnable[Any, Any],
    *,
    input_key: str,
    output_key: str,
    ledger_key: str | None = None,
) -> Runnable[Any, Any]:
    """Make an orchestrator a node of a graph whose state has other keys.

    A graph added directly shares only the keys that both states have; with none in common it would be called without
    a message and its answer thrown away.

    Args:
        orchestrator: What `create_orchestrator` returned.
        input_key: State key of the request: a text, a message or a list of messages.
        output_key: State key that takes the answer's text.
        ledger_key: State key that takes the ledger's calls, if wanted.

    Raises:
        EmptyMessagesError: The request is missing or empty when the node runs.

    Example:
        >>> graph.add_node("work", as_node(agent, input_key="question", output_key="answer"))  # doctest: +SKIP
    """

    def answer(result: Mapping[str, Any]) -> dict[str, Any]:
        update: dict[str, Any] = {output_key: result["messages"][-1].text}
        if ledger_key is not None:
            update[ledger_key] = result.get("ledger", [])
        return update

    def node(state: Any, config: RunnableConfig) -> dict[str, Any]:
        return answer(orchestrator.invoke({"messages": _messages(state, input_key)}, config))

    async def anode(state: Any, config: RunnableConfig) -> dict[str, Any]:
        return answer(await orchestrator.ainvoke({"messages": _messages(state, input_key)}, config))

    return RunnableLambda(node, anode, name=getattr(orchestrator, "name", None) or "orchestrator")


def _messages(state: Any, key: str) -> list[Any]:
    request = state.get(key) if isinstance(state, Mapping) else getattr(state, key, None)
    if isinstance(request, str) and request.strip():
        return [HumanMessage(request)]
    if isinstance(request, BaseMessage):
        return [request]
    if isinstance(request, Sequence) and not isinstance(request, str) and request:
        return list(request)
    raise EmptyMessagesError(f"The state's {key!r} holds no request: {request!r}. Set it before the orchestrator runs.")
