"""The work folder: what was paid for is written down at once, and never paid for again.

Each stage has a journal of JSON lines, one for each answer or try, under a key that is made of all that was asked. A
line is written by one `write` and flushed to the disk before anything is done with it. A process that is killed leaves
at most half a line at the end, which is cut off when the journal is opened again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Self

from toolorch_rl.synthesis.by_model.errors import SynthesisError


def key_of(*parts: Any) -> str:
    """Return a key made of all that an entry depends on."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class Journal:
    """A stage's entries by key.

    Raises:
        SynthesisError: A line in the middle of the file is broken; the message names file and line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: dict[str, dict[str, Any]] = {}
        if path.exists():
            self._read()
        self._file: IO[bytes] = path.open("ab")

    def add(self, key: str, entry: dict[str, Any]) -> None:
        """Write an entry down; it is on the disk when this returns."""
        line = json.dumps({"key": key, **entry}, ensure_ascii=False).encode() + b"\n"
        self._file.write(line)
        self._file.flush()
        os.fsync(self._file.fileno())
        self.entries[key] = entry

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _read(self) -> None:
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            with self.path.open("r+b") as file:
                file.truncate(whole)
        for number, line in enumerate(data[:whole].splitlines(), 1):
            try:
                entry = json.loads(line)
                self.entries[entry.pop("key")] = entry
            except (ValueError, KeyError, TypeError, AttributeError):
                raise SynthesisError(
                    f"{self.path}, line {number}: it is no entry of a journal: remove the line, or take another folder."
                ) from None


class WorkFolder:
    """A folder with the journals of all stages, held by one process at a time.

    Raises:
        SynthesisError: Another process works in it, or it cannot be written to.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._journals: dict[str, Journal] = {}
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = (self.path / "lock").open("w")
        except OSError as error:
            raise SynthesisError(f"The work folder {self.path} cannot be used: {error}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise SynthesisError(
                f"Another process works in {self.path}: wait for it, or take another folder."
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for journal in self._journals.values():
            journal.close()
        self._lock.close()

    def journal(self, stage: str) -> Journal:
        """Return a stage's journal."""
        if stage not in self._journals:
            self._journals[stage] = Journal(self.path / f"{stage}.jsonl")
        return self._journals[stage]

    def entries(self, stage: str) -> Iterator[dict[str, Any]]:
        """Give what a stage's journal holds."""
        yield from self.journal(stage).entries.values()
