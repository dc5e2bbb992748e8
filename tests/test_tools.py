"""The tools out of the box, over real HTTP, and tools from definitions files."""

import asyncio
import gzip
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from typing import Any

import pytest

from toolorch_integrations import CallStatus, CatalogError, Endpoint, MissingVariableError, Specialist
from toolorch_integrations.select_replies import documents_in
from toolorch_integrations.testing import Reply, ScriptedPolicy
from toolorch_serving.sandbox import Limits, Reason, Sandbox, SandboxError, SandboxResult, SandboxUnavailableError
from toolorch_serving.tools import (
    DefinitionError,
    ForbiddenAddressError,
    SearchLimitedError,
    ToolError,
    load_tools,
)
from toolorch_serving.tools.addresses import is_public
from toolorch_serving.tools.cache import Cache
from toolorch_serving.tools.code_interpreter import code_interpreter, observed
from toolorch_serving.tools.fetch_page import PageLimits, fetch_page
from toolorch_serving.tools.local_search import local_search
from toolorch_serving.tools.search import search

Answer = tuple[int, dict[str, str], bytes]


class Server:
    """A little HTTP server that answers as a test says, and keeps what it was asked."""

    def __init__(self, answer: Callable[[str, bytes], Answer]) -> None:
        self.asked: list[tuple[str, bytes, dict[str, str]]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                server.asked.append((self.path, body, {k.lower(): v for k, v in self.headers.items()}))
                status, headers, content = answer(self.path, body)
                self.send_response(status)
                for name, value in {"Content-Length": str(len(content)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST  # noqa: N815

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def serving(answer: Callable[[str, bytes], Answer]) -> Iterator[Server]:
    server = Server(answer)
    try:
        yield server
    finally:
        server.close()


def as_json(value: Any, status: int = 200, **headers: str) -> Answer:
    return status, {"Content-Type": "application/json", **headers}, json.dumps(value).encode()


@pytest.fixture(autouse=True)
def _quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolorch_serving.tools.requests._LONGEST_PAUSE", 0.01)


# --- search: Tavily ---

# The fields of https://docs.tavily.com/documentation/api-reference/endpoint/search
TAVILY = {
    "query": "population of Tokyo",
    "follow_up_questions": None,
    "answer": None,
    "images": [],
    "results": [
        {
            "url": "https://example.org/tokyo",
            "title": "Tokyo",
            "content": "The population of Tokyo is about\n14 million.",
            "score": 0.91,
            "raw_content": None,
        },
        {"url": "https://example.org/japan", "title": "Japan", "content": "Cities.", "score": 0.4, "raw_content": None},
    ],
    "response_time": 0.7,
    "request_id": "123e4567-e89b-12d3-a456-426614174111",
}


@pytest.fixture
def tavily_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAVILY_API_KEY", "tvly-test")


@pytest.mark.usefixtures("tavily_key")
def test_tavily_is_asked_once_for_the_same_words_and_its_results_are_documents() -> None:
    with serving(lambda *_: as_json(TAVILY)) as server:
        tool = search(url=server.url)
        found = tool.call(query="population of Tokyo")
        again = asyncio.run(tool.acall(query="  Population of   TOKYO "))
    assert again == found
    assert "[1] Tokyo - https://example.org/tokyo\nThe population of Tokyo is about 14 million." in found.text
    assert [d.metadata["url"] for d in found.documents] == ["https://example.org/tokyo", "https://example.org/japan"]
    assert len(server.asked) == 1
    _, body, headers = server.asked[0]
    assert headers["authorization"] == "Bearer tvly-test"
    assert json.loads(body) == {"query": "population of Tokyo", "max_results": 5, "search_depth": "basic"}
    assert tool.entry.price.call == 0.008


@pytest.mark.usefixtures("tavily_key")
def test_passing_failures_are_tried_again_and_lasting_ones_named() -> None:
    answers = iter([(503, {}, b"busy"), as_json(TAVILY)])
    with serving(lambda *_: next(answers)) as server:
        assert search(url=server.url).call(query="a").documents
        assert len(server.asked) == 2
    with serving(lambda *_: (500, {}, b"broken")) as server:
        with pytest.raises(ToolError, match="Tavily failed with status 500: broken"):
            search(url=server.url).call(query="a")
        assert len(server.asked) == 3
    for status, words in ((401, "refuses the key"), (400, "refuses the request")):
        with serving(lambda *_, status=status: (status, {}, b"no")) as server:
            with pytest.raises(ToolError, match=words):
                search(url=server.url).call(query="a")
            assert len(server.asked) == 1


@pytest.mark.usefixtures("tavily_key")
def test_limits_of_a_search_service_are_an_error_of_their_own() -> None:
    for status in (429, 432):
        answer = as_json({"detail": {"error": "too many"}}, status, **{"Retry-After": "30"})
        with serving(lambda *_, answer=answer: answer) as server:
            with pytest.raises(SearchLimitedError, match="for 30 s"):
                search(url=server.url).call(query="a")
            assert len(server.asked) == 1


@pytest.mark.usefixtures("tavily_key")
@pytest.mark.parametrize(
    ("content", "words"),
    [(b"<html>", "did not answer with JSON"), (b"[]", "no `results`"), (b'{"results": 3}', "no `results`")],
)
def test_answers_that_are_none_are_named(content: bytes, words: str) -> None:
    with serving(lambda *_: (200, {}, content)) as server, pytest.raises(ToolError, match=words):
        search(url=server.url).call(query="a")


@pytest.mark.usefixtures("tavily_key")
def test_a_service_that_is_silent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = threading.Event()
    with serving(lambda *_: (gone.wait(5), as_json(TAVILY))[1]) as server:
        with pytest.raises(ToolError, match=r"did not answer within 0\.2 s"):
            search(url=server.url, timeout=0.2).call(query="a")
        gone.set()
    with pytest.raises(ToolError, match="cannot be reached"):
        search(url=server.url, timeout=1).call(query="a")


def test_failures_are_not_kept() -> None:
    cache: Cache[int] = Cache(2, 10)
    with pytest.raises(ZeroDivisionError):
        cache.get("a", lambda: 1 // 0)
    assert cache.get("a", lambda: 1) == 1


def test_the_cache_has_a_size_and_an_age() -> None:
    now = [0.0]
    made: list[str] = []
    cache: Cache[str] = Cache(2, 10, lambda: now[0])

    def get(key: str) -> str:
        return cache.get(key, lambda: made.append(key) or key)

    for key in ("a", "b", "a", "c", "a", "b"):  # c pushes b out, which was asked for longest ago
        get(key)
    assert made == ["a", "b", "c", "b"]
    now[0] = 11
    get("b")
    assert made[-1] == "b"
    assert len(made) == 5


def test_tavily_without_its_key_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TAVILY_API_KEY", raising=False)
    with pytest.raises(MissingVariableError, match="TAVILY_API_KEY"):
        search("tavily")


def test_an_empty_query_is_not_sent() -> None:
    with pytest.raises(ToolError, match="empty"):
        search("duckduckgo").call(query="  ")


# --- search: DuckDuckGo ---

# The parts of https://html.duckduckgo.com/html/ that are read, shortened.
DUCKDUCKGO = """<html><body><div class="serp__results">
<div class="result results_links results_links_deep web-result"><div class="links_main links_deep result__body">
<h2 class="result__title"><a rel="nofollow" class="result__a" href="https://www.python.org/">Welcome to Python</a></h2>
<a class="result__snippet" href="https://www.python.org/">The official <b>home</b> of Python.</a></div></div>
<div class="result results_links result--ad"><div class="links_main links_deep result__body">
<h2 class="result__title"><a href="https://duckduckgo.com/y.js?ad_domain=x">Buy</a></h2>
<a class="result__snippet" href="https://duckduckgo.com/y.js?ad_domain=x">An advertisement.</a></div></div>
</div></body></html>"""


def test_duckduckgo_needs_no_key_and_its_advertisements_are_left_out() -> None:
    with serving(lambda *_: (200, {"Content-Type": "text/html"}, DUCKDUCKGO.encode())) as server:
        tool = search("duckduckgo", url=f"{server.url}/html/")
        found = tool.call(query="python")
    assert b"q=python" in server.asked[0][1]
    assert [d.metadata for d in found.documents] == [{"title": "Welcome to Python", "url": "https://www.python.org/"}]
    assert found.documents[0].text == "The official home of Python."
    assert tool.entry.price.call == 0


def test_duckduckgo_that_finds_nothing_says_so() -> None:
    with serving(lambda *_: (200, {}, b"<html><body>No results.</body></html>")) as server:
        assert "other words" in search("duckduckgo", url=server.url).call(query="x").text


def test_duckduckgo_that_limits_or_fails_is_told_apart_from_finding_nothing() -> None:
    with serving(lambda *_: (202, {}, b"<html>Unfortunately, bots use DuckDuckGo too.</html>")) as server:
        with pytest.raises(SearchLimitedError, match="TAVILY_API_KEY"):
            search("duckduckgo", url=server.url).call(query="x")
        assert len(server.asked) == 1
    with serving(lambda *_: (500, {}, b"")) as server:
        with pytest.raises(ToolError, match="status 500"):
            search("duckduckgo", url=server.url).call(query="x")
        assert len(server.asked) == 3
    with pytest.raises(ToolError, match="cannot be reached"):
        search("duckduckgo", url=server.url, timeout=1).call(query="x")


# --- pages ---


@pytest.mark.parametrize(
    "text",
    [
        "127.0.0.1", "10.0.0.1", "172.16.3.4", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
        "224.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "::1", "::", "fe80::1", "fc00::1", "fd00:ec2::254",
        "ff02::1", "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2001:db8::1",
    ],
)  # fmt: skip
def test_addresses_that_are_not_the_public_internet(text: str) -> None:
    assert not is_public(ip_address(text))


@pytest.mark.parametrize("text", ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "64:ff9b::808:808"])
def test_addresses_of_the_public_internet(text: str) -> None:
    assert is_public(ip_address(text))


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("file:///etc/passwd", "no http"),
        ("gopher://example.org/", "no http"),
        ("example.org", "no http"),
        ("http://", "no http"),
        ("http://user:secret@example.org/", "name or password"),
        ("http://example.org:22/", "Port 22"),
        ("http://example.org:99999/", "Port 99999"),
        ("http://127.0.0.1/", "no address of the public internet"),
        ("http://[::1]/", "no address of the public internet"),
        ("http://[::ffff:169.254.169.254]/latest/meta-data/", "no address of the public internet"),
        ("http://localhost/", "no address of the public internet"),
        ("http://0x7f000001/", "no address of the public internet"),
        ("http://2130706433/", "no address of the public internet"),
        ("http://127.1/", "no address of the public internet"),
    ],
)
def test_addresses_that_are_not_asked(url: str, words: str) -> None:
    with pytest.raises(ForbiddenAddressError, match=words):
        fetch_page().call(url=url)


def page_tool(server: Server, names: dict[str, list[list[str]]] | None = None, **limits: Any) -> Any:
    """A tool for which 127.0.0.1 is public; `names` gives a name's addresses at each look-up in turn."""
    turns = {name: iter(answers) for name, answers in (names or {}).items()}

    def look_up(host: str, port: int) -> list[str]:
        return next(turns[host]) if host in turns else [host]

    ports = (80, 443, server.port)
    return fetch_page(
        PageLimits(ports=ports, **limits),
        look_up=look_up,
        allowed=lambda address: str(address) == "127.0.0.1" or is_public(address),
    )


PAGE = """<html><head><title>Tokyo</title><style>p {}</style><script>let x = 1</script></head>
<body><nav>Menu</nav><p>Fourteen  million</p><p>people\u00e9</p></body></html>"""


def test_a_page_is_its_text() -> None:
    kind = {"Content-Type": "text/html; charset=latin-1"}
    with serving(lambda *_: (200, kind, PAGE.encode("latin-1"))) as server:
        found = page_tool(server, {"example.org": [["127.0.0.1"]]}).call(url=f"http://example.org:{server.port}/a?b=1")
    assert found.text == "Tokyo\nFourteen million\npeople\u00e9"
    path, _, headers = server.asked[0]
    assert path == "/a?b=1"
    assert headers["host"] == f"example.org:{server.port}"


def test_redirects_are_followed_and_each_is_looked_at() -> None:
    def answer(path: str, body: bytes) -> Answer:
        target = {"/a": "/b", "/private": "http://10.0.0.1/", "/name": "http://inside.example/", "/loop": "/loop"}
        if path in target:
            return 302, {"Location": target[path]}, b""
        return 200, {"Content-Type": "text/plain"}, b"here"

    with serving(answer) as server:
        assert page_tool(server).call(url=f"{server.url}/a").text == "here"
        for path in ("/private", "/name"):
            with pytest.raises(ForbiddenAddressError, match=r"10\.0\.0\.1"):
                page_tool(server, {"inside.example": [["10.0.0.1"]]}).call(url=f"{server.url}{path}")
        with pytest.raises(ToolError, match="redirects"):
            page_tool(server).call(url=f"{server.url}/loop")


def test_a_name_is_looked_up_once_and_all_its_addresses_count() -> None:
    with serving(lambda *_: (200, {"Content-Type": "text/plain"}, b"here")) as server:
        # public when it is looked at; what it would say a second time has no effect
        tool = page_tool(server, {"rebind.example": [["127.0.0.1"], ["10.0.0.1"]]})
        assert tool.call(url=f"http://rebind.example:{server.port}/").text == "here"
        with pytest.raises(ForbiddenAddressError, match=r"10\.0\.0\.1"):
            tool.call(url=f"http://rebind.example:{server.port}/")
        with pytest.raises(ForbiddenAddressError):
            page_tool(server, {"two.example": [["127.0.0.1", "10.0.0.1"]]}).call(url="http://two.example/")
        assert len(server.asked) == 1


def test_pages_that_are_too_long_too_slow_or_no_text_are_refused() -> None:
    packed = gzip.compress(bytes(20_000_000))
    stop = threading.Event()

    def answer(path: str, body: bytes) -> Answer:
        return {
            "/long": lambda: (200, {"Content-Type": "text/plain"}, b"x" * 200_000),
            "/packed": lambda: (200, {"Content-Type": "text/plain", "Content-Encoding": "gzip"}, packed),
            "/broken": lambda: (200, {"Content-Type": "text/plain", "Content-Encoding": "gzip"}, b"no gzip"),
            "/brotli": lambda: (200, {"Content-Encoding": "br"}, b"x"),
            "/image": lambda: (200, {"Content-Type": "image/png"}, b"x"),
            "/gone": lambda: (404, {}, b"x"),
            "/slow": lambda: (stop.wait(5), (200, {}, b"x"))[1],
            "/empty": lambda: (200, {"Content-Type": "text/html"}, b""),
        }[path]()

    expected = {
        "/long": "longer than 100000", "/packed": "longer than 100000", "/broken": "cannot be read",
        "/brotli": "packed as br", "/image": "image/png", "/gone": "status 404",
    }  # fmt: skip
    with serving(answer) as server:
        tool = page_tool(server, size=100_000)
        for path, words in expected.items():
            with pytest.raises(ToolError, match=words):
                tool.call(url=f"{server.url}{path}")
        with pytest.raises(ToolError, match=r"within 0\.3 s"):
            page_tool(server, seconds=0.3).call(url=f"{server.url}/slow")
        stop.set()
        assert tool.call(url=f"{server.url}/empty").text == "The page holds no text."
    with pytest.raises(ToolError, match="cannot be reached"):
        tool.call(url=server.url)


def test_a_server_that_sends_a_byte_now_and_then_is_given_up() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()

    def drip() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(b"HTTP/1.1 200 OK\r\nX-Long: ")
            while not stop.wait(0.05):
                try:
                    connection.sendall(b"x")
                except OSError:
                    return

    thread = threading.Thread(target=drip, daemon=True)
    thread.start()
    port = listener.getsockname()[1]
    tool = fetch_page(PageLimits(seconds=0.5, ports=(port,)), allowed=lambda _: True)
    with pytest.raises(ToolError, match=r"within 0\.5 s"):
        tool.call(url=f"http://127.0.0.1:{port}/")
    stop.set()
    thread.join(5)
    listener.close()


# --- the retrieval service ---


def test_local_search_asks_the_retrieval_service() -> None:
    item = {"id": "7", "text": "Tents weigh 2 kg.", "score": 0.8, "metadata": {"title": "Tents", "year": 2024}}
    with serving(lambda *_: as_json({"results": [[item]]})) as server:
        tool = local_search(f"{server.url}/", only={"year": 2024})
        found = tool.call(query="tent weight", k=3)
    path, body, _ = server.asked[0]
    assert path == "/search"
    assert json.loads(body) == {"queries": ["tent weight"], "k": 3, "filter": {"year": 2024}, "mode": "hybrid"}
    assert found.text == "[1] Tents\nTents weigh 2 kg."
    assert found.documents[0].metadata == {"title": "Tents", "year": 2024, "id": "7", "score": 0.8}


def test_the_retrieval_services_key_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEARCH_KEY", "secret")
    with serving(lambda *_: as_json({"results": [[]]})) as server:
        loaded = load_tools(["local_search"], retrieval_url=server.url, retrieval_key_variable="SEARCH_KEY")
        loaded.langchain()[0].invoke({"query": "a"})
    _, _, headers = server.asked[0]
    assert {name.lower(): value for name, value in headers.items()}["authorization"] == "Bearer secret"
    with pytest.raises(MissingVariableError, match="NO_SUCH_KEY"):
        load_tools(["local_search"], retrieval_url="http://127.0.0.1:9", retrieval_key_variable="NO_SUCH_KEY")


@pytest.mark.parametrize("answer", [{}, {"results": []}, {"results": [[{"id": 1}]]}, [], {"results": [3]}])
def test_a_retrieval_service_that_answers_otherwise_is_named(answer: Any) -> None:
    with serving(lambda *_: as_json(answer)) as server, pytest.raises(ToolError, match="retrieval service"):
        local_search(server.url).call(query="a")


def test_nothing_found_is_said() -> None:
    with serving(lambda *_: as_json({"results": [[]]})) as server:
        assert "No document was found" in local_search(server.url).call(query="a").text


# --- code ---


def ended(reason: Reason | None = None, code: int | None = 1, out: str = "", error: str = "") -> SandboxResult:
    return SandboxResult(out, error, code, reason, 0.1, 0.1)


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (ended(code=0, out="88\n"), "88"),
        (ended(code=0), "(nothing printed: print what you want to see)"),
        (ended(code=0, out="1\n", error="careful\n"), "1\nError output:\ncareful"),
        (ended(out="1\n", error="Traceback\nValueError: x\n"), "exit status 1.\nOutput before that:\n1\nLast lines of"),
        (ended(Reason.TIMEOUT, None), "stopped after 10 s: it took too long"),
        (ended(Reason.MEMORY), "more than 512 MiB of memory"),
        (ended(Reason.OUTPUT, None, "x"), "printed more than 256 KiB"),
        (ended(Reason.FILES, None), "more than 10000 files"),
        (ended(Reason.KILLED, 139), "killed by signal 11"),
    ],
)
def test_what_the_policy_sees_of_a_run(result: SandboxResult, words: str) -> None:
    text = observed(result, Limits())
    assert words in text
    assert text.startswith("Error:") == (not result.ok)


