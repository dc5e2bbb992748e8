"""Ways of LangChain's that cost more than what an orchestrator does in a step, and the same done quickly."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from copy import copy
from functools import partial
from typing import Any, TypeVar

Request = TypeVar("Request")


def changed(request: Request, **fields: Any) -> Request:
    """Do as `override` of a model or tool call request, which sets each field past a warning about setting fields."""
    copied = copy(request)
    vars(copied).update(fields)
    return copied


def signed(hook: Callable[..., Any]) -> Callable[..., Any]:
    """Return a hook that knows its signature: LangChain's tracing has it made at each call, traced or not."""
    quick = partial(hook)
    vars(quick)["__signature__"] = inspect.signature(hook)
    return quick
