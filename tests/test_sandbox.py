"""The sandbox: what it runs, what it refuses, and that nothing gets out of it."""

import asyncio
import os
import re
import shutil
import stat
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.sandbox_attempts import ATTEMPTS, LIMITS, host, left_behind, problem, run_attempts
from tests.waiting import auntil, until
from toolorch_serving.sandbox import (
    UNCONFINED,
    Limits,
    Reason,
    Sandbox,
    SandboxBusyError,
    SandboxError,
    SandboxResult,
    SandboxUnavailableError,
)
from toolorch_serving.sandbox.runtime import find_runtime, reachable
from toolorch_serving.sandbox.seccomp import DENIED, filter_program
from toolorch_serving.tools.code_interpreter import code_interpreter

ROOT = Path(__file__).parent.parent


def missing() -> str | None:
    """Say why there is no sandbox here."""
    try:
        Sandbox().check()
    except SandboxError as error:
        return str(error)
    return None


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    reason = missing()
    if reason is not None:
        if os.environ.get("TOOLORCH_REQUIRE_SANDBOX") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    made = Sandbox(LIMITS, at_once=4)
    yield made
    made.close()


confined = pytest.mark.sandbox


# --- nothing gets out ---


@pytest.fixture(scope="module")
def attempted(sandbox: Sandbox) -> dict[str, SandboxResult]:
    with host(str(ROOT)) as outside:
        results, marker = run_attempts(ATTEMPTS, outside, sandbox=sandbox)
        assert left_behind(marker) == []
    return results


@confined
@pytest.mark.parametrize("name", ATTEMPTS)
def test_contained(attempted: dict[str, SandboxResult], name: str) -> None:
    assert problem(name, attempted[name]) is None


@confined
@pytest.mark.usefixtures("attempted")
def test_the_machine_is_well_afterwards(sandbox: Sandbox) -> None:
    result = sandbox.run("print(6 * 7)")
    assert (result.stdout, result.ok) == ("42\n", True)
    subprocess.run([sys.executable, "-c", "import threading; threading.Thread(target=print).start()"], check=True)


@pytest.mark.filterwarnings("ignore:Programs run without a sandbox")
def test_the_attempts_get_through_where_there_is_no_sandbox() -> None:
    names = [name for name, attempt in ATTEMPTS.items() if attempt.open_outside]
    assert len(names) > 10
    nowhere = Sandbox(LIMITS, bubblewrap="no-such-program", run_unread_code_without_any_sandbox=True)
    with host(str(ROOT)) as outside:
        results, _ = run_attempts(names, {**outside, "mark": "-outside"}, sandbox=nowhere)
    assert [name for name in names if "ESCAPED" not in results[name].stdout] == []


# --- what it runs ---


@confined
def test_a_program_runs_and_its_end_is_told(sandbox: Sandbox) -> None:
    result = sandbox.run("import sys\nprint('out')\nprint('error', file=sys.stderr)\nsys.exit(3)")
    assert (result.stdout, result.stderr, result.exit_code, result.reason) == ("out\n", "error\n", 3, None)
    assert not result.ok
    assert result.confined
    assert sandbox.run("exit()").ok
    assert sandbox.run("").ok


@confined
def test_errors_show_the_program_alone(sandbox: Sandbox) -> None:
    result = sandbox.run("def divide(a):\n    return a / 0\ndivide(1)")
    assert result.exit_code == 1
    assert result.stderr.startswith('Traceback (most recent call last):\n  File "/tmp/program.py", line 3, in <module>')
    assert "return a / 0" in result.stderr
    assert "_run_job" not in result.stderr
    assert "SyntaxError" in sandbox.run("def").stderr
    assert "SyntaxError" in sandbox.run("\0").stderr or "null bytes" in sandbox.run("\0").stderr


@confined
def test_stdin_files_and_modules_of_its_own(sandbox: Sandbox) -> None:
    files = {"data/a.csv": b"1,2\n", "helper.py": b"def double(x): return 2 * x\n"}
    code = "import sys, helper\nprint(helper.double(21), open('data/a.csv').read(), sys.stdin.read(), end='')"
    assert sandbox.run(code, stdin="caf\u00e9", files=files).stdout == "42 1,2\n caf\u00e9"


