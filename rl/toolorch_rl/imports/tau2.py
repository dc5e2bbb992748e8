"""Tasks of tau2-bench (arXiv 2506.07982), from a checkout or an installed package.

The benchmark's own environments run, in this process. Its users are played by a language model that follows written
instructions; here the instructions themselves are the request, so a run tests the agent and not the conversation. A
task in which the user acts on a database of his own is run in the benchmark's solo mode, where the agent has the user's
tools too and works on a ticket.

A run has solved a task when both databases are in the state that the golden actions leave, the assertions on them
hold, and what must be communicated was said, each as far as the task's `reward_basis` names it. Assertions in natural
language need a judge: they are listed as `unchecked`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache, cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

from toolorch_rl.imports.arguments import arguments_of
from toolorch_rl.imports.source import BenchmarkError, importable
from toolorch_rl.imports.task import ImportedTask, LeftOut, Stage
from toolorch_rl.imports.toolkit import Toolkit, ToolkitEnvironment
from toolorch_rl.said import says
from toolorch_rl.tasks import GoldenCall

_CHECKED = {"DB", "COMMUNICATE", "ENV_ASSERTION", "ACTION"}


def tau2_tasks(domain: str, checkout: str | Path | None = None) -> Iterator[ImportedTask | LeftOut]:
    """Give the tasks of a domain; those that cannot be imported with the reason.

    Args:
        domain: `retail`, `airline`, `telecom`, `mock` ...
        checkout: Folder of a checkout, whose `data` is then used; by default the package is installed, and
            TAU2_DATA_DIR says where its data lies.

    Raises:
        BenchmarkError: The package, its data or the domain is not there.
    """
    if checkout is not None:
        os.environ.setdefault("TAU2_DATA_DIR", str(Path(checkout) / "data"))
    with importable("tau2", checkout, "pip install -e a checkout of sierra-research/tau2-bench"):
        try:
            module = import_module(f"tau2.domains.{domain}.environment")
        except ModuleNotFoundError as error:
            if error.name != f"tau2.domains.{domain}":
                raise
            raise BenchmarkError(f"tau2-bench has no domain {domain!r}") from error
    try:
        tasks = module.get_tasks(None)
        module.get_environment()
    except FileNotFoundError as error:
        raise BenchmarkError(f"data of the domain {domain!r} is missing: {error.filename}") from error
    for task in tasks:
        try:
            yield _Source(task, domain, module).task()
        except (KeyError, ValueError) as error:
            yield LeftOut(str(task.id), str(error))


class _Source:
    """One task of the benchmark."""

    def __init__(self, task: Any, domain: str, module: Any) -> None:
        self.source = task
        self.domain = domain
        self.module = module
        self.criteria = task.evaluation_criteria
        if self.criteria is None or not (self.criteria.actions or self.criteria.env_assertions):
            raise ValueError("it has neither golden actions nor assertions on the databases")
        self.start_of_run = task.initial_state
        if self.start_of_run is not None and self.start_of_run.message_history:
            raise ValueError("it begins in the middle of a conversation")
        self.basis = {getattr(item, "value", str(item)) for item in self.criteria.reward_basis}
        self.solo = any(action.requestor == "user" for action in self.criteria.actions or ())
        if self.solo and not task.ticket:
            raise ValueError("the user acts, and there is no ticket for the solo mode")

    def task(self) -> ImportedTask:
        said = self.source.ticket if self.solo else str(self.source.user_scenario.instructions)
        calls = tuple(
            GoldenCall(id=f"call_{number}", name=action.name, arguments=action.arguments)
            for number, action in enumerate(self.criteria.actions or ())
        )
        return ImportedTask(
            id=f"{self.domain}_{self.source.id}",
            domain=f"tau2 {self.domain}",
            stages=(Stage(said, calls),),
            start=self.start,
            judge_run=self.judge,
            app_prompt=_policy(self.module, self.solo),
            answer=" ".join(self.must_say) or "Done.",
            unchecked=tuple(sorted(self.basis - _CHECKED)),
        )

    @property
    def must_say(self) -> list[str]:
        return list(self.criteria.communicate_info or ()) if "COMMUNICATE" in self.basis else []

    def environment(self) -> Any:
        """Return the benchmark's environment in the task's initial state."""
        made = _opened(self.module, self.solo)
        begin = self.start_of_run
        if begin is not None:
            made.set_state(begin.initialization_data, begin.initialization_actions, [])
        return made

    def start(self) -> ToolkitEnvironment:
        return _wrapped(self.environment(), self.solo)

    @cached_property
    def wanted(self) -> ToolkitEnvironment:
        """The environment after the golden actions."""
        environment = self.start()
        for action in self.criteria.actions or ():
            try:
                environment.call_text(action.name, action.arguments)
            except ValueError:
                continue  # the benchmark itself goes on when a golden action fails
        return environment

    def judge(self, environment: ToolkitEnvironment, answer: str) -> Iterator[str]:
        if "DB" in self.basis and environment.state() != self.wanted.state():
            yield "the database is in another state than the golden one"
        if "ENV_ASSERTION" in self.basis:
            for assertion in self.criteria.env_assertions or ():
                if not _holds(environment.source, assertion):
                    yield f"the assertion {assertion.func_name} does not hold"
        if "ACTION" in self.basis:
            for action in self.criteria.actions or ():
                if not any(_matches(action, call.name, call.arguments) for call in environment.made):
                    yield f"{action.name} was not called as it should be"
        for text in self.must_say:
            if not says(answer, text):
                yield f"not said: {text!r}"


def _opened(module: Any, solo: bool) -> Any:
    return module.get_environment(solo_mode=True) if solo else module.get_environment()


@cache
def _policy(module: Any, solo: bool) -> str:
    """Return a domain's system prompt: the same for all its tasks, and opening an environment reads its database."""
    return str(_opened(module, solo).get_policy())


def _wrapped(environment: Any, solo: bool) -> ToolkitEnvironment:
    tools = list(environment.get_tools())
    if solo and environment.user_tools is not None:
        tools += environment.get_user_tools()
    schemas = {tool.name: tool.openai_schema["function"] for tool in tools}

    def call(name: str, arguments: dict[str, Any]) -> str:
        result = environment.make_tool_call(name, requestor="assistant", **arguments)
        environment.sync_tools()
        return str(environment.to_json_str(result))

    return ToolkitEnvironment(
        Toolkit(
            {name: schema["description"] for name, schema in schemas.items()},
            {name: arguments_of(name, schema["parameters"]) for name, schema in schemas.items()},
            call,
            lambda: (environment.get_db_hash(), environment.get_user_db_hash()),
            environment,
        )
    )


def _holds(environment: Any, assertion: Any) -> bool:
    try:
        return bool(environment.run_env_assertion(assertion, raise_assertion_error=False))
    except Exception:  # it asks for an entry that is not there
        return False


def _matches(action: Any, name: str, arguments: dict[str, Any]) -> bool:
    compared = action.arguments if action.compare_args is None else action.compare_args
    return action.name == name and all(arguments.get(key) == action.arguments.get(key) for key in compared)
