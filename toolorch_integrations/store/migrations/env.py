"""Alembic's entry: runs on the connection that `upgrade` gives, within its transaction."""

from alembic import context

from toolorch_integrations.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=context.config.attributes["version_table"],
)
with context.begin_transaction():
    context.run_migrations()