@confined
def test_programs_do_not_see_each_other(sandbox: Sandbox) -> None:
    sandbox.run("open('left', 'w').write('x')")
    assert sandbox.run("import os; print(os.listdir())").stdout == "['program.py']\n"


@confined
def test_usual_modules_work(sandbox: Sandbox) -> None:
    code = (
        "import asyncio, collections, csv, ctypes, datetime, decimal, fractions, hashlib, json, lzma, math, random\n"
        "import re, sqlite3, ssl, statistics, tempfile, unicodedata, zoneinfo, concurrent.futures, multiprocessing\n"
        "import pickle\n"
        "class A: pass\n"
        "assert isinstance(pickle.loads(pickle.dumps(A())), A)\n"
        "asyncio.run(asyncio.sleep(0))\n"
        "with concurrent.futures.ThreadPoolExecutor(2) as pool: assert list(pool.map(abs, [-1])) == [1]\n"
        "with multiprocessing.get_context('fork').Pool(2) as pool: print(pool.map(abs, [-1, 2]))\n"
        "tempfile.TemporaryFile().close()"
    )
    result = sandbox.run(code, limits=Limits(seconds=30))
    assert (result.stderr, result.stdout) == ("", "[1, 2]\n")


@confined
def test_packages_of_a_folder_or_an_environment(tmp_path: Path, sandbox: Sandbox) -> None:
    folder = Path("/var/tmp") / f"toolorch-packages-{uuid.uuid4().hex}"
    inside = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    inside.mkdir(parents=True)
    try:
        (inside / "of_the_app.py").write_text("value = 42\n")
        code = "import of_the_app; print(of_the_app.value); open(of_the_app.__file__, 'w')"
        for packages in (inside, folder):
            (folder / "pyvenv.cfg").touch()
            result = Sandbox(packages=packages).run(code)
            assert result.stdout == "42\n"
            assert "Read-only file system" in result.stderr
    finally:
        shutil.rmtree(folder)
    (tmp_path / "pyvenv.cfg").touch()
    for packages, words in ((tmp_path, "no environment of python"), (tmp_path / "gone", "no folder")):
        with pytest.raises(SandboxError, match=words):
            Sandbox(packages=packages)


@confined
def test_output_at_the_limit_is_kept_and_over_it_is_cut(sandbox: Sandbox) -> None:
    limits = Limits(output=1_000)
    result = sandbox.run("import sys; sys.stdout.write('x' * 1000)", limits=limits)
    assert (len(result.stdout), result.stdout_cut, result.reason) == (1_000, False, None)
    result = sandbox.run(
        "import sys, time; sys.stderr.write('x' * 1001); sys.stderr.flush(); time.sleep(9)", limits=limits
    )
    assert (len(result.stderr), result.stderr_cut, result.reason) == (1_000, True, Reason.OUTPUT)
    assert result.exit_code is None


@confined
def test_bytes_that_are_no_text_are_replaced(sandbox: Sandbox) -> None:
    assert sandbox.run("import os; os.write(1, b'a\\xff')").stdout == "a\ufffd"


@confined
def test_what_it_printed_before_a_limit_is_kept(sandbox: Sandbox) -> None:
    result = sandbox.run("import time\nprint('begun', flush=True)\ntime.sleep(60)", limits=Limits(seconds=0.5))
    assert (result.stdout, result.reason, result.exit_code) == ("begun\n", Reason.TIMEOUT, None)


@confined
def test_processor_time_has_a_limit_of_its_own(sandbox: Sandbox) -> None:
    result = sandbox.run("while True: pass", limits=Limits(seconds=60, cpu_seconds=1))
    assert result.reason is Reason.TIMEOUT


# --- many at once, and the event loop ---


