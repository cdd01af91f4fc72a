"""Whose result a job took instead of reading."""

from extraction_record.migrate import run_file

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the column."""
    run_file("0002_reuse.up.sql")


def downgrade() -> None:
    """Drop it, with what it has."""
    run_file("0002_reuse.down.sql")
