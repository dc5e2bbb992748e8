"""Requests a minute and dollars a day, in one gateway and in several on one store."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from tests.gateway_world import Echo, bearer, client_of, gateway, sha256
from toolorch_integrations.budget import Budget
from toolorch_integrations.store import TraceStore
from toolorch_serving.gateway.accounting import within_allowance
from toolorch_serving.gateway.errors import LimitError
from toolorch_serving.gateway.keys import Caller
from toolorch_serving.gateway.limits import Limits
from toolorch_serving.gateway.spending import DAY, Spending
from toolorch_serving.gateway.state import GatewayState

CHAT = "/v1/chat/completions"


class Clock:
    def __init__(self, now: float = 20_000 * DAY + 3_600) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store(tmp_path: Path) -> TraceStore:
    return TraceStore.open(tmp_path / "traces.db")


def caller(**limits: float) -> Caller:
    return Caller("app", frozenset({"chat"}), **limits)


def test_requests_fill_a_minute_and_come_back_evenly(store: TraceStore):
    clock = Clock()
    limits = Limits(store, monotonic=clock)
    who = caller(requests_per_minute=6)
    for _ in range(6):
        limits.admit(who)
    with pytest.raises(LimitError, match="6 requests a minute") as refused:
        limits.admit(who)
    assert refused.value.headers == {"Retry-After": "10"}
    clock.now += 4
    with pytest.raises(LimitError) as refused:
        limits.admit(who)
    assert refused.value.headers == {"Retry-After": "6"}
    clock.now += 6
    limits.admit(who)
    with pytest.raises(LimitError):
        limits.admit(who)
    clock.now += 3_600
    for _ in range(6):
        limits.admit(who)
    with pytest.raises(LimitError):
        limits.admit(who)


def test_each_key_has_a_minute_of_its_own(store: TraceStore):
    limits = Limits(store)
    limits.admit(Caller("a", frozenset(), requests_per_minute=1))
    limits.admit(Caller("b", frozenset(), requests_per_minute=1))
    for _ in range(100):
        limits.admit(Caller("c", frozenset()))


def test_dollars_end_with_the_day_and_begin_with_the_next(store: TraceStore):
    clock = Clock()
    limits = Limits(store, clock)
    who = caller(dollars_per_day=1.0)
    limits.admit(who).spent(0.4)
    assert limits.dollars_left(who) == pytest.approx(0.6)
    limits.admit(who).spent(0.6)
    with pytest.raises(LimitError, match=r"has spent \$1.0000 of its \$1 of today") as refused:
        limits.admit(who)
    assert refused.value.body["error"]["code"] == "insufficient_quota"
    assert refused.value.headers == {"Retry-After": str(23 * 3_600)}
    clock.now += DAY
    assert limits.dollars_left(who) == 1.0
    limits.flush()
    assert Spending(store, lambda: clock.now - DAY).today("app") == pytest.approx(1.0)
    assert limits.spending.today("app") == 0.0


def test_what_is_reserved_cannot_be_spent_twice(store: TraceStore):
    limits = Limits(store)
    who = caller(dollars_per_day=1.0)
    with limits.admit(who) as first:
        first.reserve(0.7)
        assert first.dollars_left() == pytest.approx(0.3)
        with limits.admit(who) as second:
            second.reserve(0.3)
            with pytest.raises(LimitError, match="is reserved by its running requests"):
                limits.admit(who)
        first.spent(0.2)
        assert first.dollars_left() == pytest.approx(0.3)  # 0.2 spent and 0.5 still reserved
    assert limits.dollars_left(who) == pytest.approx(0.8)


def test_no_limit_means_no_limit(store: TraceStore):
    limits = Limits(store)
    permit = limits.admit(caller())
    permit.spent(1e9)
    assert permit.dollars_left() is None
    limits.admit(caller())


def test_a_limit_of_nothing_admits_nobody(store: TraceStore):
    with pytest.raises(LimitError):
        Limits(store).admit(caller(dollars_per_day=0.0))


def test_two_gateways_on_one_store_count_together(tmp_path: Path):
    who = caller(dollars_per_day=1.0)
    first, second = (Limits(TraceStore.open(tmp_path / "traces.db")) for _ in range(2))
    first.admit(who).spent(0.5)
    second.admit(who).spent(0.25)
    assert first.flush()
    assert second.flush()
    assert second.dollars_left(who) == pytest.approx(0.25)
    assert first.flush()
    assert first.dollars_left(who) == pytest.approx(0.25)
    first.admit(who).spent(0.25)
    assert first.flush()
    assert second.flush()
    with pytest.raises(LimitError):
        second.admit(who)
    assert Limits(TraceStore.open(tmp_path / "traces.db")).dollars_left(who) == 0.0


def test_nothing_is_lost_between_threads_that_spend_and_flush(store: TraceStore):
    spending = Spending(store)
    ended = threading.Event()

    def flush() -> None:
        while not ended.is_set():
            spending.flush()

    flushing = threading.Thread(target=flush)
    flushing.start()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: spending.add("app", 0.25), range(2_000)))
    ended.set()
    flushing.join()
    assert spending.flush()
    assert spending.today("app") == pytest.approx(500)
    assert Spending(store).today("app") == pytest.approx(500)


def test_while_the_database_is_away_it_is_counted_here(store: TraceStore, monkeypatch: pytest.MonkeyPatch):
    limits = Limits(store)
    who = caller(dollars_per_day=1.0)

    def away(_: object) -> None:
        raise OperationalError("INSERT", {}, Exception("the database is away"))

    with monkeypatch.context() as patch:
        patch.setattr(Spending, "_writing", away)
        limits.admit(who).spent(0.75)
        assert not limits.flush()
        limits.admit(who).spent(0.25)
        with pytest.raises(LimitError):
            limits.admit(who)
    assert limits.flush()
    assert limits.spending.today("app") == pytest.approx(1.0)
    assert Spending(store).today("app") == pytest.approx(1.0)


def test_what_is_written_is_not_written_again_where_it_cannot_be_read(
    store: TraceStore, monkeypatch: pytest.MonkeyPatch
):
    limits = Limits(store)

    def away(_: object) -> None:
        raise OperationalError("SELECT", {}, Exception("the database is away"))

    with monkeypatch.context() as patch:
        patch.setattr(Spending, "_read", away)
        for _ in range(3):
            limits.admit(caller()).spent(0.25)
            assert not limits.flush()
        assert limits.spending.today("app") == pytest.approx(0.75)
    assert limits.flush()
    assert limits.spending.today("app") == pytest.approx(0.75)
    assert Spending(store).today("app") == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("own", "asked", "most", "reserved"),
    [
        (Budget(), None, 1.0, 0.0),
        (Budget(dollars=0.05), None, 0.05, 0.05),
        (Budget(dollars=0.05), Budget(dollars=1_000.0), 0.05, 0.05),
        (Budget(dollars=0.05), Budget(dollars=0.02), 0.02, 0.02),
        (Budget(dollars=0.05), Budget(turns=3), 0.05, 0.05),
        (Budget(), Budget(dollars=1_000.0), 1.0, 1.0),
        (Budget(dollars=7.0), None, 1.0, 1.0),
    ],
)
def test_a_run_reserves_what_it_may_spend_and_no_more(
    store: TraceStore, own: Budget, asked: Budget | None, most: float, reserved: float
):
    limits = Limits(store)
    who = caller(dollars_per_day=1.0)
    with limits.admit(who) as permit:
        budget = within_allowance(own, asked, permit)
        assert budget is not None
        assert budget.within(own).dollars == pytest.approx(most)
        assert budget.within(own).turns == (own if asked is None else asked.within(own)).turns
        assert limits.dollars_left(who) == pytest.approx(1.0 - reserved)
    assert limits.dollars_left(who) == 1.0


def test_two_gateways_on_postgresql(postgres_url: str):
    who = caller(dollars_per_day=1.0)
    with ThreadPoolExecutor(4) as pool:  # All make the table at once.
        limits = list(pool.map(lambda _: Limits(TraceStore.open(postgres_url)), range(4)))
    for one in limits:
        one.admit(who).spent(0.25)
        assert one.flush()
    limits[0].flush()
    assert limits[0].dollars_left(who) == pytest.approx(0.0)


# Over HTTP

KEYS = [
    {"name": "few", "sha256": sha256("few-key"), "requests_per_minute": 2},
    {"name": "poor", "sha256": sha256("poor-key"), "dollars_per_day": 0.5},
]


def with_echo(state: GatewayState) -> None:
    state.proxy = Echo(1, dollars=0.3)


async def test_a_key_over_its_limits_is_told_when_to_come_again(tmp_path: Path):
    with gateway(tmp_path, with_echo, keys=KEYS) as app, client_of(app) as client:
        for key, code in (("few-key", "rate_limit_exceeded"), ("poor-key", "insufficient_quota")):
            for _ in range(2):
                assert (await client.post(CHAT, content=b"{}", headers=bearer(key))).status_code == 200
            refused = await client.post(CHAT, content=b"{}", headers=bearer(key))
            assert (refused.status_code, refused.json()["error"]["type"]) == (429, "rate_limit_error")
            assert refused.json()["error"]["code"] == code
            assert int(refused.headers["retry-after"]) > 0


async def test_another_gateway_knows_what_was_spent_in_this_one(tmp_path: Path):
    with gateway(tmp_path, with_echo, keys=KEYS) as app, client_of(app) as client:
        for _ in range(2):
            await client.post(CHAT, content=b"{}", headers=bearer("poor-key"))
    with gateway(tmp_path, with_echo, keys=KEYS) as app, client_of(app) as client:
        assert (await client.post(CHAT, content=b"{}", headers=bearer("poor-key"))).status_code == 429
