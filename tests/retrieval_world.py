"""A small embedder without a model, and a corpus whose questions need both words and meaning."""

from __future__ import annotations

import re
import socket
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import uvicorn

SYNONYMS = {
    "automobile": "car", "vehicle": "car", "physician": "doctor", "medic": "doctor", "canine": "dog", "hound": "dog",
    "feline": "cat", "purchase": "buy", "acquire": "buy", "residence": "house", "dwelling": "house", "infant": "baby",
}  # fmt: skip


class ToyEmbedder:
    """Sums a fixed random vector for each word; synonyms share one, and numbers have none."""

    def __init__(self, name: str = "toy", dimension: int = 32) -> None:
        self.name, self.dimension = name, dimension
        self.embedded: list[str] = []
        self.batches: list[int] = []

    def vector(self, text: str) -> Any:
        total = np.zeros(self.dimension, np.float32)
        for word in re.findall(r"[a-z]+", text.lower()):
            word = SYNONYMS.get(word, word)
            total += np.random.default_rng(zlib.crc32(word.encode())).normal(size=self.dimension).astype(np.float32)
        return total

    def embed_documents(self, texts: Sequence[str]) -> Any:
        self.embedded += texts
        return np.stack([self.vector(text) for text in texts])

    def embed_queries(self, texts: Sequence[str]) -> Any:
        self.batches.append(len(texts))
        return np.stack([self.vector(text) for text in texts])


@contextmanager
def served(app: Any) -> Iterator[str]:
    """Serve an app over real HTTP in a thread; yield its URL."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=5))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listening.close()
