"""`fetch_page`: the text of a page of the public web, for results of `search` that need a closer look."""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urljoin

import httpcore
import httpx

from toolorch_integrations.entry import Tool
from toolorch_integrations.observation import cut
from toolorch_serving.tools.addresses import Allowed, PublicBackend, Resolve, certificates, is_public, resolve
from toolorch_serving.tools.errors import ForbiddenAddressError, ToolError
from toolorch_serving.tools.tool_function import Document, Found, ToolFunction, text_parameters

NAME = "fetch_page"
CHARACTERS = 20_000
_REDIRECTS = (301, 302, 303, 307, 308)
_HEADERS = [
    ("User-Agent", "toolorch"),
    ("Accept", "text/html, text/plain;q=0.9, application/json;q=0.8"),
    ("Accept-Encoding", "gzip"),
]
_LEFT_OUT = "//script | //style | //noscript | //template | //svg | //nav | //footer"


@dataclass(frozen=True, slots=True)
class PageLimits:
    """What a page may take.

    Attributes:
        seconds: Wall clock, redirects included.
        size: Bytes, after unpacking.
        redirects: How many are followed.
        ports: Ports that may be asked.
    """

    seconds: float = 15.0
    size: int = 2 * 2**20
    redirects: int = 5
    ports: tuple[int, ...] = (80, 443)


def fetch_page(
    limits: PageLimits | None = None, *, look_up: Resolve = resolve, allowed: Allowed = is_public
) -> ToolFunction:
    """Return the tool.

    Addresses come from a model, or from a page that a stranger has written. So only http and https of public addresses
    are asked, on the usual ports, without names and passwords in the address, and each redirect is looked at like a
    first address. Proxies that the environment names are not used: they would connect unlooked.

    Args:
        limits: What a page may take.
        look_up: Resolves names.
        allowed: Which addresses may be asked.
    """
    most = limits or PageLimits()

    def run(url: str) -> Found:
        final, kind, content = _fetch(url.strip(), most, look_up, allowed)
        text = cut(_text(kind, content), CHARACTERS)
        return Found(text or "The page holds no text.", [Document(text, {"url": final})] if text else [])

    entry = Tool(
        name=NAME,
        description="Fetches a public web page and returns its text.",
        parameters=text_parameters("url", "The page's address, with https://."),
        latency=1.0,
        capabilities=("search",),
        destructive=False,
        timeout=most.seconds + 5,
    )
    return ToolFunction(entry, run)


def _fetch(text: str, limits: PageLimits, look_up: Resolve, allowed: Allowed) -> tuple[str, str, bytes]:
    """Return a page's final address, its content type and its bytes."""
    until = time.monotonic() + limits.seconds
    backend = PublicBackend(until, look_up, allowed)
    url = _address(text, limits)
    with httpcore.ConnectionPool(ssl_context=certificates(), network_backend=backend) as pool:
        for _ in range(limits.redirects + 1):
            status, headers, content = _ask(pool, url, limits, until)
            if status in _REDIRECTS and "location" in headers:
                url = _address(urljoin(str(url), headers["location"]), limits)
                continue
            if status != 200:
                raise ToolError(f"{url} answers with status {status}: try another page.")
            return str(url), headers.get("content-type", "text/html"), content
    raise ToolError(f"{url} is the end of more than {limits.redirects} redirects: try another page.")


def _address(text: str, limits: PageLimits) -> httpx.URL:
    """Return a text as an address that may be asked; who it stands for is looked at when it is connected to."""
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, UnicodeError) as error:
        raise ForbiddenAddressError(f"{text!r:.200} is no address: {error}.") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise ForbiddenAddressError(f"{text!r:.200} is no http or https address: give one.")
    if url.userinfo:
        raise ForbiddenAddressError(f"The address of {url.host} has a name or password in it: leave it out.")
    port = url.port or {"http": 80, "https": 443}[url.scheme]
    if port not in limits.ports:
        raise ForbiddenAddressError(f"Port {port} of {url.host} is not asked, only {limits.ports}.")
    return url


def _ask(
    pool: httpcore.ConnectionPool, url: httpx.URL, limits: PageLimits, until: float
) -> tuple[int, dict[str, str], bytes]:
    try:
        with pool.stream("GET", str(url), headers=_HEADERS) as reply:
            headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in reply.headers}
            if reply.status in _REDIRECTS:
                return reply.status, headers, b""
            return reply.status, headers, _content(reply.iter_stream(), headers, limits, until)
    except httpcore.TimeoutException as error:
        raise ToolError(f"{url} did not answer within {limits.seconds:g} s: try another page.") from error
    except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.UnsupportedProtocol) as error:
        raise ToolError(f"{url} cannot be reached: {error}.") from error


def _content(pieces: Iterable[bytes], headers: dict[str, str], limits: PageLimits, until: float) -> bytes:
    """Return what a page holds, unpacked as it comes so that a packed page cannot be larger than another."""
    encoding = headers.get("content-encoding", "identity").lower()
    if encoding not in ("identity", "gzip", "x-gzip", "deflate"):
        raise ToolError(f"The page is packed as {encoding}, which is not read: try another page.")
    unpack = None if encoding == "identity" else zlib.decompressobj(wbits=47)
    content = bytearray()
    for piece in pieces:
        room = limits.size - len(content) + 1
        try:
            content += piece if unpack is None else unpack.decompress(piece, room)
        except zlib.error as error:
            raise ToolError("The page is packed in a way that cannot be read: try another page.") from error
        if len(content) > limits.size:
            raise ToolError(f"The page is longer than {limits.size} bytes: try another page.")
        if time.monotonic() > until:
            raise ToolError(f"The page did not come within {limits.seconds:g} s: try another page.")
    return bytes(content)


def _text(kind: str, content: bytes) -> str:
    """Return the text of a page for reading."""
    name, _, rest = kind.partition(";")
    charset = rest.partition("charset=")[2].strip("\"' ") or "utf-8"
    if name.strip().lower() not in ("text/html", "application/xhtml+xml"):
        if not (name.startswith("text/") or name.strip().endswith(("json", "xml"))):
            raise ToolError(f"The page is {name.strip()}, not text: try another page.")
        return _decoded(content, charset)
    try:
        from lxml import html  # type: ignore[import-untyped]
    except ImportError as error:
        raise ToolError("fetch_page needs lxml: pip install 'toolorch-integrations[search]'.") from error
    decoded = _decoded(content, charset).encode("utf-8")
    if not decoded.strip():
        return ""
    tree = html.fromstring(decoded, parser=html.HTMLParser(encoding="utf-8", remove_comments=True))
    for element in tree.xpath(_LEFT_OUT):
        element.drop_tree()
    lines = (" ".join(line.split()) for line in "\n".join(tree.itertext()).splitlines())
    return "\n".join(line for line in lines if line)


def _decoded(content: bytes, charset: str) -> str:
    try:
        return content.decode(charset, errors="replace")
    except LookupError:
        return content.decode("utf-8", errors="replace")
