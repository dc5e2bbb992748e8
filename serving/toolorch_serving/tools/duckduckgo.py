"""DuckDuckGo's search, through the library ddgs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from toolorch_serving.tools.errors import SearchLimitedError, ToolError
from toolorch_serving.tools.requests import PassingError, with_retries
from toolorch_serving.tools.results import result
from toolorch_serving.tools.tool_function import Document

_LIMITED = (202, 403, 418, 429)
"""DuckDuckGo answers 202 with a riddle for people, and others in front of it the rest, when it is asked too often."""


def duckduckgo(timeout: float, url: str | None = None) -> Callable[[str, int], list[Document]]:
    """Return a query of DuckDuckGo.

    ddgs itself tells a limit from an empty answer by nothing; its engine's `request` is taken over here for that.

    Args:
        timeout: Seconds for a request.
        url: Another address than DuckDuckGo's.

    Raises:
        ToolError: ddgs is not installed.
    """
    try:
        from ddgs.engines.duckduckgo import Duckduckgo
        from ddgs.exceptions import DDGSException, TimeoutException
    except ImportError as error:
        raise ToolError(
            "search by DuckDuckGo needs ddgs: pip install 'toolorch-integrations[search]', or set TAVILY_API_KEY."
        ) from error

    class Engine(Duckduckgo):
        def request(self, *args: Any, **kwargs: Any) -> str:
            reply = self.http_client.request(*args, **kwargs)
            if reply.status_code in _LIMITED:
                raise SearchLimitedError(
                    f"DuckDuckGo takes no further queries from here for now (status {reply.status_code}): wait some "
                    "minutes, or set TAVILY_API_KEY to search with Tavily."
                )
            if reply.status_code != 200:
                raise PassingError(f"DuckDuckGo failed with status {reply.status_code}.")
            return str(reply.text)

    own = threading.local()  # an engine keeps cookies and is not made for threads

    def attempt(query: str) -> list[Any]:
        if not hasattr(own, "engine"):
            own.engine = Engine(timeout=max(1, round(timeout)))
            own.engine.search_url = url or Engine.search_url
        try:
            return own.engine.search(query) or []
        except TimeoutException as error:
            raise PassingError(f"DuckDuckGo did not answer within {timeout:g} s.") from error
        except DDGSException as error:
            raise PassingError(f"DuckDuckGo cannot be reached: {error}.") from error

    def ask(query: str, results: int) -> list[Document]:
        found = with_retries(lambda: attempt(query))
        return [result(item.title, item.href, item.body) for item in found[:results]]

    return ask
