"""Programs that try to leave the sandbox, or to exhaust the machine. Each prints ESCAPED where it gets somewhere."""

# ruff: noqa: E501 (a line of a program stays a line)

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolorch_serving.sandbox import Limits, Reason, Sandbox, SandboxResult
from toolorch_serving.sandbox.limits import MIB

PRELUDE = """
import ctypes, errno, os, platform, signal, socket, sys, time
HOST = {host!r}
libc = ctypes.CDLL(None, use_errno=True)
INTEL = platform.machine() == "x86_64"
def escaped(what): print("ESCAPED:", what, flush=True)
def never(call, *arguments):
    try: got = call(*arguments)
    except (OSError, ValueError, AttributeError) as error: print("refused:", error)
    else: escaped((call, arguments, got))
def system(intel, arm, *arguments):
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    got = libc.syscall(ctypes.c_long(intel if INTEL else arm), *words)
    if got == -1: raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return got
"""


TIMEOUT, MEMORY, OUTPUT, FILES, KILLED = Reason.TIMEOUT, Reason.MEMORY, Reason.OUTPUT, Reason.FILES, Reason.KILLED


@dataclass(frozen=True)
class Attempt:
    """A program, and how it may end: by itself, or for one of `reasons`."""

    code: str
    reasons: frozenset[Reason | None] = frozenset({None})
    limits: dict[str, Any] = field(default_factory=dict)
    open_outside: bool = False
    """Whether it harms nobody and gets through where there is no sandbox: shows that the attempt is a real one."""


def _a(code: str, *reasons: Reason | None, outside: bool = False, **limits: Any) -> Attempt:
    # What ends by itself has time for it on a machine under load; what does not is stopped soon.
    limits = {"seconds": 1 if TIMEOUT in reasons else 20, **limits}
    return Attempt(code, frozenset(reasons or (None,)), limits, outside)


