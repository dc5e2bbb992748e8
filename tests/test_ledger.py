from __future__ import annotations

import json

import pytest

from toolorch_integrations.ledger import Call, CallKind, CallStatus, Ledger

CALLS = [
    Call(CallKind.POLICY, "policy", input_tokens=100, output_tokens=10, dollars=0.001, seconds=0.5, turn=1, run_id="r"),
    Call(CallKind.SPECIALIST, "coder", model="coder-7b", input_tokens=50, output_tokens=200, dollars=0.02, seconds=2.0),
    Call(CallKind.TOOL, "search", CallStatus.ERROR, dollars=0.01, seconds=0.1, call_id="c1", error="down"),
    Call(CallKind.TOOL, "search", dollars=0.01, seconds=0.1, call_id="c2"),
]


def test_totals_count_every_call_the_policys_own_included():
    ledger = Ledger(list(CALLS))
    assert ledger.turns == 1
    assert ledger.dollars == pytest.approx(0.041)
    assert ledger.seconds == pytest.approx(2.7)
    assert ledger.tokens == (150, 210)
    assert ledger.counts() == {"coder": 1, "search": 2}
    assert ledger.summary() == {
        "turns": 1,
        "calls": {"coder": 1, "search": 2},
        "input_tokens": 150,
        "output_tokens": 210,
        "dollars": 0.041,
        "seconds": 2.7,
    }


def test_calls_survive_json():
    items = json.loads(json.dumps([call.to_dict() for call in CALLS]))
    assert Ledger.from_dicts(items).calls == CALLS
    assert Ledger.from_dicts(items, run_id="r").calls == CALLS[:1]


def test_a_later_versions_fields_are_ignored():
    assert Call.from_dict({**CALLS[2].to_dict(), "carbon": 3}) == CALLS[2]
    assert Call.from_dict({"kind": "tool", "name": "a"}) == Call(CallKind.TOOL, "a")


def test_the_table_has_a_line_for_each_call_and_the_total():
    lines = Ledger(list(CALLS)).to_text().splitlines()
    assert len(lines) == 6
    assert lines[0].split() == ["call", "status", "tokens", "in", "out", "dollars", "seconds"]
    assert lines[2].split() == ["specialist", "coder", "ok", "50", "200", "0.020000", "2.00"]
    assert lines[-1].split() == ["total", "150", "210", "0.041000", "2.70"]
    assert len({len(line) for line in lines}) == 1


def test_an_empty_ledger():
    assert Ledger().dollars == 0
    assert Ledger().tokens == (0, 0)
    assert len(Ledger()) == 0
    assert Ledger().to_text().splitlines()[-1].split() == ["total", "0", "0", "0.000000", "0.00"]
