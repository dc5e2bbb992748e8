"""Retrieval beside plain faiss on the same vectors and the same index, in one run.

    OMP_NUM_THREADS=1 python benchmarks/retrieval.py                    # 1 M x 384: minutes on a free core
    OMP_NUM_THREADS=1 python benchmarks/retrieval.py --documents 60000  # a minute

Bars that the project sets itself: recall@10 of at least 0.95 against exact search, and at least 70 % of plain faiss's
queries/s at batch 32, in process and over HTTP.

The vectors are synthetic, but clustered as embeddings of a corpus are: fields hold topics, a topic has 200 documents
on average and sizes are Zipf-like, its documents vary with variances that fall as 1/i in directions of the topic's own,
and all share a common direction (mean cosine 0.1, nearest document at about 0.7). Queries are drawn from the same
topics and are not in the index. Such vectors need few lists for the recall, which is the hard case for what is measured
here: the less faiss has to do for a query, the more the rest weighs.

`plain faiss` searches the index object that the service holds, with the same effort: what is measured beside it is all
that we add: locks, reading documents and their metadata from SQLite, and for HTTP the parsing, JSON and the network.
The embedding model is left out on both sides, by a table from query to vector, since it would hide everything else.
Answers are compared with plain faiss's: both sides find the same documents.
"""

from __future__ import annotations

import argparse
import http.client
import json
import resource
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import uvicorn
from numpy.typing import NDArray

from toolorch_serving.retrieval import Document, RetrievalIndex, create_app
from toolorch_serving.retrieval.exact import exact_search

Vectors = NDArray[np.float32]
K = 10


class Table:
    """An embedder that looks vectors up: `q7` is the seventh query."""

    name = "table"

    def __init__(self, queries: Vectors) -> None:
        self._queries = queries
        self.dimension = queries.shape[1]

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        """Refuse: documents bring their vectors."""
        raise AssertionError("documents bring their vectors")

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """Return the vectors of queries."""
        return self._queries[[int(text[1:]) for text in texts]]