def test_only_the_last_lines_of_an_error_are_shown() -> None:
    text = observed(ended(error="\n".join(f"line {n}" for n in range(100))), Limits())
    assert "line 99" in text
    assert "line 80" not in text


def test_the_interpreter_refuses_where_there_is_no_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    tool = code_interpreter()
    for call in (lambda: tool.call(code="1"), lambda: asyncio.run(tool.acall(code="1"))):
        with pytest.raises(ToolError, match=r"was not run.*install bubblewrap") as caught:
            call()
        assert isinstance(caught.value.__cause__, SandboxUnavailableError)


# --- both frameworks ---


def test_a_tool_of_langchain_gives_documents_as_its_artifact_and_errors_as_observations() -> None:
    item = {"id": "7", "text": "Tents weigh 2 kg.", "score": 0.8, "metadata": {}}
    answers = iter([as_json({"results": [[item]]}), as_json([])])
    with serving(lambda *_: next(answers)) as server:
        tool = load_tools(["local_search"], retrieval_url=server.url).langchain()[0]
        call = {"type": "tool_call", "name": tool.name, "args": {"query": "tent"}, "id": "1"}
        message = tool.invoke(call)
        assert message.text == "[1] Tents weigh 2 kg."
        assert [d.page_content for d in message.artifact] == ["Tents weigh 2 kg."]
        assert documents_in(message.artifact) == ["Tents weigh 2 kg."]
        failed = asyncio.run(tool.ainvoke(call))
    assert failed.status == "error"
    assert failed.content.startswith("Error: The answer is none of a retrieval service's")
    assert json.loads(server.asked[0][1])["k"] == 5


