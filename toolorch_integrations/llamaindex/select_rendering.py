"""The `select` rendering in LlamaIndex: NVIDIA's Orchestrator-8B as the policy of an agent.

The run's messages grow as in any agent, but the policy never sees them: each step's prompt is made anew from what the
run's tool messages brought.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, MessageRole, TextBlock
from llama_index.core.tools import AsyncBaseTool

from toolorch_integrations.catalog import Catalog
from toolorch_integrations.entry import Tool
from toolorch_integrations.errors import CatalogError
from toolorch_integrations.llamaindex.messages import broken_calls, readable_calls, run_messages, text_of
from toolorch_integrations.llamaindex.rendering import ChatRendering, LlmRequest, Rendering
from toolorch_integrations.llamaindex.select import SelectCallStep, app_tool, standing_of
from toolorch_integrations.llamaindex.specialists import SpecialistTool
from toolorch_integrations.llamaindex.tool_call import CallSite, ToolCallStep, WantedCall
from toolorch_integrations.llamaindex.tools import EntryTool, tool_entry
from toolorch_integrations.prompt import Message
from toolorch_integrations.run import Run, Turn
from toolorch_integrations.run_options import RunOptions
from toolorch_integrations.select import ANSWER
from toolorch_integrations.select_functions import (
    SelectFunctions,
    SelectTools,
    check_rendering,
    refuse_option,
    refuse_tool,
    step_problem,
)
from toolorch_integrations.select_replies import answer_in
from toolorch_integrations.select_run import SelectRun


class SelectRendering(Rendering):
    """Fresh prompts of two messages, in which the policy chooses a function and a model.

    Args:
        given: The app's tools.
        specialists: All specialists by name; their `capabilities` say which functions they are offered for.
        catalog: What the app's catalogue says of its tools.
        tool_timeout: Seconds until a tool is given up whose entry sets no timeout.

    Raises:
        CatalogError: No specialist answers, or a tool does not take a single text.
    """

    answer_steps = 2  # the policy's last turn is a call of `answer`, whose result the next step takes

    def __init__(
        self, given: SelectTools, specialists: Mapping[str, SpecialistTool], catalog: Catalog, tool_timeout: float
    ) -> None:
        self._app = {function: app_tool(tool) for function, tool in given.given.items()}
        self.tools = list({tool.metadata.get_name(): tool for tool in self._app.values()}.values())
        self._functions = SelectFunctions(
            {function: _tool_entry(tool, catalog) for function, tool in self._app.items()},
            {name: tool.caller for name, tool in specialists.items()},
            given.tokens,
            tool_timeout,
        )

    def agent_options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Refuse what the fixed prompt has no place for; other agents may hand over to this one, but it to none."""
        if given.get("system_prompt"):
            refuse_option("system_prompt")
        if given.get("output_cls") is not None:
            refuse_option("output_cls")
        if given.get("tool_retriever") is not None:
            refuse_option("tool_retriever", "the policy calls no further tools: use the chat rendering")
        if given.get("can_handoff_to"):
            refuse_option(
                "can_handoff_to", "the policy has no function for it: use the chat rendering, or leave it out"
            )
        if given.get("early_stopping_method") == "generate":
            refuse_option("early_stopping_method", "a specialist answers, not the policy: set a `budget` of turns")
        return {**given, "can_handoff_to": []}

    def run(self, catalog: Catalog, options: RunOptions, **fields: Any) -> Run:
        """Return a run."""
        return self._functions.run(catalog, options, **fields)

    def request(self, run: Run, app_prompt: str | None, messages: Sequence[ChatMessage], turn: Turn) -> LlmRequest:
        """Return the prompt of a step and the functions that are offered in it."""
        assert isinstance(run, SelectRun)
        if app_prompt:
            refuse_option("system_prompt")
        prompt = self._functions.policy_messages(run, standing_of(messages))
        calls = [
            [(call.tool_call_id or "", call.tool_name) for call in readable_calls(message)]
            for message in run_messages(messages)
            if message.role == MessageRole.ASSISTANT
        ]
        return LlmRequest(
            [ChatMessage(role=m["role"], blocks=[TextBlock(text=m["content"])]) for m in prompt],
            [EntryTool(schema) for schema in run.functions(calls, last=turn.last)],
        )

    def problem(self, reply: ChatMessage) -> str | None:
        """Say why a reply is no step: each step is a call."""
        return step_problem(text_of(reply), calls=len(readable_calls(reply)), broken_calls=len(broken_calls(reply)))

    def answers(self, reply: ChatMessage) -> bool:
        """Whether the reply calls `answer`."""
        return any(call.tool_name == ANSWER for call in readable_calls(reply))

    def fallback_conversation(self, messages: Sequence[ChatMessage]) -> list[Message]:
        """Return what a specialist is asked for the answer."""
        return self._functions.specialist_messages(ANSWER, standing_of(messages))

    def fallback_answer(self, text: str) -> str:
        """Return the answer block of the reply."""
        return answer_in(text)

    def call(self, wanted: WantedCall, site: CallSite) -> ToolCallStep:
        """Return the call of a function with the specialist that the policy chose."""
        return SelectCallStep(wanted, replace(site, tools=self._app), self._functions)

    def returns_directly(self, tool: AsyncBaseTool) -> bool:
        """Return False: a function that has the name of the app's tool is not that tool."""
        return False


def make_rendering(
    name: str,
    select: SelectTools | None,
    tools: Sequence[AsyncBaseTool],
    specialists: Mapping[str, SpecialistTool],
    catalog: Catalog,
    tool_timeout: float,
) -> Rendering:
    """Return a rendering by its name.

    Args:
        name: "chat" or "select".
        select: The app's search and interpreter, for `select`.
        tools: The agent's own tools without the specialists, for `chat`.
        specialists: All specialists by name.
        catalog: What the app's catalogue says of the tools.
        tool_timeout: Seconds until a tool is given up whose entry sets no timeout.

    Raises:
        CatalogError: There is no such rendering, or what is given does not go with it.
    """
    check_rendering(name, select)
    if name == "chat":
        return ChatRendering(tools)
    if tools:
        refuse_tool(tools[0].metadata.get_name())
    return SelectRendering(select or SelectTools(), specialists, catalog, tool_timeout)


def _tool_entry(tool: AsyncBaseTool, catalog: Catalog) -> Tool:
    entry = tool_entry(tool, catalog)
    if not isinstance(entry, Tool):
        raise CatalogError(f"{entry.name!r} is a specialist: give it in `specialists`, and a tool in `select`.")
    return entry
