"""A run in the `select` rendering: which calls may start, and what a call of each function does. Both faces use it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from toolorch_integrations import observation
from toolorch_integrations.catalog import Catalog
from toolorch_integrations.entry import AnyEntry, Specialist, Tool
from toolorch_integrations.errors import CatalogError, GivenUpError, UnknownEntryError
from toolorch_integrations.ledger import Call, CallKind, CallStatus
from toolorch_integrations.run import Admission, Rejection, Run
from toolorch_integrations.run_options import RunOptions
from toolorch_integrations.select import ANSWER, REASON, SEARCH, choices_of, function_schema, offered
from toolorch_integrations.select_replies import answer_in, code_in, documents_in, query_in, specialist_prompt
from toolorch_integrations.specialist import SpecialistReply
from toolorch_integrations.steps import Steps


class SelectRun(Run):
    """One request of an orchestrator whose policy chooses functions and models.

    Args:
        catalog: The specialists and the app's own tools.
        options: Preferences, budget and catalogue view of this request.
        tools: Name of the app's tool behind `search` and `enhance_reasoning`; a function without one is not offered.
        fields: The other arguments of `Run`.

    Raises:
        CatalogError: The options do not fit the catalogue, or leave no specialist that answers.
    """

    def __init__(self, catalog: Catalog, options: RunOptions, *, tools: Mapping[str, str], **fields: Any) -> None:
        super().__init__(catalog, options, **fields)
        shown = {entry.name: entry for entry in self.view.entries if isinstance(entry, Tool)}
        self.tools = {function: shown[name] for function, name in tools.items() if name in shown}
        self.choices = {
            function: choices
            for function, choices in choices_of(self.view).items()
            if choices and (function == ANSWER or function in self.tools)
        }
        if ANSWER not in self.choices:
            raise CatalogError(
                "The `select` rendering needs a specialist with `answer` among its capabilities, and this request's "
                "catalogue shows none: add one, or change `allow`, `deny` or `shortlist`."
            )

    def problem(self, request: str) -> str:
        """Return the problem as the policy reads it: the user's words, and after them the preferences."""
        return "\n\n".join(part for part in (request, self.options.preferences.sentence(self.view.aliases)) if part)

    def functions(self, calls: Sequence[Sequence[tuple[str, str]]], *, last: bool) -> list[dict[str, Any]]:
        """Return the schemas of a step's functions.

        Args:
            calls: `tool_call_id` and function of each call so far, turn by turn.
            last: Whether the budget allows no further turn.
        """
        unread = (CallStatus.UNKNOWN, CallStatus.MALFORMED)
        rejected = {call.call_id for call in self.account.ledger if call.status in unread}
        called = [
            function for turn in calls for function in dict.fromkeys(name for id_, name in turn if id_ not in rejected)
        ]
        return [
            function_schema(function, self.choices[function]) for function in offered(self.choices, called, last=last)
        ]

    @property
    def fallback(self) -> Specialist | None:
        """The specialist that answers when the policy cannot: the named one, or the first for `answer`."""
        named = super().fallback
        return (
            named if named is not None and named.name == self._fallback else next(iter(self.choices[ANSWER].values()))
        )

    def needs_confirmation(self, name: str) -> bool:
        """Whether a person must say yes to a call of a function: its tool or one of its specialists asks for it."""
        return needs_confirmation(self.tools.get(name), self.choices.get(name, {}).values())

    def shown_name(self, name: str) -> str:
        """Return a function's name, which has no alias."""
        return name

    def entry_name(self, name: str) -> str:
        """Return a function's name: a person may only put another function in a call's place.

        Raises:
            UnknownEntryError: There is no such function.
        """
        if name not in self.choices:
            raise UnknownEntryError(f"There is no tool {name!r}; choose one of {list(self.choices)}.")
        return name

    def admit(
        self, call_id: str, name: str, arguments: Any, upper_bound: Callable[[AnyEntry], float]
    ) -> Admission | Rejection:
        """Decide on a call of a function: the entry that is admitted is the specialist that the policy chose."""
        choices = self.choices.get(name)
        if choices is None:
            text = observation.unknown(name, tuple(self.choices))
            return Rejection(text, self._record(call_id, name, CallKind.TOOL, CallStatus.UNKNOWN))
        alias = arguments.get("model") if isinstance(arguments, Mapping) else None
        if not isinstance(alias, str):
            text = observation.malformed(name, f"`model` must be one of {', '.join(choices)}")
            return Rejection(text, self._record(call_id, name, CallKind.TOOL, CallStatus.MALFORMED))
        if alias not in choices:
            text = observation.unknown(alias, tuple(choices))
            return Rejection(text, self._record(call_id, alias, CallKind.TOOL, CallStatus.UNKNOWN))
        admitted = super().admit(call_id, alias, arguments, upper_bound)
        if isinstance(admitted, Rejection) or name not in self.tools:
            return admitted
        limits = [admitted.timeout + self._timeout(self.tools[name]), self.account.seconds_left()]
        return replace(admitted, timeout=max(0.001, min(limit for limit in limits if limit is not None)))