def test_arguments_that_do_not_fit_the_schema_are_refused_in_both_frameworks() -> None:
    from pydantic import ValidationError

    from toolorch_integrations.llamaindex.tools import BadArgumentsError, valid_arguments

    loaded = load_tools(["local_search"], retrieval_url="http://127.0.0.1:9")
    with pytest.raises(ValidationError, match="k: 'many' is not of type 'integer'"):
        loaded.langchain()[0].invoke({"query": "a", "k": "many"})
    with pytest.raises(BadArgumentsError, match="'query' is a required property"):
        valid_arguments(loaded.llamaindex()[0], {"k": 3})


def test_a_tool_of_llamaindex_works_on_both_ways() -> None:
    with serving(lambda *_: as_json({"results": [[]]})) as server:
        tool = load_tools(["local_search"], retrieval_url=server.url).llamaindex()[0]
        assert "No document" in tool.call(query="a").content
        assert "No document" in asyncio.run(tool.acall(query="a", k=2)).content
    assert tool.metadata.get_parameters_dict()["required"] == ["query"]


def test_both_frameworks_show_the_policy_the_same_schema() -> None:
    from toolorch_integrations.entry import Tool
    from toolorch_integrations.schema import canonical_parameters

    loaded = load_tools(["code_interpreter", "search", "fetch_page", "local_search"], retrieval_url="http://x")
    for entry, chain, index in zip(loaded.entries, loaded.langchain(), loaded.llamaindex(), strict=True):
        assert isinstance(entry, Tool)
        wanted = canonical_parameters(entry.parameters)
        assert canonical_parameters(chain.tool_call_schema.model_json_schema()) == wanted  # type: ignore[union-attr]
        assert canonical_parameters(index.metadata.get_parameters_dict()) == wanted
        assert not entry.needs_confirmation
        assert entry.latency


