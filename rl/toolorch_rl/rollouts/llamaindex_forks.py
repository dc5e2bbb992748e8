"""Forks of runs of a LlamaIndex app, from its workflow's context as each decision began."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from toolorch_rl.rollouts.attempt import App
from toolorch_rl.rollouts.errors import RolloutError
from toolorch_rl.rollouts.forks import Decision, Forks


@dataclass(frozen=True)
class LlamaIndexForks(Forks):
    """An app on LlamaIndex whose runs are forked: an agent, an `AgentWorkflow`, or any workflow.

    What the workflow keeps in its context's store must serialise, as for any context that goes on in another process.

    Attributes:
        make_agent: Makes the app's agent or workflow, each time a new one: an agent keeps accounts of its runs, and
            each continuation needs its own.
        inputs: What its `run` is given for a task, by name.
        result: What the verifier is given of what the run returns; by default the answer.
        step: Name of the workflow's step in which the policy decides.
        choose: See `Forks`.

    Example:
        >>> forks = LlamaIndexForks(
        ...     make_agent=lambda: OrchestratorAgent(tools=tools, llm=policy),
        ...     inputs=lambda task: {"user_msg": task.request},
        ... )  # doctest: +SKIP
    """

    make_agent: Callable[[], Any]
    inputs: Callable[[Any], Mapping[str, Any]]
    result: Callable[[Any], Any] = str
    step: str = "run_agent_step"

    @property
    def place(self) -> str:
        """The step."""
        return f"the step {self.step!r}: name the step that asks the policy (step)"

    def trunk(self, name: str) -> LlamaIndexTrunk:
        """Return a run whose checkpoints are kept as long as the run is."""
        return LlamaIndexTrunk(self, self.workflow())

    def branch(self, decision: Decision) -> App:
        """Go on from a checkpoint."""
        from toolorch_integrations.llamaindex.checkpoints import CheckpointError

        agent = self.workflow()
        try:
            context = decision.checkpoint.context_for(agent)
        except CheckpointError as error:
            raise RolloutError(f"forks: {error}") from error

        async def onwards(task: Any) -> Any:
            return self.result(await agent.run(ctx=context))

        return onwards

    def workflow(self) -> Any:
        """Make the app's agent or workflow.

        Raises:
            RolloutError: It is none of LlamaIndex's.
        """
        from llama_index.core.workflow import Workflow

        agent = self.make_agent()
        if not isinstance(agent, Workflow):
            raise RolloutError(f"make_agent must return a LlamaIndex agent or workflow, not {type(agent).__name__}")
        return agent


class LlamaIndexTrunk:
    """A run from the beginning."""

    def __init__(self, forks: LlamaIndexForks, agent: Any) -> None:
        from toolorch_integrations.llamaindex.checkpoints import Checkpoints

        self._forks = forks
        self._agent = agent
        self._kept = Checkpoints(forks.step)

    async def __call__(self, task: Any) -> Any:
        """Run the workflow."""
        handler = self._agent.run(**self._forks.inputs(task))
        with self._kept.of(handler):
            return self._forks.result(await handler)

    async def decisions(self) -> list[Decision]:
        """Return the checkpoints."""
        if self._kept.error is not None:
            raise RolloutError(f"forks: {self._kept.error}") from self._kept.error
        return [Decision(checkpoint.reached, checkpoint) for checkpoint in self._kept.taken]
