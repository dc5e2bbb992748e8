"""LangChain tools without a coroutine, awaited without holding up the event loop's own threads.

LangChain runs such a tool in the loop's default executor. A call that is given up keeps its thread there: a few hung
calls take them all, and `asyncio.run` waits for them at the end. This module needs LangChain; both faces use it.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, StructuredTool, Tool

from toolorch_integrations.workers import in_worker


def off_the_loop(tool: BaseTool) -> BaseTool:
    """Return a tool for an event loop: itself if it has a coroutine, else one that runs it in a thread of `workers`."""
    if _has_coroutine(tool):
        return tool
    fields = {name: getattr(tool, name) for name in BaseTool.model_fields}
    return _InWorker.model_construct(tool=tool, **fields)


def _has_coroutine(tool: BaseTool) -> bool:
    kind = type(tool)
    if kind.ainvoke not in (BaseTool.ainvoke, StructuredTool.ainvoke, Tool.ainvoke):
        return True
    if isinstance(tool, (StructuredTool, Tool)):
        return tool.coroutine is not None
    return kind._arun is not BaseTool._arun


class _InWorker(BaseTool):
    """Stands for a tool, with its name, schema and metadata."""

    tool: BaseTool

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002
        return self.tool.invoke(input, config, **kwargs)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002
        return await in_worker(partial(self.tool.invoke, input, config, **kwargs))

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        return self.tool._run(*args, **kwargs)
