"""The service over real HTTP, builds from files, embedding endpoints, and the command line."""

from __future__ import annotations

import gzip
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from typer.testing import CliRunner

from tests.retrieval_world import ToyEmbedder, served
from toolorch_integrations.cli import app as command_line
from toolorch_integrations.errors import EndpointError, MissingVariableError
from toolorch_integrations.retrieval import RetrievalClient, RetrievalError
from toolorch_serving.retrieval import (
    Chunking,
    Document,
    EmbedderSettings,
    EndpointEmbedder,
    Fields,
    RetrievalIndex,
    Sources,
    build_index,
    create_app,
)
from toolorch_serving.retrieval.batching import BatchingEmbedder
from toolorch_serving.retrieval.chunks import chunks
from toolorch_serving.retrieval.html_text import html_text
from toolorch_serving.retrieval.limits import ServiceLimits


@pytest.fixture
def service(tmp_path: Path) -> Iterator[str]:
    index = RetrievalIndex(tmp_path / "index", ToyEmbedder())
    index.add(Document(f"the dog number {n}", f"dog/{n}", {"n": n}) for n in range(20))
    index.add(Document(f"the cat number {n}", f"cat {n}?", {"n": n}) for n in range(20))
    with served(create_app(index, limits=ServiceLimits(request_bytes=50_000))) as url:
        yield url


def test_search_add_and_delete_over_http(service: str) -> None:
    answer = httpx.post(f"{service}/search", json={"query": "hound 7", "k": 2, "filter": {"n": {"$lt": 10}}}).json()
    assert answer["results"][0][0]["id"] == "dog/7"
    assert set(answer["results"][0][0]) == {"id", "text", "score", "metadata"}
    client = RetrievalClient(service)
    found = client.search(["hound 3", "feline 4"], k=1)
    assert [hits[0].id for hits in found] == ["dog/3", "cat 4?"]
    assert client.delete("cat 4?")
    assert not client.delete("cat 4?")
    assert client.delete("dog/3")
    assert client.search(["hound 3"], k=1, mode="lexical", filter={"n": 3})[0][0].id == "cat 3?"
    added = client.add([{"text": "a quick fox"}, {"text": "the cat number 5", "id": "cat 5?", "metadata": {"n": 5}}])
    assert (added["added"], added["unchanged"], len(added["ids"])) == (1, 1, 2)
    assert client.search(["fox"], k=1)[0][0].id == added["ids"][0]
    assert client.stats()["documents"] == 39
    assert httpx.post(f"{service}/snapshot").json()["bytes"] > 0
    assert httpx.get(f"{service}/health").json() == {"status": "ok"}
    paths = httpx.get(f"{service}/openapi.json").json()["paths"]
    assert {"/search", "/documents", "/documents/{id}", "/snapshot", "/health", "/stats"} == set(paths)
    client.close()


@pytest.mark.parametrize(
    ("path", "body", "status", "param", "says"),
    [
        ("/search", {"queries": []}, 400, "queries", "at least 1"),
        ("/search", {}, 400, None, "either query or queries"),
        ("/search", {"query": "a", "queries": ["b"]}, 400, None, "either query or queries"),
        ("/search", {"queries": ["a", 7]}, 400, "queries[1]", "valid string"),
        ("/search", {"query": "a", "k": 0}, 400, "k", "greater than or equal to 1"),
        ("/search", {"query": "a", "k": "5"}, 400, "k", "valid integer"),
        ("/search", {"query": "a", "mode": "best"}, 400, "mode", "'hybrid', 'dense' or 'lexical'"),
        ("/search", {"query": "a", "top_k": 3}, 400, "top_k", "leave it out"),
        ("/search", {"query": "a", "filter": {"n": {"$near": 1}}}, 400, "filter.n.$near", "unknown operator"),
        ("/search", {"query": " "}, 400, "queries[0]", "not empty"),
        ("/search", b'{"query": "\\ud800"}', 400, "query", "valid string"),
        ("/search", b"{", 400, "body", "no JSON"),
        ("/search", b"[1]", 400, None, "body"),
        ("/search", {"query": "x" * 60_000}, 413, "body", "over 50000 bytes"),
        ("/documents", {"documents": [{"text": "a"}, {"text": ""}]}, 400, "documents[1].text", "at least 1"),
        ("/documents", {"documents": [{"id": "a"}]}, 400, "documents[0].text", "required"),
        (
            "/documents",
            b'{"documents": [{"text": "a", "metadata": {"x": NaN}}]}',
            400,
            "documents[0].metadata.x",
            "number",
        ),
        ("/nowhere", {}, 404, None, "Not Found"),
    ],
)
def test_what_is_wrong_is_named(service: str, path: str, body: Any, status: int, param: str | None, says: str) -> None:
    sent = {"content": body} if isinstance(body, bytes) else {"json": body}
    answer = httpx.post(service + path, headers={"content-type": "application/json"}, **sent)  # type: ignore[arg-type]
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (status, status, param)
    assert says in error["message"]


