"""What many writers need: spools, resumed runs, holds, spending, the record of promotions, indexes of listings."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, Double, ForeignKey, Integer, Text, UniqueConstraint, inspect

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the tables, and indexes by which a page of a listing is read without the rest."""
    op.create_table(
        "run_aliases",
        Column("run_id", Text, primary_key=True),
        Column("trace_id", Text, ForeignKey("traces.id", ondelete="CASCADE"), nullable=False),
    )
    op.create_index("run_aliases_trace", "run_aliases", ["trace_id"])
    op.create_table(
        "spool_positions",
        Column("spool", Text, primary_key=True),
        Column("position", BigInteger, nullable=False),
        Column("written", Double, nullable=False),
    )
    op.create_table(
        "holds",
        Column("id", Text, primary_key=True),
        Column("reason", Text, nullable=False),
        Column("until", Double, nullable=False),
    )
    op.create_table(
        "gateway_spending",
        Column("day", Integer, primary_key=True, autoincrement=False),
        Column("name", Text, primary_key=True),
        Column("dollars", Double, nullable=False),
    )
    if not inspect(op.get_bind()).has_table("promotions"):  # The first release made it when it was first used.
        _promotions()
    op.drop_index("traces_status", "traces")
    op.drop_index("traces_thread", "traces")
    for name in ("status", "app", "thread_id"):
        op.create_index(f"traces_{name}_started", "traces", [name, "started", "id"])


def _promotions() -> None:
    op.create_table(
        "promotions",
        Column("number", Integer, primary_key=True, autoincrement=True),
        Column("promotion", Text, nullable=False),
        Column("step", Text, nullable=False),
        Column("time", Double, nullable=False),
        *(Column(name, Text, nullable=False) for name in ("candidate", "incumbent", "folder")),
        Column("share", Double, nullable=False),
        Column("reason", Text, nullable=False),
        Column("evidence", Text, nullable=False),
        UniqueConstraint("promotion", "step"),
    )