def needs_confirmation(tool: Tool | None, specialists: Iterable[Specialist]) -> bool:
    """Whether a person must say yes to a call of a function with this tool and these specialists."""
    return any(entry.needs_confirmation for entry in (tool, *specialists) if entry is not None)


# --- one call of a function ---


@dataclass(frozen=True, slots=True)
class AskChosen:
    """A step of `call_steps`: ask the chosen specialist this; send its `SpecialistReply`."""

    prompt: str


@dataclass(frozen=True, slots=True)
class UseTool:
    """A step of `call_steps`: give this text to the app's tool, for `timeout` seconds at most.

    Send what it returned, or the exception that it raised: a framework's own signals must not pass through here.
    """

    text: str
    timeout: float


@dataclass(frozen=True, slots=True)
class SelectResult:
    """What a call of a function brought.

    Attributes:
        text: The observation, for people and traces; the policy reads the context.
        calls: Calls of specialists and of the app's tool, the one that decides last.
        contribution: What joins the context; empty where the call failed.
        final: Whether `text` is the answer to the user.
    """

    text: str
    calls: list[Call]
    contribution: dict[str, Any] = field(default_factory=dict)
    final: bool = False

    def artifact(self) -> dict[str, Any]:
        """Return calls and contribution as JSON-safe values, for a framework's tool result."""
        return {
            "calls": [call.to_dict() for call in self.calls],
            "final": self.final,
            "context": self.contribution,
        }


def call_steps(function: str, problem: str, context: str, tool: Tool | None, seconds: float) -> Steps[SelectResult]:
    """Yield `AskChosen`, then `UseTool` where the function has a tool; return what the call brought.

    Whatever was asked is in the result's calls, so that it is charged even when a later part of the call fails.

    Args:
        function: One of the policy's functions.
        problem: The user's words.
        context: What is known so far, as text.
        tool: The entry of the app's tool; None for `answer`.
        seconds: Time for the whole call.
    """
    started = time.monotonic()
    reply: SpecialistReply = yield AskChosen(specialist_prompt(function, problem, context))
    if not reply.ok:
        return SelectResult(reply.text, reply.calls)
    if tool is None:
        answer = answer_in(reply.text)
        return SelectResult(answer, reply.calls, final=True) if answer else _useless(reply, "an empty answer")
    text = code_in(reply.text) if function == REASON else query_in(reply.text)
    if text is None:
        return _useless(reply, "no Python block" if function == REASON else "no query")
    for attempt in range(1, tool.retries + 2):
        # A tenth of what is left stays for the way back: cut off from outside, the specialist's cost would be lost.
        left = 0.9 * (seconds - (time.monotonic() - started))
        limit = max(0.001, left if tool.timeout is None else min(tool.timeout, left))
        began = time.monotonic()
        result = yield UseTool(text, limit)
        call = Call(CallKind.TOOL, tool.name, seconds=time.monotonic() - began, attempts=attempt)
        if not isinstance(result, Exception):
            break
        gave_up = isinstance(result, GivenUpError)
        call.status = CallStatus.TIMEOUT if gave_up else CallStatus.ERROR
        call.error = observation.timed_out(tool.name, limit) if gave_up else observation.failed(tool.name, result)
    calls = [*reply.calls, call]
    if call.status is not CallStatus.OK:
        return SelectResult(call.error, calls)
    return _contributed(function, text, result, calls)


def _contributed(function: str, text: str, result: Any, calls: list[Call]) -> SelectResult:
    contribution: dict[str, Any]
    if function == SEARCH:
        contribution = {"documents": documents_in(result)}
        shown = "\n\n".join(contribution["documents"])
    else:
        shown = observation.cut(result if isinstance(result, str) else str(result)).strip()
        contribution = {"code": text, "output": shown}
    if shown:
        return SelectResult(shown, calls, contribution)
    calls[-1].status = CallStatus.ERROR
    calls[-1].error = observation.failed(calls[-1].name, "it brought nothing")
    return SelectResult(calls[-1].error, calls)


def _useless(reply: SpecialistReply, what: str) -> SelectResult:
    """Return a reply that answers nothing: it is paid for, and the turn has failed."""
    name = reply.calls[-1].name
    return SelectResult(observation.failed(name, f"it wrote {what}"), reply.calls)


# --- the published catalogue ---


def published_catalog() -> Catalog:
    """Return the specialists that NVIDIA's Orchestrator-8B was trained with: aliases, descriptions, prices, latencies.

    Endpoint, served model and the name of the key's variable of each come from environment variables such as
    TOOLORCH_GPT5_URL, TOOLORCH_GPT5_MODEL and TOOLORCH_GPT5_KEY_VARIABLE; `published_catalog.toml` lists them.
    """
    return Catalog.from_file(Path(__file__).with_name("published_catalog.toml"))
