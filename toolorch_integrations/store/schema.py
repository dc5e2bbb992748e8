"""The tables of a trace store: the same for SQLite and PostgreSQL.

Token ids are little-endian uint32 and log-probabilities little-endian float32, in binary columns. JSON is kept as
text: it reads back as it was written, and PostgreSQL's JSON types refuse some of what models write.

These are the tables that queries are written with; `migrations` makes them in a database.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)

SCHEMA_VERSION = 2
"""The newest of `migrations/versions`."""

metadata = MetaData()

schema_version = Table("toolorch_schema", metadata, Column("version", Integer, primary_key=True))

snapshots = Table(
    "snapshots",
    metadata,
    Column("hash", Text, primary_key=True),
    Column("body", Text, nullable=False),
)

traces = Table(
    "traces",
    metadata,
    Column("id", Text, primary_key=True),
    Column("status", Text, nullable=False),
    Column("started", Double, nullable=False),
    Column("ended", Double),
    Column("app", Text, nullable=False),
    Column("framework", Text, nullable=False),
    Column("thread_id", Text, nullable=False),
    Column("request", Text, nullable=False),
    Column("answer", Text, nullable=False),
    Column("error", Text, nullable=False),
    Column("preferences", Text),
    Column("budget", Text),
    Column("catalog_hash", Text, nullable=False),
    Column("policy_versions", Text, nullable=False),
    Column("exact", Boolean, nullable=False),
    Column("turns", Integer, nullable=False),
    Column("calls", Integer, nullable=False),
    Column("input_tokens", Integer, nullable=False),
    Column("output_tokens", Integer, nullable=False),
    Column("dollars", Double, nullable=False),
    Column("seconds", Double, nullable=False),
    Column("metadata", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("boot", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("process_start", BigInteger, nullable=False),
    Column("revision", Integer, nullable=False),
    Index("traces_started", "started", "id"),
    Index("traces_status_started", "status", "started", "id"),
    Index("traces_app_started", "app", "started", "id"),
    Index("traces_thread_id_started", "thread_id", "started", "id"),
)


def _trace_id(primary_key: bool = False) -> Column[str]:
    key = ForeignKey("traces.id", ondelete="CASCADE")
    return Column("trace_id", Text, key, primary_key=primary_key, nullable=False)


nodes = Table(
    "nodes",
    metadata,
    _trace_id(primary_key=True),
    Column("idx", Integer, primary_key=True),
    Column("parent", Integer),
    Column("role", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("token_ids", LargeBinary),
    Column("logprobs", LargeBinary),
    Column("exact", Boolean, nullable=False),
    Column("sampled", Boolean, nullable=False),
    # Only sampled nodes have the rest.
    Column("model", Text),
    Column("response_id", Text),
    Column("sampling", Text),
    Column("logprobs_mode", Text),
    Column("finish_reason", Text),
    Column("usage", Text),
    Column("started", Double),
    Column("seconds", Double),
    Column("dollars", Double),
    Column("agent", Text),
    Column("is_policy", Boolean),
    Column("tools", Text),
    Column("raw_text", Text),
    Column("invalid_tool_calls", Text),
    Column("rewrites", Text),
)

calls = Table(
    "calls",
    metadata,
    _trace_id(primary_key=True),
    Column("idx", Integer, primary_key=True),
    Column("node", Integer),
    Column("kind", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("input_tokens", Integer, nullable=False),
    Column("output_tokens", Integer, nullable=False),
    Column("dollars", Double, nullable=False),
    Column("seconds", Double, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("call_id", Text, nullable=False),
    Column("turn", Integer, nullable=False),
    Column("run_id", Text, nullable=False),
    Column("error", Text, nullable=False),
    Column("confirmed", Boolean, nullable=False),
    Column("arguments", Text),
    Column("result", Text, nullable=False),
    Column("result_length", Integer, nullable=False),
    Column("started", Double, nullable=False),
    Column("agent", Text, nullable=False),
)

feedback = Table(
    "feedback",
    metadata,
    Column("id", Text, primary_key=True),
    _trace_id(),
    Column("name", Text, nullable=False),
    Column("score", Double),
    Column("comment", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("created", Double, nullable=False),
    Index("feedback_trace", "trace_id"),
)

rewards = Table(
    "rewards",
    metadata,
    Column("id", Text, primary_key=True),
    _trace_id(),
    Column("values", Text, nullable=False),
    Column("verifier", Text, nullable=False),
    Column("created", Double, nullable=False),
    Index("rewards_trace", "trace_id"),
)

run_aliases = Table(
    "run_aliases",
    metadata,
    # A run that resumed a trace, and the trace that its events belong to.
    Column("run_id", Text, primary_key=True),
    _trace_id(),
    Index("run_aliases_trace", "trace_id"),
)

spool_positions = Table(
    "spool_positions",
    metadata,
    Column("spool", Text, primary_key=True),
    # All events of the spool with numbers up to this one are in the store.
    Column("position", BigInteger, nullable=False),
    Column("written", Double, nullable=False),
)

gateway_spending = Table(
    "gateway_spending",
    metadata,
    # What each key of the gateways on this store has spent in a day.
    Column("day", Integer, primary_key=True, autoincrement=False),  # Days since 1970, UTC.
    Column("name", Text, primary_key=True),
    Column("dollars", Double, nullable=False),
)

holds = Table(
    "holds",
    metadata,
    # Somebody reads the store for long: until then retention deletes nothing.
    Column("id", Text, primary_key=True),
    Column("reason", Text, nullable=False),
    Column("until", Double, nullable=False),
)

promotions = Table(
    "promotions",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("promotion", Text, nullable=False),
    Column("step", Text, nullable=False),
    Column("time", Double, nullable=False),
    Column("candidate", Text, nullable=False),
    Column("incumbent", Text, nullable=False),
    Column("folder", Text, nullable=False),
    Column("share", Double, nullable=False),
    Column("reason", Text, nullable=False),
    Column("evidence", Text, nullable=False),
    # A step is taken once; two processes on PostgreSQL could both find that they are the next.
    UniqueConstraint("promotion", "step"),
)
