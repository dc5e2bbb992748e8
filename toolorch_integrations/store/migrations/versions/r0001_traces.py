"""Traces, their graphs and calls, feedback and rewards."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Boolean, Column, Double, ForeignKey, Integer, LargeBinary, Text

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables of the first release."""
    op.create_table("toolorch_schema", Column("version", Integer, primary_key=True))
    op.create_table("snapshots", Column("hash", Text, primary_key=True), _text("body"))
    _traces()
    _nodes()
    _calls()
    op.create_table(
        "feedback",
        Column("id", Text, primary_key=True),
        _trace_id(),
        _text("name"),
        Column("score", Double),
        _text("comment"),
        _text("source"),
        _double("created"),
    )
    op.create_index("feedback_trace", "feedback", ["trace_id"])
    op.create_table(
        "rewards",
        Column("id", Text, primary_key=True),
        _trace_id(),
        _text("values"),
        _text("verifier"),
        _double("created"),
    )
    op.create_index("rewards_trace", "rewards", ["trace_id"])


def _traces() -> None:
    op.create_table(
        "traces",
        Column("id", Text, primary_key=True),
        _text("status"),
        _double("started"),
        Column("ended", Double),
        *map(_text, ("app", "framework", "thread_id", "request", "answer", "error")),
        Column("preferences", Text),
        Column("budget", Text),
        _text("catalog_hash"),
        _text("policy_versions"),
        Column("exact", Boolean, nullable=False),
        *map(_integer, ("turns", "calls", "input_tokens", "output_tokens")),
        _double("dollars"),
        _double("seconds"),
        _text("metadata"),
        _text("host"),
        _text("boot"),
        _integer("pid"),
        Column("process_start", BigInteger, nullable=False),
        _integer("revision"),
    )
    op.create_index("traces_started", "traces", ["started", "id"])
    op.create_index("traces_status", "traces", ["status"])
    op.create_index("traces_thread", "traces", ["thread_id"])


def _nodes() -> None:
    op.create_table(
        "nodes",
        _trace_id(primary_key=True),
        Column("idx", Integer, primary_key=True),
        Column("parent", Integer),
        _text("role"),
        _text("message"),
        Column("token_ids", LargeBinary),
        Column("logprobs", LargeBinary),
        Column("exact", Boolean, nullable=False),
        Column("sampled", Boolean, nullable=False),
        *(
            Column(name, Text)
            for name in ("model", "response_id", "sampling", "logprobs_mode", "finish_reason", "usage")
        ),
        *(Column(name, Double) for name in ("started", "seconds", "dollars")),
        Column("agent", Text),
        Column("is_policy", Boolean),
        *(Column(name, Text) for name in ("tools", "raw_text", "invalid_tool_calls", "rewrites")),
    )


def _calls() -> None:
    op.create_table(
        "calls",
        _trace_id(primary_key=True),
        Column("idx", Integer, primary_key=True),
        Column("node", Integer),
        *map(_text, ("kind", "name", "status", "model")),
        *map(_integer, ("input_tokens", "output_tokens")),
        _double("dollars"),
        _double("seconds"),
        _integer("attempts"),
        _text("call_id"),
        _integer("turn"),
        _text("run_id"),
        _text("error"),
        Column("confirmed", Boolean, nullable=False),
        Column("arguments", Text),
        _text("result"),
        _integer("result_length"),
        _double("started"),
        _text("agent"),
    )


def _text(name: str) -> Column[str]:
    return Column(name, Text, nullable=False)


def _integer(name: str) -> Column[int]:
    return Column(name, Integer, nullable=False)


def _double(name: str) -> Column[float]:
    return Column(name, Double, nullable=False)


def _trace_id(primary_key: bool = False) -> Column[str]:
    key = ForeignKey("traces.id", ondelete="CASCADE")
    return Column("trace_id", Text, key, primary_key=primary_key, nullable=False)