@confined
async def test_runs_of_an_event_loop_go_on_together(sandbox: Sandbox) -> None:
    results = await asyncio.gather(*(sandbox.arun(f"print({n})") for n in range(6)))
    assert [result.stdout for result in results] == [f"{n}\n" for n in range(6)]


@confined
async def test_a_run_that_is_cancelled_is_gone(sandbox: Sandbox) -> None:
    marker = f"marker-{uuid.uuid4().hex}"
    task = asyncio.create_task(
        sandbox.arun("import time; time.sleep(600)", files={marker: b""}, limits=Limits(seconds=600))
    )
    await auntil(lambda: left_behind(marker) != [])
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await auntil(lambda: left_behind(marker) == [])
    assert (await sandbox.arun("print(1)")).ok


@confined
def test_no_more_than_allowed_run_at_once(sandbox: Sandbox) -> None:
    one = Sandbox(Limits(seconds=30), at_once=1, wait_seconds=0.2)
    marker = f"marker-{uuid.uuid4().hex}"
    first = threading.Thread(target=one.run, args=("import sys, time; time.sleep(2)",), kwargs={"files": {marker: b""}})
    first.start()
    until(lambda: left_behind(marker) != [])
    with pytest.raises(SandboxBusyError, match="`at_once`"):
        one.run("print(1)")
    first.join()
    assert one.run("print(1)").ok


@confined
def test_a_host_that_is_killed_leaves_nothing() -> None:
    marker = f"marker-{uuid.uuid4().hex}"
    code = (
        "from toolorch_serving.sandbox import *\n"
        "sandbox = Sandbox(Limits(seconds=600), warm=1)\n"
        f"sandbox.run('import time; time.sleep(600)', files={{{marker!r}: b''}})"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONPATH": "serving"})
    until(lambda: left_behind(marker) != [])
    process.kill()
    process.wait()
    until(lambda: left_behind(marker) == [])


@confined
def test_waiting_sandboxes_are_used_once_and_end_with_the_pool(sandbox: Sandbox) -> None:
    warm = Sandbox(LIMITS, warm=2)
    pool = warm._pool
    assert pool is not None
    until(lambda: len(pool._waiting) == 2)
    processes = [waiting.process for waiting in pool._waiting]
    for number in range(4):
        code = "import os, sys; print(os.listdir(), sys.stdin.read()); open('left', 'w')"
        assert warm.run(code, stdin=str(number)).stdout == f"['program.py'] {number}\n"
    until(lambda: len(pool._waiting) == 2)
    assert not {id(process) for process in processes} & {id(waiting.process) for waiting in pool._waiting}
    for waiting in pool._waiting:  # killed from outside, such as for want of memory
        assert waiting.process is not None
        waiting.process.kill()
        waiting.process.wait()
    assert warm.run("print(1)").ok
    until(lambda: len(pool._waiting) == 2)
    last = [waiting.process for waiting in pool._waiting]
    warm.close()
    assert all(process is not None and process.poll() is not None for process in last)
    assert warm.run("print(1)").ok


@confined
async def test_the_tool_tells_the_policy_what_came_of_it(sandbox: Sandbox) -> None:
    tool = code_interpreter(sandbox)
    fibonacci = "a, b, s = 0, 1, 0\nfor _ in range(10): s += a; a, b = b, a + b\nprint(s)"
    assert (await tool.acall(code=fibonacci)).text == "88"
    assert "ZeroDivisionError: division by zero" in tool.call(code="1 / 0").text
    assert (await tool.langchain().ainvoke({"code": "print('x')"})) == "x"


# --- refusals ---


def test_without_bubblewrap_it_refuses_and_says_how_to_get_it() -> None:
    with pytest.raises(SandboxUnavailableError, match="apt install bubblewrap"):
        Sandbox(bubblewrap="no-such-program")


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("bwrap: setting up uid map: Permission denied", "does not let users make namespaces"),
        ("bwrap: No permissions to create new namespace: Operation not permitted", "max_user_namespaces"),
        ("bwrap: Unknown option --size", "too old"),
        ("bwrap: something else", "something else"),
    ],
)
def test_a_bubblewrap_that_fails_is_explained(said: str, words: str) -> None:
    stand_in = Path("/var/tmp") / f"bwrap-{uuid.uuid4().hex}"
    stand_in.write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 1\n")
    stand_in.chmod(0o755)
    try:
        for warm in (0, 1):
            with pytest.raises(SandboxUnavailableError, match=words):
                Sandbox(bubblewrap=str(stand_in), warm=warm).run("print(1)")
    finally:
        stand_in.unlink()


