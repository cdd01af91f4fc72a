"""What jobs and bundles did with connections to their source."""

from extraction_record.migrate import run_file

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the columns."""
    run_file("0003_connections.up.sql")


def downgrade() -> None:
    """Drop them, with what they have."""
    run_file("0003_connections.down.sql")