# --- whole runs ---

FIBONACCI = "a, b, s = 0, 1, 0\nfor _ in range(10):\n    s += a\n    a, b = b, a + b\nprint(s)"
CODE_THEN_ANSWER = (Reply(calls=[("code_interpreter", {"code": FIBONACCI})]), "The sum is 88.")


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    try:
        made = Sandbox(Limits(seconds=30))
        made.check()
    except SandboxError as error:
        if os.environ.get("TOOLORCH_REQUIRE_SANDBOX") == "1":
            pytest.fail(str(error))
        pytest.skip(str(error))
    return made


@pytest.mark.sandbox
def test_code_then_answer_in_langgraph(sandbox: Sandbox) -> None:
    from tests.doubles import chat_policy
    from toolorch_integrations.langgraph import create_orchestrator, ledger_of

    loaded = load_tools(["code_interpreter", "search"], sandbox=sandbox)
    with ScriptedPolicy(CODE_THEN_ANSWER) as server:
        agent = create_orchestrator(chat_policy(server), loaded.langchain(), catalog=loaded.catalog())
        result = agent.invoke({"messages": [("user", "Add the first ten Fibonacci numbers.")]})
    assert [message.text for message in result["messages"][2:]] == ["88", "The sum is 88."]
    tool = next(call for call in ledger_of(result) if call.name == "code_interpreter")
    assert tool.status is CallStatus.OK
    shown = {tool["function"]["name"]: tool["function"]["description"] for tool in server.requests[0]["tools"]}
    assert shown["code_interpreter"].endswith("(about 0.2 s)")
    assert set(shown) == {"code_interpreter", "search"}


