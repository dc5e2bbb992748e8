from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import subprocess
import sys
import textwrap
import threading
import uuid
import venv
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.sample_events import run
from toolorch_integrations import adapters
from toolorch_integrations.capture import CaptureSession, active_session, capture
from toolorch_integrations.errors import CaptureWarning, StoreError
from toolorch_integrations.store import TraceStore

ROOT = Path(__file__).parents[1]


def record_run() -> str:
    """What an adapter does: ask for the session of this context, and put."""
    session = active_session()
    assert session is not None
    trace_id = uuid.uuid4().hex
    for item in run(trace_id):
        session.recorder.put(item)
    return trace_id


def stored(path: Path) -> set[str]:
    with TraceStore.open(path) as store:
        return {header.id for header in store.traces()}


def test_a_scope_captures_and_ends(tmp_path: Path):
    with capture(tmp_path / "t.db", app="my app") as session:
        trace_id = record_run()
        session.flush()
        assert session.trace_ids == [trace_id]
    assert active_session() is None
    assert not session.is_open
    assert session.dropped == {}
    with TraceStore.open(tmp_path / "t.db") as store:
        assert store.trace(trace_id).app == "my app"


def test_the_inner_of_two_scopes_captures(tmp_path: Path):
    with capture(tmp_path / "outer.db"):
        first = record_run()
        with capture(tmp_path / "inner.db"):
            second = record_run()
        third = record_run()
    assert stored(tmp_path / "outer.db") == {first, third}
    assert stored(tmp_path / "inner.db") == {second}


async def test_scopes_of_concurrent_tasks_stay_apart(tmp_path: Path):
    both = asyncio.Barrier(2)

    async def one(name: str) -> str:
        async with capture(tmp_path / f"{name}.db"):
            await both.wait()
            trace_id = await asyncio.to_thread(record_run)
            await both.wait()
            return trace_id

    first, second = await asyncio.gather(one("first"), one("second"))
    assert active_session() is None
    assert stored(tmp_path / "first.db") == {first}
    assert stored(tmp_path / "second.db") == {second}


def test_a_thread_belongs_to_the_scope_whose_context_it_copies(tmp_path: Path):
    seen: list[CaptureSession | None] = []
    with capture(tmp_path / "t.db") as session:
        context = contextvars.copy_context()
        threads = [
            threading.Thread(target=lambda: context.run(lambda: seen.append(active_session()))),
            threading.Thread(target=lambda: seen.append(active_session())),
        ]
        for thread in threads:
            thread.start()
            thread.join()
    assert seen == [session, None]
    assert context.run(active_session) is None, "a copied context does not keep an ended scope"


def test_everywhere_is_for_contexts_without_a_scope(tmp_path: Path):
    seen: list[CaptureSession | None] = []
    with capture(tmp_path / "all.db", everywhere=True) as process_wide:
        thread = threading.Thread(target=lambda: seen.append(active_session()))
        thread.start()
        thread.join()
        with capture(tmp_path / "one.db") as one:
            seen.append(active_session())
    assert seen == [process_wide, one]
    assert active_session() is None


def test_a_scope_may_end_in_another_context_than_it_began(tmp_path: Path):
    session = capture(tmp_path / "t.db")
    context = contextvars.copy_context()
    context.run(session.__enter__)
    assert context.run(active_session) is session
    session.__exit__(None, None, None)
    assert context.run(active_session) is None


def test_a_store_that_is_not_usable_is_said_at_once():
    with pytest.raises(StoreError, match="mysql"):
        capture("mysql://host/db")


def test_an_error_of_the_app_goes_through_and_its_runs_are_kept(tmp_path: Path):
    session = capture(tmp_path / "t.db")
    with contextlib.suppress(KeyError), session:
        trace_id = record_run()
        raise KeyError
    assert stored(tmp_path / "t.db") == {trace_id}


# Adapters


