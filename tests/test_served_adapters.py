"""A candidate as a server has it: published under its name, proven, and retired."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolorch_serving.embedded import EmbeddedServer
from toolorch_serving.promotion import PromotionError


def test_a_served_adapter_is_published_under_the_policys_name(tmp_path: Path):
    from toolorch_serving.promotion import ServedAdapters

    served = ServedAdapters("http://127.0.0.1:9/v1", "policy", "models/policy")
    with pytest.raises(PromotionError, match="must begin with the policy's name: policy-v2"):
        served.publish("v2", tmp_path)
    with pytest.raises(PromotionError, match="holds no adapter"):
        served.publish("policy-v2", tmp_path)


def test_an_adapter_goes_into_a_real_server_and_out_again(
    embedded_server: EmbeddedServer, tiny_policy: Path, tiny_adapter: Path
):
    from toolorch_serving.promotion import ServedAdapters

    version = f"{embedded_server.name}-promoted"
    with ServedAdapters(embedded_server.url, embedded_server.name, tiny_policy) as served:
        assert not served.serves(version)
        published = served.publish(version, tiny_adapter)
        assert published.probe.error < 1e-3
        assert published.probe.told_apart
        assert served.serves(version)
    for closed in (lambda: served.serves(version), lambda: served.publish(version, tiny_adapter)):
        with pytest.raises(RuntimeError, match="closed"):
            closed()
    with ServedAdapters(embedded_server.url, embedded_server.name, tiny_policy) as served:
        assert served.publish(version, tiny_adapter).probe.told_apart  # a loaded version is proven once more
        served.retire(embedded_server.name)  # the bare policy stays, whatever is asked
        served.retire(version)
        served.retire(version)
        assert not served.serves(version)
        assert served.serves(embedded_server.name)


def test_what_the_server_computes_in_is_found_out(
    embedded_server: EmbeddedServer, tiny_policy: Path, tiny_adapter: Path, tmp_path: Path
):
    """The bare policy's own log-probabilities say it; those of another model are no rounding."""
    from tests import tiny_policy as tiny
    from toolorch_rl.weights import BFLOAT16, FLOAT32, Probe, folder_logprobs
    from toolorch_serving.promotion import ServedAdapters

    probe = Probe.random(300)
    with ServedAdapters(embedded_server.url, embedded_server.name, tiny_policy) as served:
        exact = folder_logprobs(tiny_policy)
        assert served._found_precision(probe, exact) is FLOAT32
        rounded = lambda ids: [values + 0.1 for values in exact(ids)]  # noqa: E731
        assert served._found_precision(probe, rounded) is BFLOAT16
    other = tiny.build(tmp_path / "other", lessons=(), seed=5)
    with (
        ServedAdapters(embedded_server.url, embedded_server.name, other) as served,
        pytest.raises(PromotionError, match="is not the policy in"),
    ):
        served.publish(f"{embedded_server.name}-v9", tiny_adapter)


@pytest.mark.slow
def test_a_bfloat16_server_takes_an_adapter(tiny_policy: Path, tiny_adapter: Path):
    from toolorch_rl.weights import FLOAT32, ProbeError
    from toolorch_serving.promotion import ServedAdapters

    with EmbeddedServer(tiny_policy, dtype="bfloat16", progress=False) as server:
        with ServedAdapters(server.url, server.name, tiny_policy) as served:
            found = served.publish(f"{server.name}-v1", tiny_adapter).probe
            assert found.error > FLOAT32.tolerance
            assert found.told_apart
        with (
            ServedAdapters(server.url, server.name, tiny_policy, FLOAT32) as served,
            pytest.raises(ProbeError, match="differ by"),
        ):
            served.publish(f"{server.name}-v2", tiny_adapter)
