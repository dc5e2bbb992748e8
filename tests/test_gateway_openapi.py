"""The gateway's own description of itself, and requests drawn from it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.internal.conjecture import utils
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.gateway_world import Echo, PolicyServer, client_of, gateway
from tests.sample_events import run
from toolorch_serving.gateway.state import GatewayState

PATHS = {
    "/api/chat/orchestrator/stream": {"post"},
    "/health": {"get"},
    "/metrics": {"get"},
    "/v1/catalog": {"get"},
    "/v1/chat/completions": {"post"},
    "/v1/completions": {"post"},
    "/v1/feedback": {"post"},
    "/v1/models": {"get"},
    "/v1/routing": {"get"},
    "/v1/traces": {"get"},
    "/v1/traces/{trace_id}": {"get"},
    "/v1/versions": {"get"},
    "/v1/versions/promote": {"post"},
    "/v1/versions/roll_back": {"post"},
}


def with_echo(state: GatewayState) -> None:
    state.proxy = Echo(1)


@pytest.fixture
def schema(tmp_path: Path) -> Iterator[Any]:
    with PolicyServer(["p", "p-v2"]) as policy, gateway(tmp_path, with_echo, policy={"url": policy.url}) as app:
        for number in range(3):
            for event in run(f"{number:032x}"):
                app.state.session.recorder.put(event)
        assert app.state.flush(60)
        yield schemathesis.openapi.from_asgi("/openapi.json", app)


class Many(utils.many):
    """What hypothesis-jsonschema 0.23 still calls, and hypothesis 6.170 does as an iterator."""

    def more(self) -> bool:
        if not hasattr(self, "rest"):
            self.rest = iter(self.__enter__())
        if next(self.rest, self) is not self:
            return True
        self.__exit__(None, None, None)
        return False


@pytest.fixture
def draws_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(utils.many, "more"):
        monkeypatch.setattr(utils, "many", Many)


@pytest.mark.usefixtures("draws_objects")
def test_whatever_is_asked_is_answered_as_described(schema: Any):
    checks = [status_code_conformance, content_type_conformance, response_schema_conformance]
    seen: set[str] = set()

    def check(case: Any) -> None:
        answer = case.call()
        assert answer.status_code != 500, answer.text
        case.validate_response(answer, checks=checks)
        seen.add(case.operation.path)

    for result in schema.get_all_operations():
        drawn = given(case=result.ok().as_strategy())(check)
        settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))(drawn)()
    assert seen == set(PATHS)


async def test_every_path_is_described_with_its_errors(tmp_path: Path):
    with gateway(tmp_path) as app, client_of(app) as client:
        found = (await client.get("/openapi.json")).json()
        assert {path: set(methods) for path, methods in found["paths"].items()} == PATHS
        for path, methods in found["paths"].items():
            for operation in methods.values():
                assert {"4XX", "5XX"} <= set(operation["responses"])
                assert "422" not in operation["responses"]
                secured = operation.get("security") == [{"HTTPBearer": []}]
                assert secured == (path != "/health")
        assert (await client.get("/docs")).status_code == 200
        assert (await client.get("/orchestrator")).status_code == 200