@pytest.fixture
def frameworks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """Make pairs of a framework module and an adapter module that can be imported, and register them."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(adapters, "ADAPTERS", {})
    for name, empty in {"_watched": set(), "_waiting": [], "_ready": []}.items():
        monkeypatch.setattr(adapters, name, empty)
    names: list[str] = []

    def make(framework: str, adapter: str) -> None:
        (tmp_path / f"{framework}.py").write_text("")
        (tmp_path / f"{framework}_adapter.py").write_text(textwrap.dedent(adapter))
        adapters.ADAPTERS[framework] = f"{framework}_adapter"
        names.extend((framework, f"{framework}_adapter"))

    yield make
    for name in names:
        sys.modules.pop(name, None)


ADAPTER = """
    log = []
    def attach(session):
        log.append(("attach", session))
        return lambda: log.append(("detach", session))
"""


def load(name: str) -> ModuleType:
    __import__(name)
    return sys.modules[name]


def test_an_adapter_is_attached_when_its_framework_is_imported_and_detached_at_the_end(
    frameworks: Callable[[str, str], None], tmp_path: Path
):
    frameworks("framework_a", ADAPTER)
    frameworks("framework_b", ADAPTER)
    load("framework_a")
    with capture(tmp_path / "t.db") as first:
        log = sys.modules["framework_a_adapter"].log
        assert log == [("attach", first)]
        assert "framework_b_adapter" not in sys.modules, "its framework is not imported yet"
        with capture(tmp_path / "u.db") as second:
            assert log[1:] == [("attach", second)]
            load("framework_b")
            assert sys.modules["framework_b_adapter"].log == [("attach", first), ("attach", second)]
        assert log[2:] == [("detach", second)]
    assert log[3:] == [("detach", first)]


def test_a_framework_imported_after_the_scope_gets_no_adapter(frameworks: Callable[[str, str], None], tmp_path: Path):
    frameworks("framework_c", ADAPTER)
    with capture(tmp_path / "t.db"):
        pass
    load("framework_c")
    assert "framework_c_adapter" not in sys.modules
    with capture(tmp_path / "t.db") as session:
        assert sys.modules["framework_c_adapter"].log == [("attach", session)]


def test_a_missing_extra_is_left_out_quietly_and_a_broken_adapter_warns(
    frameworks: Callable[[str, str], None], tmp_path: Path
):
    frameworks("framework_d", "import a_package_that_is_not_installed")
    load("framework_d")
    with capture(tmp_path / "t.db"):
        pass
    frameworks("framework_e", "def attach(session): raise RuntimeError('broken')")
    load("framework_e")
    session = capture(tmp_path / "t.db")
    with pytest.warns(CaptureWarning, match="does not see framework_e: broken"):
        session.__enter__()
    session.__exit__(None, None, None)


# By environment variable: in a virtual environment that holds what `pip install -e .` installs.


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    build = "import sys; from hatchling.build import build_editable; print(build_editable(sys.argv[1]))"
    wheel = subprocess.run(
        [sys.executable, "-c", build, str(folder)], cwd=ROOT, check=True, capture_output=True, text=True, timeout=60
    )
    with zipfile.ZipFile(folder / wheel.stdout.strip().splitlines()[-1]) as file:
        assert "toolorch_capture.pth" in file.namelist()
        file.extractall(site)
    installed = [path for path in sys.path if path.endswith("site-packages")]
    (site / "a_dependencies.pth").write_text("\n".join(installed))
    return folder / "venv" / "bin" / "python"


APP = """
    import sys
    assert not [name for name in sys.modules if name.split(".")[0] in ("langchain_core", "sqlalchemy", "llama_index")]
    import my_framework
    my_framework.call()
    print("the app goes on")
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """An app on a little framework whose adapter is registered from a sitecustomize."""
    (tmp_path / "my_framework.py").write_text("def call(): pass")
    (tmp_path / "my_adapter.py").write_text(
        textwrap.dedent("""
            import uuid
            import my_framework
            from tests.sample_events import run
            from toolorch_integrations.capture import active_session
            def attach(session):
                def call():
                    for item in run(uuid.uuid4().hex):
                        active_session().recorder.put(item)
                my_framework.call = call
                return lambda: None
        """)
    )
    (tmp_path / "app.py").write_text(textwrap.dedent(APP))
    return tmp_path / "app.py"


