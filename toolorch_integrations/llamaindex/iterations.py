"""LlamaIndex's own limit of steps, which all agents of a workflow share.

LlamaIndex counts a step after it was taken, and gives up at the limit whatever the step brought. So one step fewer than
the limit fits, and an orchestrator must give its answer in that one.
"""

from __future__ import annotations

from llama_index.core.agent.workflow.agent_context import AgentContext

DEFAULT_ITERATIONS = 20
"""LlamaIndex's limit where nobody sets another; an orchestrator's budget of turns may lie above it."""


async def make_room(ctx: AgentContext, turns: int | None) -> None:
    """Let a budget of turns be the limit of an agent that runs alone, and the answer in `select` come after the last.

    Args:
        ctx: The context.
        turns: The budget's; None means no limit.
    """
    await ctx.store.set("max_iterations", max(DEFAULT_ITERATIONS, 2 + (10**6 if turns is None else turns)))


async def turns_left(ctx: AgentContext, answer_steps: int) -> int | None:
    """Return how many turns of the policy still fit, this one included; None where LlamaIndex sets no limit.

    Args:
        ctx: The context.
        answer_steps: Steps from the policy's last turn to the answer, both included.
    """
    limit: int | None = await ctx.store.get("max_iterations", default=None)
    taken: int = await ctx.store.get("num_iterations", default=0)
    return None if limit is None else limit - taken - answer_steps


async def take_again(ctx: AgentContext) -> None:
    """Have LlamaIndex not count a step that it takes again, since a person's answer could not be used."""
    await ctx.store.set("num_iterations", await ctx.store.get("num_iterations", default=0) - 1)