@pytest.mark.sandbox
async def test_code_then_answer_in_llamaindex(sandbox: Sandbox) -> None:
    from toolorch_integrations.llamaindex import OrchestratorAgent, PolicyLLM

    loaded = load_tools(["code_interpreter"], sandbox=sandbox)
    with ScriptedPolicy(CODE_THEN_ANSWER) as server:
        policy = PolicyLLM(model=server.model, api_base=server.url, api_key="none")
        agent = OrchestratorAgent(tools=loaded.llamaindex(), llm=policy, catalog=loaded.catalog())
        assert str(await agent.run(user_msg="Add the first ten Fibonacci numbers.")) == "The sum is 88."
    assert server.requests[1]["messages"][-1]["content"] == "88"


@pytest.mark.sandbox
@pytest.mark.parametrize("face", ["langgraph", "llamaindex"])
async def test_search_and_reasoning_in_the_select_rendering(face: Any, sandbox: Sandbox) -> None:
    from tests.doubles import chat_policy
    from toolorch_integrations.langgraph import create_orchestrator
    from toolorch_integrations.llamaindex import OrchestratorAgent, PolicyLLM

    def specialist(request: Any) -> str:
        asked = request["messages"][-1]["content"]
        if "<query>" in asked:
            return "<query>crates</query>"
        if "```python" in asked and "output" not in asked:
            return f"```python\n{FIBONACCI}\n```"
        return "<answer>88</answer>"

    steps = [Reply(calls=[(name, {"model": "wise"})]) for name in ("search", "enhance_reasoning", "answer")]
    item = {"id": "7", "text": "A crate holds 4.", "score": 0.8, "metadata": {}}
    question = "Add the first ten Fibonacci numbers."
    with (
        serving(lambda *_: as_json({"results": [[item]]})) as retrieval,
        ScriptedPolicy(specialist) as wise,
        ScriptedPolicy(lambda _: steps[min(len(policy.requests), 2)]) as policy,
    ):
        loaded = load_tools(["local_search", "code_interpreter"], retrieval_url=retrieval.url, sandbox=sandbox)
        entry = Specialist(
            name="wise",
            capabilities=("search", "enhance_reasoning", "answer"),
            endpoint=Endpoint(url=wise.url, model="wise"),
        )
        options: dict[str, Any] = {
            "rendering": "select",
            "select": loaded.select(framework=face),
            "catalog": loaded.select_catalog().with_entries([entry]),
        }
        if face == "langgraph":
            agent = create_orchestrator(chat_policy(policy), **options)
            result = await asyncio.to_thread(agent.invoke, {"messages": [("user", question)]})
            answer = result["messages"][-1].text
        else:
            llm = PolicyLLM(policy.model, policy.url, max_retries=0)
            answer = str(await OrchestratorAgent(llm=llm, **options).run(user_msg=question))
    assert answer == "88"
    last = policy.requests[-1]["messages"][-1]["content"]
    assert "Doc 1: A crate holds 4. ..." in last
    assert "```output\n88\n```" in last