ATTEMPTS: dict[str, Attempt] = {
    # --- files ---
    "read a file of the machine": _a("never(open, HOST['secret'])", outside=True),
    "read /etc": _a("for p in ('/etc/passwd', '/etc/shadow', '/etc/hostname'): never(open, p)", outside=True),
    "read homes": _a("for p in ('/root', '/home', HOST['project']): never(os.listdir, p)", outside=True),
    "find packages of the app": _a(
        "import glob\nfor p in glob.glob('/python/lib/python3*/site-packages/*'): escaped(p)\n"
        "try: import toolorch_serving\nexcept ImportError: pass\nelse: escaped('import')"
    ),
    "write to the system": _a(
        "for p in ('/', '/python', '/python/lib', '/usr', '/usr/lib', '/dev', os.path.dirname(os.__file__)):\n"
        "    never(open, p + '/x', 'w')"
    ),
    "change the standard library": _a("never(open, os.__file__, 'a'); never(os.unlink, os.__file__)"),
    "write where a file of the machine is": _a("never(open, HOST['folder'] + '/x' + HOST['mark'], 'w')", outside=True),
    "symbolic links out": _a(
        "os.symlink(HOST['secret'], 'a'); never(open, 'a')\nos.symlink('/../../../../..', 'b')\n"
        "if set(os.listdir('b')) != set(os.listdir('/')): escaped('above /')"
    ),
    "hard links to the system": _a("never(os.link, os.__file__, 'a')"),
    "dots above the root": _a("never(open, '/tmp/' + '../' * 40 + HOST['secret'])", outside=True),
    "descriptor of the root": _a(
        "fd = os.open('/', os.O_RDONLY)\nfor _ in range(9): fd = os.open('..', os.O_RDONLY, dir_fd=fd)\n"
        "try: os.open(HOST['secret'].lstrip('/'), os.O_RDONLY, dir_fd=fd)\nexcept OSError: pass\nelse: escaped('file')",
        outside=True,
    ),
    "set user id bits": _a(
        "open('a', 'w').close(); os.chmod('a', 0o6755)\nnever(os.setuid, 0); never(os.setgid, 0); never(os.setgroups, [0])"
    ),
    "extended attributes that give rights": _a(
        "open('a', 'w').close()\nnever(os.setxattr, 'a', 'security.capability', bytes(20))"
    ),
    "device nodes": _a(
        "import stat\nfor major, minor in ((1, 1), (8, 0), (254, 0)):\n"
        "    never(os.mknod, f'd{major}', 0o666 | stat.S_IFBLK, os.makedev(major, minor))\n"
        "    never(os.mknod, f'c{major}', 0o666 | stat.S_IFCHR, os.makedev(major, minor))"
    ),
    "memory and disks of the machine": _a(
        "for p in ('mem', 'kmem', 'port', 'kmsg', 'sda', 'vda', 'nvme0n1', 'kvm', 'fuse', 'loop-control', 'net/tun', "
        "'vsock', 'userfaultfd'):\n    never(open, '/dev/' + p, 'rb')"
    ),
    "open a file by its handle": _a("never(system, 304, 265, -100, ctypes.create_string_buffer(64), 0)"),
    # --- what the system tells ---
    "/proc": _a(
        "never(os.listdir, '/proc'); never(open, '/proc/1/environ'); never(open, '/proc/self/exe', 'rb')", outside=True
    ),
    "/proc/sys and sysrq": _a("never(open, '/proc/sys/kernel/core_pattern', 'w'); never(open, '/proc/sysrq-trigger', 'w')"),
    "/sys and control groups": _a("never(os.listdir, '/sys'); never(os.listdir, '/sys/fs/cgroup')", outside=True),
    "mount a /proc": _a("os.mkdir('p'); never(system, 165, 40, b'proc', b'p', b'proc', 0, 0)"),
    "environment of the app": _a(
        "for k, v in os.environ.items():\n    if HOST['canary'] in v or k.startswith('TOOLORCH'): escaped(k)"
    ),
    "inherited descriptors": _a(
        "for fd in range(3, 1024):\n    try: os.fstat(fd)\n    except OSError: continue\n    escaped(fd)"
    ),
    "name of the machine": _a("if socket.gethostname() == HOST['name']: escaped('name')", outside=True),
    "kernel log": _a("never(system, 103, 116, 3, ctypes.create_string_buffer(99), 99)"),
    # --- network ---
    "TCP to the machine": _a("never(socket.create_connection, ('127.0.0.1', HOST['tcp']), 1)", outside=True),
    "TCP to the internet and to metadata": _a(
        "for h in ('1.1.1.1', '8.8.8.8', '169.254.169.254', '10.0.0.1'): never(socket.create_connection, (h, 80), 1)"
    ),
    "UDP": _a(
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ns.settimeout(0.3)\n"
        "for host in ('127.0.0.1', '8.8.8.8'):\n"
        "    try: s.sendto(b'hello', (host, HOST['udp'])); escaped(s.recv(9))\n    except OSError: pass",
    ),
    "IPv6": _a("never(socket.create_connection, ('2606:4700::1111', 80), 1)"),
    "names": _a("never(socket.getaddrinfo, 'example.org', 80)"),
    "unix sockets of the machine": _a("never(socket.socket(socket.AF_UNIX).connect, HOST['unix'])", outside=True),
    "abstract sockets of the machine": _a(
        "never(socket.socket(socket.AF_UNIX).connect, chr(0) + HOST['abstract'])", outside=True
    ),
    "raw and packet sockets": _a(
        "never(socket.socket, socket.AF_PACKET, socket.SOCK_RAW, 3); never(socket.socket, socket.AF_INET, socket.SOCK_RAW, 1)"
    ),
    "sockets that namespaces do not cover": _a(
        "for family in (40, 38, 16, 30, 31, 44): never(socket.socket, family, socket.SOCK_STREAM)"
    ),
    # --- other processes ---
    "signals to all": _a("never(os.kill, HOST['pid'], 0); never(os.kill, HOST['child'], 9)"),
    "kill everything": _a("os.kill(-1, signal.SIGKILL)", None, KILLED),
    "kill the first process": _a("os.kill(1, signal.SIGKILL); time.sleep(0.1)\nos.kill(1, 0)", None, KILLED),
    "trace": _a("never(system, 101, 117, 16, HOST['child'], 0, 0); never(system, 101, 117, 0, 0, 0, 0)", outside=True),
    "memory of other processes": _a("never(system, 310, 270, 1, 0, 0, 0, 0, 0); never(system, 438, 438, 3, 0, 0)"),
    "priority": _a("never(os.setpriority, os.PRIO_PROCESS, 0, -5); never(os.sched_setscheduler, 0, os.SCHED_FIFO, os.sched_param(9))"),
    "own session that lives on": _a(
        "if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        for f in range(3): os.close(f)\n"
        "        time.sleep(600)\n    os._exit(0)\nos.wait()"
    ),
    "child that holds the output open": _a("if os.fork() == 0: time.sleep(600)"),
    "type into the terminal": _a(
        "import fcntl\nnever(fcntl.ioctl, 0, 0x5412, b'x')\nmaster, slave = os.openpty()\nnever(fcntl.ioctl, slave, 0x5412, b'x')\n"
        "never(open, '/dev/tty')"
    ),
    # --- the kernel ---
    "mount": _a("os.mkdir('m'); never(system, 165, 40, b'none', b'm', b'tmpfs', 0, 0); never(system, 430, 430, b'tmpfs', 0)"),
    "remount for writing": _a("never(system, 165, 40, b'none', b'/', b'', 32, 0); never(system, 166, 39, b'/python', 2)"),
    "change the root": _a("os.mkdir('r'); never(os.chroot, 'r'); never(system, 155, 41, b'r', b'r')"),
    "namespaces of one's own": _a(
        "for flag in (0x10000000, 0x20000, 0x40000000, 0x20000000, 0x80): never(system, 272, 97, flag)\n"
        "never(system, 56, 220, 0x10000000 | 17, 0, 0, 0, 0); never(system, 308, 268, 0, 0)"
    ),
    "clone3": _a("never(system, 435, 435, ctypes.create_string_buffer(88), 88)"),
    "keys": _a(
        "never(system, 250, 219, 0, -3, 1); never(system, 248, 217, b'user', b'k', b'v', 1, -3)"
    ),
    "BPF": _a("never(system, 321, 280, 0, ctypes.create_string_buffer(128), 128)"),
    "perf_event_open": _a("never(system, 298, 241, ctypes.create_string_buffer(128), 0, -1, -1, 0)"),
    "io_uring": _a("never(system, 425, 425, 4, ctypes.create_string_buffer(120))"),
    "userfaultfd": _a("never(system, 323, 282, 1)"),
    "kernel modules": _a("never(system, 175, 105, b'x', 1, b''); never(system, 313, 273, 0, b'', 0); never(system, 246, 104, 0, 0, 0, 0)"),
    "clock, name, reboot, swap": _a(
        "never(time.clock_settime, time.CLOCK_REALTIME, 0.0); never(socket.sethostname, 'x')\n"
        "never(system, 169, 142, 0xfee1dead, 672274793, 0); never(system, 167, 224, b'/tmp/x', 0)"
    ),
    "memory that is counted nowhere": _a(
        "never(system, 29, 194, 0, 1 << 26, 0o1600); never(os.memfd_create, 'x'); never(system, 68, 186, 0, 0o1600)",
    ),
    "the second system call table": _a(
        "code = bytes.fromhex('b814000000cd80c3')  # mov eax, 20 (getpid of i386); int 0x80; ret\n"
        "import mmap\nif not INTEL: sys.exit()\n"
        "m = mmap.mmap(-1, 4096, prot=7); m.write(code)\n"
        "got = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))()\nescaped(got)",
        KILLED, None,
    ),
    "x32 system calls": _a("if not INTEL: sys.exit()\nlibc.syscall(ctypes.c_long(0x40000000 + 39)); escaped('x32')", KILLED, None),
    "personality": _a("never(system, 135, 92, 0x0040000)", outside=True),
    # --- exhaustion ---
    "fork bomb": _a("while True:\n    try: os.fork()\n    except OSError: pass", TIMEOUT, KILLED),
    "fork bomb that counts": _a(
        "n = 0\ntry:\n    while n < 2000:\n        if os.fork() == 0: time.sleep(600)\n        n += 1\nexcept OSError: pass\n"
        "if n > 64: escaped(n)"
    ),
    "thread bomb": _a(
        "import threading\nn = 0\ntry:\n    while n < 2000:\n        threading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
        "        n += 1\nexcept (RuntimeError, MemoryError): pass\nif n > 64: escaped(n)",
    ),
    "memory at once": _a("x = bytearray(8 << 30); escaped('memory')", MEMORY),
    "memory bit by bit": _a("x = []\nwhile True: x.append('x' * 1_000_000)", MEMORY, seconds=20),
    "memory by mapping": _a(
        "import mmap\nkept = []\ntry:\n    for _ in range(99): kept.append(mmap.mmap(-1, 64 << 20))\n"
        "except (OSError, MemoryError): pass\nif len(kept) > 8: escaped(len(kept))"
    ),
    "memory by many processes": _a(
        "for _ in range(8):\n    if os.fork() == 0:\n        x = bytearray(80 << 20)\n        time.sleep(600)\ntime.sleep(600)",
        MEMORY, seconds=20,
    ),
    "locked memory": _a("x = ctypes.create_string_buffer(1 << 22)\nif libc.mlock(x, len(x)) == 0: escaped('locked')"),
    "fill the files": _a(
        "n = 0\ntry:\n    for i in range(999):\n        with open(f'f{i}', 'wb') as f: n += f.write(bytes(1 << 20))\n"
        "except OSError: pass\nif n > 40 << 20: escaped(n)",
    ),
    "one large file": _a(
        "n = 0\ntry:\n    with open('f', 'wb', 0) as f:\n        for _ in range(999): n += f.write(bytes(1 << 20))\n"
        "except OSError: pass\nif n > 20 << 20: escaped(n)\nnever(os.truncate, 'f', 1 << 40)"
    ),
    "fill /dev/shm": _a(
        "n = 0\ntry:\n    for i in range(99):\n        with open(f'/dev/shm/f{i}', 'wb') as f: n += f.write(bytes(1 << 20))\n"
        "except OSError: pass\nif n > 16 << 20: escaped(n)"
    ),
    "many empty files": _a("n = 0\nwhile True:\n    open(f'f{n}', 'w').close(); n += 1", FILES, seconds=10),
    "many folders in each other": _a("while True: os.mkdir('d'); os.chdir('d')", FILES, TIMEOUT, seconds=10),
    "many open files": _a(
        "kept = []\ntry:\n    while len(kept) < 9999: kept.append(os.open('/dev/null', 0))\nexcept OSError: pass\n"
        "if len(kept) > 64: escaped(len(kept))"
    ),
    "endless output": _a("while True: print('x' * 1000)", OUTPUT),
    "endless error output": _a("while True: print('x' * 1000, file=sys.stderr)", OUTPUT),
    "output without a line end": _a("while True: sys.stdout.write('x' * 65536); sys.stdout.flush()", OUTPUT),
    "output of many processes": _a("os.fork(); os.fork()\nwhile True: os.write(1, bytes(65536)); os.write(2, bytes(65536))", OUTPUT),
    "a loop": _a("while True: pass", TIMEOUT),
    "a loop in C": _a("sum(iter(int, 1))", TIMEOUT),
    "a regular expression": _a("import re; re.match('(a+)+$', 'a' * 64 + 'b')", TIMEOUT),
    "a large power": _a("x = 9 ** 9 ** 9", TIMEOUT, MEMORY),
    "sleep": _a("time.sleep(600)", TIMEOUT),
    "signals that are ignored": _a(
        "for n in range(1, 64):\n    try: signal.signal(n, signal.SIG_IGN)\n    except (OSError, ValueError): pass\nwhile True: time.sleep(1)",
        TIMEOUT,
    ),
    "processor time of many processes": _a("for _ in range(4): os.fork()\nwhile True: pass", TIMEOUT),
    "limits that are raised": _a(
        "import resource\nfor name in ('AS', 'NPROC', 'NOFILE', 'FSIZE', 'CPU'):\n    kind = getattr(resource, 'RLIMIT_' + name)\n"
        "    never(resource.setrlimit, kind, (-1, -1))"
    ),
    "zip bomb": _a(
        "import zlib\nx = zlib.compress(bytes(1 << 26), 9)\nkept = []\nwhile True: kept.append(zlib.decompress(x))", MEMORY, TIMEOUT, seconds=10
    ),
    "recursion": _a("def f(): f()\nf()"),
    "recursion in C": _a("sys.setrecursionlimit(10 ** 9)\nclass A:\n    def __repr__(self): return repr(self)\nrepr(A())", KILLED, MEMORY),
    "deep pickle": _a(
        "import pickle\nsys.setrecursionlimit(10 ** 9)\nx = []\nfor _ in range(10 ** 6): x = [x]\npickle.dumps(x)", KILLED, MEMORY, TIMEOUT, seconds=10
    ),
    "deep source": _a("compile('(' * 100000 + ')' * 100000, 'x', 'eval')", None, MEMORY),
    "crash with a core file": _a("ctypes.string_at(0)", KILLED),
    "pipes full of bytes": _a(
        "kept = []\ntry:\n    for _ in range(200):\n        r, w = os.pipe(); os.set_blocking(w, False); os.write(w, bytes(65536)); kept.append((r, w))\n"
        "except OSError: pass\nif len(kept) > 40: escaped(len(kept))"
    ),
    "read from a terminal that is not there": _a("print(repr(sys.stdin.read(1)))\nos.write(0, b'x')", None),
}  # fmt: skip


