"""Tools out of the box: sandboxed Python, web search, local search, and one's own from a definitions file."""

from toolorch_serving.tools.errors import DefinitionError, ForbiddenAddressError, SearchLimitedError, ToolError
from toolorch_serving.tools.loading import LoadedTools, load_tools
from toolorch_serving.tools.tool_function import Document, Found, ToolFunction

__all__ = [
    "DefinitionError",
    "Document",
    "ForbiddenAddressError",
    "Found",
    "LoadedTools",
    "SearchLimitedError",
    "ToolError",
    "ToolFunction",
    "load_tools",
]