# --- definitions ---

CHOOSING = {
    "type": "function",
    "function": {
        "name": "enhance_reasoning",
        "description": "tool to enhance answer model reasoning",
        "parameters": {
            "properties": {
                "model": {
                    "type": "string",
                    "description": "The model used to reason. Choices: ['reasoner-1', 'reasoner-2']. reasoner-1 shows "
                    "strong performance on proofs. reasoner-2 is quick and reads reasoner-1 notes. \n"
                    "Model | price per million input tokens | price per million output tokens | average latency\n"
                    "reasoner-1 | $1.25 | $10 | 31s\nreasoner-2 | $$0.25 | $2 | 25.5s",
                }
            },
            "required": ["model"],
            "type": "object",
        },
    },
}
ANSWERING = {
    "type": "function",
    "function": {
        "name": "answer",
        "parameters": {"type": "object", "properties": {"model": {"type": "string", "enum": ["qwen", "reasoner-1"]}}},
    },
}
COUNTING = {
    "type": "function",
    "function": {
        "name": "word_count",
        "description": "Counts words.",
        "parameters": {
            "type": "object",
            "properties": {"text": {"type": "string"}, "least": {"type": "integer"}},
            "required": ["text"],
        },
    },
    "implementation": "counting_of_words:count",
    "price": {"call": 0.001},
    "latency": 0.1,
    "destructive": False,
}


