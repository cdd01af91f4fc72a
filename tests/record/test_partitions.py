"""Months: made ahead, filled from the default partition, dropped as a whole."""

from datetime import UTC, date, datetime, timedelta

import psycopg
import pytest

from extraction_record import partitions
from extraction_record.partitions import PARENTS

NOW = datetime(2026, 11, 27, tzinfo=UTC)


def names(recorded, parent: str = "jobs") -> list[str]:
    """Return the partitions of a table."""
    found = recorded.execute(
        "SELECT relname::text FROM pg_inherits JOIN pg_class ON oid = inhrelid"
        f" WHERE inhparent = 'extraction.{parent}'::regclass ORDER BY 1"
    )
    return [str(name) for (name,) in found]


def add(recorded, created: str, *, finished: str | None = "created", number: int = 1) -> None:
    """Add jobs that were created at a time, each with an attempt, a bundle and a spec."""
    end = "NULL" if finished is None else f"'{created}'::timestamptz + interval '1 minute'"
    recorded.execute(
        "WITH new AS (INSERT INTO extraction.jobs (uid, created_at, cluster, namespace, name, source, generation,"
        " resource_version, phase, attempt, finished_at, sink, format, verification)"
        f" SELECT gen_random_uuid(), '{created}', 'c', 'n', 'j' || i, 's', 1, i, 'Running', 1, {end}, 'x', 'Parquet',"
        f" 'Written' FROM generate_series(1, {number}) AS i RETURNING uid, created_at),"
        " a AS (INSERT INTO extraction.attempts (job_uid, job_created_at, attempt) SELECT uid, created_at, 1 FROM new),"
        " b AS (INSERT INTO extraction.bundles (job_uid, job_created_at, attempt, bundle, pod_uid, pod, outcome)"
        " SELECT uid, created_at, 1, 0, uid, 'p', 'Succeeded' FROM new)"
        " INSERT INTO extraction.job_specs (job_uid, job_created_at, generation, spec)"
        " SELECT uid, created_at, 1, '{}' FROM new"
    )


def count(recorded, table: str) -> int:
    """Return the number of rows of a table."""
    return int(str(recorded.execute(f"SELECT count(*) FROM extraction.{table}")[0][0]))


def test_months_are_made_ahead_once(recorded):
    made = partitions.make(recorded.connection, months=2, today=date(2031, 11, 27))
    assert made == [f"{parent}_{month}" for parent in PARENTS for month in ("2031_11", "2031_12", "2032_01")]
    assert partitions.make(recorded.connection, months=2, today=date(2031, 12, 1)) == [
        f"{parent}_2032_02" for parent in PARENTS
    ]


def test_a_row_without_a_month_waits_in_the_default_partition_and_moves(recorded):
    add(recorded, "2031-03-31 23:59:59Z", number=3)
    add(recorded, "2031-04-01 00:00:00Z")
    assert [count(recorded, f"{parent}_default") for parent in PARENTS] == [4, 4, 4, 4]
    before = recorded.execute("SELECT * FROM extraction.jobs ORDER BY uid")
    partitions.make(recorded.connection, months=1, today=date(2026, 11, 1))
    for parent in PARENTS:
        assert [count(recorded, f"{parent}_{part}") for part in ("default", "2031_03", "2031_04")] == [0, 3, 1]
    # Also what the server computes.
    assert recorded.execute("SELECT * FROM extraction.jobs ORDER BY uid") == before


def test_old_months_are_dropped_as_a_whole(recorded):
    partitions.make(recorded.connection, months=3, today=date(2025, 1, 1))
    for created in ("2025-01-31 23:59:59Z", "2025-02-28 00:00:00Z", "2025-03-01 00:00:00Z"):
        add(recorded, created)
    add(recorded, "2024-06-01 00:00:00Z")
    recorded.execute(
        "INSERT INTO extraction.schedules (uid, cluster, namespace, name, last_job_at)"
        " VALUES (gen_random_uuid(), 'c', 'n', 'old', '2025-02-01'), (gen_random_uuid(), 'c', 'n', 'new', '2025-12-01')"
    )
    done = partitions.prune(recorded.connection, keep=NOW - datetime(2025, 3, 1, tzinfo=UTC), now=NOW)
    assert done.dropped == tuple(f"{parent}_{month}" for month in ("2025_01", "2025_02") for parent in PARENTS)
    assert (done.kept, done.rows) == ((), 5)
    assert [count(recorded, parent) for parent in PARENTS] == [1, 1, 1, 1]
    assert recorded.execute("SELECT name FROM extraction.schedules") == [("new",)]
    # A day less than two months: March has just begun to be old.
    assert partitions.prune(recorded.connection, keep=timedelta(days=606), now=NOW).dropped == ()


def test_a_month_in_which_a_job_runs_stays(recorded):
    partitions.make(recorded.connection, months=1, today=date(2025, 1, 1))
    add(recorded, "2025-01-15 00:00:00Z", finished=None)
    done = partitions.prune(recorded.connection, keep=timedelta(days=1), now=NOW)
    assert done.kept == ("jobs_2025_01",)
    assert "jobs_2025_02" in done.dropped
    assert count(recorded, "jobs") == 1


def test_a_writer_isnt_kept_waiting_for_long(recorded, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(partitions, "_PATIENCE", "100ms")
    with psycopg.connect(recorded.conninfo) as writer:
        writer.execute("LOCK TABLE extraction.jobs_default IN ROW EXCLUSIVE MODE")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            partitions.make(recorded.connection, months=1, today=date(2031, 1, 1))
    assert "jobs_2031_01" not in names(recorded)
    assert partitions.make(recorded.connection, months=1, today=date(2031, 1, 1))


def test_another_that_has_made_it_meanwhile_is_fine(recorded, monkeypatch: pytest.MonkeyPatch):
    there = partitions._partitions
    looks = iter([{}])
    monkeypatch.setattr(partitions, "_partitions", lambda *given: next(looks, None) or there(*given))
    partitions.make(recorded.connection, months=1, today=date(2031, 1, 1))
    made = partitions.make(recorded.connection, months=1, today=date(2031, 1, 1))
    assert made == []
