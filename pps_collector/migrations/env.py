"""Run by Alembic for each upgrade; the connection and its transaction are the caller's."""

from alembic import context

from pps_collector.store.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