@pytest.fixture
def definitions(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Any]:
    for name in ("QWEN", "REASONER_1", "REASONER_2"):
        monkeypatch.setenv(f"{name}_API_URL", f"http://{name.lower()}.example/v1/chat/completions")
    monkeypatch.delenv("TAVILY_API_KEY", raising=False)
    (tmp_path / "counting_of_words.py").write_text(
        "def count(text, least=2):\n    return {'words': len([w for w in text.split() if len(w) >= least])}\n"
        "async def acount(text, least=2):\n    return count(text, least)\n"
        "def other(words):\n    pass\nnothing = 3\n"
    )

    def write(content: Any) -> Any:
        path = tmp_path / "tools.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


def test_a_released_file_becomes_specialists_and_the_tools_behind_them(
    definitions: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QWEN_API_KEY", "secret")
    monkeypatch.setenv("QWEN_MODEL", "Qwen/Qwen3-32B")
    loaded = load_tools(definitions=definitions([CHOOSING, ANSWERING]))
    first, second, third = loaded.specialists
    assert [s.name for s in loaded.specialists] == ["reasoner-1", "reasoner-2", "qwen"]
    assert first.capabilities == ("enhance_reasoning", "answer")
    assert first.description == "shows strong performance on proofs."
    assert second.description == "is quick and reads reasoner-1 notes."
    assert (first.price.input, first.price.output, first.latency) == (1.25, 10, 31)
    assert (second.price.input, second.latency) == (0.25, 25.5)
    assert first.endpoint is not None
    assert first.endpoint.url == "http://reasoner_1.example/v1"
    assert (first.endpoint.model, first.endpoint.key_variable) == ("reasoner-1", None)
    assert third.endpoint is not None
    assert (third.endpoint.model, third.endpoint.key_variable) == ("Qwen/Qwen3-32B", "QWEN_API_KEY")
    assert [f.name for f in loaded.functions] == ["code_interpreter"]
    assert loaded.select().interpreter is not None
    assert loaded.select().search is None
    assert len(loaded.select_catalog()) == 4


def test_what_the_file_says_of_models_goes_first(definitions: Callable[[Any], Any]) -> None:
    models = {"reasoner-1": {"price": {"input": 9}, "variable": "QWEN", "model": "other", "fallback": "qwen"}}
    loaded = load_tools(definitions=definitions({"tools": [CHOOSING, ANSWERING], "models": models}))
    first = loaded.specialists[0]
    assert (first.price.input, first.latency, first.fallback) == (9, 31, "qwen")
    assert first.endpoint is not None
    assert (first.endpoint.url, first.endpoint.model) == ("http://qwen.example/v1", "other")
    assert loaded.catalog()["reasoner-1"] is first


@pytest.mark.parametrize("name", ["count", "acount"])
def test_a_tool_of_ones_own_takes_its_definition_and_a_function(definitions: Callable[[Any], Any], name: str) -> None:
    path = definitions([{**COUNTING, "implementation": f"counting_of_words:{name}"}])
    loaded = load_tools(["word_count", "search"], definitions=path)
    entry = loaded.entries[0]
    assert (entry.name, entry.price.call, entry.latency, entry.destructive) == ("word_count", 0.001, 0.1, False)
    chain, index = loaded.langchain()[0], loaded.llamaindex()[0]
    assert chain.invoke({"text": "a bc def"}) == '{"words": 2}'
    assert asyncio.run(chain.ainvoke({"text": "a bc def", "least": 3})) == '{"words": 1}'
    assert index.call(text="a bc def", least=1).content == '{"words": 3}'
    assert asyncio.run(index.acall(text="a bc def")).content == '{"words": 2}'
    assert loaded.select().search is not None


def test_a_definition_changes_the_words_and_price_of_a_tool_out_of_the_box(definitions: Callable[[Any], Any]) -> None:
    function = {"name": "code_interpreter", "description": "Runs code.", "parameters": {"properties": {"code": {}}}}
    entry = load_tools(definitions=definitions([{"function": function, "destructive": True}])).entries[0]
    assert (entry.description, entry.destructive, entry.latency) == ("Runs code.", True, 0.2)
    assert entry.needs_confirmation


def _with(base: Any, **changes: Any) -> Any:
    return {**base, **changes}


def _named(name: str, properties: Any = None, **changes: Any) -> Any:
    return {"function": {"name": name, "parameters": {"properties": properties or {}}}, **changes}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "Cannot read the definitions"),
        ("3", "the file"),
        ({"tool": []}, "tools: Field required"),
        ([{"type": "function"}], r"tools\[0\]\.function: Field required"),
        ([_with(COUNTING, cost=3)], r"tools\[0\]\.cost: Extra inputs"),
        ([_with(COUNTING, price={"call": -1})], r"tools\[0\]\.price\.call"),
        ([_with(COUNTING, retries=99)], r"tools\[0\]\.retries"),
        ([COUNTING, COUNTING], "stands twice"),
        ([_named("a b")], r"tools\[0\]\.function\.name 'a b'"),
        ([_named("x", {"a-b": {}})], "'a-b' cannot be an argument"),
        ([_named("x", {"a": {"type": "number?"}})], "no JSON Schema"),
        ([_named("x")], "the tool 'x' has no function behind it: add \"implementation\""),
        ([_named("answer")], "needs an argument `model`"),
        ([_named("answer", {"model": {"type": "string"}})], "names no models"),
        ([_named("code_interpreter", {"source": {}})], r"takes \['code'\], not \['source'\]"),
        ([_with(COUNTING, implementation="counting_of_words")], "write module:function"),
        ([_with(COUNTING, implementation="no_such_module:f")], "cannot import no_such_module:f: No module named"),
        ([_with(COUNTING, implementation="counting_of_words:f")], "cannot import"),
        ([_with(COUNTING, implementation="counting_of_words:nothing")], "is no function"),
        ([_with(COUNTING, implementation="counting_of_words:other")], "does not take the arguments"),
        ({"tools": [ANSWERING], "models": {"gemma": {}}}, "models.gemma is offered by no tool"),
        ({"tools": [ANSWERING], "models": {"qwen": {"fallback": 3}}}, r"models\.qwen\.fallback"),
        ({"tools": [ANSWERING], "models": {"qwen": {"timeout": 0}}}, r"models\.qwen\.timeout"),
    ],
)
def test_files_that_cannot_be_used_name_the_field(definitions: Callable[[Any], Any], content: Any, words: str) -> None:
    with pytest.raises(DefinitionError, match=words):
        load_tools(definitions=definitions(content))