WRITTEN_OUTSIDE = "x-outside"


@contextmanager
def host(project: str) -> Iterator[dict[str, Any]]:
    """Put things on the machine that no program may reach, and yield how they are named."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="toolorch-host-", dir="/var/tmp")))
        folder.chmod(0o777)
        secret = folder / "secret"
        secret.write_text("secret")
        secret.chmod(0o666)
        names = uuid.uuid4().hex
        sockets = [socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)]
        sockets[1].bind(("127.0.0.1", 0))
        for address in (str(folder / "socket"), f"\0{names}"):
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(address)
            listener.listen()
            sockets.append(listener)
        (folder / "socket").chmod(0o666)
        for each in sockets:
            stack.enter_context(each)
        inherited = os.open(secret, os.O_RDONLY)
        os.set_inheritable(inherited, True)
        stack.callback(os.close, inherited)
        child = stack.enter_context(subprocess.Popen(["sleep", "600"]))
        stack.callback(child.kill)
        os.environ["TOOLORCH_TEST_SECRET"] = names
        stack.callback(os.environ.pop, "TOOLORCH_TEST_SECRET")
        yield {
            "secret": str(secret), "folder": str(folder), "project": project, "canary": names,
            "tcp": sockets[0].getsockname()[1], "udp": sockets[1].getsockname()[1],
            "unix": str(folder / "socket"), "abstract": names, "name": socket.gethostname(),
            "pid": os.getpid(), "child": child.pid, "mark": "",
        }  # fmt: skip
        sockets[1].setblocking(False)
        with suppress(BlockingIOError):
            raise AssertionError(f"a datagram came through: {sockets[1].recv(99)!r}")
        assert child.poll() is None, "the machine's own process was killed"
        assert secret.read_text() == "secret"
        assert {path.name for path in folder.iterdir()} <= {"secret", "socket", WRITTEN_OUTSIDE}


LIMITS = Limits(seconds=2, cpu_seconds=2, memory=256 * MIB, disk=32 * MIB, file_bytes=16 * MIB, files=3_000)


def run_attempts(
    names: Iterable[str], outside: dict[str, Any], at_once: int = 4, sandbox: Sandbox | None = None
) -> tuple[dict[str, SandboxResult], str]:
    """Run attempts, several at once; return their results, and the name of a file that each had in its folder."""
    marker = f"marker-{uuid.uuid4().hex}"
    used = sandbox or Sandbox(LIMITS, at_once=at_once)
    prelude = PRELUDE.format(host=outside)

    def run(name: str) -> tuple[str, SandboxResult]:
        attempt = ATTEMPTS[name]
        values = {key: getattr(LIMITS, key) for key in Limits.__dataclass_fields__}
        limits = Limits(**{**values, **attempt.limits})
        return name, used.run(prelude + attempt.code, files={marker: b""}, limits=limits)

    with ThreadPoolExecutor(at_once) as pool:
        return dict(pool.map(run, names)), marker


def problem(name: str, result: SandboxResult) -> str | None:
    """Say why an attempt does not count as contained; None when it does."""
    attempt = ATTEMPTS[name]
    if "ESCAPED" in result.stdout or "ESCAPED" in result.stderr:
        return f"it got out: {result.stdout[-300:]}{result.stderr[-300:]}"
    if result.reason not in attempt.reasons:
        return f"it ended with {result.reason}, exit status {result.exit_code}: {result.stderr[-300:]}"
    longest = attempt.limits.get("seconds", LIMITS.seconds)
    if result.seconds > longest + 5:  # ending a tree of processes on a machine under load takes its time
        return f"it ran for {result.seconds:.1f} s"
    if "Traceback" in result.stderr and "NameError" in result.stderr:
        return f"the attempt itself is wrong: {result.stderr[-300:]}"
    return None


def left_behind(marker: str) -> list[int]:
    """Return the processes that still have the sandbox's files."""
    time.sleep(0.05)
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "root" / "tmp" / marker).exists():
                found.append(int(process.name))
        except OSError:
            continue
    return found
