"""The parts of this machine's Python that a program needs, and where they stand inside the sandbox."""

from __future__ import annotations

import os
import shutil
import stat
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from toolorch_serving.sandbox.errors import SandboxError, SandboxUnavailableError

HOME = "/python"
"""Where Python stands inside."""
PACKAGES = "/packages"
"""Where the app's packages stand inside."""

_VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"
_LEFT_OUT = ("site-packages", "dist-packages", "test", "ensurepip", "idlelib", "tkinter", "turtledemo")
_LOADERS = ("/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1")


@dataclass(frozen=True, slots=True)
class Runtime:
    """Folders and files of the machine that are mounted, read-only.

    Attributes:
        executable: The interpreter.
        library: Its standard library.
        shared: Its shared library, where it has one.
        system: Folders of the system's shared libraries, and their loader.
    """

    executable: Path
    library: Path
    shared: Path | None
    system: tuple[Path, ...]

    @property
    def interpreter(self) -> str:
        """The interpreter's path inside."""
        return f"{HOME}/bin/{_VERSION}"

    def mounts(self) -> list[str]:
        """Return bubblewrap's arguments."""
        arguments = [*_bind(self.executable, self.interpreter), *_bind(self.library, _inside_library())]
        if self.shared is not None:
            arguments += _bind(self.shared, f"{HOME}/lib/{self.shared.name}")
        for name in _LEFT_OUT:  # neither packages nor what nobody needs is readable
            if (self.library / name).is_dir():
                hidden = f"{_inside_library()}/{name}"
                arguments += ["--size", "4096", "--tmpfs", hidden, "--remount-ro", hidden]
        for path in self.system:
            arguments += _bind(path, str(path))
        return arguments

    def readable_by_all(self) -> Runtime:
        """Return this runtime where users without rights reach it: itself, or a copy in the machine's cache.

        A process of root runs programs as a user without rights, who cannot look into a Python under /root.
        """
        if all(reachable(path) for path in (self.executable, self.library, *([self.shared] if self.shared else []))):
            return self
        target = _cache() / f"{_VERSION}-{_fingerprint(self.executable, self.library)}"
        if not target.is_dir():
            _copy(self, target)
        shared = target / self.shared.name if self.shared is not None else None
        return replace(self, executable=target / _VERSION, library=target / "library", shared=shared)


def find_runtime() -> Runtime:
    """Return the running interpreter's own runtime.

    Raises:
        SandboxUnavailableError: A part of it cannot be found.
    """
    executable = Path(getattr(sys, "_base_executable", None) or sys.executable).resolve()
    library = Path(os.__file__).resolve().parent
    triple = sysconfig.get_config_var("MULTIARCH")
    own = [Path(f"/usr/lib/{triple}"), Path(f"/lib/{triple}")]
    folders = [path for path in own if triple and path.is_dir()] or [
        path for path in map(Path, ("/usr/lib64", "/lib64", "/usr/lib", "/lib")) if path.is_dir()
    ]
    loaders = [path for path in map(Path, _LOADERS) if path.exists() and path.parent not in folders]
    if not executable.is_file() or not folders:
        raise SandboxUnavailableError(f"The sandbox finds no Python at {executable} or no system libraries.")
    return Runtime(executable, library, _shared_library(), tuple(dict.fromkeys([*folders, *loaders])))


def _shared_library() -> Path | None:
    """Return the file of libpython, where the interpreter was built with one."""
    if not sysconfig.get_config_var("Py_ENABLE_SHARED"):
        return None
    name = str(sysconfig.get_config_var("INSTSONAME"))
    folders = (Path(str(sysconfig.get_config_var("LIBDIR"))), Path(sys.base_prefix, "lib"))
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def packages_folder(path: Path) -> Path:
    """Return the folder of modules of a virtual environment, or the folder itself.

    Raises:
        SandboxError: It is neither, or of another version of Python.
    """
    if (path / "pyvenv.cfg").is_file():
        inside = path / "lib" / _VERSION / "site-packages"
        if not inside.is_dir():
            raise SandboxError(f"packages: {path} is no environment of {_VERSION}: make one with this version.")
        return inside.resolve()
    if not path.is_dir():
        raise SandboxError(f"packages: there is no folder {path}: name a virtual environment or a folder of modules.")
    return path.resolve()


def reachable(path: Path) -> bool:
    """Say whether users without rights can come to a path and read it."""
    need = stat.S_IROTH | (stat.S_IXOTH if path.is_dir() else 0)
    above = all(parent.stat().st_mode & stat.S_IXOTH for parent in path.parents)
    return above and path.stat().st_mode & need == need


def _inside_library() -> str:
    return f"{HOME}/{sys.platlibdir}/{_VERSION}"


def _bind(source: Path, inside: str) -> Sequence[str]:
    return ("--ro-bind", str(source), inside)


def _cache() -> Path:
    """Return root's folder for copies; nobody else can put something there."""
    folder = Path("/var/cache/toolorch")
    try:
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        if folder.stat().st_uid == os.getuid() and not folder.stat().st_mode & 0o022:
            return folder
    except OSError:
        pass
    folder = Path(tempfile.mkdtemp(prefix="toolorch-python-"))
    folder.chmod(0o755)
    return folder


def _fingerprint(executable: Path, library: Path) -> str:
    stamp = f"{executable} {executable.stat().st_mtime_ns} {library.stat().st_mtime_ns} {sys.version}"
    return sha256(stamp.encode()).hexdigest()[:12]


def _copy(runtime: Runtime, target: Path) -> None:
    """Copy a runtime, whole or not at all."""
    making = Path(tempfile.mkdtemp(dir=target.parent, prefix=".making-"))
    making.chmod(0o755)
    leave_out = shutil.ignore_patterns(*_LEFT_OUT, "config-*")
    shutil.copytree(runtime.library, making / "library", ignore=leave_out, symlinks=True)
    shutil.copy2(runtime.executable, making / _VERSION)
    if runtime.shared is not None:
        shutil.copy2(runtime.shared, making / runtime.shared.name)
    try:
        making.rename(target)
    except OSError:  # another process was quicker
        shutil.rmtree(making, ignore_errors=True)
        if not target.is_dir():
            raise
