"""Running a task through an orchestrator of either framework, with its user played by what the task says.

The user makes the request, goes on with `follow_ups` when the policy ends with a question, and says `approval` to
destructive calls. The frameworks are imported by those who run a task through them only.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Protocol

import httpx

from toolorch_integrations.entry import Endpoint, Specialist
from toolorch_integrations.per_loop import PerLoop
from toolorch_integrations.view import CatalogFilter
from toolorch_rl.evaluation.errors import EvaluationError
from toolorch_rl.evaluation.policy_at import PolicyAt
from toolorch_rl.imports.task import AnyEnvironment, AnyTask

if TYPE_CHECKING:
    from toolorch_integrations.langgraph import ChatPolicy
    from toolorch_integrations.llamaindex import PolicyLLM

Rendering = Literal["chat", "select"]
EndpointOf = Callable[[Specialist], Endpoint | None]
"""Says where a specialist answers that has no endpoint of its own; None: nowhere."""


class Face(Protocol):
    """A way to run a task."""

    def check(self, task: AnyTask) -> None:
        """Say before any run whether a task can be run so.

        Raises:
            EvaluationError: It cannot; the message names the task and says why.
        """
        ...

    async def answer(self, task: AnyTask, environment: AnyEnvironment) -> str:
        """Run a task in an environment that holds its initial state; return the last words.

        Many tasks run side by side. Whatever ends a run is raised as it is: an endpoint that is down, a cancellation.
        """
        ...


@dataclass(frozen=True)
class _Face:
    """What both faces have.

    Attributes:
        policy: Who decides.
        endpoint_of: Where the tasks' specialists answer; None: those without an endpoint are an error.
        specialists: Whether the tasks' specialists are there at all; without, their tools are all there is.
    """

    policy: PolicyAt
    endpoint_of: EndpointOf | None = None
    specialists: bool = True

    def check(self, task: AnyTask) -> None:
        self.specialists_of(task)

    def specialists_of(self, task: AnyTask) -> list[Specialist]:
        if not self.specialists:
            return []
        placed = []
        for item in task.specialists:
            endpoint = item.endpoint or (self.endpoint_of(item) if self.endpoint_of is not None else None)
            if endpoint is None:
                raise EvaluationError(f"task {task.id}: nobody answers as the specialist {item.name!r}; say who does")
            placed.append(item.model_copy(update={"endpoint": endpoint}))
        return placed

    def options(self, task: AnyTask, environment: AnyEnvironment) -> dict[str, Any]:
        """Return what both frameworks' orchestrators are made with alike."""
        return {
            "specialists": self.specialists_of(task),
            "catalog": environment.catalog(),
            "preferences": task.preferences,
            "budget": task.budget,
            "changes": self.view(task, environment, 0),
        }

    def view(self, task: AnyTask, environment: AnyEnvironment, stage: int) -> CatalogFilter:
        """Return what the user's utterance of that number shows of the catalogue."""
        return task.view(stage) if self.specialists else _only(task.view(stage), environment.models)


@dataclass(frozen=True)
class LangGraphFace(_Face):
    """Tasks through `create_orchestrator`.

    Attributes:
        rendering: `select` has no place for an environment's tools, so it takes only tasks without golden calls.
    """

    rendering: Rendering = "chat"

    _policies: PerLoop[ChatPolicy] = field(default_factory=PerLoop, compare=False, repr=False)

    def chat_policy(self) -> ChatPolicy:
        """Return the policy's chat model: one for all runs on an event loop, so that they share its connections."""
        return self._policies.here(self._new_chat_policy)

    def _new_chat_policy(self) -> ChatPolicy:
        from toolorch_integrations.langgraph import ChatPolicy

        fields = self.policy.fields()
        # Given as a number, langchain-openai takes clients that it keeps for the process, with connections of loops
        # that have ended, and each of those costs a call that is made twice.
        fields["timeout"] = httpx.Timeout(fields["timeout"])
        return ChatPolicy(base_url=self.policy.endpoint.url, **fields)

    def check(self, task: AnyTask) -> None:
        """See `Face.check`."""
        super().check(task)
        if self.rendering == "select" and task.calls:
            raise EvaluationError(
                f"task {task.id} is solved by calls of {task.calls[0].name}, for which the select rendering has no "
                "place: give --rendering chat, or tasks that specialists answer"
            )

    async def answer(self, task: AnyTask, environment: AnyEnvironment) -> str:
        """See `Face.answer`."""
        from langgraph.checkpoint.memory import InMemorySaver

        from toolorch_integrations.langgraph import create_orchestrator

        options = self.options(task, environment)
        tools = environment.langchain_tools()
        if self.rendering == "select":
            changes = _only(task.catalog, {item.name for item in task.specialists})
            options, tools = {**options, "catalog": None, "changes": changes}, []
        agent = create_orchestrator(
            self.chat_policy(),
            tools,
            rendering=self.rendering,
            checkpointer=InMemorySaver(),
            system_prompt=task.app_prompt,
            **options,
        )
        config: Any = {"configurable": {"thread_id": f"{task.id} {uuid.uuid4().hex[:8]}"}}

        async def heard(words: str, stage: int) -> str:
            shown = options["changes"] if stage == 0 else self.view(task, environment, stage)
            return await self._heard(agent, words, config, task, {"catalog": shown})

        return await _conversation(task, environment, heard)

    async def _heard(self, agent: Any, words: str, config: Any, task: AnyTask, context: dict[str, Any]) -> str:
        from langgraph.types import Command

        result = await agent.ainvoke({"messages": [("user", words)]}, config, context=context)
        while result.get("__interrupt__"):
            wanted = sum(len(item.value["action_requests"]) for item in result["__interrupt__"])
            resumed: Any = Command(resume={"decisions": decisions(task, wanted)})
            result = await agent.ainvoke(resumed, config, context=context)
        return str(result["messages"][-1].text)


