"""The index: search, filters, live changes, and what a kill leaves."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.retrieval_world import ToyEmbedder
from toolorch_integrations.retrieval import RetrievalError
from toolorch_serving.retrieval import Document, RetrievalIndex
from toolorch_serving.retrieval import keeper as keepers
from toolorch_serving.retrieval.dense import DenseIndex, Shape
from toolorch_serving.retrieval.documents import prepare
from toolorch_serving.retrieval.filters import compile_filter
from toolorch_serving.retrieval.fusion import fuse
from toolorch_serving.retrieval.rowset import RowSet

KINDS = ["flat", "ivf", "ivf_sq8", "hnsw"]


@pytest.fixture
def index(tmp_path: Path) -> Iterator[RetrievalIndex]:
    with RetrievalIndex(tmp_path / "index", ToyEmbedder()) as opened:
        yield opened


def ids(hits: list[Any]) -> list[str]:
    return [hit.id for hit in hits]


def scattered(number: int, dimension: int = 32, seed: int = 0) -> Any:
    """Vectors around some centres, as embeddings are."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(max(number // 50, 1), dimension))
    vectors = centres[rng.integers(len(centres), size=number)] + 0.5 * rng.normal(size=(number, dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def filled(folder: Path, kind: str, number: int = 1500) -> RetrievalIndex:
    index = RetrievalIndex(folder, ToyEmbedder(), kind=kind)
    index.add(
        Document(f"text {n}", f"d{n}", {"n": n, "even": n % 2 == 0, "third": n % 3}, vector)
        for n, vector in enumerate(scattered(number))
    )
    return index


def test_hybrid_finds_what_words_or_meaning_alone_miss(index: RetrievalIndex) -> None:
    subjects = ["car engine", "dog food", "cat toys", "house paint", "baby bed", "doctor visit"]
    index.add(
        Document(f"{subject} form {n}{letter}", f"{subject}-{n}{letter}")
        for subject in subjects
        for n in range(20)
        for letter in "xy"
    )
    # The code is only in words; the synonym is only in meaning.
    asked = {
        "automobile motor engine 7x": "car engine-7x",
        "hound 12y": "dog food-12y",
        "dwelling 3x": "house paint-3x",
    }
    places: dict[str, list[int]] = {}
    for mode in ("hybrid", "dense", "lexical"):
        found = index.search(list(asked), 40, mode=mode)  # type: ignore[arg-type]
        places[mode] = [
            ids(hits).index(wanted) if wanted in ids(hits) else 99
            for hits, wanted in zip(found, asked.values(), strict=True)
        ]
    assert places["hybrid"] == [0, 0, 0]
    assert sum(places["hybrid"]) < min(sum(places["dense"]), sum(places["lexical"]))


def test_fusion_is_that_of_the_paper() -> None:
    fused = fuse([[1, 2, 3], [3, 1]], [1.0, 2.0], 2)
    assert fused == [(3, pytest.approx(1 / 63 + 2 / 61)), (1, pytest.approx(1 / 61 + 2 / 62))]
    assert fuse([[1, 2], [2, 1]], [1.0, 0.0], 2)[0][0] == 1


def test_changes_are_seen_at_once_and_after_opening_again(tmp_path: Path) -> None:
    toy = ToyEmbedder()
    with RetrievalIndex(tmp_path, toy) as index:
        added = index.add([Document("a red car", "a"), Document("a small dog", "b"), Document("a red car", "c")])
        assert (added.added, added.embedded, added.ids) == (3, 2, ["a", "b", "c"])
        assert ids(index.search(["hound"], 1)[0]) == ["b"]
        again = index.add(
            [Document("a red car", "a"), Document("a large cat", "b"), Document("a red car", "c", {"x": 1})]
        )
        assert (again.updated, again.unchanged, again.embedded) == (2, 1, 1)
        assert index.search(["feline"], 1, mode="dense")[0][0].text == "a large cat"
        assert index.search(["dog"], mode="lexical") == [[]]
        assert ids(index.search(["car"], filter={"x": 1})[0]) == ["c"]
        assert index.delete(["a", "nobody"]) == 1
        assert "a" not in ids(index.search(["red car"])[0])
    with RetrievalIndex(tmp_path, toy) as index:
        assert len(index) == 2
        assert set(ids(index.search(["red car"])[0])) == {"b", "c"}
        assert index.add([Document("a red car", "d")], skip_duplicates=True).duplicates == 1
    assert toy.embedded == ["a red car", "a small dog", "a large cat"]  # each text once


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_filters_deletes_and_comes_back(tmp_path: Path, kind: str) -> None:
    query = scattered(1500)[7:8]
    with filled(tmp_path, kind) as index:
        index.load()
        index.delete([f"d{n}" for n in range(0, 1500, 5)])
        extra = scattered(1)[0]
        index.add([Document("late", "late", {"n": -1, "even": True}, extra)])
        assert index.search_vectors(query, 1)[0][0].id == "d7"
        assert index.search_vectors(extra[None], 1)[0][0].id == "late"
        for condition, keeps in (
            ({"even": True}, lambda n: n % 2 == 0),
            ({"n": {"$gte": 100, "$lt": 104}}, lambda n: n in (101, 102, 103)),
            ({"$or": [{"n": 7}, {"n": {"$in": [8, 9]}}], "third": {"$ne": 0}}, lambda n: n in (7, 8)),
        ):
            found = index.search_vectors(query, 20, filter=condition)[0]
            left = [n for n in range(1500) if n % 5 and keeps(n)]
            assert len(found) == min(20, len(left) + (condition == {"even": True}))
            assert all(keeps(hit.metadata["n"]) or hit.id == "late" for hit in found)
            scores = [hit.score for hit in found]
            assert scores == sorted(scores, reverse=True)
        before = index.search_vectors(query, 30)[0]
    with RetrievalIndex(tmp_path, ToyEmbedder()) as index:
        index.load()
        assert index.stats()["vectors"]["kind"] == kind
        assert index.search_vectors(query, 30)[0] == before


def test_the_whole_index_comes_back_for_a_k_that_is_larger(tmp_path: Path) -> None:
    with filled(tmp_path, "ivf", 1100) as index:
        index.add([Document("more", "more", {}, np.ones(32))])
        assert len(index.search_vectors(scattered(1), 1000)[0]) == 1000
        index.delete([f"d{n}" for n in range(200)])
        assert len(index.search_vectors(scattered(1), 1000)[0]) == 901
        assert len(index.search_vectors(scattered(1), 1000, filter={"even": True})[0]) == 450


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_recall_is_tuned_to_what_was_asked(tmp_path: Path, kind: str) -> None:
    vectors = scattered(4000)
    with RetrievalIndex(tmp_path, ToyEmbedder(), kind=kind, recall=0.95) as index:
        index.add(Document(f"t{n}", f"{n}", {}, vector) for n, vector in enumerate(vectors))
        index.load()
        assert index.stats()["vectors"]["measured_recall"] >= 0.95
        queries = scattered(4000, seed=0)[:100] + 0.05 * np.random.default_rng(1).normal(size=(100, 32))
        true = np.argsort(-(queries @ vectors.T), axis=1)[:, :10]
        found = [{int(hit.id) for hit in hits} for hits in index.search_vectors(queries, 10)]
        assert np.mean([len(one & set(other.tolist())) for one, other in zip(found, true, strict=True)]) >= 9.3


def test_results_without_selectors_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """GPU indexes take no selector: more is asked for, and what is not wanted is dropped."""
    vectors, rows = scattered(2000), np.arange(2000) + 5
    made = DenseIndex.build(Shape("flat", 32), 2000, lambda n: vectors[:n], [(rows, vectors)])
    made.remove(rows[::7])
    allowed = RowSet(rows[::3])
    expected = made.search(vectors[:4], 9, allowed)
    monkeypatch.setattr(made, "on_gpu", True)
    found = made.search(vectors[:4], 9, allowed)
    np.testing.assert_array_equal(found[1], expected[1])
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    assert not allowed.both(made.alive).has(found[1]).min() < 1


def test_an_index_that_grows_changes_its_kind_while_it_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolorch_serving.retrieval.dense.LARGE", 1200)
    vectors = scattered(2400)
    with RetrievalIndex(tmp_path, ToyEmbedder()) as index:
        index.load()
        for start in range(0, 2400, 100):
            index.add(Document(f"t{n}", f"{n}", {}, vectors[n]) for n in range(start, start + 100))
            index.delete([f"{start + 1}"])
            assert index.search_vectors(vectors[start : start + 1], 1)[0][0].id == f"{start}"
    with RetrievalIndex(tmp_path, ToyEmbedder()) as index:
        index.load()
        stats = index.stats()
        assert stats["vectors"]["kind"] == "ivf"
        assert stats["vectors"]["held"] == stats["documents"] == 2376


def test_readers_and_writers_at_once(index: RetrievalIndex) -> None:
    index.add(Document(f"fixed word{n}", f"fixed{n}", {"fixed": True}) for n in range(50))
    stop, failures = threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            try:
                for mode in ("hybrid", "dense", "lexical"):
                    found = index.search(["fixed word7", "word9"], 20, filter={"fixed": True}, mode=mode)  # type: ignore[arg-type]
                    assert mode == "lexical" or [len(hits) for hits in found] == [20, 20]
                assert len(index.search(["fixed"], 10)[0]) == 10
            except BaseException as error:
                failures.append(error)
                return

    def write(name: str) -> None:
        for n in range(60):
            index.add([Document(f"passing {name} {n}", f"{name}{n}")])
            index.delete([f"{name}{n - 3}"])
            if n % 20 == 0:
                index.snapshot()

    readers = [threading.Thread(target=read) for _ in range(3)]
    writers = [threading.Thread(target=write, args=(name,)) for name in "ab"]
    for thread in readers + writers:
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    for thread in readers:
        thread.join()
    assert not failures
    assert len(index) == 50 + 2 * 3


@pytest.mark.parametrize("way", ["add", "snapshot"])
def test_a_kill_loses_nothing_that_was_acknowledged(tmp_path: Path, way: str) -> None:
    there: set[str] = set()
    draw = random.Random(way)
    for _ in range(2):
        with subprocess.Popen(
            [sys.executable, "-m", "tests.retrieval_writer", str(tmp_path), way],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"},
        ) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
            lines = [writer.stdout.readline() for _ in range(draw.randint(5, 25))]
            time.sleep(draw.random() * 0.02)  # anywhere in what comes next
            writer.send_signal(signal.SIGKILL)
            lines += writer.stdout.readlines()
        for line in lines:
            if line.endswith("\n"):
                does, name = line.split()
                there = there | {name} if does == "added" else there - {name}
        with RetrievalIndex(tmp_path, ToyEmbedder()) as index:
            found = set(ids(index.search([f"kind {way}"], 1000)[0]))
            near = set(ids(index.search([f"number of the kind {way}"], 1000, mode="dense")[0]))
        # One more may be in than was said, and one fewer if its deletion was not said.
        assert len(there - found) <= 1
        assert len(found - there) <= 1
        assert near == found
        there = found


def test_a_damaged_or_foreign_snapshot_is_built_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a", "b"):
        filled(tmp_path / name, "flat", 50 if name == "a" else 30).close()
    snapshot = tmp_path / "a" / "vectors.snapshot"
    with RetrievalIndex(tmp_path / "a", ToyEmbedder()) as index:
        index.snapshot()
    whole = snapshot.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    with RetrievalIndex(tmp_path / "b", ToyEmbedder()) as other:
        other.snapshot()
    for damaged in (b"", whole[:-100], bytes(flipped), b"{}\n1234", (tmp_path / "b" / "vectors.snapshot").read_bytes()):
        snapshot.write_bytes(damaged)
        caplog.clear()
        with RetrievalIndex(tmp_path / "a", ToyEmbedder()) as index:
            assert len(index.search_vectors(scattered(1), 100)[0]) == 50
        assert "built anew" in caplog.text
    caplog.clear()
    with RetrievalIndex(tmp_path / "a", ToyEmbedder()) as index:
        index.load()
    assert "built anew" not in caplog.text


def test_a_rebuild_that_fails_is_said_and_search_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keepers, "SNAPSHOT_EVERY", 10)
    with filled(tmp_path, "flat", 5) as index:
        index.load()
        blocked = tmp_path / "vectors.unfinished"
        blocked.mkdir()
        index.add(Document(f"t{n}", vector=scattered(20)[n]) for n in range(20))
        while "failure" not in index.stats():
            time.sleep(0.01)
        assert "vectors.unfinished" in index.stats()["failure"]
        assert len(index.search_vectors(scattered(1), 25)[0]) == 25
        blocked.rmdir()


def test_one_process_and_one_model_to_an_index(tmp_path: Path) -> None:
    with filled(tmp_path, "flat", 3), pytest.raises(RetrievalError, match=f"open in process {os.getpid()}"):
        RetrievalIndex(tmp_path, ToyEmbedder())
    with pytest.raises(RetrievalError, match=r"holds vectors of toy \(32 dimensions\), not of other \(32") as refused:
        RetrievalIndex(tmp_path, ToyEmbedder("other"))
    assert refused.value.param == "model"
    with pytest.raises(RetrievalError, match="not of toy"):
        RetrievalIndex(tmp_path, ToyEmbedder("toy", 16))
    with pytest.raises(RetrievalError, match="embedder: give the one that toy was"):
        RetrievalIndex(tmp_path)
    with pytest.raises(RetrievalError, match="toolorch index build"):
        RetrievalIndex(tmp_path / "none", ToyEmbedder(), create=False)
    with pytest.raises(RetrievalError, match="kind 'tree': give one of auto"):
        RetrievalIndex(tmp_path, ToyEmbedder(), kind="tree")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "documents.db").write_bytes(b"no database" * 100)
    with pytest.raises(RetrievalError, match=r"documents\.db cannot be read"):
        RetrievalIndex(tmp_path / "bad", ToyEmbedder())
    with RetrievalIndex(tmp_path, ToyEmbedder()) as index:
        assert len(index) == 3


