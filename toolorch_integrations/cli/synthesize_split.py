"""Where `toolorch synthesize` writes tasks to: one file, or the two parts of a split.

With `--split` the file OUT.jsonl becomes OUT.train.jsonl, in which what is held out is hidden, and OUT.test.jsonl;
OUT.split.json says which split it was, so that whoever has it knows what is held out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Literal, Self

import typer

if TYPE_CHECKING:
    from toolorch_rl.synthesis import Split
    from toolorch_rl.tasks import Task

SplitBy = Annotated[
    Literal["task", "tool", "specialist", "price_table"] | None,
    typer.Option("--split", help="Write train and test parts, held out by this."),
]
SplitSeed = Annotated[int, typer.Option(help="Decides what is held out.")]
SplitShare = Annotated[float, typer.Option(help="Share of what is held out.", min=0.001, max=0.999)]


class Parts:
    """The files of a synthesis: written beside their places, and put there together when all went well.

    Args:
        out: The file that was asked for.
        split: How tasks are divided; None: not at all.

    Attributes:
        counts: Tasks written, by file name.
    """

    def __init__(self, out: Path, split: Split | None) -> None:
        self.counts: Counter[str] = Counter()
        self._split = split
        self._about = out.with_name(f"{out.stem}.split.json")
        names = {"": out} if split is None else {}
        if split is not None:
            names = {part: out.with_name(f"{out.stem}.{part}{out.suffix}") for part in ("train", "test")}
        self._places = names
        self._files: dict[str, IO[str]] = {}

    def __enter__(self) -> Self:
        for part, place in self._places.items():
            self._files[part] = _beside(place).open("w", encoding="utf-8")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for file in self._files.values():
            file.close()
        for place in self._places.values():
            self.counts[place.name] += 0
            if kind is None:
                _beside(place).replace(place)
            else:
                _beside(place).unlink(missing_ok=True)
        if kind is None and self._split is not None:
            self._about.write_text(self._split.model_dump_json() + "\n", encoding="utf-8")

    def write(self, task: Task, line: Callable[[Task], str]) -> None:
        """Write a task to the file that it belongs to."""
        part: str = "" if self._split is None else self._split.part(task)
        if self._split is not None and part == "train":
            task = self._split.hidden(task)
        self._files[part].write(line(task) + "\n")
        self.counts[self._places[part].name] += 1


def _beside(place: Path) -> Path:
    return place.with_name(f"{place.name}.part")