@dataclass(frozen=True)
class LlamaIndexFace(_Face):
    """Tasks through `OrchestratorAgent`."""

    @cached_property
    def policy_llm(self) -> PolicyLLM:
        """The policy's LLM: one for all runs, so that they share its connections."""
        from toolorch_integrations.llamaindex import PolicyLLM

        return PolicyLLM(api_base=self.policy.endpoint.url, **self.policy.fields())

    async def answer(self, task: AnyTask, environment: AnyEnvironment) -> str:
        """See `Face.answer`."""
        from llama_index.core.workflow import Context

        from toolorch_integrations.llamaindex import OrchestratorAgent

        agent = OrchestratorAgent(
            tools=environment.llamaindex_tools(),
            llm=self.policy_llm,
            streaming=False,
            system_prompt=task.app_prompt,
            **self.options(task, environment),
        )
        context = Context(agent)

        async def heard(words: str, stage: int) -> str:
            shown = {"catalog": self.view(task, environment, stage)}
            return await self._heard(agent, words, context, task, shown)

        return await _conversation(task, environment, heard)

    async def _heard(self, agent: Any, words: str, context: Any, task: AnyTask, request: dict[str, Any]) -> str:
        from llama_index.core.workflow import HumanResponseEvent, InputRequiredEvent

        handler = agent.run(user_msg=words, ctx=context, context=request)
        try:
            async for event in handler.stream_events():
                if isinstance(event, InputRequiredEvent):
                    wanted = decisions(task, len(event.action_requests))
                    handler.ctx.send_event(HumanResponseEvent(decisions=wanted))
            output = await handler
        finally:
            if not handler.is_done():  # a workflow goes on by itself when nobody waits for it any more
                await handler.cancel_run()
        return str(output.response.content or "")


def face(
    name: str,
    policy: PolicyAt,
    endpoint_of: EndpointOf | None = None,
    *,
    rendering: Rendering = "chat",
    specialists: bool = True,
) -> Face:
    """Return a face by name, `langgraph` or `llamaindex`.

    Raises:
        EvaluationError: There is no such face, or it does not have the rendering.
    """
    if name == "langgraph":
        return LangGraphFace(policy, endpoint_of, specialists, rendering)
    if name != "llamaindex":
        raise EvaluationError(f"face is {name!r}; it must be langgraph or llamaindex")
    if rendering != "chat":
        raise EvaluationError(f"the LlamaIndex face has no {rendering} rendering: give --face langgraph")
    return LlamaIndexFace(policy, endpoint_of, specialists)


async def _conversation(task: AnyTask, environment: AnyEnvironment, heard: Callable[[str, int], Awaitable[str]]) -> str:
    """Let the user of a task speak as long as there is something to say; return the policy's last words."""
    answer = ""
    for stage, words in enumerate(task.said):
        if stage and not task.goes_on(answer):
            break
        answer = await heard(words, stage)
        environment.end_stage()
    return answer


def decisions(task: AnyTask, count: int) -> list[dict[str, str]]:
    """Return what a task's person decides about so many destructive calls; no, where the task asks for none."""
    return [{"type": "approve" if task.approval else "reject"}] * count


def _only(changes: CatalogFilter, names: Collection[str]) -> CatalogFilter:
    """Return what a filter says of these entries."""
    return changes.model_copy(
        update={
            "allow": None if changes.allow is None else changes.allow & set(names),
            "deny": changes.deny & set(names),
            **{
                part: {name: value for name, value in getattr(changes, part).items() if name in names}
                for part in ("aliases", "prices", "latencies")
            },
        }
    )
