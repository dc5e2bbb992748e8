"""`search`: the web through DuckDuckGo, which needs no key, or Tavily, which takes one."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Literal

from toolorch_integrations.entry import Price, Tool
from toolorch_integrations.errors import MissingVariableError
from toolorch_serving.tools.cache import Cache
from toolorch_serving.tools.duckduckgo import duckduckgo
from toolorch_serving.tools.errors import ToolError
from toolorch_serving.tools.requests import post_json
from toolorch_serving.tools.results import result, shown
from toolorch_serving.tools.tool_function import Document, Found, ToolFunction, text_parameters

NAME = "search"
KEY = "TAVILY_API_KEY"
TAVILY_URL = "https://api.tavily.com/search"
RESULTS = 5
QUERY_CHARACTERS = 400
"""Longest query; Tavily takes no longer one, and DuckDuckGo reads no more."""

Query = Callable[[str, int], list[Document]]
"""Takes a query and a number of results."""


def search(
    engine: Literal["duckduckgo", "tavily"] | None = None,
    *,
    results: int = RESULTS,
    timeout: float = 10.0,
    cache_size: int = 1_000,
    cache_seconds: float = 3_600.0,
    url: str | None = None,
) -> ToolFunction:
    """Return the tool.

    Args:
        engine: Who searches; None takes Tavily where TAVILY_API_KEY is set, else DuckDuckGo.
        results: Results of a query.
        timeout: Seconds for a request.
        cache_size: Queries whose results are kept.
        cache_seconds: How long.
        url: Another address of the engine, such as a company's own gateway to it.

    Raises:
        MissingVariableError: Tavily is wanted, and its key's variable is not set.
    """
    chosen = engine or ("tavily" if os.environ.get(KEY) else "duckduckgo")
    if chosen == "tavily" and not os.environ.get(KEY):
        raise MissingVariableError(f"search: Tavily takes its key from the environment variable {KEY}: export it.")
    ask = _tavily(url or TAVILY_URL, timeout) if chosen == "tavily" else duckduckgo(timeout, url)
    kept: Cache[list[Document]] = Cache(cache_size, cache_seconds)

    def run(query: str) -> Found:
        words = " ".join(query.split())[:QUERY_CHARACTERS]
        if not words:
            raise ToolError("the query is empty: write what to look for.")
        return shown(kept.get(words.casefold(), lambda: ask(words, results)), "Nothing was found: try other words.")

    entry = Tool(
        name=NAME,
        description="Searches the web and returns titles, addresses and snippets.",
        parameters=text_parameters("query", "What to look for, in a few words."),
        price=Price(call=0.008) if chosen == "tavily" else Price(),  # Tavily's price of a basic search, pay as you go
        latency=1.0,
        capabilities=("search",),
        destructive=False,
        timeout=3 * timeout + 5,  # its retries included
    )
    return ToolFunction(entry, run)


def _tavily(url: str, timeout: float) -> Query:
    """Return a query of Tavily's Search API (https://docs.tavily.com/documentation/api-reference/endpoint/search)."""

    def ask(query: str, results: int) -> list[Document]:
        headers = {"Authorization": f"Bearer {os.environ.get(KEY, '')}"}
        body = {"query": query, "max_results": results, "search_depth": "basic"}
        reply = post_json("Tavily", url, body, headers=headers, timeout=timeout)
        items = reply.get("results") if isinstance(reply, dict) else None
        if not isinstance(items, list):
            raise ToolError("Tavily's answer holds no `results`.")
        found = [item for item in items if isinstance(item, dict)]
        return [result(item.get("title"), item.get("url"), item.get("content")) for item in found[:results]]

    return ask
