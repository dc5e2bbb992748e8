"""A version in several servers behind a balancer: it serves in all of them, or in none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.doubles import unused_port
from toolorch_rl.weights import ServerControl, WeightsError
from toolorch_serving.embedded import EmbeddedServer
from toolorch_serving.promotion import ServedReplicas


@pytest.fixture(scope="module")
def second(tiny_policy: Path) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(tiny_policy, dtype="float32", progress=False) as server:
        yield server


def served_by(server: EmbeddedServer) -> set[str]:
    control = ServerControl(server.url, timeout=30)
    try:
        return set(control.models())
    finally:
        control.close()


def test_every_replica_takes_the_version_and_lets_go_of_it(
    embedded_server: EmbeddedServer, second: EmbeddedServer, tiny_policy: Path, tiny_adapter: Path
) -> None:
    version = f"{embedded_server.name}-replicated"
    with ServedReplicas([embedded_server.url, second.url], embedded_server.name, tiny_policy) as replicas:
        proven = replicas.publish(version, tiny_adapter)
        assert [one.probe.told_apart for one in proven] == [True, True]
        assert replicas.serves(version)
        ServerControl(second.url, timeout=30).unload_adapter(version)
        assert not replicas.serves(version)  # one of them has lost it
        replicas.retire(version)
    assert version not in served_by(embedded_server) | served_by(second)


def test_a_version_that_one_replica_does_not_take_is_in_none(
    embedded_server: EmbeddedServer, second: EmbeddedServer, tiny_policy: Path, tiny_adapter: Path
) -> None:
    version = f"{embedded_server.name}-halfway"
    down = f"http://127.0.0.1:{unused_port()}/v1"
    with ServedReplicas([second.url, down], embedded_server.name, tiny_policy) as replicas:
        with pytest.raises(WeightsError):
            replicas.publish(version, tiny_adapter)
        assert version not in served_by(second)
        with pytest.raises(WeightsError):
            replicas.retire(version)
