"""Connections to the public internet only: a name is resolved once, and what was looked at is what is connected to.

A name that answers with a public address when it is checked and with a private one when it is used (DNS rebinding)
gains nothing, since there is no second look-up.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Any

import httpcore

from toolorch_serving.tools.errors import ForbiddenAddressError

Address = IPv4Address | IPv6Address
Resolve = Callable[[str, int], Sequence[str]]
"""Takes a host and a port, returns its addresses."""
Allowed = Callable[[Address], bool]

_TRANSLATED = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"))
"""NAT64: the last four bytes are an IPv4 address, whatever the rest says of itself."""
_COMPATIBLE = IPv6Network("::/96")


def is_public(address: Address) -> bool:
    """Say whether an address is one of the public internet: none of a machine, a local network, or a cloud's metadata.

    IPv6 addresses that stand for an IPv4 address count as that one.
    """
    if isinstance(address, IPv6Address):
        inside = _inside(address)
        if inside is not None:
            return all(is_public(each) for each in inside)
    return address.is_global and not address.is_multicast and not address.is_reserved


def _inside(address: IPv6Address) -> Iterable[Address] | None:
    """Return the IPv4 addresses that an IPv6 address stands for; None when it stands for itself."""
    if address.ipv4_mapped is not None:
        return [address.ipv4_mapped]
    if address.sixtofour is not None:
        return [address.sixtofour]
    if address.teredo is not None:
        return address.teredo
    if any(address in network for network in (*_TRANSLATED, _COMPATIBLE)):
        return [IPv4Address(address.packed[-4:])]
    return None


def resolve(host: str, port: int) -> list[str]:
    """Return the addresses of a host, as the system knows them."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class PublicBackend(httpcore.NetworkBackend):
    """Opens connections for httpcore, to public addresses only, until a point in time.

    Args:
        until: When everything ends, by `time.monotonic`: a server that sends a byte now and then gains nothing.
        look_up: Resolves names.
        allowed: Which addresses may be asked.
    """

    def __init__(self, until: float, look_up: Resolve = resolve, allowed: Allowed = is_public) -> None:
        self._until = until
        self._look_up = look_up
        self._allowed = allowed
        self._backend = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Resolve a name, look at all of its addresses, and connect to the first that answers.

        Raises:
            ForbiddenAddressError: One of them is not public.
            httpcore.ConnectError: The name is unknown, or nobody answers.
        """
        try:
            texts = self._look_up(host, port)
        except OSError as error:
            raise httpcore.ConnectError(f"{host} has no address: {error}") from error
        for text in texts:
            if not self._allowed(ip_address(text.partition("%")[0])):
                raise ForbiddenAddressError(
                    f"{host} stands for {text}, which is no address of the public internet: it is not asked."
                )
        problem: Exception = httpcore.ConnectError(f"{host} has no address")
        for text in texts:
            try:
                stream = self._backend.connect_tcp(text, port, _left(self._until), local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                problem = error
            else:
                return _EndingStream(stream, self._until)
        raise problem

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None
    ) -> httpcore.NetworkStream:
        """Refuse: no page lies behind a socket of this machine."""
        raise ForbiddenAddressError(f"{path} is a socket of this machine: it is not asked.")


class _EndingStream(httpcore.NetworkStream):
    """A connection whose every operation ends at one point in time."""

    def __init__(self, stream: httpcore.NetworkStream, until: float) -> None:
        self._stream = stream
        self._until = until

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left(self._until))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _left(self._until))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        secured = self._stream.start_tls(ssl_context, server_hostname, _left(self._until))
        return _EndingStream(secured, self._until)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise httpcore.ReadTimeout("the time for the page is over")
    return left


@cache
def certificates() -> ssl.SSLContext:
    """Return the usual checks of certificates; names are checked against the address's host, not the number."""
    context = ssl.create_default_context()
    with suppress(ImportError):
        import certifi

        context.load_verify_locations(certifi.where())
    return context
