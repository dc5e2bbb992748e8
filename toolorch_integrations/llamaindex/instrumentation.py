"""What LlamaIndex's instrumentation wants of a handler, and what its spans say of a run."""

from __future__ import annotations

import inspect
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from llama_index.core.workflow import Workflow
from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.base import BaseEvent
from llama_index_instrumentation.event_handlers import BaseEventHandler
from llama_index_instrumentation.span_handlers import BaseSpanHandler
from pydantic import PrivateAttr

logger = logging.getLogger(__name__)


class Listener(Protocol):
    """Who is told of spans and events."""

    def event(self, event: BaseEvent) -> None:
        """Take an event."""

    def span_entered(self, span_id: str, bound: inspect.BoundArguments, instance: Any, parent: str | None) -> None:
        """Take note that a span begins."""

    def span_ended(self, span_id: str, result: Any, error: BaseException | None, instance: Any) -> None:
        """Take note that a span ends, well or not."""


@contextmanager
def _said() -> Iterator[None]:
    """Say what goes wrong: LlamaIndex keeps silent about the errors of handlers."""
    try:
        yield
    except Exception:
        logger.exception("capture has lost something that LlamaIndex told it")


class EventHandler(BaseEventHandler):
    """Passes events on.

    Args:
        handler: Who is told.
    """

    _handler: Listener = PrivateAttr()

    def __init__(self, handler: Listener) -> None:
        super().__init__()
        self._handler = handler

    @classmethod
    def class_name(cls) -> str:
        """Return a name."""
        return "ToolorchEventHandler"

    def handle(self, event: BaseEvent, **kwargs: Any) -> None:
        """Pass an event on."""
        with _said():
            self._handler.event(event)


class SpanHandler(BaseSpanHandler[Any]):
    """Passes spans on and keeps none.

    Args:
        handler: Who is told.
    """

    _handler: Listener = PrivateAttr()

    def __init__(self, handler: Listener) -> None:
        super().__init__()
        self._handler = handler

    @classmethod
    def class_name(cls) -> str:
        """Return a name."""
        return "ToolorchSpanHandler"

    def span_enter(
        self,
        id_: str,
        bound_args: inspect.BoundArguments,
        instance: Any = None,
        parent_id: str | None = None,
        tags: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Pass the beginning of a span on."""
        with _said():
            self._handler.span_entered(id_, bound_args, instance, parent_id)

    def span_exit(
        self, id_: str, bound_args: inspect.BoundArguments, instance: Any = None, result: Any = None, **kwargs: Any
    ) -> None:
        """Pass the end of a span on."""
        with _said():
            self._handler.span_ended(id_, result, None, instance)

    def span_drop(
        self,
        id_: str,
        bound_args: inspect.BoundArguments,
        instance: Any = None,
        err: BaseException | None = None,
        **kwargs: Any,
    ) -> None:
        """Pass the bad end of a span on."""
        with _said():
            self._handler.span_ended(id_, None, err or RuntimeError("dropped"), instance)

    def new_span(self, *args: Any, **kwargs: Any) -> None:
        """Keep no spans of LlamaIndex's own kind."""

    def prepare_to_exit_span(self, *args: Any, **kwargs: Any) -> None:
        """Keep no spans of LlamaIndex's own kind."""

    def prepare_to_drop_span(self, *args: Any, **kwargs: Any) -> None:
        """Keep no spans of LlamaIndex's own kind."""


_lock = threading.Lock()


def add_handlers(*, events: EventHandler | None = None, spans: SpanHandler | None = None) -> None:
    """Have handlers told of all that happens in this process; from any thread."""
    root = get_dispatcher()
    with _lock:
        root.event_handlers = [*root.event_handlers, *([events] if events is not None else [])]
        root.span_handlers = [*root.span_handlers, *([spans] if spans is not None else [])]


def remove_handlers(*, events: EventHandler | None = None, spans: SpanHandler | None = None) -> None:
    """End that."""
    root = get_dispatcher()
    with _lock:
        root.event_handlers = [handler for handler in root.event_handlers if handler is not events]
        root.span_handlers = [handler for handler in root.span_handlers if handler is not spans]


def name_of(instance: Any, span_id: str) -> str:
    """Return the name of what a span is of: the agent's, or the class's."""
    name = getattr(instance, "name", None)
    return name if isinstance(name, str) and name else span_id.partition(".")[0]


def agent_of(instance: Any) -> str:
    """Return the name of a workflow's own agent."""
    if not isinstance(instance, Workflow):
        return ""
    return str(getattr(instance, "root_agent", None) or getattr(instance, "name", ""))


def request_in(bound: inspect.BoundArguments) -> str:
    """Return the user's words in the arguments of whatever begins a run."""
    arguments = bound.arguments
    event = arguments.get("start_event")
    if event is not None:
        history = event.get("chat_history", None) or [None]
        return _words(event.get("user_msg", None) or event.get("input", None) or history[-1])
    for name in ("messages", "str_or_query_bundle", "user_msg", "message", "prompt", "query"):
        if name in arguments:
            return _words(arguments[name])
    return _words(next(iter(bound.args), ""))


def _words(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        value = value[-1] if value else ""
    text = getattr(value, "content", None) or getattr(value, "query_str", None)
    return text if isinstance(text, str) else value if isinstance(value, str) else ""
