"""Errors of the tools: each names the cause and what to do about it."""

from toolorch_integrations.errors import CatalogError, ToolorchError


class ToolError(ToolorchError):
    """A call of a tool brought nothing; the message is written for the policy."""


class SearchLimitedError(ToolError):
    """A search service refuses further queries for now."""


class ForbiddenAddressError(ToolError):
    """An address on the web that must not be asked: private, loopback, link-local, metadata or of no such scheme."""


class DefinitionError(CatalogError):
    """A definitions file is not usable; the message names file, tool and field."""
