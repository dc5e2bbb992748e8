"""Which headers pass a proxy: all but those that belong to one connection, or to the gateway itself."""

from __future__ import annotations

from collections.abc import Iterable

RawHeaders = Iterable[tuple[bytes, bytes]]

_OWN = b"x-toolorch-"
TRACE, THREAD = b"x-toolorch-trace", b"x-toolorch-thread"

_HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer transfer-encoding "
    b"upgrade".split()
)
_NOT_UPSTREAM = _HOP_BY_HOP | {b"host", b"content-length", b"accept-encoding", b"expect"}
"""`accept-encoding` too: capture reads the answer, and on the way to a policy server compression costs more than it
saves."""
_NOT_TO_CLIENT = _HOP_BY_HOP | {b"content-length", b"date", b"server"}
_NOT_UPSTREAM_NOR_KEY = _NOT_UPSTREAM | {b"authorization"}


def for_upstream(headers: RawHeaders, key: str | None, *, pass_key: bool) -> list[tuple[bytes, bytes]]:
    """Return a request's headers as the policy server gets them.

    Args:
        headers: As the client sent them, names in lower case.
        key: The policy server's own key; it replaces the client's.
        pass_key: Whether the client's `authorization` is for the policy server, where `key` is not given.
    """
    left_out = _named_in_connection(headers, _NOT_UPSTREAM if pass_key and key is None else _NOT_UPSTREAM_NOR_KEY)
    kept = [header for header in headers if header[0] not in left_out and not header[0].startswith(_OWN)]
    if key is not None:
        kept.append((b"authorization", b"Bearer " + key.strip().encode()))
    return kept


def for_client(headers: RawHeaders, trace_id: str) -> list[tuple[bytes, bytes]]:
    """Return an answer's headers as the client gets them; the length stays for the caller to add."""
    left_out = _named_in_connection(headers, _NOT_TO_CLIENT)
    kept = [header for header in headers if header[0] not in left_out]
    return [*kept, (TRACE, trace_id.encode())] if trace_id else kept


def one(headers: RawHeaders, name: bytes) -> str:
    """Return a header's value, empty where it is not sent."""
    return next((value.decode("latin-1").strip() for key, value in headers if key == name), "")


def _named_in_connection(headers: RawHeaders, also: frozenset[bytes]) -> frozenset[bytes]:
    """Return `also`, and what a `connection` header says is for one connection only."""
    for name, value in headers:
        if name == b"connection" and value.lower() not in (b"keep-alive", b"close"):
            return also | {part.strip().lower() for part in value.split(b",")}
    return also