def test_a_model_without_an_endpoint_names_its_variable(
    definitions: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("QWEN_API_URL")
    with pytest.raises(MissingVariableError, match=r"'qwen'.*QWEN_API_URL, which is not set"):
        load_tools(definitions=definitions([ANSWERING]))
    assert load_tools(["word_count"], definitions=definitions([ANSWERING, COUNTING])).specialists == []


def test_names_that_stand_for_nothing_are_refused(definitions: Callable[[Any], Any]) -> None:
    with pytest.raises(DefinitionError, match="There is no tool 'calculator'"):
        load_tools(["calculator"])
    with pytest.raises(DefinitionError, match="retrieval_url"):
        load_tools(["local_search"])
    loaded = load_tools(definitions=definitions({"tools": [ANSWERING], "models": {"qwen": {"fallback": "gone"}}}))
    with pytest.raises(CatalogError, match="fallback"):
        loaded.catalog()


def test_a_function_that_waits_does_not_hold_up_the_event_loop(definitions: Callable[[Any], Any]) -> None:
    path = definitions([COUNTING])
    tool = load_tools(definitions=path).functions[0]
    release = threading.Event()
    slow = type(tool)(tool.entry, lambda text: release.wait(30) and text)

    async def both() -> str:
        task = asyncio.create_task(slow.acall(text="a"))
        await asyncio.sleep(0)
        release.set()  # would never be reached if the call held the loop
        return (await task).text

    assert asyncio.run(both()) == "a"
