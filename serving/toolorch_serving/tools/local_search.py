"""`local_search`: the app's own documents, through its retrieval service."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toolorch_integrations.entry import Tool
from toolorch_serving.tools.errors import ToolError
from toolorch_serving.tools.requests import post_json
from toolorch_serving.tools.results import shown
from toolorch_serving.tools.tool_function import Document, Found, ToolFunction, text_parameters

NAME = "local_search"
RESULTS = 5


def local_search(
    url: str, *, results: int = RESULTS, only: Mapping[str, Any] | None = None, timeout: float = 10.0
) -> ToolFunction:
    """Return the tool, a client of `toolorch serve retrieval`.

    Args:
        url: Base URL of the service.
        results: Documents of a query, where the policy asks for no other number.
        only: The service's filter, sent with every query.
        timeout: Seconds for a request.
    """
    address = f"{url.rstrip('/')}/search"

    def run(query: str, k: int = results) -> Found:
        if not query.strip():
            raise ToolError("the query is empty: write what to look for.")
        body = {"queries": [query], "k": max(1, min(int(k), 50)), "filter": dict(only) if only else None}
        reply = post_json("The retrieval service", address, body, timeout=timeout)
        try:
            documents = [_document(item) for item in reply["results"][0]]
        except (KeyError, IndexError, TypeError) as error:
            raise ToolError("The retrieval service's answer holds no list of `results` for the query.") from error
        return shown(documents, "No document was found: try other words.")

    number = {"type": "integer", "description": "How many documents.", "minimum": 1, "maximum": 50, "default": results}
    entry = Tool(
        name=NAME,
        description="Searches the app's own documents and returns the passages that fit best.",
        parameters=text_parameters("query", "What to look for, as a question or in a few words.", k=number),
        latency=0.1,
        capabilities=("search",),
        destructive=False,
        timeout=3 * timeout + 5,  # its retries included
    )
    return ToolFunction(entry, run)


def _document(item: Any) -> Document:
    metadata = item.get("metadata") or {}
    return Document(str(item["text"]), {**metadata, "id": item.get("id"), "score": item.get("score")})
