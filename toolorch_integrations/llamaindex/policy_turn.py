"""The policy's turn in LlamaIndex: what the core asks and judges, on chat messages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, MessageRole, TextBlock

from toolorch_integrations import observation
from toolorch_integrations.entry import Price
from toolorch_integrations.ledger import Call, CallKind
from toolorch_integrations.llamaindex.messages import (
    MARKS,
    broken_calls,
    conversation_of,
    failed_turns,
    final_reply,
    observer_message,
    readable_calls,
    run_messages,
    text_of,
    tool_message,
)
from toolorch_integrations.llamaindex.rendering import LlmRequest, Rendering
from toolorch_integrations.policy_step import PolicyStep, Reply, Reporter
from toolorch_integrations.prompt import Message, results_of
from toolorch_integrations.reply import UNREADABLE_CALL
from toolorch_integrations.run import Run, Turn
from toolorch_integrations.specialist import SpecialistCaller


@dataclass(slots=True)
class TurnOutcome:
    """What a step brought.

    Attributes:
        response: The LLM's, or one with an answer that the policy did not give.
        added: Messages for the scratchpad, the reply among them.
    """

    response: ChatResponse
    added: list[ChatMessage]


class PolicyTurn(PolicyStep[ChatResponse, TurnOutcome]):
    """One pass of the policy: at least one LLM call, or the end of the run.

    Args:
        run: The request.
        messages: The conversation without the system message, with the steps of this run.
        app_prompt: The app's own system prompt.
        rendering: How the policy is asked.
        fallback: The specialist that answers when the policy cannot.
        price: What the policy's tokens cost, where its LLM does not say.
        write: Takes progress events.
        reporter: Where capture is told; None when nobody captures.
        turns_left: Turns that LlamaIndex has room for, this one included; None where it sets no limit.
    """

    def __init__(
        self,
        run: Run,
        messages: Sequence[ChatMessage],
        app_prompt: str | None,
        rendering: Rendering,
        fallback: SpecialistCaller | None,
        price: Price,
        write: Callable[[dict[str, Any]], None],
        reporter: Reporter | None,
        turns_left: int | None = None,
    ) -> None:
        super().__init__(run, fallback, write, reporter, turns_left)
        self.before = messages
        self.app_prompt = app_prompt
        self.rendering = rendering
        self.price = price
        self.added: list[ChatMessage] = []
        self.observations: list[ChatMessage] = []

    @property
    def messages(self) -> list[ChatMessage]:
        """The conversation, with what this step has added to it."""
        return [*self.before, *self.added]

    def final_reply(self) -> str | None:
        """Return the reply of a specialist that was called to answer the user, if the newest turn has one."""
        reply = final_reply(self.messages)
        return None if reply is None else observation.unedited(reply)

    def failed_turns(self) -> int:
        """Return how many turns at the end of the run brought nothing but errors."""
        return failed_turns(self.messages)

    def results(self) -> list[tuple[str, str]]:
        """Return name and text of the run's tool results so far."""
        return results_of(conversation_of(run_messages(self.messages)))

    def fallback_conversation(self) -> list[Message]:
        """Return what a specialist is asked that answers in the policy's place."""
        return self.rendering.fallback_conversation(self.messages)

    def fallback_answer(self, text: str) -> str:
        """Return the answer in that specialist's reply."""
        return self.rendering.fallback_answer(text)

    def request(self, turn: Turn) -> LlmRequest:
        """Return what the policy is asked."""
        return self.rendering.request(self.run, self.app_prompt, self.messages, turn)

    def read(self, response: ChatResponse) -> Reply:
        """Return the reply in a response."""
        message = response.message
        return Reply(
            call=self._call(response),
            text=text_of(message),
            names=[block.tool_name for block in readable_calls(message)],
            problem=self.rendering.problem(message),
            answers=self.rendering.answers(message),
        )

    def observe(self, response: ChatResponse, problem: str) -> None:
        """Add a reply that is no step, and the observation that says so."""
        self.added += [response.message, *_observations(response.message, problem)]

    def accept(self, response: ChatResponse) -> ChatResponse:
        """Take a reply that is a step, and observe calls in it that cannot be made."""
        if broken_calls(response.message):
            self.observations = _observations(response.message, UNREADABLE_CALL)
        return response

    def answer(self, text: str, status: str) -> ChatResponse:
        """Return a response that holds an answer which the policy did not give."""
        marks = {MARKS: {"status": status}}
        return ChatResponse(
            message=ChatMessage(role=MessageRole.ASSISTANT, blocks=[TextBlock(text=text)], additional_kwargs=marks)
        )

    def finish(self, response: ChatResponse) -> TurnOutcome:
        """Return the response and what the scratchpad gains."""
        return TurnOutcome(response, [*self.added, response.message, *self.observations])

    def _call(self, response: ChatResponse) -> Call:
        raw = response.raw
        usage = response.additional_kwargs
        model = _field(raw, "model")
        tokens = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
        dollars = usage.get("dollars")
        return Call(
            CallKind.POLICY,
            model or "policy",
            model=model,
            input_tokens=tokens[0],
            output_tokens=tokens[1],
            dollars=self.price.dollars(*tokens) if dollars is None else dollars,
            call_id=_field(raw, "id"),
        )


def _observations(message: ChatMessage, problem: str) -> list[ChatMessage]:
    text = observation.no_step(problem)
    broken = broken_calls(message)
    if broken:
        return [tool_message(text, call.tool_call_id or "", call.tool_name, error=True) for call in broken]
    return [observer_message(text)]


def _field(raw: Any, name: str) -> str:
    value = raw.get(name) if isinstance(raw, Mapping) else getattr(raw, name, None)
    return value if isinstance(value, str) else ""
