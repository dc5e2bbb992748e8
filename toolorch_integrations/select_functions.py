"""The functions of an orchestrator in the `select` rendering: what stands behind each, and what is asked on its behalf.

Both faces go through here, so that the same run gives the same prompts, bounds and errors in either.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, Self

from toolorch_integrations.catalog import Catalog
from toolorch_integrations.entry import AnyEntry, Tool
from toolorch_integrations.errors import CatalogError
from toolorch_integrations.prompt import Message, request_index, text_of
from toolorch_integrations.reply import problem_of
from toolorch_integrations.run_options import RunOptions
from toolorch_integrations.select import ANSWER, FUNCTIONS, REASON, SEARCH, Context, Tokens, step_messages
from toolorch_integrations.select_replies import specialist_prompt
from toolorch_integrations.select_run import SelectResult, SelectRun, call_steps, needs_confirmation
from toolorch_integrations.specialist import SpecialistCaller
from toolorch_integrations.steps import Steps


@dataclass(frozen=True)
class SelectTools:
    """The app's own means behind the functions of the `select` rendering.

    Attributes:
        search: Takes a query, returns documents; without it `search` is not offered. Any tool of the agent's framework
            or a function; a LlamaIndex orchestrator also takes a LlamaIndex retriever.
        interpreter: Takes Python code, returns what it printed; without it `enhance_reasoning` is not offered. Run the
            code in a sandbox: a model has written it.
        tokens: The policy's tokenizer, by which the context is cut.

    Each tool has one text argument; further ones need defaults. A tool that asks a person while it runs makes its
    specialist write again, and be paid again, when the run goes on: declare it `destructive` in the catalogue in place
    of that, and the question comes before anything is spent.

    Example:
        >>> agent = create_orchestrator(policy, rendering="select", catalog=published_catalog(),
        ...     select=SelectTools(search=search, interpreter=python))  # doctest: +SKIP
    """

    search: Any = None
    interpreter: Any = None
    tokens: Tokens = field(default_factory=Tokens)

    @property
    def given(self) -> dict[str, Any]:
        """The app's tools that there are, by function."""
        tools = {REASON: self.interpreter, SEARCH: self.search}
        return {function: tool for function, tool in tools.items() if tool is not None}


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a run stands, as a face reads it from its messages.

    Attributes:
        request: The user's words.
        before: The exchange before them, in OpenAI's chat format.
        context: What the run has found out.
    """

    request: str
    before: Sequence[Message]
    context: Context

    @classmethod
    def of(cls, conversation: Sequence[Message], contributions: Iterable[Mapping[str, Any]]) -> Self:
        """Return where a run stands.

        Args:
            conversation: All messages so far, in OpenAI's chat format.
            contributions: What the calls of this run brought, in order.
        """
        index = request_index(conversation)
        request = text_of(conversation[index]) if conversation else ""
        return cls(request, conversation[:index], Context.of(contributions))

    def asking(self, prompt: str) -> list[Message]:
        """Return a specialist's conversation: the exchange before the request, and a prompt in the request's place."""
        return [*self.before, {"role": "user", "content": prompt}]


class SelectFunctions:
    """The functions that an orchestrator can offer.

    Args:
        tools: Entry of the app's tool behind `search` and `enhance_reasoning`, by function.
        specialists: All specialists by catalogue name; their `capabilities` say which functions they are offered for.
        tokens: The policy's tokenizer.
        tool_timeout: Seconds until a tool is given up whose entry sets no timeout.

    Attributes:
        entries: The app's tools by function, each with a timeout.
        callers: The specialists by catalogue name of each function that can be offered.

    Raises:
        CatalogError: No specialist answers.
    """

    def __init__(
        self,
        tools: Mapping[str, Tool],
        specialists: Mapping[str, SpecialistCaller],
        tokens: Tokens,
        tool_timeout: float,
    ) -> None:
        self._tokens = tokens
        self.entries = {
            function: entry.model_copy(update={"timeout": entry.timeout or tool_timeout})
            for function, entry in tools.items()
        }
        able = {
            function: {
                name: caller for name, caller in specialists.items() if function in caller.specialist.capabilities
            }
            for function in FUNCTIONS
        }
        if not able[ANSWER]:
            raise CatalogError(
                'rendering="select" needs a specialist with `answer` among its capabilities: add one, or start from '
                "toolorch_integrations.select_run.published_catalog()."
            )
        self.callers = {
            function: callers
            for function, callers in able.items()
            if callers and (function == ANSWER or function in self.entries)
        }

    @property
    def destructive(self) -> dict[str, bool]:
        """Whether a person must confirm a call of a function."""
        return {
            function: needs_confirmation(self.entries.get(function), (c.specialist for c in callers.values()))
            for function, callers in self.callers.items()
        }

    def run(self, catalog: Catalog, options: RunOptions, **fields: Any) -> SelectRun:
        """Return a run; `fields` are the other arguments of `Run`."""
        names = {function: entry.name for function, entry in self.entries.items()}
        return SelectRun(catalog, options, tools=names, **fields)

    def policy_messages(self, run: SelectRun, standing: Standing) -> list[dict[str, Any]]:
        """Return the prompt of a step: a system and a user message."""
        problem = run.problem(standing.request)
        return step_messages(problem, standing.context.text(problem, self._tokens))

    def specialist_messages(self, function: str, standing: Standing) -> list[Message]:
        """Return what the specialist of a function is asked."""
        context = standing.context.text(standing.request, self._tokens)
        return standing.asking(specialist_prompt(function, standing.request, context))

    def call(self, function: str, standing: Standing, seconds: float) -> Steps[SelectResult]:
        """Return the steps of a call: see `call_steps`.

        Args:
            function: What the policy called.
            standing: Where the run stands.
            seconds: Time for the whole call.
        """
        context = standing.context.text(standing.request, self._tokens)
        return call_steps(function, standing.request, context, self.entries.get(function), seconds)

    def upper_bound(self, run: SelectRun, function: str, entry: AnyEntry, standing: Standing) -> float:
        """Return the most that a call can cost, in dollars: its specialist for the whole prompt, and the app's tool."""
        tool = run.tools.get(function)
        bound = run.upper_bound(entry, self.specialist_messages(function, standing))
        return bound + (tool.price.call if tool is not None else 0.0)