class World:
    """Where vectors are drawn from; see the module's text."""

    def __init__(self, dimension: int, topics: int, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._dimension = dimension
        spectrum = (1 + np.arange(dimension)) ** -0.5
        self._scale = (spectrum / np.linalg.norm(spectrum)).astype(np.float32)
        self._common = self._directions(1)[0] * 0.3
        fields = self._directions(max(topics // 50, 1))
        self._centres = 0.45 * fields[np.arange(topics) % len(fields)] + 0.55 * self._directions(topics)
        # Topics vary in directions of their own.
        self._turns = [np.linalg.qr(self._rng.normal(size=(dimension,) * 2))[0].astype(np.float32) for _ in range(8)]
        sizes = 1.0 / np.arange(1, topics + 1) ** 0.7
        self._shares = sizes / sizes.sum()

    def draw(self, number: int) -> Vectors:
        """Return so many vectors of length 1."""
        topics = self._rng.choice(len(self._centres), number, p=self._shares)
        noise = self._rng.standard_normal((number, self._dimension), np.float32) * self._scale
        made = self._centres[topics] + self._common
        for turn, matrix in enumerate(self._turns):
            those = topics % len(self._turns) == turn
            made[those] += noise[those] @ matrix * 0.7
        return self._unit(made)

    def _directions(self, number: int) -> Vectors:
        return self._unit(self._rng.normal(size=(number, self._dimension)))

    @staticmethod
    def _unit(vectors: Any) -> Vectors:
        scaled: Vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
        return scaled


def fill(folder: Path, world: World, queries: Vectors, documents: int, kind: str) -> None:
    """Build an index of so many documents, each with a short text and metadata."""
    index = RetrievalIndex(folder, Table(queries), kind=kind)
    begun, batch = time.perf_counter(), 5000
    for start in range(0, documents, batch):
        number = min(batch, documents - start)
        vectors = world.draw(number)
        index.add(
            Document(
                f"document {start + n} on a subject, in a sentence or two", f"d{start + n}", {"n": start + n}, vector
            )
            for n, vector in enumerate(vectors)
        )
    stored = time.perf_counter()
    index.load()
    built = time.perf_counter()
    index.snapshot()
    written = time.perf_counter()
    print(
        f"{documents:,} documents stored in {stored - begun:.0f} s ({documents / (stored - begun):,.0f}/s), vectors "
        f"trained, filled and tuned in {built - stored:.0f} s, snapshot in {written - built:.1f} s"
    )
    index.close()


def opened(folder: Path, queries: Vectors) -> RetrievalIndex:
    """Open an index, and say how long that takes."""
    begun = time.perf_counter()
    index = RetrievalIndex(folder, Table(queries))
    index.load()
    print(f"opened from its snapshot in {time.perf_counter() - begun:.1f} s: {json.dumps(index.stats()['vectors'])}")
    return index


def rounds(ways: dict[str, Callable[[int], Any]], batches: int, tries: int) -> dict[str, tuple[float, float]]:
    """Return for each way the mean over batches of the least wall and processor seconds that a batch took.

    The ways take turns batch by batch, so that a busy moment of the machine meets all.
    """
    taken = {name: np.full((tries, batches, 2), np.inf) for name in ways}
    for attempt in range(tries):
        for batch in range(batches):
            for name, way in ways.items():
                begun = time.perf_counter(), time.process_time()
                way(batch)
                ended = time.perf_counter(), time.process_time()
                taken[name][attempt, batch] = ended[0] - begun[0], ended[1] - begun[1]
    means = {name: seconds.min(0).mean(0) for name, seconds in taken.items()}
    return {name: (float(wall), float(busy)) for name, (wall, busy) in means.items()}


@contextmanager
def serving(index: RetrievalIndex) -> Iterator[int]:
    """Serve an index over HTTP on loopback; yield the port."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_app(index), log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


def measure(index: RetrievalIndex, queries: Vectors, batch: int, tries: int) -> bool:
    """Print recall and speeds; return whether the bars are reached."""
    dense = index._keeper.load()
    plain, batches = dense.on_processor(), len(queries) // batch
    parameters = dense._parameters(None, K, 1.0)

    def faiss_alone(number: int) -> Any:
        return plain.search(queries[number * batch : (number + 1) * batch], K, params=parameters)

    texts = [[f"q{number * batch + place}" for place in range(batch)] for number in range(batches)]
    print("exact search, for recall ...", flush=True)
    scores, true = exact_search(queries, K, index._database.vectors())
    print(f"cosine of a query's nearest document: {scores[:, 0].mean():.2f} on average")
    found = [hits for number in range(batches) for hits in index.search(texts[number], K, mode="dense")]
    alone = np.concatenate([faiss_alone(number)[1] for number in range(batches)])
    same = np.mean(
        [
            [hit.id for hit in hits] == [f"d{row - 1}" for row in rows]
            for hits, rows in zip(found, alone.tolist(), strict=True)
        ]
    )
    recall = np.mean(
        [
            len({hit.id for hit in hits} & {f"d{row - 1}" for row in rows}) / K
            for hits, rows in zip(found, true.tolist(), strict=True)
        ]
    )
    print(f"recall@{K} {recall:.4f} over {len(found)} queries (bar 0.95); same answers as plain faiss: {same:.4f}")
    with serving(index) as port, closing(http.client.HTTPConnection("127.0.0.1", port)) as client:
        bodies = [json.dumps({"queries": some, "k": K, "mode": "dense"}).encode() for some in texts]
        head = {"content-type": "application/json"}

        def over_http(number: int) -> Any:
            client.request("POST", "/search", bodies[number], head)
            answer = client.getresponse()
            assert answer.status == 200
            return answer.read()

        seconds = rounds(
            {
                "plain faiss": faiss_alone,
                "in process": lambda number: index.search(texts[number], K, mode="dense"),
                "over HTTP": over_http,
            },
            batches,
            tries,
        )
    reached = recall >= 0.95
    for name, (wall, busy) in seconds.items():
        shares = [theirs / ours for theirs, ours in zip(seconds["plain faiss"], (wall, busy), strict=True)]
        print(
            f"{name:<12} {batch / wall:>7,.0f} queries/s at batch {batch}, {shares[0]:>6.1%} of plain faiss; "
            f"by processor time {batch / busy:,.0f}, {shares[1]:.1%}"
        )
        # On one thread the two are the same on a quiet machine, and the second is the figure to go by on a busy one.
        reached &= shares[faiss.omp_get_max_threads() == 1] >= 0.7
    return bool(reached)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--topics", type=int, help="by default one to 200 documents")
    parser.add_argument("--queries", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--tries", type=int, default=5)
    parser.add_argument("--kind", default="auto")
    parser.add_argument("--folder", type=Path, help="keep the index here, or measure the one that is")
    options = parser.parse_args()
    world = World(options.dimension, options.topics or max(options.documents // 200, 1), 0)
    queries = world.draw(options.queries)
    folder = options.folder or Path(tempfile.mkdtemp(prefix="retrieval-"))
    threads = faiss.omp_get_max_threads()
    print(f"{options.documents:,} x {options.dimension}, faiss {faiss.__version__}, {threads} thread(s)")
    try:
        if not (folder / "documents.db").exists():
            fill(folder, world, queries, options.documents, options.kind)
        reached = measure(opened(folder, queries), queries, options.batch, options.tries)
        print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB")
    finally:
        if options.folder is None:
            shutil.rmtree(folder)
    raise SystemExit(0 if reached else "a bar was missed")


if __name__ == "__main__":
    main()