@pytest.mark.parametrize(
    ("document", "param"),
    [
        (Document(" "), "documents[0].text"),
        (Document("x", "i" * 2000), "documents[0].id"),
        (Document("x", metadata={"a": {"b": float("nan")}}), "documents[0].metadata.a.b"),
        (Document("x", metadata={"a": object()}), "documents[0].metadata.a"),
        (Document("x", metadata={"a": 2**70}), "documents[0].metadata.a"),
        (Document("x", metadata={1: 2}), "documents[0].metadata"),  # type: ignore[dict-item]
        (Document("\ud800"), "documents[0].text"),
        (Document("x", vector=[1.0, 2.0]), "vector"),
        (Document("x", vector=[float("inf")] * 32), "vector"),
    ],
)
def test_bad_documents_are_refused_by_name_and_nothing_is_added(
    index: RetrievalIndex, document: Document, param: str
) -> None:
    with pytest.raises(RetrievalError) as refused:
        index.add([document, Document("good")])
    assert refused.value.param == param
    assert len(index) == 0


@pytest.mark.parametrize(
    ("condition", "param"),
    [
        ([], "filter"),
        ({"$not": 1}, "filter.$not"),
        ({"a": {"$regex": "x"}}, "filter.a.$regex"),
        ({"a": {}}, "filter.a"),
        ({"a": None}, "filter.a"),
        ({"a": {"$in": []}}, "filter.a.$in"),
        ({"a": {"$in": [1, [2]]}}, "filter.a.$in[1]"),
        ({"$and": {}}, "filter.$and"),
        ({"$or": [{"a": 1}, {}]}, "filter.$or[1]"),
        ({"a": {"$gt": float("nan")}}, "filter.a.$gt"),
        ({str(n): n for n in range(65)}, "filter"),
    ],
)
def test_bad_filters_are_refused_by_name(condition: Any, param: str) -> None:
    with pytest.raises(RetrievalError) as refused:
        compile_filter(condition)
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("arguments", "param"),
    [
        ({"queries": "one"}, "queries"),
        ({"queries": ["a", " "]}, "queries[1]"),
        ({"queries": ["\ud800"]}, "queries[0]"),
        ({"k": 0}, "k"),
        ({"k": True}, "k"),
        ({"k": 1001}, "k"),
        ({"mode": "magic"}, "mode"),
        ({"weights": (0.0, 0.0)}, "weights"),
        ({"weights": (1.0, float("nan"))}, "weights"),
    ],
)
def test_bad_searches_are_refused_by_name(index: RetrievalIndex, arguments: Any, param: str) -> None:
    with pytest.raises(RetrievalError) as refused:
        index.search(**({"queries": ["a"]} | arguments))
    assert refused.value.param == param


