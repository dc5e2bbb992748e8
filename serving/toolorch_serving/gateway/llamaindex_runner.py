"""Orchestrators of LlamaIndex behind the gateway."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, suppress
from typing import Any

import orjson
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.workflow import Context, HumanResponseEvent, InputRequiredEvent
from workflows.errors import WorkflowCancelledByUser
from workflows.handler import WorkflowHandler

from toolorch_integrations.llamaindex import ConfirmationRequired, OrchestratorAgent, OrchestratorProgress, ledger_of
from toolorch_serving.gateway.runner import FaceRunner, Outcome, RunStream
from toolorch_serving.gateway.threads import Confirmation, Threads

QUESTION = "question"
"""Id under which a tool's own question is decided."""


class LlamaIndexRunner(FaceRunner):
    """Runs an `OrchestratorAgent`; the gateway keeps the context of each conversation, as bytes.

    Args:
        name: By which clients ask for it.
        agent: The agent.
        threads: The conversations of the gateway.
    """

    def __init__(self, name: str, agent: OrchestratorAgent, threads: Threads) -> None:
        super().__init__(name, threads, agent.runs.full_catalog(()), agent.runs.own_options)
        self._agent = agent

    async def drive(self, stream: RunStream) -> Outcome:
        """Run the agent to its end or to the next question."""
        thread = stream.thread
        origin = stream.before.origin if stream.before is not None else thread.state
        handler = self._begin(stream, thread.state)
        thread.state = origin  # should this fail
        try:
            event = await self._follow(stream, handler)
            if event is not None:
                confirmations = _asked(event)
                outcome = Outcome("", await ledger_of(handler.ctx), confirmations, event.get("agent", None), origin)
                thread.state = orjson.dumps(handler.ctx.to_dict())
                await _cancel(handler)
            else:
                output: Any = await handler
                answer = output.response.content or ""
                outcome = Outcome(answer, await ledger_of(handler.ctx))
                thread.state = orjson.dumps(handler.ctx.to_dict())
        except BaseException:
            await asyncio.shield(asyncio.ensure_future(_cancel(handler)))
            raise
        outcome.size = len(thread.state)
        return outcome

    def _begin(self, stream: RunStream, kept: bytes | None) -> WorkflowHandler:
        ctx: Context = Context(self._agent) if kept is None else Context.from_dict(self._agent, orjson.loads(kept))
        if stream.before is not None:
            handler = self._agent.run(ctx=ctx)
            handler.ctx.send_event(_answer(stream))
            return handler
        messages = [ChatMessage(role=message["role"], content=message["content"]) for message in stream.messages]
        if stream.thread.begun:  # a history would take the place of what the context remembers
            text = "\n\n".join(str(message.content) for message in messages)
            messages = [ChatMessage(role="user", content=text)]
        context = self.context(stream.request)
        return self._agent.run(
            user_msg=messages[-1], chat_history=messages[:-1] or None, ctx=ctx, context=context or None
        )

    @staticmethod
    async def _follow(stream: RunStream, handler: WorkflowHandler) -> InputRequiredEvent | None:
        """Pass progress on until the run ends, or asks a person."""
        async with aclosing(handler.stream_events()) as events:
            async for event in events:
                if isinstance(event, OrchestratorProgress):
                    await stream.put(event.progress)
                elif isinstance(event, InputRequiredEvent):
                    return event
        return None


async def _cancel(handler: WorkflowHandler) -> None:
    """End a run and wait for it; the context that was taken from it goes on elsewhere."""
    await handler.cancel_run()
    with suppress(WorkflowCancelledByUser, asyncio.CancelledError, Exception):
        await handler


def _asked(event: InputRequiredEvent) -> list[Confirmation]:
    if not isinstance(event, ConfirmationRequired):
        question = event.get("prefix", None) or str(dict(event.items()))
        return [{"call_id": QUESTION, "tool": "", "arguments": {"question": question}}]
    return [
        {"call_id": request["call_id"], "tool": request["name"], "arguments": request["args"]}
        for request in event.action_requests
    ]


def _answer(stream: RunStream) -> HumanResponseEvent:
    assert stream.before is not None
    decisions = stream.request.decisions or {}
    asked = stream.before.confirmations
    if [item["tool"] for item in asked] == [""]:
        return HumanResponseEvent(response="yes" if decisions[QUESTION] else "no")
    return HumanResponseEvent(
        decisions=[{"type": "approve" if decisions[item["call_id"]] else "reject"} for item in asked]
    )
