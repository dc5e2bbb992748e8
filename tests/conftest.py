"""Fixtures and settings for all tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.postgres import own_postgres_server, postgres_server, postgres_url  # noqa: F401
from tests.routing_world import one_thread, router, router_runs, router_store  # noqa: F401
from tests.servers import embedded_server, tiny_adapter, tiny_policy, vllm_server  # noqa: F401
from toolorch_integrations.store import TraceStore

# The same examples in every run, and no time limit an example: a red build means a change, never a draw.
# `pytest --hypothesis-profile=explore` draws new ones.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None, max_examples=2_000)
settings.load_profile("repeatable")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[TraceStore]:
    """A trace store of the test's own; files whose stores hold something have another of this name."""
    with TraceStore.open(tmp_path / "traces.db") as opened:
        yield opened
