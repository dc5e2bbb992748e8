"""The app: an orchestrator whose only means are the task's specialists, asked in this process or over HTTP."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from functools import lru_cache
from typing import Any, Literal

from langchain_core.language_models import BaseChatModel

from examples.routing.requests import RoutingTask
from examples.routing.specialists import Team, direct
from toolorch_integrations import Budget, Specialist
from toolorch_integrations.langgraph import SpecialistTool, create_orchestrator
from toolorch_integrations.trace import Trace
from toolorch_rl.verifiers.exact import ExactVerifier
from toolorch_rl.verifiers.verdict import Verdict

App = Callable[[RoutingTask], Coroutine[Any, Any, str]]

BUDGET = Budget(turns=3)
_TEAMS = 256
"""Teams whose agent is kept: more than there are groups of runs under way."""


def routing_app(
    policy: BaseChatModel,
    specialists: Iterable[Specialist | SpecialistTool] | None = None,
    rendering: Literal["chat", "select"] = "chat",
) -> App:
    """Return the app: it takes a task and returns the answer.

    Args:
        policy: Who routes.
        specialists: Who answers; by default the task's team, asked in this process.
        rendering: How the policy is asked.
    """

    def agent_with(asked: Iterable[Specialist | SpecialistTool]) -> Any:
        return create_orchestrator(policy, specialists=asked, budget=BUDGET, rendering=rendering)

    @lru_cache(_TEAMS)
    def agent_of(team: Team) -> Any:
        return agent_with([direct(specialist) for specialist in team.specialists])

    own = None if specialists is None else agent_with(list(specialists))

    async def app(task: RoutingTask) -> str:
        messages = {"messages": [("user", task.request)]}
        agent = own or agent_of(task.team)
        result = await agent.ainvoke(messages, context={"preferences": task.preferences})
        return str(result["messages"][-1].text)

    return app


def answer_in(reply: str) -> str:
    """Return what a specialist's reply says at its end, its working left out."""
    return reply.rpartition("The answer is ")[2].rpartition(" = ")[2].strip().removesuffix(".")


def verify(task: RoutingTask, trace: Trace, result: Any) -> Verdict:
    """Judge a run's answer against the task's."""
    return ExactVerifier().verify(task.answer, answer_in(str(result)))