def test_without_a_sandbox_it_runs_only_when_told_in_so_many_words() -> None:
    with pytest.warns(UserWarning, match="without a sandbox"):
        free = Sandbox(LIMITS, bubblewrap="no-such-program", **{UNCONFINED: True})
    result = free.run("import os; print(os.getcwd() == os.path.dirname(__file__))")
    assert (result.stdout, result.confined) == ("True\n", False)
    assert free.run("while True: pass").reason is Reason.TIMEOUT
    assert free.run("x = bytearray(8 << 30)").reason is Reason.MEMORY
    assert free.run("while True: print('x' * 999)").reason is Reason.OUTPUT
    assert free.run("import os; os.kill(os.getpid(), 9)").exit_code == 137


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x", "", "a\0b"])
def test_files_stay_in_the_folder(name: str) -> None:
    with pytest.warns(UserWarning, match="without a sandbox"):
        free = Sandbox(bubblewrap="no-such-program", run_unread_code_without_any_sandbox=True)
    with pytest.raises(SandboxError, match="leads out of"):
        free.run("", files={name: b""})


@pytest.mark.parametrize("limits", [{"seconds": 0}, {"memory": -1}, {"processes": True}, {"output": float("nan")}])
def test_limits_are_checked(limits: dict[str, float]) -> None:
    with pytest.raises(SandboxError, match=rf"limits\.{next(iter(limits))} is"):
        Limits(**limits)  # type: ignore[arg-type]


# --- parts ---


def test_the_table_of_system_calls_has_the_kernels_numbers() -> None:
    headers = [Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), Path("/usr/include/asm-generic/unistd.h")]
    checked = 0
    for column, header in enumerate(headers):
        if not header.exists():
            continue
        found = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", header.read_text()))
        for name, numbers in DENIED.items():
            if numbers[column] is not None and name in found:
                assert numbers[column] == int(found[name]), name
                checked += 1
    if not checked:
        pytest.skip("the kernel's headers are not installed")


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_is_a_program_that_the_kernel_takes(machine: str) -> None:
    program = filter_program(machine)
    assert len(program) % 8 == 0
    assert len(program) // 8 < 4096  # BPF_MAXINSNS
    last = len(program) // 8 - 1
    for index in range(last + 1):
        over = max(program[8 * index + 2], program[8 * index + 3])
        assert index + over < last + 1


def test_a_runtime_that_others_cannot_reach_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private, cache = tmp_path / "private", tmp_path / "cache"
    library = private / "lib"
    (library / "site-packages").mkdir(parents=True)
    cache.mkdir()
    for path in (private / "python", library / "os.py", library / "site-packages" / "x.py"):
        path.write_text(path.name)
    private.chmod(0o700)
    assert reachable(Path("/usr/lib"))
    assert not reachable(library)
    monkeypatch.setattr("toolorch_serving.sandbox.runtime._cache", lambda: cache)
    found = find_runtime()
    given = replace(found, executable=private / "python", library=library, shared=None)
    copied = given.readable_by_all()
    assert (copied.library / "os.py").read_text() == "os.py"
    assert copied.executable.read_text() == "python"
    assert not (copied.library / "site-packages").exists()
    assert stat.S_IMODE(copied.library.parent.stat().st_mode) == 0o755
    (copied.library / "os.py").write_text("kept")
    assert given.readable_by_all() == copied
    assert (copied.library / "os.py").read_text() == "kept"
    assert [path.name for path in cache.iterdir()] == [copied.library.parent.name]