def test_a_body_without_a_length_is_counted(service: str) -> None:
    answer = httpx.post(f"{service}/search", content=(b" " * 10_000 for _ in range(9)))
    assert answer.status_code == 413
    assert "over 50000 bytes" in answer.json()["error"]["message"]


def test_a_key_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with served(create_app(RetrievalIndex(tmp_path, ToyEmbedder()), key="secret")) as url:
        assert httpx.get(f"{url}/health").status_code == 200
        assert httpx.get(f"{url}/stats").json()["error"]["param"] == "authorization"
        with pytest.raises(RetrievalError, match="Authorization: Bearer KEY"):
            RetrievalClient(url).search(["a"])
        monkeypatch.setenv("RETRIEVAL_KEY", "secret")
        assert RetrievalClient(url, key_variable="RETRIEVAL_KEY").search(["a"]) == [[]]


def test_concurrent_queries_share_batches() -> None:
    toy, gate = ToyEmbedder(), threading.Event()
    embed = toy.embed_queries

    def slow(texts: Any) -> Any:
        gate.wait(10)
        if "bad" in texts:
            raise ValueError("bad batch")
        return embed(texts)

    toy.embed_queries = slow  # type: ignore[method-assign]
    batching, answers = BatchingEmbedder(toy, most=8), {}

    def ask(name: str) -> None:
        try:
            answers[name] = batching.embed_queries([name, f"{name} again"])
        except ValueError as error:
            answers[name] = error

    def run(names: list[str]) -> None:
        gate.clear()
        threads = [threading.Thread(target=ask, args=(name,)) for name in names]
        for thread in threads:
            thread.start()
        while len(batching._waiting) < len(names) - 1:  # the first is in the model
            time.sleep(0.01)
        gate.set()
        for thread in threads:
            thread.join()

    run([f"query{n}" for n in range(10)])
    for name, vectors in answers.items():
        np.testing.assert_array_equal(vectors, embed([name, f"{name} again"]))
    assert max(toy.batches[:-10]) > 2
    assert max(toy.batches[:-10]) <= 8
    answers.clear()
    run(["bad"])
    assert isinstance(answers["bad"], ValueError)
    run(["good"])
    assert answers["good"].shape == (2, 32)


class Endpoint:
    """An OpenAI-compatible embeddings endpoint with faults on request."""

    def __init__(self) -> None:
        self.faults: list[Any] = []
        self.requests: list[Any] = []
        self.toy = ToyEmbedder()
        self.app = FastAPI()
        self.app.post("/v1/embeddings")(self.embed)

    async def embed(self, request: Request) -> Response:
        body = await request.json()
        self.requests.append((dict(request.headers), body))
        fault = self.faults.pop(0) if self.faults else None
        if isinstance(fault, int):
            return JSONResponse({"error": "as asked"}, fault, headers={"retry-after": "0"})
        if fault is not None:
            return JSONResponse(fault)
        vectors = self.toy.embed_documents(body["input"]).tolist()
        data = [{"index": n, "embedding": vector} for n, vector in enumerate(vectors)]
        return JSONResponse({"data": data[::-1]})


@pytest.fixture
def endpoint() -> Iterator[tuple[Endpoint, str]]:
    made = Endpoint()
    with served(made.app) as url:
        yield made, f"{url}/v1"


