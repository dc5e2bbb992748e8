"""`local_search`: the app's own documents, through its retrieval service."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toolorch_integrations.entry import Tool
from toolorch_integrations.errors import EndpointError
from toolorch_integrations.retrieval import RetrievalClient, RetrievalError
from toolorch_serving.tools.errors import ToolError
from toolorch_serving.tools.results import shown
from toolorch_serving.tools.tool_function import Document, Found, ToolFunction, text_parameters

NAME = "local_search"
RESULTS = 5


def local_search(
    url: str,
    *,
    results: int = RESULTS,
    only: Mapping[str, Any] | None = None,
    key_variable: str | None = None,
    timeout: float = 10.0,
) -> ToolFunction:
    """Return the tool, a client of `toolorch serve retrieval`.

    Args:
        url: Base URL of the service.
        results: Documents of a query, where the policy asks for no other number.
        only: The service's filter, sent with every query.
        key_variable: Environment variable with the service's key.
        timeout: Seconds for a request.

    Raises:
        RetrievalError: `url` is none.
        MissingVariableError: `key_variable` is not set.
    """
    client = RetrievalClient(url, key_variable=key_variable, timeout=timeout)

    def run(query: str, k: int = results) -> Found:
        if not query.strip():
            raise ToolError("the query is empty: write what to look for.")
        try:
            (hits,) = client.search([query], max(1, min(int(k), 50)), filter=only)
        except (EndpointError, RetrievalError) as error:
            raise ToolError(str(error)) from error
        found = [Document(hit.text, {**hit.metadata, "id": hit.id, "score": hit.score}) for hit in hits]
        return shown(found, "No document was found: try other words.")

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
