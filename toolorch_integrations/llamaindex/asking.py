"""Asking an agent's LLM, and showing on the event stream what it says."""

from __future__ import annotations

from typing import Any

from llama_index.core.agent.workflow import AgentInput, AgentStream, BaseWorkflowAgent
from llama_index.core.agent.workflow.agent_context import AgentContext
from llama_index.core.base.llms.types import ChatResponse, ToolCallBlock
from llama_index.core.llms.function_calling import FunctionCallingLLM
from pydantic import BaseModel

from toolorch_integrations.errors import CatalogError
from toolorch_integrations.llamaindex.rendering import LlmRequest


async def ask_llm(agent: BaseWorkflowAgent, ctx: AgentContext, request: LlmRequest) -> ChatResponse:
    """Ask an agent's LLM, and show what comes on the event stream.

    Raises:
        CatalogError: The LLM calls no functions.
    """
    ctx.write_event_to_stream(AgentInput(input=list(request.messages), current_agent_name=agent.name))
    llm = agent.llm
    if not isinstance(llm, FunctionCallingLLM) or not llm.metadata.is_function_calling_model:
        raise CatalogError(f"The llm of {agent.name!r} calls no functions: use PolicyLLM, or set its flag if it does.")
    options: dict[str, Any] = {"chat_history": list(request.messages), "allow_parallel_tool_calls": True}
    tools = request.tools
    if request.last:
        options["tool_choice"] = "none"
    response: ChatResponse | None = None
    if not agent.streaming:
        return _with_blocks(llm, await llm.achat_with_tools(tools, **options))
    async for response in await llm.astream_chat_with_tools(tools, **options):
        _write_stream(agent.name, ctx, llm, response)
    if response is None:
        raise ValueError("the stream was empty")
    return _with_blocks(llm, response)


def _write_stream(name: str, ctx: AgentContext, llm: FunctionCallingLLM, response: ChatResponse) -> None:
    selected = llm.get_tool_calls_from_response(response, error_on_no_tool_call=False)
    raw = response.raw.model_dump() if isinstance(response.raw, BaseModel) else response.raw
    ctx.write_event_to_stream(
        AgentStream(
            delta=response.delta or "",
            response=response.message.content or "",
            tool_calls=selected or [],
            raw=raw,
            current_agent_name=name,
            thinking_delta=response.additional_kwargs.get("thinking_delta"),
        )
    )


def _with_blocks(llm: FunctionCallingLLM, response: ChatResponse) -> ChatResponse:
    """Return a response whose calls are blocks, which LLMs of the time before blocks leave elsewhere."""
    message = response.message
    if any(isinstance(block, ToolCallBlock) for block in message.blocks):
        message.additional_kwargs.pop("tool_calls", None)
        return response
    selected = llm.get_tool_calls_from_response(response, error_on_no_tool_call=False)
    if selected:
        calls = [
            ToolCallBlock(tool_call_id=c.tool_id, tool_name=c.tool_name, tool_kwargs=c.tool_kwargs) for c in selected
        ]
        message.additional_kwargs.pop("tool_calls", None)
        message.blocks = [*message.blocks, *calls]
    return response
