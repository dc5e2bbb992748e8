"""What goes wrong in a run, in the codes that the gateway tells its clients."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from toolorch_integrations.endpoint_errors import explain
from toolorch_integrations.errors import (
    CatalogError,
    EmptyMessagesError,
    EndpointError,
    GivenUpError,
    MissingVariableError,
)
from toolorch_integrations.ledger import Call, CallKind, CallStatus, Ledger
from toolorch_integrations.observation import failed, timed_out
from toolorch_integrations.progress import budget_ended, call_ended, call_started, fallback
from toolorch_serving.gateway.errors import ConflictError
from toolorch_serving.gateway.faults import event_fault, fault_of
from toolorch_serving.gateway.periodic import Periodic
from toolorch_serving.gateway.readable import LINE, line
from toolorch_serving.gateway.sse import to_json
from toolorch_serving.sandbox import Limits, Reason, SandboxResult, SandboxUnavailableError
from toolorch_serving.tools import SearchLimitedError
from toolorch_serving.tools.code_interpreter import _refusal, observed


def ended(name: str, result: str, status: CallStatus = CallStatus.ERROR) -> dict[str, Any]:
    return call_ended(Call(CallKind.TOOL, name, status), Ledger(), result)


def too_long() -> str:
    return observed(
        SandboxResult(exit_code=137, reason=Reason.TIMEOUT, stdout="", stderr="", seconds=5.0, start_seconds=0.1),
        Limits(),
    )


@pytest.mark.parametrize(
    ("event", "code"),
    [
        (budget_ended("turns", Ledger()), "max_rounds"),
        (budget_ended("dollars", Ledger()), "max_dollars"),
        (fallback("expert", str(explain(ConnectionError("no")))), "policy_failed"),
        (fallback("expert", "The policy endpoint cannot be reached (APIConnectionError)."), "policy_unreachable"),
        (
            ended("search", failed("search", SearchLimitedError("DuckDuckGo takes no further queries"))),
            "search_limited",
        ),
        (ended("code_interpreter", too_long(), CallStatus.OK), "code_timed_out"),
        (ended("code_interpreter", timed_out("code_interpreter", 5), CallStatus.TIMEOUT), "code_timed_out"),
        (ended("code_interpreter", f"Error: {_refusal(SandboxUnavailableError('no bwrap'))}"), "code_refused"),
        (
            ended("expert", failed("expert", MissingVariableError("environment variable KEY, which"))),
            "model_not_configured",
        ),
        (ended("search", "Two tents; quota of 429 rooms, rate limit", CallStatus.OK), None),
        (ended("code_interpreter", "Error: the program failed with exit status 1.", CallStatus.OK), None),
        (ended("look", "no such order"), None),
        (call_started("search", "tool", "1", {}), None),
    ],
)
def test_events_that_say_that_something_is_wrong(event: dict[str, Any], code: str | None) -> None:
    found = event_fault(event)
    assert (found and found["code"]) == code


class APIConnectionError(Exception):
    """As clients made by OpenAI's generator name it."""


class StatusError(Exception):
    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status_code = status


@pytest.mark.parametrize(
    ("error", "status", "code", "param"),
    [
        (MissingVariableError("the environment variable QWEN_URL is"), 503, "model_not_configured", "QWEN_URL"),
        (explain(APIConnectionError("refused")), 502, "policy_unreachable", None),
        (explain(StatusError(400, '"auto" tool choice requires --x')), 502, "no_function_calling", None),
        (StatusError(404, "The model `v9` does not exist."), 502, "model_not_found", None),
        (EndpointError("gave no JSON"), 502, "policy_failed", None),
        (CatalogError("two entries"), 400, "invalid_request", None),
        (EmptyMessagesError("no message"), 400, "invalid_request", "messages"),
        (GivenUpError("no answer within 3 s"), 504, "timeout", None),
        (ConflictError("busy", param="thread_id", code="thread_busy"), 409, "thread_busy", "thread_id"),
        (RuntimeError("surprise"), 502, "run_failed", None),
    ],
)  # fmt: skip
def test_errors_that_end_a_run(error: Exception, status: int, code: str, param: str | None) -> None:
    found = fault_of(error)
    assert (found.status, found.body["error"]["code"], found.param) == (status, code, param)
    assert str(error) in str(found)


def test_every_step_is_one_readable_line() -> None:
    events = [
        {"type": "turn", "turn": 2, "text": "I look\nit up.", "calls": ["search"], "dollars": 1e-5, "seconds": 0.123},
        {"type": "turn", "turn": 3, "text": "Two tents.", "calls": [], "dollars": 0.0, "seconds": 0.1},
        call_started("search", "tool", "1", {"query": "tents"}),
        ended("search", "x" * 1000),
        budget_ended("turns", Ledger()),
        fallback("expert", "It failed."),
    ]
    lines = [line(event) for event in events]
    assert lines[0] == "Turn 2: calls search ($1e-05, 0.12 s) I look it up."
    assert lines[1] == "Turn 3: answers ($0, 0.10 s)"
    assert lines[2] == 'search {"query": "tents"}'
    assert lines[3].startswith("search error ($0, 0.00 s): xxx")
    assert len(lines[3]) == LINE
    assert lines[4:] == [
        "The budget's limit of turns ended the run.",
        "It failed. expert answers in the policy's place.",
    ]


def test_whatever_a_policy_writes_can_be_sent() -> None:
    data = {"text": "half a \ud800 character", "number": 10**30, "thing": object}
    found = json.loads(to_json(data))
    assert found["text"] == data["text"]
    assert found["number"] == 10**30
    assert json.loads(to_json({"x": float("nan")})) == {"x": None}


def test_a_chore_that_goes_on_failing_is_logged_once_and_when_it_is_well(caplog: pytest.LogCaptureFixture) -> None:
    turns, over = iter([OSError("away"), OSError("away"), OSError("away"), None]), threading.Event()

    def chore() -> None:
        error = next(turns, None)
        if error is not None:
            raise error
        over.set()

    with Periodic("chore", 0.001, chore):
        assert over.wait(60)
    said = [record.getMessage() for record in caplog.records]
    assert [text.split(";")[0] for text in said] == ["toolorch-chore failed", "toolorch-chore works again"]