def test_an_endpoint_embeds_in_batches_with_key_and_prefixes(
    endpoint: tuple[Endpoint, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, url = endpoint
    monkeypatch.setenv("EMBEDDING_KEY", "sesame")
    settings = EmbedderSettings("toy", url, "EMBEDDING_KEY", query_prefix="query: ")
    embedder = EndpointEmbedder(settings, batch=2, pause=0.0)
    assert embedder.dimension == 32
    made.faults = [429, 503]
    found = embedder.embed_documents(["dog", "cat", "car"])
    np.testing.assert_allclose(found, made.toy.embed_documents(["dog", "cat", "car"]), rtol=1e-6)
    embedder.embed_queries(["dog"])
    assert [body["input"] for _, body in made.requests] == [
        ["dimension"], ["dog", "cat"], ["dog", "cat"], ["dog", "cat"], ["car"], ["query: dog"],
    ]  # fmt: skip
    assert {head["authorization"] for head, _ in made.requests} == {"Bearer sesame"}
    assert EmbedderSettings.loads(settings.dumps()) == settings


@pytest.mark.parametrize(
    ("faults", "says", "retryable"),
    [
        ([500] * 4, "answered 500", True),
        ([401], "answered 401", False),
        ([{"data": []}], "gave 0 embeddings for 1 texts|no embeddings", False),
        ([{"nonsense": 1}], "no embeddings", False),
    ],
)
def test_an_endpoint_that_fails_says_so_after_bounded_retries(
    endpoint: tuple[Endpoint, str], faults: list[Any], says: str, retryable: bool
) -> None:
    made, url = endpoint
    made.faults = list(faults)
    with pytest.raises(EndpointError, match=says) as failed:
        EndpointEmbedder(EmbedderSettings("toy", url), pause=0.0).embed_queries(["dog"])
    assert (failed.value.retryable, len(made.requests)) == (retryable, len(faults))


def test_an_endpoint_that_is_down(tmp_path: Path, endpoint: tuple[Endpoint, str]) -> None:
    made, url = endpoint
    down = EmbedderSettings("toy", "http://127.0.0.1:9/v1")
    with pytest.raises(EndpointError, match="cannot be reached"):
        EndpointEmbedder(down, pause=0.0).embed_queries(["dog"])
    with pytest.raises(MissingVariableError, match="NOT_THERE is not set"):
        EmbedderSettings("toy", url, "NOT_THERE").make()
    with RetrievalIndex(tmp_path, settings=EmbedderSettings("toy", url)) as index:
        index.add([Document("a dog", "a")])
    index = RetrievalIndex(tmp_path)  # remembers where its vectors come from
    index.embedder = EndpointEmbedder(EmbedderSettings("toy", url), attempts=1)
    with served(create_app(index)) as service:
        assert httpx.post(f"{service}/search", json={"query": "hound"}).json()["results"][0][0]["id"] == "a"
        made.faults = [503, {"data": [{"index": 0, "embedding": [1.0]}]}]
        answer = httpx.post(f"{service}/search", json={"query": "hound"})
        assert (answer.status_code, answer.json()["error"]["type"]) == (503, "endpoint_error")
        assert "embeddings endpoint" in answer.json()["error"]["message"]
        answer = httpx.post(f"{service}/search", json={"query": "hound"})
        assert "shape (1, 1) in place of (1, 32)" in answer.json()["error"]["message"]
        assert httpx.post(f"{service}/search", json={"query": "dog", "mode": "lexical"}).status_code == 200


def test_a_client_whose_service_is_down_or_another_says_so(endpoint: tuple[Endpoint, str]) -> None:
    with pytest.raises(EndpointError, match="toolorch serve retrieval INDEX") as failed:
        RetrievalClient("http://127.0.0.1:9", attempts=1).search(["a"])
    assert failed.value.retryable
    with pytest.raises(EndpointError, match="answered 404"):
        RetrievalClient(endpoint[1]).search(["a"])
    with pytest.raises(RetrievalError, match="such as http://"):
        RetrievalClient("localhost")


def corpus(folder: Path) -> Path:
    folder.mkdir()
    (folder / "guide.md").write_text("# Dogs\n\n" + "A dog barks. " * 30 + "\n\n# Cats\n\n" + "A cat purrs. " * 30)
    (folder / "page.html").write_text(
        "<html><head><title>My house</title><style>p {}</style></head><body><h1>House</h1><p>A <b>red</b> house."
        "<script>var x = 1;</script><p>With a door &amp; a roof.</body>"
    )
    (folder / "deep").mkdir()
    (folder / "deep" / "note.txt").write_text("A doctor called.")
    (folder / "deep" / "same.txt").write_text("A doctor called.")
    (folder / "empty.txt").write_text(" \n")
    (folder / "picture.png").write_bytes(b"\x89PNG\0\0")
    (folder / "latin.txt").write_bytes("Müller".encode("latin-1"))
    (folder / ".hidden").write_text("hidden")
    rows = [
        '{"id": 1, "text": "a baby", "lang": "en"}',
        "{broken",
        '{"text": 5}',
        "",
        '["no object"]',
        '{"id": 2, "text": "a car"}',
    ]
    (folder / "rows.jsonl").write_text("\n".join(rows))
    (folder / "list.json").write_text(json.dumps([{"_id": "x", "text": "an automobile", "metadata": {"new": True}}]))
    table = pa.table({"id": ["p1", "p2"], "text": ["a parquet row", None], "day": pa.array([0, 1], pa.date32())})
    parquet.write_table(table, folder / "table.parquet")
    return folder


def test_a_build_reads_many_kinds_and_names_what_it_cannot(tmp_path: Path) -> None:
    sources = Sources([corpus(tmp_path / "docs")], chunking=Chunking(200, 40))
    toy = ToyEmbedder()
    with RetrievalIndex(tmp_path / "index", toy) as index:
        report = build_index(index, sources)
        assert (report.duplicates, report.unchanged, report.skipped) == (1, 0, len(report.reasons))
        assert {reason.place: reason.reason for reason in report.reasons} == {
            "docs/empty.txt": "it holds no text",
            "docs/latin.txt": report.reasons[[r.place for r in report.reasons].index("docs/latin.txt")].reason,
            "docs/picture.png": "it is no text file",
            "docs/rows.jsonl:2": report.reasons[[r.place for r in report.reasons].index("docs/rows.jsonl:2")].reason,
            "docs/rows.jsonl:3": "the field 'text' is no text; it has text",
            "docs/rows.jsonl:5": "the row is no object",
            "docs/table.parquet:row 2": "the field 'text' is no text; it has id, text, day",
        }
        hit = index.search(["red dwelling roof"], 1)[0][0]
        assert hit.metadata["title"] == "My house"
        assert hit.text == "# House\n\nA red house.\n\nWith a door & a roof."
        assert index.search(["parquet"], 1)[0][0].metadata == {"day": "1970-01-01"}
        assert index.search(["baby"], 1, filter={"lang": "en"})[0][0].id == "1"
        assert index.search(["car"], 1, filter={"new": True})[0][0].id == "x"
        guide = index.search(["cat purrs"], 9, filter={"path": "docs/guide.md"}, mode="lexical")[0]
        assert len(guide) > 2
        assert all(len(one.text) <= 200 for one in guide)
        embedded = len(toy.embedded)
        again = build_index(index, sources)
        assert (again.added, again.updated, again.deleted, again.embedded) == (0, 0, 0, 0)
        assert len(toy.embedded) == embedded
        (tmp_path / "docs" / "guide.md").write_text("Only a hound.")
        changed = build_index(index, sources)
        assert (changed.added, changed.updated, changed.embedded) == (0, 1, 1)
        assert changed.deleted > 2
        assert index.search(["cat purrs"], 9, filter={"path": "docs/guide.md"}, mode="lexical")[0] == []


def test_rows_that_become_long_or_short_leave_nothing_behind(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl.gz"
    with RetrievalIndex(tmp_path / "index", ToyEmbedder()) as index:
        for words, number in ((10, 1), (200, None), (20, 1)):
            with gzip.open(rows, "wt") as file:
                file.write(json.dumps({"id": "r", "title": "word", "body": "word " * words}) + "\n")
            fields = Fields(text=("title", "body"))
            report = build_index(index, Sources([rows], fields, Chunking(200, 50)), skip_duplicates=False)
            assert report.skipped == 0
            assert number in (None, len(index))
            assert len(index) == report.documents
        rows.write_bytes(rows.read_bytes()[:-9])
        assert build_index(index, Sources([rows], Fields(text=("title",)))).skipped == 1


def test_sources_that_cannot_be_meant(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "same").mkdir(parents=True)
    with pytest.raises(RetrievalError, match="no such file"):
        Sources([tmp_path / "c"]).files()
    with pytest.raises(RetrievalError, match="two are named 'same'"):
        Sources([tmp_path / "a" / "same", tmp_path / "b" / "same"]).files()
    with pytest.raises(RetrievalError, match="overlap 600"):
        Chunking(1000, 600)
    with pytest.raises(RetrievalError, match="chunk size 10"):
        Chunking(10, 1)


def test_vectors_of_a_file_are_taken_as_they_are(tmp_path: Path) -> None:
    table = pa.table({"text": ["one", "two"], "vector": [[1.0] + [0.0] * 31, [0.0, 2.0] + [0.0] * 30]})
    parquet.write_table(table, tmp_path / "t.parquet")
    toy = ToyEmbedder()
    with RetrievalIndex(tmp_path / "index", toy) as index:
        build_index(index, Sources([tmp_path / "t.parquet"], Fields(vector="vector")))
        again = build_index(index, Sources([tmp_path / "t.parquet"], Fields(vector="vector")))
        assert (again.unchanged, again.updated, toy.embedded) == (2, 0, [])
        assert index.search_vectors(np.eye(32)[1:2], 1)[0][0].text == "two"


def test_chunks_cover_the_text_and_overlap() -> None:
    draw = random.Random(0)
    words = [f"w{n}" + draw.choice([" ", " ", " ", ". ", "\n", "\n\n"]) for n in range(500)]
    text = "".join(words)
    pieces = list(chunks(text, Chunking(120, 30)))
    assert all(len(piece) <= 120 and text[start:].startswith(piece) for start, piece in pieces)
    assert {word.strip(" .\n") for word in words} == {word.strip(".") for _, piece in pieces for word in piece.split()}
    overlaps = [start + len(piece) - later for (start, piece), (later, _) in pairwise(pieces)]
    assert all(-5 <= overlap <= 30 for overlap in overlaps)
    assert sum(overlap > 10 for overlap in overlaps) > len(overlaps) / 2
    assert "".join(piece for _, piece in chunks("x" * 1000, Chunking(100, 0))) == "x" * 1000
    assert list(chunks("x" * 1000, Chunking(0, 0))) == [(0, "x" * 1000)]
    assert [piece for _, piece in chunks("Yes. " * 12 + "\n\n# Next\n\nNo. No.", Chunking(75, 0))][1].startswith(
        "# Next"
    )


def test_html_without_ends_is_read() -> None:
    assert html_text("<head><title>T<body><p>one<p>two<table><tr><td>a<td>b") == ("one\n\ntwo\n\na\nb", "T")


def test_the_command_line_builds_resumes_after_a_kill_and_serves(
    tmp_path: Path, endpoint: tuple[Endpoint, str]
) -> None:
    made, url = endpoint
    rows, folder = tmp_path / "rows.jsonl", tmp_path / "index"
    rows.write_text("".join(json.dumps({"id": n, "text": f"dog {n}"}) + "\n" for n in range(1000)) + "broken\n")
    command = [sys.executable, "-m", "tests.retrieval_cli", "index", "build", str(folder), str(rows)]
    command += ["--model", "toy", "--endpoint", url, "--json"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    build = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while len(made.toy.embedded) < 600 and build.poll() is None:
        time.sleep(0.01)
    build.send_signal(signal.SIGKILL)
    build.communicate()
    before = len(made.toy.embedded)
    done = CliRunner().invoke(command_line, command[3:])
    report = json.loads(done.stdout)
    assert (report["held"], report["skipped"], report["added"] + report["unchanged"]) == (1000, 1, 1000)
    assert "skipped rows.jsonl:1001: JSONDecodeError" in done.stderr
    assert report["unchanged"] >= 256
    assert len(made.toy.embedded) - before <= 1000 - 256 + 1
    run = CliRunner().invoke(command_line, ["index", "stats", str(folder), "--json"])
    assert json.loads(run.stdout)["documents"] == 1000
    service = subprocess.Popen(
        [sys.executable, "-m", "tests.retrieval_cli", "serve", "retrieval", str(folder), "--port", "0"],
        env=environment, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert service.stderr is not None
    try:
        line = service.stderr.readline()
        assert line.startswith("1,000 documents (toy) on http://127.0.0.1:"), line
        client = RetrievalClient(line.split()[-1])
        assert client.search(["dog 77"], k=1, mode="lexical")[0][0].id == "77"
        client.add([{"text": "a late cat", "id": "late"}])
    finally:
        service.terminate()
        service.communicate()
    assert service.returncode in (0, -signal.SIGTERM)
    with RetrievalIndex(folder) as index:
        assert index.search(["feline"], k=1)[0][0].id == "late"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["index", "build", "{}/i", "{}/none"], "there is no such file or folder"),
        (["index", "build", "{}/i", "{}", "--endpoint", "http://x"], "--model"),
        (["index", "build", "{}/i", "{}", "--key-variable", "K"], "give --endpoint as well"),
        (["index", "stats", "{}/i"], "toolorch index build"),
        (["serve", "retrieval", "{}/i"], "toolorch index build"),
        (["serve", "retrieval", "{}", "--host", "0.0.0.0"], "--api-key-variable, or --open"),
        (["serve", "retrieval", "{}", "--api-key-variable", "NOT_SET_X"], "NOT_SET_X is not set"),
    ],
)
def test_the_command_line_says_what_is_wrong(tmp_path: Path, arguments: list[str], says: str) -> None:
    run = CliRunner().invoke(command_line, [one.format(tmp_path) for one in arguments], env={"COLUMNS": "400"})
    assert run.exit_code != 0
    assert says in run.output
