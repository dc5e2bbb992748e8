from __future__ import annotations

import gzip
import json
import math
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.sample_events import run
from toolorch_integrations.errors import StoreError
from toolorch_integrations.events import PolicyCalled, TraceEnded, TraceStarted
from toolorch_integrations.exchange import import_jsonl, read_jsonl, write_jsonl
from toolorch_integrations.parquet import write_parquet
from toolorch_integrations.recorder import Recorder
from toolorch_integrations.store import TraceStore
from toolorch_integrations.trace import Feedback, Reward


@pytest.fixture
def store(tmp_path: Path) -> Iterator[TraceStore]:
    with TraceStore.open(tmp_path / "traces.db") as opened:
        ids = [uuid.uuid4().hex for _ in range(3)]
        recorder = Recorder(opened)
        for trace_id in ids[:2]:
            for item in run(trace_id, turns=3, thread_id="thread"):
                recorder.put(item)
        odd = {"role": "assistant", "content": "NUL \x00 surrogate \ud800", "reasoning": "字"}
        user = {"role": "user", "content": [{"type": "text", "text": "x"}]}
        recorder.put(TraceStarted(ids[2]))
        recorder.put(PolicyCalled(ids[2], [user], odd, [2**32 - 1], [5, 6], [-math.inf, -1e-30], model="m"))
        changed = [user, {**odd, "reasoning": "other"}, user]
        recorder.put(PolicyCalled(ids[2], changed, odd, [2**32 - 1, 5, 6, 9], [7], [0.0], model="m"))
        recorder.put(TraceEnded(ids[2]))
        assert recorder.close()
        opened.add_feedback(Feedback(ids[0], "thumb", 1.0, "right"))
        opened.add_rewards(Reward(ids[0], {"outcome": 1.0}, "exact-match"))
        yield opened


@pytest.mark.parametrize("readable", [False, True])
@pytest.mark.parametrize("name", ["traces.jsonl", "traces.jsonl.gz"])
def test_traces_survive_the_way_through_a_file_into_another_store(
    store: TraceStore, tmp_path: Path, name: str, readable: bool
):
    file = tmp_path / name
    assert write_jsonl(store.full_traces(), file, readable=readable) == 3
    with TraceStore.open(tmp_path / "other.db") as other:
        assert import_jsonl(other, file) == (3, 0)
        assert list(other.full_traces()) == _first_revision(store)
        assert import_jsonl(other, file) == (0, 3), "again changes nothing"
        assert list(other.full_traces()) == _first_revision(store)


def _first_revision(store: TraceStore) -> list[object]:
    traces = list(store.full_traces())
    for trace in traces:
        trace.revision = 1
    return traces


def test_feedback_given_in_the_meantime_is_added(store: TraceStore, tmp_path: Path):
    file = tmp_path / "traces.jsonl"
    write_jsonl(store.full_traces(), file)
    with TraceStore.open(tmp_path / "other.db") as other:
        import_jsonl(other, file)
        trace_id = next(store.traces()).id
        store.add_feedback(Feedback(trace_id, "later", 0.5))
        write_jsonl(store.full_traces(), file)
        import_jsonl(other, file)
        assert other.trace(trace_id).feedback[-1].name == "later"


def test_readable_ids_are_numbers(store: TraceStore, tmp_path: Path):
    write_jsonl(store.full_traces(), tmp_path / "t.jsonl", readable=True)
    lines = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    nodes = next(line["nodes"] for line in lines if line["thread_id"])
    assert nodes[1]["token_ids"] == [0, 1, 2, 3, 4]
    assert nodes[2]["logprobs"] == [-0.25, -0.5, 0.0]


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "[]",
        '{"format": "toolorch-trace/99"}',
        '{"format": "toolorch-trace/1"}',
    ],
)
def test_a_line_that_is_no_trace_is_named(store: TraceStore, tmp_path: Path, line: str):
    file = tmp_path / "t.jsonl"
    write_jsonl(store.full_traces(limit=1), file)
    file.write_text(file.read_text() + "\n" + line + "\n")
    with pytest.raises(StoreError, match=r"t\.jsonl, line 3: not a trace"):
        list(read_jsonl(file))


@pytest.mark.parametrize(
    ("key", "value"),
    [("token_ids", "AAA="), ("token_ids", "!"), ("logprobs", "AAAAAA=="), ("parent", 7), ("index", 3)],
)
def test_a_damaged_node_is_refused(store: TraceStore, tmp_path: Path, key: str, value: object):
    file = tmp_path / "t.jsonl"
    write_jsonl(store.full_traces(limit=1), file)
    data = json.loads(file.read_text())
    data["nodes"][1][key] = value
    file.write_text(json.dumps(data))
    with pytest.raises(StoreError, match="line 1"):
        list(read_jsonl(file))


def test_compressed_files_are_compressed(store: TraceStore, tmp_path: Path):
    write_jsonl(store.full_traces(), tmp_path / "t.jsonl.gz")
    with gzip.open(tmp_path / "t.jsonl.gz", "rt") as file:
        assert sum(1 for _ in file) == 3


def test_parquet_has_a_row_a_node_with_exact_numbers(store: TraceStore, tmp_path: Path):
    file = tmp_path / "traces.parquet"
    assert write_parquet(store.full_traces(), file) == 3
    table = pq.read_table(file)
    traces = {trace.id: trace for trace in store.full_traces()}
    assert table.num_rows == sum(len(trace.graph) for trace in traces.values())
    assert str(table.schema.field("token_ids").type) == "list<element: uint32>"
    for row in table.to_pylist():
        trace = traces[row["trace_id"]]
        node = trace.graph.nodes[row["node"]]
        assert row["token_ids"] == node.token_ids.tolist()
        assert row["parent"] == node.parent
        assert (row["logprobs"] is None) == (node.logprobs is None)
        if node.logprobs is not None:
            assert np.array_equal(np.asarray(row["logprobs"], np.float32), node.logprobs)
        assert json.loads(row["message"]) == node.message
    asked = table.to_pylist()[next(i for i, row in enumerate(table.to_pylist()) if row["calls"])]
    assert json.loads(asked["calls"])[0]["name"] == "add"
    assert any(json.loads(row["trace_rewards"]) == [{"outcome": 1.0}] for row in table.to_pylist())


def test_an_empty_export_is_a_valid_file(tmp_path: Path):
    assert write_parquet([], tmp_path / "t.parquet") == 0
    assert pq.read_table(tmp_path / "t.parquet").num_rows == 0
    assert write_jsonl([], tmp_path / "t.jsonl") == 0
    assert list(read_jsonl(tmp_path / "t.jsonl")) == []
