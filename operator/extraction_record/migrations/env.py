"""Run by Alembic for each command; the connection is in a transaction that holds the lock."""

from alembic import context

from extraction_record.migrate import SCHEMA

context.configure(
    connection=context.config.attributes["connection"], version_table_schema=SCHEMA, transaction_per_migration=False
)
with context.begin_transaction():
    context.run_migrations()
