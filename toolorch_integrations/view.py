"""What one request sees of a catalogue: entries hidden, renamed, re-priced or shortlisted."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from toolorch_integrations.entry import AnyEntry, Price, Specialist, is_name
from toolorch_integrations.errors import CatalogError, UnknownEntryError
from toolorch_integrations.schema import canonical_parameters


class CatalogFilter(BaseModel):
    """What one request changes about the catalogue.

    Attributes:
        allow: Only these entries; None allows all.
        deny: Not these; it wins over `allow`.
        aliases: Name shown to the policy, by catalogue name.
        prices: Price shown and charged, by catalogue name.
        latencies: Seconds shown, by catalogue name.
        shortlist: Show only so many specialists, those whose descriptions share most words with the request.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    allow: frozenset[str] | None = None
    deny: frozenset[str] = frozenset()
    aliases: Mapping[str, str] = Field(default_factory=dict)
    prices: Mapping[str, Price] = Field(default_factory=dict)
    latencies: Mapping[str, float] = Field(default_factory=dict)
    shortlist: int | None = Field(None, ge=1)

    def over(self, base: CatalogFilter) -> CatalogFilter:
        """Return a filter with what was set here, and what `base` says for the rest, down to single entries.

        What either denies is denied. `allow` and `shortlist` of `base` give way to those that were named here.

        Example:
            >>> merged = CatalogFilter(aliases={"coder": "a"}).over(CatalogFilter(deny={"expert"}))
            >>> merged.deny, merged.aliases
            (frozenset({'expert'}), {'coder': 'a'})
        """
        update: dict[str, Any] = {name: getattr(self, name) for name in self.model_fields_set}
        for name in self.model_fields_set & {"aliases", "prices", "latencies"}:
            update[name] = {**getattr(base, name), **getattr(self, name)}
        return base.model_copy(update={**update, "deny": base.deny | self.deny})

    def within(self, bounds: CatalogFilter) -> CatalogFilter:
        """Return `over(bounds)`, showing no entry that `bounds` hides and no longer shortlist.

        For callers who may ask for less only.
        """
        allowed = [allow for allow in (self.allow, bounds.allow) if allow is not None]
        shortlists = [count for count in (self.shortlist, bounds.shortlist) if count is not None]
        return self.over(bounds).model_copy(
            update={
                "allow": frozenset.intersection(*allowed) if allowed else None,
                "shortlist": min(shortlists, default=None),
            }
        )


class CatalogView:
    """One request's view of a catalogue: what is shown, under which name, at which price."""

    def __init__(self, entries: Iterable[AnyEntry], changes: CatalogFilter, request: str = "") -> None:
        entries = list(entries)
        _check(entries, changes)
        shown = [
            _changed(entry, changes)
            for entry in entries
            if entry.name not in changes.deny and (changes.allow is None or entry.name in changes.allow)
        ]
        if changes.shortlist is not None:
            shown = _shortlisted(shown, request, changes.shortlist)
        self._shown: dict[str, AnyEntry] = {}
        for entry in shown:
            alias = changes.aliases.get(entry.name, entry.name)
            if not is_name(alias):
                raise CatalogError(
                    f"The alias {alias!r} of {entry.name!r} must be 1 to 64 letters, digits, '_', '.' or '-'."
                )
            if alias in self._shown:
                raise CatalogError(f"Two entries would be shown as {alias!r}: choose another alias.")
            self._shown[alias] = entry
        self._alias = {entry.name: alias for alias, entry in self._shown.items()}

    @property
    def names(self) -> tuple[str, ...]:
        """The names that the policy sees, in order."""
        return tuple(self._shown)

    @property
    def entries(self) -> tuple[AnyEntry, ...]:
        """The entries that are shown, with this request's prices."""
        return tuple(self._shown.values())

    def resolve(self, alias: str) -> AnyEntry:
        """Return the entry behind a name that the policy wrote.

        Raises:
            UnknownEntryError: No entry is shown under that name.
        """
        try:
            return self._shown[alias]
        except KeyError:
            raise UnknownEntryError(f"There is no tool {alias!r}; choose one of {list(self._shown)}.") from None

    def alias(self, name: str) -> str:
        """Return the name under which a catalogue entry is shown.

        Raises:
            UnknownEntryError: This request hides the entry.
        """
        try:
            return self._alias[name]
        except KeyError:
            raise UnknownEntryError(f"This request does not show the entry {name!r}.") from None

    @property
    def aliases(self) -> Mapping[str, str]:
        """Alias by catalogue name, for the entries that are shown."""
        return self._alias

    def schemas(self) -> list[dict[str, Any]]:
        """Return the tool schemas of the `chat` rendering, in OpenAI's format."""
        return [entry.function_schema(alias) for alias, entry in self._shown.items()]

    def snapshot(self) -> list[dict[str, Any]]:
        """Return what was shown as JSON-safe values, for a trace; endpoints are left out, keys are never held."""
        hidden = {"endpoint", "system_prompt"}
        shown = [
            {"alias": alias, **entry.model_dump(mode="json", exclude=hidden, exclude_defaults=True), "kind": entry.kind}
            for alias, entry in self._shown.items()
        ]
        for item in shown:  # whichever framework described the tool
            if "parameters" in item:
                item["parameters"] = canonical_parameters(item["parameters"])
        return shown

    def fingerprint(self) -> str:
        """Return a hash of `snapshot`: equal catalogues have equal fingerprints in any process."""
        return hashlib.sha256(json.dumps(self.snapshot(), sort_keys=True).encode()).hexdigest()[:32]


def _check(entries: list[AnyEntry], changes: CatalogFilter) -> None:
    known = {entry.name for entry in entries}
    for field in ("allow", "deny", "aliases", "prices", "latencies"):
        for name in getattr(changes, field) or ():
            if name not in known:
                raise UnknownEntryError(f"{field} names {name!r}, which the catalogue does not have: {sorted(known)}.")


def _changed(entry: AnyEntry, changes: CatalogFilter) -> AnyEntry:
    update: dict[str, Any] = {}
    if entry.name in changes.prices:
        update["price"] = changes.prices[entry.name]
    if entry.name in changes.latencies:
        update["latency"] = changes.latencies[entry.name]
    return entry.model_copy(update=update) if update else entry


def _shortlisted(entries: list[AnyEntry], request: str, count: int) -> list[AnyEntry]:
    """Keep all tools and the `count` specialists nearest to the request; ties keep the catalogue's order."""
    words = set(re.findall(r"\w+", request.lower()))

    def nearness(entry: AnyEntry) -> int:
        text = f"{entry.name} {entry.description} {' '.join(entry.capabilities)}".lower()
        return len(words & set(re.findall(r"\w+", text)))

    specialists = [entry for entry in entries if isinstance(entry, Specialist)]
    kept = {entry.name for entry in sorted(specialists, key=nearness, reverse=True)[:count]}
    return [entry for entry in entries if not isinstance(entry, Specialist) or entry.name in kept]
