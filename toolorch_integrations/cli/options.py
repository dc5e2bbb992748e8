"""Options that several commands have, and how their texts are read."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields
from enum import StrEnum
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

import typer

from toolorch_integrations.preferences import Preferences

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")

_WIDTH = 120
"""Columns of a report that goes to a file or a pipe."""


class Shown(StrEnum):
    """How a report is written."""

    TABLE = "table"
    JSON = "json"


def report_console() -> Console:
    """Return where reports are printed: as wide as the terminal, or wide enough where there is none."""
    from rich.console import Console

    terminal = Console(highlight=False)
    return terminal if terminal.is_terminal else Console(highlight=False, width=_WIDTH)


def preferences(text: str) -> Preferences:
    """Read preferences such as cost=0.6,latency=0.2,tools.coder=1 or a JSON object."""
    try:
        if text.lstrip().startswith("{"):
            return Preferences.model_validate_json(text)
        weights = {name.strip(): float(value) for name, _, value in map(_pair, filter(str.strip, text.split(",")))}
        tools = {name: weights.pop(name) for name in list(weights) if name.startswith("tools.")}
        wishes = {name.removeprefix("tools."): weight for name, weight in tools.items()}
        return Preferences.model_validate({**weights, "tools": wishes})
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} are no preferences: give cost=0.6,latency=0.2 or JSON ({error})") from error


def settings(words: Sequence[str] | None) -> dict[str, Any]:
    """Read settings of training such as `best=0.5`, as `--set` gives them."""
    from toolorch_rl.training.settings import value_of

    for word in words or ():
        if "=" not in word:
            raise typer.BadParameter(f"{word!r}: give NAME=VALUE", param_hint="--set")
    return dict(value_of(word) for word in words or ())


def imported(text: str, option: str) -> Any:
    """Return what `MODULE:NAME` names; modules of the working folder are found as well.

    Args:
        text: As it was given.
        option: Of the command, for the message.
    """
    module, _, name = text.partition(":")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # the console script begins with its own folder there
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise typer.BadParameter(f"{text!r} names nothing: give MODULE:NAME ({error})", param_hint=option) from error


def with_options(kind: type[T]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the fields of a dataclass as options, for several commands to share.

    Args:
        kind: Its fields are annotated as typer's parameters are. The command takes an object of it first.
    """
    hints = get_type_hints(kind, include_extras=True)
    shared = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in fields(kind)  # type: ignore[arg-type]
    ]

    def wrap(command: Callable[..., None]) -> Callable[..., None]:
        types = get_type_hints(command, include_extras=True)
        own = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=types[parameter.name])
            for parameter in list(inspect.signature(command).parameters.values())[1:]
        ]

        @wraps(command)
        def run(**given: Any) -> None:
            command(kind(**{parameter.name: given.pop(parameter.name) for parameter in shared}), **given)

        run.__signature__ = inspect.Signature([*shared, *own])  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in (*shared, *own)}
        del run.__wrapped__
        return run

    return wrap


def _pair(part: str) -> tuple[str, str, str]:
    return part.partition("=")
