"""`python -m tests.retrieval_writer FOLDER add|snapshot`: adds documents until killed; says which are acknowledged."""

# ruff: noqa: T201
import sys

from tests.retrieval_world import ToyEmbedder
from toolorch_serving.retrieval import Document, RetrievalIndex


def main() -> None:
    folder, way = sys.argv[1:]
    index = RetrievalIndex(folder, ToyEmbedder())
    index.load()
    start = len(index)
    print("ready", flush=True)
    for number in range(start, 100_000):
        index.add([Document(f"number {number} of the kind {way}", f"{way}-{number}", {"n": number})])
        print(f"added {way}-{number}", flush=True)
        if number % 5 == 4:
            index.delete([f"{way}-{number}"])
            print(f"deleted {way}-{number}", flush=True)
        if way == "snapshot":
            index.snapshot()


if __name__ == "__main__":
    main()
