"""Finding a benchmark's package on the user's machine."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from toolorch_integrations.errors import ToolorchError


class BenchmarkError(ToolorchError, ValueError):
    """A benchmark cannot be imported; the message says what to install or to give."""


@contextmanager
def importable(package: str, checkout: str | Path | None, install: str) -> Iterator[None]:
    """Import a benchmark's modules from a checkout's folder, or from what is installed.

    Args:
        package: Name of the package.
        checkout: Folder of a checkout; the package lies in it or in its `src`.
        install: How to get the package.

    Raises:
        BenchmarkError: The package, or something that it needs, is not there.
    """
    if checkout is not None:
        folders = [Path(checkout), Path(checkout) / "src"]
        found = next((folder for folder in folders if (folder / package / "__init__.py").exists()), None)
        if found is None:
            raise BenchmarkError(f"checkout {checkout} holds no package {package!r}, nor does its folder src")
        if str(found) not in sys.path:
            sys.path.insert(0, str(found))
    try:
        yield
    except ModuleNotFoundError as error:
        missing = error.name or package
        what = "it" if missing.split(".")[0] == package else f"the module {missing!r} that it needs"
        raise BenchmarkError(f"{package} cannot be imported: {what} is not installed ({install})") from error
