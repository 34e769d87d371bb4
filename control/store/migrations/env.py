"""Run by Alembic, which the store calls with a connection of its own when it opens a database.

A change of the tables is a new file in versions/, written by hand beside the tables of
schema.py; a test compares the two."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
