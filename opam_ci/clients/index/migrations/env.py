"""Runs the steps on the connection that `migrate.py` holds a lock on."""

from alembic import context

from opam_ci.clients.index.schema import METADATA, VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    version_table=VERSION_TABLE,
    # SQLite can do it, in transactions that begin where we say; see engine.py.
    transactional_ddl=True,
)
context.run_migrations()
