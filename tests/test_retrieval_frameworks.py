"""Retrievers of both frameworks, and the packaged embedding model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.retrievers import BaseRetriever
from langchain_tests.integration_tests import RetrieversIntegrationTests
from llama_index.core.query_engine import RetrieverQueryEngine  # noqa: F401  # its import registers what retrievers need

from tests.retrieval_world import ToyEmbedder, served
from toolorch_integrations import langgraph, llamaindex
from toolorch_integrations.errors import EndpointError
from toolorch_integrations.retrieval import RetrievalClient, RetrievalError
from toolorch_serving.retrieval import Document, RetrievalIndex, SentenceEmbedder, create_app


def filled(folder: Path) -> RetrievalIndex:
    index = RetrievalIndex(folder, ToyEmbedder())
    index.add(Document(f"the dog number {n}", f"{n}", {"n": n}) for n in range(10))
    return index


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(create_app(filled(tmp_path_factory.mktemp("served")))) as url:
        yield url


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RetrievalIndex]:
    with filled(tmp_path_factory.mktemp("here")) as opened:
        yield opened


class _Standard(RetrieversIntegrationTests):
    source: Any

    @property
    def retriever_constructor(self) -> type[BaseRetriever]:
        return langgraph.Retriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"source": self.source}

    @property
    def retriever_query_example(self) -> str:
        return "hound 7"


class TestLangChainOverHttp(_Standard):
    @pytest.fixture(autouse=True)
    def _source(self, service: str) -> None:
        self.source = service


class TestLangChainInProcess(_Standard):
    @pytest.fixture(autouse=True)
    def _source(self, index: RetrievalIndex) -> None:
        self.source = index


@pytest.mark.parametrize("way", ["service", "index"])
async def test_both_faces_give_the_same_documents(way: str, request: pytest.FixtureRequest) -> None:
    source = request.getfixturevalue(way)
    ours = langgraph.Retriever(source=source, k=3, filter={"n": {"$gt": 4}})
    theirs = llamaindex.Retriever(source, k=3, filter={"n": {"$gt": 4}})
    documents, nodes = ours.invoke("hound 7"), theirs.retrieve("hound 7")
    assert [document.id for document in documents] == [node.node.node_id for node in nodes]
    assert documents[0].id == "7"
    assert documents[0].page_content == nodes[0].node.get_content() == "the dog number 7"
    assert documents[0].metadata == {"n": 7, "score": nodes[0].score}
    assert await ours.ainvoke("hound 7") == documents
    assert [node.node.node_id for node in await theirs.aretrieve("hound 7")] == [one.id for one in documents]
    assert len(await ours.ainvoke("hound 7", mode="lexical", k=1)) == 1


async def test_bad_sources_and_services_that_are_down() -> None:
    with pytest.raises(ValueError, match="RetrievalClient or a RetrievalIndex"):
        langgraph.Retriever(source=5)
    with pytest.raises(RetrievalError, match="RetrievalClient or a RetrievalIndex"):
        llamaindex.Retriever(5)  # type: ignore[arg-type]
    down = RetrievalClient("http://127.0.0.1:9", attempts=1)
    with pytest.raises(EndpointError, match="Is it running"):
        langgraph.Retriever(source=down).invoke("dog")
    with pytest.raises(EndpointError, match="Is it running"):
        await langgraph.Retriever(source=down).ainvoke("dog")
    with pytest.raises(EndpointError, match="Is it running"):
        await llamaindex.Retriever(down).aretrieve("dog")


def test_the_packaged_model_needs_no_download(tmp_path: Path) -> None:
    model = SentenceEmbedder()
    assert (model.name, model.dimension) == ("all-MiniLM-L6-v2", 384)
    assert model.embed_queries([]).shape == (0, 384)
    with RetrievalIndex(tmp_path, model) as index:
        texts = ["The invoice was refunded.", "Otters sleep holding hands.", "The train leaves at noon."]
        index.add(Document(text) for text in texts)
        found = index.search(["money given back", "aquatic mammals", "departure time"], 1, mode="dense")
        assert [hits[0].text for hits in found] == texts
        assert np.isclose(
            found[0][0].score, index.search_vectors(model.embed_queries(["money given back"]), 1)[0][0].score
        )
    with pytest.raises(RetrievalError, match="cannot be loaded"):
        SentenceEmbedder(str(tmp_path))