def step_problem(text: str, *, calls: int, broken_calls: int) -> str | None:
    """Say why a reply of the policy is no step, which each call is; None when it is one."""
    if calls:
        return None
    return problem_of(text, calls=0, broken_calls=broken_calls) or "the reply chose no tool"


# --- what a face refuses, in the same words ---


def check_rendering(name: str, select: SelectTools | None) -> None:
    """See that a rendering exists and that `select` goes with it.

    Raises:
        CatalogError: It does not.
    """
    if name not in ("chat", "select") or (name == "chat" and select is not None):
        raise CatalogError(f'rendering is {name!r}: it is "chat" or "select", and `select` goes with "select" only.')


def text_argument(name: str, parameters: Mapping[str, Any]) -> str:
    """Return the name of a tool's text argument.

    Args:
        name: The tool's.
        parameters: The JSON Schema of its arguments.

    Raises:
        CatalogError: It does not take a single text.
    """
    properties: Mapping[str, Any] = parameters.get("properties") or {}
    needed = parameters.get("required") or list(properties)
    if len(needed) != 1 or properties[needed[0]].get("type", "string") != "string":
        raise CatalogError(f'{name!r} must take a single text for rendering="select"; it needs {needed}.')
    return str(needed[0])


def refuse_tool(name: str) -> NoReturn:
    """Refuse a tool of the agent's own, which the policy could not call."""
    raise CatalogError(
        f'The tool {name!r} cannot be called with rendering="select": give it as '
        "`select=SelectTools(search=..., interpreter=...)`, or use the chat rendering."
    )


def refuse_option(
    name: str,
    reason: str = "the prompt of the policy is fixed, and a specialist answers. Give the specialists a `system_prompt`",
) -> NoReturn:
    """Refuse an option of the agent that the rendering has no place for."""
    raise CatalogError(f'`{name}` does not go with rendering="select": {reason}.')
