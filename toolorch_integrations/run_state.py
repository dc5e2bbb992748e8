"""What a face keeps of a run in its framework's state: JSON-safe, so that the run goes on in any process."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from typing_extensions import TypedDict

from toolorch_integrations.budget import Account
from toolorch_integrations.ledger import Call, Ledger
from toolorch_integrations.run import Run
from toolorch_integrations.run_options import RunOptions


class RunState(TypedDict):
    """What a run needs to go on: no clients, no ids of tokens."""

    id: str
    options: dict[str, Any]
    started: float
    """Epoch seconds."""
    paused: float
    """Seconds in which the run stood still, for a person or until it was resumed."""
    updated: float
    """Epoch seconds of the last policy call's end."""
    confirmed: list[str]
    """`tool_call_id`s of destructive calls that a person has said yes to."""


def new_run(options: RunOptions) -> RunState:
    """Return the state of a run that begins now."""
    now = time.time()
    return RunState(
        id=uuid.uuid4().hex,
        options=options.model_dump(mode="json"),
        started=now,
        paused=0.0,
        updated=now,
        confirmed=[],
    )


def rebuilt(stored: RunState, ledger: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the arguments of `Run` that a run goes on with: `options`, `account` and `run_id`.

    Args:
        stored: Its state.
        ledger: Calls of this run and of others, as `Call.to_dict` gave them.
    """
    options = RunOptions.model_validate(stored["options"])
    account = Account(options.budget, Ledger.from_dicts(ledger, stored["id"]), stored["started"], stored["paused"])
    account.stood_still(stored["updated"])  # in another process: it has waited for a person, or to be resumed at all
    return {"options": options, "account": account, "run_id": stored["id"]}


def catch_up(run: Run, stored: RunState, ledger: Iterable[Mapping[str, Any]]) -> None:
    """Take over what another process has done for a run in the meantime: calls, and time of waiting."""
    run.account.paused = max(run.account.paused, stored["paused"])
    calls = [call for call in ledger if call["run_id"] == run.id]
    if len(calls) > len(run.account.ledger):
        run.account.catch_up(Call.from_dict(call) for call in calls)
