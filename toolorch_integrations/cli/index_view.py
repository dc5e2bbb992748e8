"""How a build shows itself: a bar while it runs, a few lines at its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from toolorch_serving.retrieval import BuildReport


@contextmanager
def progress_bar(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """Yield a function that shows how much of what is done; shows nothing where there is no terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield show


def report_lines(report: BuildReport, held: int, folder: Path) -> Iterator[str]:
    """Yield what a build did, in words."""
    parts = {
        "added": report.added,
        "updated": report.updated,
        "there already": report.unchanged,
        "deleted": report.deleted,
        "duplicates left out": report.duplicates,
    }
    did = ", ".join(f"{number:,} {what}" for what, number in parts.items() if number)
    yield f"{did or 'nothing to do'}; {report.embedded:,} texts embedded"
    if report.skipped:
        yield f"{report.skipped:,} files or rows skipped: {report.reasons[0].place}: {report.reasons[0].reason}" + (
            " ..." if report.skipped > 1 else ""
        )
    yield f"{folder} holds {held:,} documents; `toolorch serve retrieval {folder}` makes them searchable"
