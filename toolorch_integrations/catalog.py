"""The catalogue of an app: all tools and specialists that its orchestrator may call."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Hashable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from toolorch_integrations.entry import AnyEntry, Specialist, Tool
from toolorch_integrations.errors import CatalogError, MissingVariableError, UnknownEntryError
from toolorch_integrations.recent import Recent
from toolorch_integrations.view import CatalogFilter, CatalogView

_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


class Catalog:
    """All tools and specialists of an app, by name, in a fixed order.

    Args:
        entries: Tools and specialists.

    Raises:
        CatalogError: Two entries share a name, or a fallback names no specialist.

    Example:
        >>> catalog = Catalog([Tool(name="search", price=Price(call=0.01)), Specialist(name="coder")])
        >>> catalog.view(CatalogFilter(aliases={"coder": "expert-1"})).names
        ('search', 'expert-1')
    """

    def __init__(self, entries: Iterable[AnyEntry] = ()) -> None:
        self._entries: dict[str, AnyEntry] = {}
        for entry in entries:
            if entry.name in self._entries:
                raise CatalogError(f"Two entries of the catalogue are named {entry.name!r}: rename one.")
            self._entries[entry.name] = entry
        for entry in self.specialists:
            if entry.fallback is not None and not isinstance(self._entries.get(entry.fallback), Specialist):
                raise CatalogError(f"fallback of {entry.name!r} names {entry.fallback!r}, which is no specialist here.")

    @classmethod
    def from_file(cls, path: str | Path) -> Catalog:
        """Read a catalogue from a TOML or JSON file with the tables `tools` and `specialists`.

        `${NAME}` in any text stands for that environment variable, `${NAME:-other}` gives a default.

        Raises:
            CatalogError: The file cannot be read, or an entry is not valid; the message names entry and field.
            MissingVariableError: A variable is not set and has no default.
        """
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
            data = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
        except (OSError, ValueError) as error:
            raise CatalogError(f"Cannot read the catalogue {path}: {error}") from error
        return cls.from_dict(data, source=str(path))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], source: str = "catalogue") -> Catalog:
        """Read a catalogue from the structure that `from_file` documents."""
        if not isinstance(data, Mapping):
            raise CatalogError(f"{source}: it must hold the tables `tools` and `specialists`, not {data!r:.50}.")
        unknown = set(data) - {"tools", "specialists"}
        if unknown:
            raise CatalogError(f"{source}: unknown table {sorted(unknown)[0]!r}; use `tools` and `specialists`.")
        entries: list[AnyEntry] = []
        for table, kind in (("tools", Tool), ("specialists", Specialist)):
            items = data.get(table, [])
            if not isinstance(items, list):
                raise CatalogError(f"{source}: {table} must be a list of entries: write [[{table}]] in TOML.")
            for index, item in enumerate(items):
                try:
                    entries.append(kind.model_validate(_expand(item, f"{source}: {table}[{index}]")))
                except ValidationError as error:
                    first = error.errors()[0]
                    field = ".".join(str(part) for part in first["loc"])
                    name = item.get("name", index) if isinstance(item, Mapping) else index
                    raise CatalogError(f"{source}: {table}[{name}].{field}: {first['msg']}") from error
        return cls(entries)

    def __iter__(self) -> Iterator[AnyEntry]:
        return iter(self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __getitem__(self, name: str) -> AnyEntry:
        try:
            return self._entries[name]
        except KeyError:
            raise UnknownEntryError(f"The catalogue has no entry {name!r}; it has {sorted(self._entries)}.") from None

    @property
    def tools(self) -> list[Tool]:
        """The tools, in order."""
        return [entry for entry in self if isinstance(entry, Tool)]

    @property
    def specialists(self) -> list[Specialist]:
        """The specialists, in order."""
        return [entry for entry in self if isinstance(entry, Specialist)]

    def with_entries(self, entries: Iterable[AnyEntry]) -> Catalog:
        """Return a catalogue with further entries at its end."""
        return Catalog([*self, *entries])

    def view(self, changes: CatalogFilter | None = None, request: str = "") -> CatalogView:
        """Return what one request sees.

        Args:
            changes: What the request hides, renames, re-prices or shortlists.
            request: The user's words, for the shortlist.

        Raises:
            UnknownEntryError: `changes` names an entry that the catalogue does not have.
            CatalogError: Two entries would be shown under one name.
        """
        return CatalogView(self, changes or CatalogFilter(), request)


class Catalogs(Recent[Hashable, Catalog]):
    """Full catalogues of an agent whose tools may differ from run to run, by the tools' names and schemas."""

    def __init__(self, limit: int = 64) -> None:
        super().__init__(limit)


def _expand(value: Any, where: str) -> Any:
    """Replace `${NAME}` by environment variables in every text of a nested value."""
    if isinstance(value, str):
        return _VARIABLE.sub(lambda match: _variable(match, where), value)
    if isinstance(value, Mapping):
        return {key: _expand(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list):
        return [_expand(item, f"{where}[{index}]") for index, item in enumerate(value)]
    return value


def _variable(match: re.Match[str], where: str) -> str:
    name, default = match.group(1), match.group(2)
    value = os.environ.get(name, default)
    if value is None:
        raise MissingVariableError(f"{where} uses the environment variable {name}, which is not set: export it.")
    return value
