"""Forks of runs of a LangGraph app, from the checkpoints of its own checkpointer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from toolorch_rl.rollouts.attempt import App
from toolorch_rl.rollouts.errors import RolloutError
from toolorch_rl.rollouts.forks import Decision, Forks


@dataclass(frozen=True)
class LangGraphForks(Forks):
    """An app on LangGraph whose runs are forked.

    Attributes:
        make_agent: Makes the app's compiled graph, each time a new one with the same checkpointer: a graph keeps
            accounts of its runs, and each continuation needs its own.
        inputs: The graph's input for a task.
        context: The graph's context for a task.
        result: What the verifier is given of the state that the graph ends with.
        node: Name of the graph's node in which the policy decides.
        choose: See `Forks`.

    Example:
        >>> forks = LangGraphForks(
        ...     make_agent=lambda: create_orchestrator(policy, tools, checkpointer=checkpointer),
        ...     inputs=lambda task: {"messages": [("user", task.request)]},
        ... )  # doctest: +SKIP
    """

    make_agent: Callable[[], Any]
    inputs: Callable[[Any], Any]
    context: Callable[[Any], Any] = lambda task: None
    result: Callable[[Any], Any] = lambda state: state["messages"][-1].text
    node: str = "model"

    @property
    def place(self) -> str:
        """The node."""
        return f"the node {self.node!r}: name the node that asks the policy (node)"

    def trunk(self, name: str) -> LangGraphTrunk:
        """Return a run in a thread of its own."""
        agent = self.make_agent()
        if getattr(agent, "checkpointer", None) in (None, False):
            raise RolloutError("forks need a checkpointer: make_agent must return a graph with one, each time the same")
        return LangGraphTrunk(self, agent, {"configurable": {"thread_id": name}})

    def branch(self, decision: Decision) -> App:
        """Go on from a checkpoint."""
        agent = self.make_agent()
        return partial(_invoked, self, agent, lambda task: None, decision.checkpoint)


class LangGraphTrunk:
    """A run from the beginning, in a thread of its own."""

    def __init__(self, forks: LangGraphForks, agent: Any, thread: Any) -> None:
        self._forks = forks
        self._agent = agent
        self._thread = thread

    async def __call__(self, task: Any) -> Any:
        """Run the graph."""
        return await _invoked(self._forks, self._agent, self._forks.inputs, self._thread, task)

    async def decisions(self) -> list[Decision]:
        """Return the checkpoints after which the policy's node comes."""
        history = [snapshot async for snapshot in self._agent.aget_state_history(self._thread)]
        return [
            Decision(datetime.fromisoformat(snapshot.created_at).timestamp(), snapshot.config)
            for snapshot in reversed(history)
            if self._forks.node in snapshot.next
        ]


async def _invoked(forks: LangGraphForks, agent: Any, inputs: Callable[[Any], Any], config: Any, task: Any) -> Any:
    return forks.result(await agent.ainvoke(inputs(task), config, context=forks.context(task)))
