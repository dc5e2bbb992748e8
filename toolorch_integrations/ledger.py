"""What a run has spent: one record for every policy, specialist and tool call.

The ledger is plain data. A face keeps it in its own state (so that it survives a checkpoint) as the dictionaries
that `Call.to_dict` gives, and reads it back with `Ledger.from_dicts`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from operator import attrgetter
from typing import Any


class CallKind(StrEnum):
    """Who was called."""

    POLICY = "policy"
    SPECIALIST = "specialist"
    TOOL = "tool"


class CallStatus(StrEnum):
    """How a call ended."""

    OK = "ok"
    ERROR = "error"
    """It raised, or its endpoint gave no usable answer after the last retry."""
    TIMEOUT = "timeout"
    UNKNOWN = "unknown"
    """No entry of the catalogue has that name, or the request hides it."""
    MALFORMED = "malformed"
    """The arguments do not fit the schema, or are not JSON."""
    REFUSED = "refused"
    """A person said no to a destructive call."""
    BUDGET = "budget"
    """Not made, because the budget had ended."""


@dataclass(slots=True)
class Call:
    """One call and what it cost."""

    kind: CallKind
    name: str
    """Catalogue name (not the alias the policy saw); for the policy, its served model name."""
    status: CallStatus = CallStatus.OK
    model: str = ""
    """Model that answered, as its endpoint reports it; empty for tools."""
    input_tokens: int = 0
    output_tokens: int = 0
    dollars: float = 0.0
    seconds: float = 0.0
    """Wall clock of the call, retries included."""
    attempts: int = 1
    call_id: str = ""
    """`tool_call_id` of a tool or specialist call; the endpoint's response id of a policy call."""
    turn: int = 0
    """Number of the policy call, from 1, that this call is or that asked for it."""
    run_id: str = ""
    """The request that the call belongs to: one conversation may hold many."""
    error: str = ""
    confirmed: bool = False
    """A person said yes to it before it was made."""

    def to_dict(self) -> dict[str, Any]:
        """Return the call as JSON-safe values, for a framework's state."""
        plain = dict(zip(_CALL_FIELDS, _field_values(self), strict=True))
        return plain | {"kind": str(self.kind), "status": str(self.status)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Call:
        """Read what `to_dict` gave; keys of later versions are ignored."""
        known = {key: value for key, value in data.items() if key in _CALL_FIELDS}
        known["kind"] = CallKind(known["kind"])
        known["status"] = CallStatus(known.get("status", CallStatus.OK))
        return cls(**known)


_CALL_FIELDS = tuple(f.name for f in fields(Call))
_field_values = attrgetter(*_CALL_FIELDS)


@dataclass(slots=True)
class Ledger:
    """The calls of a run, in the order in which they ended."""

    calls: list[Call] = field(default_factory=list)

    @classmethod
    def from_dicts(cls, items: Iterable[Mapping[str, Any]], run_id: str | None = None) -> Ledger:
        """Read a ledger from a framework's state.

        Args:
            items: What `Call.to_dict` gave.
            run_id: Keep only the calls of this run.
        """
        calls = [Call.from_dict(item) for item in items]
        return cls([call for call in calls if run_id is None or call.run_id == run_id])

    def __iter__(self) -> Iterator[Call]:
        return iter(self.calls)

    def __len__(self) -> int:
        return len(self.calls)

    def of(self, kind: CallKind) -> list[Call]:
        """Return the calls of one kind."""
        return [call for call in self.calls if call.kind is kind]

    @property
    def turns(self) -> int:
        """Number of policy calls."""
        return [call.kind for call in self.calls].count(CallKind.POLICY)

    @property
    def dollars(self) -> float:
        """What all calls cost together, the policy's own tokens included."""
        return sum([call.dollars for call in self.calls])

    @property
    def seconds(self) -> float:
        """Sum of the calls' wall clocks; calls that ran side by side count each."""
        return sum(call.seconds for call in self.calls)

    @property
    def tokens(self) -> tuple[int, int]:
        """Input and output tokens of all calls."""
        return sum(c.input_tokens for c in self.calls), sum(c.output_tokens for c in self.calls)

    def counts(self) -> dict[str, int]:
        """Return how often each tool and specialist was called."""
        counts: dict[str, int] = {}
        for call in self.calls:
            if call.kind is not CallKind.POLICY:
                counts[call.name] = counts.get(call.name, 0) + 1
        return counts

    def summary(self) -> dict[str, Any]:
        """Return totals as JSON-safe values, for progress events and traces."""
        tokens_in, tokens_out = self.tokens
        return {
            "turns": self.turns,
            "calls": self.counts(),
            "input_tokens": tokens_in,
            "output_tokens": tokens_out,
            "dollars": round(self.dollars, 9),
            "seconds": round(self.seconds, 4),
        }

    def to_text(self) -> str:
        """Return the ledger as a fixed-width table for a terminal."""
        head = f"{'call':<28}{'status':<10}{'tokens in':>10}{'out':>7}{'dollars':>12}{'seconds':>9}"
        rows = [
            f"{call.kind.value + ' ' + call.name:<28.28}{call.status.value:<10}{call.input_tokens:>10}"
            f"{call.output_tokens:>7}{call.dollars:>12.6f}{call.seconds:>9.2f}"
            for call in self.calls
        ]
        tokens_in, tokens_out = self.tokens
        total = f"{'total':<38}{tokens_in:>10}{tokens_out:>7}{self.dollars:>12.6f}{self.seconds:>9.2f}"
        return "\n".join([head, *rows, total])
