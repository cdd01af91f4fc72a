"""Sources, schedules, jobs, attempts and bundles; views for BI tools."""

from extraction_record.migrate import run_file

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create everything."""
    run_file("0001_record.up.sql")


def downgrade() -> None:
    """Drop everything, with all that was recorded."""
    run_file("0001_record.down.sql")
