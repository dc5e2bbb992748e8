"""Promotion against real servers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from toolorch_integrations.store import TraceStore
from toolorch_integrations.versions import Routes
from toolorch_serving.promotion.records import PromotionRecord, PromotionRecords, Step, SupersededError


def test_the_record_on_postgresql_gives_the_routes(postgres_url: str):
    records = PromotionRecords(TraceStore.open(postgres_url))
    first = records.append(PromotionRecord("p", Step.BEGUN, "v2", "v1", evidence={"text": "nul \0 and é"}))
    canary = records.append(replace(first, step=Step.CANARY, share=0.2), first)
    other = PromotionRecords(TraceStore.open(postgres_url))
    assert other.routes("v1") == Routes("v1", "v2", 0.2)
    other.append(replace(canary, step=Step.PROMOTED, share=0.0), canary)
    assert records.routes("v1") == Routes("v2")
    with pytest.raises(SupersededError, match="another process"):
        records.append(replace(canary, step=Step.ROLLED_BACK, share=0.0), canary)


def test_of_many_at_once_on_postgresql_one_takes_the_step(postgres_url: str):
    each = [PromotionRecords(TraceStore.open(postgres_url)) for _ in range(6)]
    first = each[0].append(PromotionRecord("p", Step.BEGUN, "v2", "v1"))

    def take(records: PromotionRecords) -> bool:
        try:
            records.append(replace(first, step=Step.ESTIMATED), first)
        except SupersededError:
            return False
        return True

    with ThreadPoolExecutor(len(each)) as pool:
        assert sum(pool.map(take, each)) == 1
    assert [step.step for step in each[-1].steps("p")] == [Step.BEGUN, Step.ESTIMATED]
