"""The policy's turn: what `OrchestratorMiddleware` does around each model call."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from langchain.agents.middleware.types import ExtendedModelResponse, ModelRequest, ModelResponse
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from langgraph.errors import GraphBubbleUp
from langgraph.types import Command

from toolorch_integrations import observation
from toolorch_integrations.entry import Price
from toolorch_integrations.langgraph.chat_model import without_exact_data
from toolorch_integrations.langgraph.messages import (
    conversation_of,
    failed_turns,
    run_messages,
    trailing_results,
)
from toolorch_integrations.langgraph.rendering import Rendering
from toolorch_integrations.langgraph.state import RUN_KEY
from toolorch_integrations.ledger import Call, CallKind
from toolorch_integrations.policy_step import AskPolicy, AskSpecialist, PolicyStep, Reply, Reporter
from toolorch_integrations.prompt import OBSERVER, Message, results_of
from toolorch_integrations.reply import UNREADABLE_CALL
from toolorch_integrations.run import Run, Turn
from toolorch_integrations.specialist import SpecialistCaller

__all__ = ["AskPolicy", "AskSpecialist", "ModelStep"]


class ModelStep(PolicyStep[ModelResponse[Any], ExtendedModelResponse[Any]]):
    """One pass through the model node: at least one policy call, or the end of the run.

    Args:
        run: The request.
        request: What the agent wants to ask the model.
        rendering: How the policy is asked.
        fallback: The specialist that answers when the policy cannot.
        price: What the policy's tokens cost.
        reporter: Where capture is told; None when nobody captures.
        ended: Takes the run's id when the agent ends with this step.
    """

    pauses = (GraphBubbleUp,)

    def __init__(
        self,
        run: Run,
        request: ModelRequest[Any],
        rendering: Rendering,
        fallback: SpecialistCaller | None,
        price: Price,
        reporter: Reporter | None,
        ended: Callable[[str], None],
    ) -> None:
        super().__init__(run, fallback, request.runtime.stream_writer, reporter)
        self.model_request = request
        self.rendering = rendering
        self.price = price
        self.ended = ended
        self.added: list[AnyMessage] = []

    @property
    def messages(self) -> list[AnyMessage]:
        """The conversation, with what this step has added to it."""
        return [*self.model_request.messages, *self.added]

    def final_reply(self) -> str | None:
        """Return the reply of a specialist that was called to answer the user, if the newest turn has one."""
        if self.model_request.response_format:
            return None
        for message in trailing_results(self.messages):
            if isinstance(message.artifact, Mapping) and message.artifact.get("final") is True:
                return observation.unedited(message.text)
        return None

    def failed_turns(self) -> int:
        """Return how many turns at the end of the run brought nothing but errors."""
        return failed_turns(self.messages)

    def results(self) -> list[tuple[str, str]]:
        """Return name and text of the run's tool results so far."""
        return results_of(conversation_of(run_messages(self.messages)))

    def fallback_conversation(self) -> list[Message]:
        """Return what a specialist is asked that answers in the policy's place."""
        return self.rendering.fallback_conversation(self.run, self.messages)

    def fallback_answer(self, text: str) -> str:
        """Return the answer in that specialist's reply."""
        return self.rendering.fallback_answer(text)

    def request(self, turn: Turn) -> ModelRequest[Any]:
        """Return what the policy is asked."""
        return self.rendering.request(self.run, self.model_request, self.messages, turn)

    def read(self, response: ModelResponse[Any]) -> Reply | None:
        """Return the reply in a response; a structured one has been judged by LangChain."""
        reply = _reply(response)
        if reply is None:
            return None
        return Reply(
            call=self._call(reply),
            text=reply.text,
            names=[wanted["name"] for wanted in reply.tool_calls],
            problem=self.rendering.problem(reply),
            answers=self.rendering.answers(reply),
            settled=response.structured_response is not None or len(response.result) > 1,
        )

    def observe(self, response: ModelResponse[Any], problem: str) -> None:
        """Add a reply that is no step, and the observation that says so."""
        reply = _reply(response)
        assert reply is not None
        self.added += [without_exact_data(reply), *_observations(reply, problem)]

    def accept(self, response: ModelResponse[Any]) -> ModelResponse[Any]:
        """Return a reply that is a step, with observations of calls in it that cannot be made."""
        reply = _reply(response)
        if reply is None or not reply.invalid_tool_calls:
            return response
        return replace(response, result=[*response.result, *_observations(reply, UNREADABLE_CALL)])

    def answer(self, text: str, status: str) -> ModelResponse[Any]:
        """Return a response that holds an answer which the policy did not give."""
        message = AIMessage(text, response_metadata={"toolorch_status": status, RUN_KEY: self.run.id})
        return ModelResponse(result=[message])

    def finish(self, response: ModelResponse[Any]) -> ExtendedModelResponse[Any]:
        """Return messages without exact data, the ledger's new calls and the run's clock as one state update."""
        result = [without_exact_data(m) if isinstance(m, AIMessage) else m for m in [*self.added, *response.result]]
        state: Mapping[str, Any] = self.model_request.state
        clock = {"paused": self.run.account.paused, "updated": time.time()}
        update: dict[str, Any] = {"run": {**state["run"], **clock}}
        if self.calls:
            update["ledger"] = [call.to_dict() for call in self.calls]
        reply = _reply(response)
        if response.structured_response is not None or (reply is not None and not reply.tool_calls):
            self.ended(self.run.id)  # rebuilt from the state, should the app's own middleware go on with it
        return ExtendedModelResponse(
            ModelResponse(result=result, structured_response=response.structured_response), Command(update=update)
        )

    def _call(self, reply: AIMessage) -> Call:
        usage: Mapping[str, Any] = reply.usage_metadata or {}
        metadata = reply.response_metadata
        tokens = usage.get("input_tokens", 0), usage.get("output_tokens", 0)
        return Call(
            CallKind.POLICY,
            metadata.get("model_name") or "policy",
            model=metadata.get("model_name") or "",
            input_tokens=tokens[0],
            output_tokens=tokens[1],
            dollars=metadata.get("dollars", self.price.dollars(*tokens)),
            call_id=metadata.get("id") or reply.id or "",
        )


def _reply(response: ModelResponse[Any]) -> AIMessage | None:
    for message in reversed(response.result):
        if isinstance(message, AIMessage):
            return message
    return None


def _observations(reply: AIMessage, problem: str) -> list[AnyMessage]:
    text = observation.no_step(problem)
    if reply.invalid_tool_calls:
        return [
            ToolMessage(text, tool_call_id=broken["id"] or "", name=broken["name"], status="error")
            for broken in reply.invalid_tool_calls
        ]
    return [HumanMessage(text, name=OBSERVER)]
