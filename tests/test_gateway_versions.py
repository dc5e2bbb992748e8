"""Policy versions in the gateway: who serves, decisions by hand, and that running routers follow them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.gateway_world import PolicyServer, client_of, gateway
from toolorch_serving.gateway.app import Gateway
from toolorch_serving.promotion.records import PromotionRecord, PromotionRecords, Step


@contextmanager
def world(folder: Path, *models: str) -> Iterator[tuple[Gateway, httpx.AsyncClient, PolicyServer]]:
    with ExitStack() as stack:
        policy = stack.enter_context(PolicyServer(list(models)))
        app = stack.enter_context(gateway(folder, policy={"url": policy.url}))
        yield app, stack.enter_context(client_of(app)), policy


async def promote(client: httpx.AsyncClient, version: str, reason: str = "it is better") -> httpx.Response:
    return await client.post("/v1/versions/promote", json={"version": version, "reason": reason})


async def roll_back(client: httpx.AsyncClient) -> httpx.Response:
    return await client.post("/v1/versions/roll_back", json={"reason": "it is worse"})


def version_of(app: Gateway) -> str:
    assert app.state.router is not None
    return app.state.router.version_for(f"new conversation {time.monotonic_ns()}")


async def test_before_any_promotion_the_servers_first_model_serves(tmp_path: Path):
    with world(tmp_path, "p", "p-v2") as (app, client, _):
        found = (await client.get("/v1/versions")).json()
        assert found == {
            "current": "p",
            "candidate": None,
            "share": 0.0,
            "served": ["p", "p-v2"],
            "served_error": None,
            "history": [],
        }
        assert version_of(app) == "p"


async def test_a_promotion_by_hand_is_a_record_that_routers_follow_at_once(tmp_path: Path):
    with world(tmp_path, "p", "p-v2") as (app, client, _):
        step = (await promote(client, "p-v2", "the support team asked")).json()
        assert (step["candidate"], step["incumbent"], step["step"]) == ("p-v2", "p", "promoted")
        assert step["reason"] == "by hand (anonymous): the support team asked"
        assert step["evidence"] == {"by": "anonymous"}
        assert version_of(app) == "p-v2"
        found = (await client.get("/v1/versions")).json()
        assert (found["current"], found["history"]) == ("p-v2", [step])


async def test_a_roll_back_by_hand_takes_promotions_back_one_by_one(tmp_path: Path):
    with world(tmp_path, "p", "p-v2", "p-v3") as (app, client, _):
        for version in ("p-v2", "p-v3"):
            assert (await promote(client, version)).status_code == 200
        for expected in ("p-v2", "p"):
            step = (await roll_back(client)).json()
            assert (step["step"], step["incumbent"]) == ("rolled back", expected)
            assert version_of(app) == expected
        refused = await roll_back(client)
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conflict")
        assert "nothing to roll back" in refused.json()["error"]["message"]
        assert len((await client.get("/v1/versions")).json()["history"]) == 4


async def test_an_older_version_may_serve_again(tmp_path: Path):
    with world(tmp_path, "p", "p-v2") as (app, client, _):
        for version in ("p-v2", "p", "p-v2"):
            assert (await promote(client, version)).status_code == 200
            assert version_of(app) == version


@pytest.mark.parametrize(
    ("version", "message"), [("p", "serves already"), ("p-v9", "does not answer as p-v9, but as p, p-v2")]
)
async def test_what_cannot_be_promoted(tmp_path: Path, version: str, message: str):
    with world(tmp_path, "p", "p-v2") as (app, client, _):
        refused = await promote(client, version)
        assert (refused.status_code, refused.json()["error"]["param"]) == (409, "version")
        assert message in refused.json()["error"]["message"]
        assert version_of(app) == "p"


async def test_a_reason_is_needed(tmp_path: Path):
    with world(tmp_path, "p", "p-v2") as (_, client, _policy):
        refused = await promote(client, "p-v2", "  ")
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "reason")


def canary(app: Gateway, **fields: Any) -> PromotionRecord:
    records = PromotionRecords(app.state.store)
    first = records.append(PromotionRecord("one", Step.BEGUN, "p-v2", "p", **fields))
    return records.append(replace(first, step=Step.CANARY, share=0.25), first)


async def test_a_candidate_on_its_way_is_shown_and_can_be_promoted_by_hand(tmp_path: Path):
    with world(tmp_path, "p", "p-v2", "p-v3") as (app, client, _):
        last = canary(app, folder="/weights/v2")
        found = (await client.get("/v1/versions")).json()
        assert (found["current"], found["candidate"], found["share"]) == ("p", "p-v2", 0.25)
        other = await promote(client, "p-v3")
        assert other.status_code == 409
        assert "candidate p-v2 is on its way (canary): roll it back first" in other.text
        assert (await promote(client, "p-v2")).status_code == 200
        steps = PromotionRecords(app.state.store).steps(last.promotion)
        assert [step.step for step in steps] == [Step.BEGUN, Step.CANARY, Step.PROMOTED]
        assert version_of(app) == "p-v2"
        await promote(client, "p")
        await promote(client, "p-v2")
        assert PromotionRecords(app.state.store).history()[-1].folder == "/weights/v2"


async def test_a_candidate_that_is_taken_back_leaves_the_server(tmp_path: Path):
    with world(tmp_path, "p", "p-v2") as (app, client, policy):
        canary(app)
        assert (await roll_back(client)).json()["step"] == "rolled back"
        assert policy.models == ["p"]
        found = (await client.get("/v1/versions")).json()
        assert (found["current"], found["candidate"], found["served"]) == ("p", None, ["p"])


@contextmanager
def behind_a_balancer(
    folder: Path, first: list[str], second: list[str]
) -> Iterator[tuple[Gateway, httpx.AsyncClient, list[PolicyServer]]]:
    """A gateway that asks the first of two replicas as if it were the balancer."""
    with ExitStack() as stack:
        replicas = [stack.enter_context(PolicyServer(models)) for models in (first, second)]
        policy = {"url": replicas[0].url, "replicas": [one.url for one in replicas], "model": "p"}
        app = stack.enter_context(gateway(folder, policy=policy))
        yield app, stack.enter_context(client_of(app)), replicas


async def test_a_version_serves_where_every_replica_has_it(tmp_path: Path):
    with behind_a_balancer(tmp_path, ["p", "p-v2", "p-v3"], ["p", "p-v3"]) as (_, client, _replicas):
        assert (await client.get("/v1/versions")).json()["served"] == ["p", "p-v3"]
        refused = await promote(client, "p-v2")
        assert refused.status_code == 409
        assert "does not answer as p-v2, but as p, p-v3" in refused.text
        assert (await promote(client, "p-v3")).status_code == 200


@pytest.mark.parametrize("second", [["p", "p-v2"], ["p"]])
async def test_a_candidate_that_is_taken_back_leaves_every_replica_that_has_it(tmp_path: Path, second: list[str]):
    with behind_a_balancer(tmp_path, second, ["p", "p-v2"]) as (app, client, replicas):
        canary(app)
        assert (await roll_back(client)).json()["step"] == "rolled back"
        assert [one.models for one in replicas] == [["p"], ["p"]]


async def test_a_replica_that_is_away_keeps_no_other_from_letting_go(tmp_path: Path):
    with PolicyServer(["p", "p-v2"]) as up:
        policy = {"url": up.url, "replicas": ["http://127.0.0.1:9/v1", up.url], "model": "p"}
        with gateway(tmp_path, policy=policy) as app, client_of(app) as client:
            canary(app)
            found = (await client.get("/v1/versions")).json()
            assert (found["current"], found["served"]) == ("p", [])
            assert "http://127.0.0.1:9/v1/models cannot be asked" in found["served_error"]
            assert (await roll_back(client)).json()["step"] == "rolled back"
            assert up.models == ["p"]


def test_a_gateway_follows_what_another_process_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("toolorch_serving.gateway.opening.FOLLOW_SECONDS", 0.02)
    with world(tmp_path, "p", "p-v2") as (app, _, _policy):
        assert version_of(app) == "p"
        PromotionRecords(app.state.store).append(PromotionRecord("other", Step.PROMOTED, "p-v2", "p"))
        while version_of(app) != "p-v2":  # the test's own time limit ends it
            time.sleep(0.02)


async def test_a_server_that_is_away_is_told(tmp_path: Path):
    policy = {"url": "http://127.0.0.1:9/v1", "model": "p"}
    with gateway(tmp_path, policy=policy) as app, client_of(app) as client:
        found = (await client.get("/v1/versions")).json()
        assert (found["current"], found["served"]) == ("p", [])
        assert "is it running?" in found["served_error"]
        assert (await promote(client, "p-v2")).status_code == 502


async def test_without_a_policy_server_there_are_no_versions(tmp_path: Path):
    with gateway(tmp_path) as app, client_of(app) as client:
        assert (await client.get("/v1/versions")).json()["current"] is None
        assert (await promote(client, "p-v2")).status_code == 404