SCALARS = st.one_of(
    st.integers(-3, 3), st.booleans(), st.sampled_from(["", "a", "b", "ä"]), st.sampled_from([0.5, -1.5])
)


@settings(max_examples=15)
@given(
    st.lists(st.dictionaries(st.sampled_from(["x", "y"]), SCALARS | st.lists(SCALARS, max_size=3)), max_size=12),
    SCALARS,
    SCALARS,
)
def test_filters_mean_what_they_say(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], one: Any, other: Any
) -> None:
    def values(row: Any, key: str) -> list[Any]:
        held = row.get(key, [])
        return held if isinstance(held, list) else [held]

    def above(value: Any) -> bool:
        return isinstance(value, str) == isinstance(one, str) and value > one

    cases = [
        ({"x": one}, lambda row: one in values(row, "x")),
        ({"x": {"$ne": one}}, lambda row: one not in values(row, "x")),
        ({"x": {"$in": [one, other]}}, lambda row: bool({one, other} & set(values(row, "x")))),
        ({"x": {"$nin": [one, other]}}, lambda row: not {one, other} & set(values(row, "x"))),
        ({"x": {"$gt": one}}, lambda row: any(above(value) for value in values(row, "x"))),
        ({"x": one, "y": other}, lambda row: one in values(row, "x") and other in values(row, "y")),
        ({"$or": [{"x": one}, {"y": other}]}, lambda row: one in values(row, "x") or other in values(row, "y")),
    ]
    with RetrievalIndex(tmp_path_factory.mktemp("filters"), ToyEmbedder()) as index:
        index.add(Document("same", f"{n}", row, np.ones(32)) for n, row in enumerate(rows))
        for condition, keeps in cases:
            for mode in ("dense", "lexical"):
                found = ids(index.search(["same"], 100, filter=condition, mode=mode)[0])  # type: ignore[arg-type]
                assert sorted(found, key=int) == [f"{n}" for n, row in enumerate(rows) if keeps(row)], (condition, mode)


@settings(max_examples=50)
@given(st.lists(st.tuples(st.booleans(), st.sets(st.integers(0, 300), min_size=1))), st.sets(st.integers(0, 300)))
def test_row_sets_are_sets(steps: list[tuple[bool, set[int]]], others: set[int]) -> None:
    made, model = RowSet(), set()
    for adds, some in steps:
        (made.add if adds else made.discard)(np.asarray(sorted(some), np.int64))
        model = model | some if adds else model - some
        assert made.rows().tolist() == sorted(model)
        assert len(made) == len(model)
    both = made.both(RowSet(np.asarray(sorted(others), np.int64)))
    assert both.rows().tolist() == sorted(model & others)
    assert len(both) == len(model & others)


@settings(max_examples=20)
@given(st.text())
def test_any_query_is_a_query(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    folder = tmp_path_factory.getbasetemp() / "any"
    with RetrievalIndex(folder, ToyEmbedder()) as index:
        index.add([Document("NEAR AND OR NOT * ^ col : text", "one")])
        if text.strip():
            index.search([text], mode="lexical")
        try:
            prepare(Document(text))
        except RetrievalError:
            return
        index.add([Document(text, "two")])
