"""The routes of the page: one HTML document and the static files that it loads, plain ES modules without a build step.

The files are read once. They are served under a folder that is named after their content, so that browsers keep them
for good and load a new version as soon as the document names it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable

from fastapi import APIRouter, Request, Response

DOCUMENT = "index.html"

TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
"""Content type by suffix of a file's name; files of other types are not served."""

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        # The page has no use for HTML in strings: with no policy allowed, the browser refuses every attempt.
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)

_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_FOR_GOOD = "public, max-age=31536000, immutable"
_ASK_EVERY_TIME = "no-cache"


@dataclass(frozen=True, slots=True)
class PageFiles:
    """The files of the page."""

    document: bytes
    """The HTML document, its links naming the digest."""
    static: dict[str, bytes]
    """Content by name."""
    digest: str
    """Of all files together: any change of any of them changes it."""

    @classmethod
    def read(cls, folder: Traversable) -> PageFiles:
        """Read the page from a folder."""
        files = {
            item.name: item.read_bytes()
            for item in sorted(folder.iterdir(), key=lambda item: item.name)
            if item.is_file() and _suffix(item.name) in TYPES
        }
        document = files.pop(DOCUMENT)
        digest = hashlib.sha256(b"".join(_framed(name, body) for name, body in files.items())).hexdigest()[:16]
        base = f"orchestrator/static/{digest}"
        # Modules that the document names are fetched side by side, not one after another as imports are found.
        preloads = "\n".join(f'<link rel="modulepreload" href="{base}/{name}">' for name in files if name[-3:] == ".js")
        text = document.decode().replace("<!-- modules -->", preloads).replace("orchestrator/static/-/", f"{base}/")
        return cls(text.encode(), files, digest)


def page_routes() -> APIRouter:
    """Return the routes `GET /orchestrator` and `GET /orchestrator/static/...`.

    They need no key: the page asks for one, and sends it with every request to the gateway's own API. All links are
    relative, so the page works behind a path prefix.
    """
    files = PageFiles.read(resources.files(__package__) / "static")
    router = APIRouter(include_in_schema=False)

    @router.api_route("/orchestrator", methods=["GET", "HEAD"])
    def page(request: Request) -> Response:
        return _response(request, files.document, DOCUMENT, _ASK_EVERY_TIME)

    @router.api_route("/orchestrator/static/{path:path}", methods=["GET", "HEAD"])
    def static(request: Request, path: str) -> Response:
        digest, _, name = path.rpartition("/")
        if name not in files.static or "/" in digest:
            return Response(f"The page has no file {name!r}.", 404, _HEADERS, "text/plain; charset=utf-8")
        # Another digest is that of another version of the gateway behind the same address: serve, and do not keep.
        kept = _FOR_GOOD if digest == files.digest else _ASK_EVERY_TIME
        return _response(request, files.static[name], name, kept)

    return router


def _response(request: Request, body: bytes, name: str, cache: str) -> Response:
    tag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
    headers = _HEADERS | {"Cache-Control": cache, "ETag": tag}
    known = request.headers.get("if-none-match", "")
    if tag in (part.strip().removeprefix("W/") for part in known.split(",")):
        return Response(status_code=304, headers=headers)
    return Response(body, headers=headers, media_type=TYPES[_suffix(name)])


def _suffix(name: str) -> str:
    return name.rpartition(".")[2]


def _framed(name: str, body: bytes) -> bytes:
    return f"{name}:{len(body)}:".encode() + body
