"""Orchestrators of LangGraph behind the gateway."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from langchain_core.messages import AIMessage, BaseMessage
from langgraph.types import Command, Interrupt

from toolorch_integrations.langgraph import OrchestratorMiddleware, ledger_of
from toolorch_serving.gateway.checkpoints import Checkpoints, Graph, KeptCheckpoints, OwnCheckpoints
from toolorch_serving.gateway.errors import ConfigError, ConflictError
from toolorch_serving.gateway.runner import PROGRESS, FaceRunner, Outcome, RunStream
from toolorch_serving.gateway.threads import Confirmation, Threads


@dataclass(frozen=True, slots=True)
class Question:
    """An interrupt that waits.

    Attributes:
        interrupt_id: LangGraph's.
        call_ids: Of the calls that it asks about, in its order.
        plain: It is a tool's own question, which is answered with true or false.
    """

    interrupt_id: str
    call_ids: tuple[str, ...]
    plain: bool = False

    def answer(self, decisions: Mapping[str, bool]) -> Any:
        """Return what the interrupt is resumed with."""
        if self.plain:
            return decisions[self.call_ids[0]]
        return {"decisions": [{"type": "approve" if decisions[call_id] else "reject"} for call_id in self.call_ids]}


class LangGraphRunner(FaceRunner):
    """Runs a compiled graph that `create_orchestrator` made, or `create_agent` with an `OrchestratorMiddleware`.

    A graph without a checkpointer gets one in memory, for as long as the gateway keeps the conversation; one that has
    its own uses it, under the threads that `threads.checkpoint_thread` gives.

    Args:
        name: By which clients ask for it.
        graph: The compiled graph.
        threads: The conversations of the gateway.

    Raises:
        ConfigError: The graph is no orchestrator.
    """

    def __init__(self, name: str, graph: Graph, threads: Threads) -> None:
        middleware = orchestrator_of(graph)
        if middleware is None:
            raise ConfigError(
                f"The graph of {name!r} is no orchestrator: make it with create_orchestrator, or with create_agent and "
                "an OrchestratorMiddleware, and give the graph itself and not one that has it as a node."
            )
        tools = getattr(graph.nodes["tools"].bound, "tools_by_name", {}) if "tools" in graph.nodes else {}
        super().__init__(name, threads, middleware.full_catalog(list(tools.values())), middleware.options)
        self.remembers = bool(graph.checkpointer)
        self._graph = graph
        self._checkpoints = OwnCheckpoints if self.remembers else KeptCheckpoints

    async def drive(self, stream: RunStream) -> Outcome:
        """Run the graph to its end or to the next interrupt."""
        thread = stream.thread
        kept: Checkpoints = self._checkpoints(self._graph, thread)
        origin = stream.before.origin if stream.before is not None else await kept.mark()
        graph: Any = kept.graph
        try:
            chunks = graph.astream(
                self._input(stream),
                {**kept.config, "run_id": UUID(stream.run_id)},
                context=self.context(stream.request) or None,
                stream_mode="custom",
                durability="exit" if self._checkpoints is KeptCheckpoints else None,
            )
            async with aclosing(chunks):
                async for chunk in chunks:
                    if isinstance(chunk, dict) and chunk.get("type") in PROGRESS:
                        await stream.put(chunk)
            state = await graph.aget_state(kept.newest)
            messages: Sequence[BaseMessage] = state.values["messages"]
            confirmations, questions = _asked(state.interrupts, messages)
        except BaseException:
            await kept.go_back(origin)
            raise
        return Outcome(
            answer="" if questions else messages[-1].text,
            ledger=ledger_of(state.values),
            confirmations=confirmations,
            asked=questions,
            origin=origin,
            size=kept.keep(),
        )

    def _input(self, stream: RunStream) -> Any:
        if stream.before is not None:
            decisions = stream.request.decisions or {}
            questions: Sequence[Question] = stream.before.asked
            return Command(resume={question.interrupt_id: question.answer(decisions) for question in questions})
        return {"messages": [dict(message) for message in stream.messages]}


def orchestrator_of(graph: Graph) -> OrchestratorMiddleware | None:
    """Return the middleware that makes a compiled graph an orchestrator; None where there is none."""
    hooks = (getattr(getattr(node.bound, "func", None), "__self__", None) for node in graph.nodes.values())
    return next((owner for owner in hooks if isinstance(owner, OrchestratorMiddleware)), None)


def _asked(
    interrupts: Sequence[Interrupt], messages: Sequence[BaseMessage]
) -> tuple[list[Confirmation], list[Question]]:
    """Return the calls that interrupts ask about; LangChain's questions do not name a call's id."""
    reply = next((message for message in reversed(messages) if isinstance(message, AIMessage)), None)
    open_calls = list(reply.tool_calls) if reply is not None else []
    confirmations: list[Confirmation] = []
    questions: list[Question] = []
    for interrupt in interrupts:
        requests = interrupt.value.get("action_requests") if isinstance(interrupt.value, Mapping) else None
        if not requests:
            confirmations.append({"call_id": interrupt.id, "tool": "", "arguments": {"question": interrupt.value}})
            questions.append(Question(interrupt.id, (interrupt.id,), plain=True))
            continue
        call_ids = []
        for request in requests:
            same = (c for c in open_calls if c["name"] == request["name"] and c["args"] == request["args"])
            call = next(same, None)
            if call is None:
                raise ConflictError(f"The run asks about {request['name']}, which no call of its last turn names.")
            open_calls.remove(call)
            call_ids.append(call["id"] or "")
            confirmations.append({"call_id": call["id"] or "", "tool": call["name"], "arguments": call["args"]})
        questions.append(Question(interrupt.id, tuple(call_ids)))
    return confirmations, questions