def run_app(environment: Path, app: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    # The little framework takes the place of the registered ones, by a file that is read before ours.
    register = "import toolorch_integrations.adapters as adapters; adapters.ADAPTERS = {'my_framework': 'my_adapter'}"
    (site,) = (environment.parents[1] / "lib").glob("python*/site-packages")
    (site / "b_register.pth").write_text(register + "\n")
    try:
        return subprocess.run(
            [str(environment), str(app)],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": f"{app.parent}{os.pathsep}{ROOT}", **variables},
            capture_output=True,
            text=True,
            timeout=60,
        )
    finally:
        (site / "b_register.pth").unlink()


def test_the_variable_captures_an_app_that_never_imports_the_package(environment: Path, app: Path, tmp_path: Path):
    path = tmp_path / "t.db"
    result = run_app(environment, app, TOOLORCH_CAPTURE=f"sqlite:///{path}", TOOLORCH_APP="named")
    assert (result.stdout, result.stderr, result.returncode) == ("the app goes on\n", "", 0)
    with TraceStore.open(path) as store:
        (trace,) = store.full_traces()
    assert trace.app == "named"
    assert trace.totals.turns == 2


@pytest.mark.parametrize("value", ["mysql://host/db", "sqlite://", "://"])
def test_a_broken_value_is_said_on_stderr_and_the_app_goes_on(environment: Path, app: Path, value: str):
    result = run_app(environment, app, TOOLORCH_CAPTURE=value)
    assert result.returncode == 0
    assert result.stdout == "the app goes on\n"
    assert result.stderr.startswith("toolorch: nothing is captured, TOOLORCH_CAPTURE is not usable")
    assert len(result.stderr.splitlines()) == 1


def test_without_the_variable_nothing_of_the_package_is_imported(environment: Path):
    script = "import sys; print([name for name in sys.modules if name.startswith(('toolorch', 'wrapt'))])"
    command = [str(environment), "-c", script]
    environ = {"PATH": os.environ["PATH"]}
    result = subprocess.run(command, env=environ, capture_output=True, text=True, check=True, timeout=60)
    assert (result.stdout, result.stderr) == ("[]\n", "")


LANGGRAPH_APP = """
    import os
    from typing import TypedDict
    from langgraph.graph import END, START, StateGraph
    from langchain_core.language_models import FakeListChatModel
    class State(TypedDict):
        text: str
    model = FakeListChatModel(responses=["4"])
    graph = StateGraph(State)
    graph.add_node("ask", lambda state: {"text": model.invoke(state["text"]).content})
    graph.add_edge(START, "ask")
    graph.add_edge("ask", END)
    print(graph.compile(name="adder").invoke({"text": "2 + 2?"}))
"""


@pytest.mark.slow
def test_the_variable_captures_an_ordinary_langgraph_app(environment: Path, tmp_path: Path):
    path = tmp_path / "t.db"
    (tmp_path / "app.py").write_text(textwrap.dedent(LANGGRAPH_APP))
    result = subprocess.run(
        [str(environment), str(tmp_path / "app.py")],
        env={"PATH": os.environ["PATH"], "TOOLORCH_CAPTURE": str(path)},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert (result.stdout, result.stderr, result.returncode) == ("{'text': '4'}\n", "", 0)
    with TraceStore.open(path) as store:
        (trace,) = store.full_traces()
    assert trace.status.value == "answered"
    assert trace.framework == "langgraph"
    assert not trace.exact
    (found,) = trace.paths()
    assert [message["content"] for message in found.messages] == ["2 + 2?", "4"]
