"""What differs between the renderings of a run: what the policy is shown, and what its calls stand for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, MessageRole, TextBlock
from llama_index.core.tools import AsyncBaseTool

from toolorch_integrations.catalog import Catalog
from toolorch_integrations.llamaindex.messages import broken_calls, conversation_of, readable_calls, text_of
from toolorch_integrations.llamaindex.tool_call import CallSite, ToolCallStep, WantedCall
from toolorch_integrations.llamaindex.tools import EntryTool
from toolorch_integrations.prompt import Message
from toolorch_integrations.reply import problem_of
from toolorch_integrations.run import Run, Turn
from toolorch_integrations.run_options import RunOptions


@dataclass(frozen=True, slots=True)
class LlmRequest:
    """What an LLM is to be asked.

    Attributes:
        messages: The conversation, the system message first.
        tools: What it may call.
        last: It may not call tools.
    """

    messages: Sequence[ChatMessage]
    tools: Sequence[EntryTool]
    last: bool = False


class Rendering(ABC):
    """One rendering of runs; an orchestrator has one object of it.

    Attributes:
        tools: The app's own tools that are entries of the catalogue.
        answer_steps: Steps of LlamaIndex from the policy's last turn to the answer, both included.
    """

    tools: Sequence[AsyncBaseTool]
    answer_steps: int

    @abstractmethod
    def agent_options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options of the agent, those that the caller has left out as this rendering wants them.

        Raises:
            CatalogError: One asks for what this rendering has no place for; the message names it.
        """

    @abstractmethod
    def run(self, catalog: Catalog, options: RunOptions, **fields: Any) -> Run:
        """Return a run; `fields` are the other arguments of `Run`."""

    @abstractmethod
    def request(self, run: Run, app_prompt: str | None, messages: Sequence[ChatMessage], turn: Turn) -> LlmRequest:
        """Return what the policy is asked.

        Args:
            run: The run.
            app_prompt: The app's own system prompt.
            messages: The conversation without the system message, with the steps of this run.
            turn: The step.
        """

    @abstractmethod
    def problem(self, reply: ChatMessage) -> str | None:
        """Say why a reply of the policy is no step; None when it is one."""

    @abstractmethod
    def answers(self, reply: ChatMessage) -> bool:
        """Whether a reply that is a step may be the last one of a run."""

    @abstractmethod
    def fallback_conversation(self, messages: Sequence[ChatMessage]) -> list[Message]:
        """Return what a specialist is asked that answers in the policy's place."""

    @abstractmethod
    def fallback_answer(self, text: str) -> str:
        """Return the answer in that specialist's reply."""

    @abstractmethod
    def call(self, wanted: WantedCall, site: CallSite) -> ToolCallStep:
        """Return a call of the policy, for the driver."""

    @abstractmethod
    def returns_directly(self, tool: AsyncBaseTool) -> bool:
        """Whether the result of what the policy calls by a tool's name is the answer."""


class ChatRendering(Rendering):
    """The growing chat, in which the policy writes the arguments of its calls.

    Args:
        tools: The app's own tools.
    """

    answer_steps = 1

    def __init__(self, tools: Sequence[AsyncBaseTool]) -> None:
        self.tools = tools

    def agent_options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Accept everything: a chat has a place for all that an agent can ask for."""
        return dict(given)

    def run(self, catalog: Catalog, options: RunOptions, **fields: Any) -> Run:
        """Return a run."""
        return Run(catalog, options, **fields)

    def request(self, run: Run, app_prompt: str | None, messages: Sequence[ChatMessage], turn: Turn) -> LlmRequest:
        """Return the conversation so far with all tools; on the last turn the policy may not call them."""
        data = run.framework_data
        if "system" not in data:
            prompt = run.system_prompt(app_prompt)
            data["system"] = [ChatMessage(role=MessageRole.SYSTEM, blocks=[TextBlock(text=prompt)])] if prompt else []
        if "tools" not in data:
            data["tools"] = [EntryTool(schema) for schema in run.schemas]
        return LlmRequest([*data["system"], *messages], data["tools"], last=turn.last and bool(run.schemas))

    def problem(self, reply: ChatMessage) -> str | None:
        """Say why a reply is neither a usable call nor an answer."""
        return problem_of(text_of(reply), calls=len(readable_calls(reply)), broken_calls=len(broken_calls(reply)))

    def answers(self, reply: ChatMessage) -> bool:
        """Whether the reply is text without calls."""
        return not readable_calls(reply)

    def fallback_conversation(self, messages: Sequence[ChatMessage]) -> list[Message]:
        """Return the whole conversation."""
        return [*conversation_of(messages)]

    def fallback_answer(self, text: str) -> str:
        """Return the reply as it is."""
        return text

    def call(self, wanted: WantedCall, site: CallSite) -> ToolCallStep:
        """Return the call of the tool behind the alias that the policy wrote."""
        return ToolCallStep(wanted, site)

    def returns_directly(self, tool: AsyncBaseTool) -> bool:
        """Whether the tool says so."""
        return tool.metadata.return_direct
