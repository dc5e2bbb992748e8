"""bubblewrap's command line for a sandbox."""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path

from toolorch_serving.sandbox.errors import SandboxUnavailableError
from toolorch_serving.sandbox.limits import MIB, Limits
from toolorch_serving.sandbox.runtime import HOME, PACKAGES, Runtime

FOLDER = "/tmp"
"""Where a program works: its only files."""
SHARED_MEMORY = 16 * MIB
"""Bytes of /dev/shm, which semaphores of `multiprocessing` need."""

INSTALL = "install bubblewrap 0.8 or newer (Debian, Ubuntu: apt install bubblewrap; Fedora: dnf install bubblewrap)"

CHILD = Path(__file__).with_name("child.py").read_text(encoding="utf-8")
"""The program's first lines."""

ENVIRONMENT = {
    "HOME": FOLDER,
    "LANG": "C.UTF-8",
    "LD_LIBRARY_PATH": f"{HOME}/lib",
    "MALLOC_ARENA_MAX": "2",  # each arena reserves 64 MiB of address space, which the memory limit counts
    "MPLBACKEND": "Agg",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PATH": f"{HOME}/bin",
    "TMPDIR": FOLDER,
    "TZ": "UTC",
}
"""All variables that a program has."""


def interpreter_arguments() -> list[str]:
    """Return the interpreter's options: isolated, no `site`, no bytecode written, and the first lines as a text."""
    return ["-I", "-S", "-B", "-X", "utf8", "-c", CHILD]


def find_bubblewrap(name: str) -> str:
    """Return bubblewrap's path.

    Raises:
        SandboxUnavailableError: It is not installed.
    """
    path = shutil.which(name)
    if path is None:
        raise SandboxUnavailableError(f"There is no {name!r} on this machine: {INSTALL}.")
    return path


def sandbox_command(bubblewrap: str, runtime: Runtime, packages: Path | None, disk: int) -> list[str]:
    """Return the part of the command that all runs share; options that name descriptors are put before it."""
    environment = [word for name, value in ENVIRONMENT.items() for word in ("--setenv", name, value)]
    return [
        bubblewrap,
        *("--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"),
        *("--unshare-cgroup-try", "--disable-userns", "--uid", "1000", "--gid", "1000", "--hostname", "sandbox"),
        *("--die-with-parent", "--new-session", "--cap-drop", "ALL", "--clearenv", *environment),
        *runtime.mounts(),
        *(("--ro-bind", str(packages), PACKAGES) if packages is not None else ()),
        *("--dev", "/dev", "--size", str(SHARED_MEMORY), "--tmpfs", "/dev/shm", "--remount-ro", "/dev"),
        *("--size", str(disk), "--tmpfs", FOLDER, "--remount-ro", "/", "--chdir", FOLDER),
    ]


def rlimits(limits: Limits, *, confined: bool) -> dict[str, tuple[int, int]]:
    """Return the soft and hard limits of each process, by the names of `resource`.

    Processes are counted in the sandbox's own user namespace; outside one the count would hold all of the user's.
    """
    seconds = math.ceil(limits.cpu_seconds)
    values = {
        "RLIMIT_AS": limits.memory,
        "RLIMIT_CORE": 0,
        "RLIMIT_FSIZE": limits.file_bytes,
        "RLIMIT_MEMLOCK": 0,
        "RLIMIT_NOFILE": limits.open_files,
    }
    if confined:
        values |= {"RLIMIT_MSGQUEUE": 0, "RLIMIT_NPROC": limits.processes, "RLIMIT_SIGPENDING": 256}
    pairs = {name: (most, most) for name, most in values.items()}
    return {**pairs, "RLIMIT_CPU": (seconds, seconds + 1)}  # the soft limit's signal tells a time-out from a kill


def explain(said: str) -> str:
    """Return what a failed start means and what to do, from bubblewrap's own words."""
    words = said.strip() or "bubblewrap said nothing"
    if "nknown option" in words:
        return f"{words}: this bubblewrap is too old: {INSTALL}."
    denied = "ermission denied" in words or "not permitted" in words or "No space left" in words
    if denied and ("namespace" in words or "uid map" in words or "userns" in words or "loopback" in words):
        return (
            f"{words}: this system does not let users make namespaces. As root: sysctl user.max_user_namespaces=10000; "
            "sysctl kernel.unprivileged_userns_clone=1 (Debian); sysctl kernel.apparmor_restrict_unprivileged_userns=0 "
            "or a profile for bwrap (Ubuntu 24.04); in a container its seccomp and AppArmor profiles must allow it "
            "(docs/tools.md)."
        )
    return words


def unprivileged_user() -> dict[str, int | list[int]]:
    """Return subprocess's options that give up root's rights; none where there are none to give up."""
    return {"user": 65534, "group": 65534, "extra_groups": []} if os.getuid() == 0 else {}
