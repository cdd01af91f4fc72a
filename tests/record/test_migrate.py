"""Up, down, twice, and two at once."""

import threading
from datetime import timedelta

import psycopg
import pytest

from extraction_record import migrate
from extraction_record.connection import Place
from extraction_record.patience import retry


def shape(database) -> list[tuple[object, ...]]:
    """Return every column, index and view of the record."""
    columns = database.execute(
        "SELECT table_name, column_name, data_type FROM information_schema.columns WHERE table_schema = 'extraction'"
        " ORDER BY 1, 2"
    )
    indexes = database.execute("SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'extraction' ORDER BY 1")
    return columns + indexes


def test_up_down_and_up_again_is_the_same(database, empty: Place):
    migrate.upgrade(empty)
    first = shape(database)
    assert migrate.current(empty) == ("0003", "0003")
    assert ("jobs", "rows", "bigint") in first
    assert {("jobs", "sessions_leaked", "bigint"), ("bundles", "session_checkouts", "bigint")} <= set(first)
    assert ("jobs", "started_at", "timestamp with time zone") in first
    assert ("job_specs", "spec", "jsonb") in first
    migrate.downgrade(empty, "base")
    assert migrate.current(empty) == (None, "0003")
    left = {row[0] for row in shape(database)}
    assert left == {"alembic_version", "alembic_version_pkc"}
    migrate.upgrade(empty)
    assert shape(database) == first


def test_steps_back_keep_what_was_recorded(database, empty: Place):
    migrate.upgrade(empty)
    newest = shape(database)
    database.execute(
        "INSERT INTO extraction.jobs (uid, created_at, cluster, namespace, name, source, generation, resource_version,"
        " phase, attempt, sink, format, verification, reused_run, sessions) SELECT gen_random_uuid(), now(), 'c', 'n',"
        " 'j', 's', 1, 1, 'Succeeded', 1, 's', 'Parquet', 'Written', 'uid-1', 8"
    )
    migrate.downgrade(empty, "0002")
    assert database.execute("SELECT name, reused_run FROM extraction.jobs") == [("j", "uid-1")]
    assert not [name for table, name, *_ in shape(database) if table == "jobs" and str(name).startswith("session")]
    migrate.downgrade(empty, "0001")
    assert database.execute("SELECT name FROM extraction.jobs") == [("j",)]
    assert ("jobs", "reused_run", "text") not in shape(database)
    migrate.upgrade(empty)
    assert database.execute("SELECT name, reused_run, sessions FROM extraction.jobs") == [("j", None, None)]
    assert shape(database) == newest


def test_up_twice_changes_nothing(database, empty: Place):
    migrate.upgrade(empty)
    database.execute("INSERT INTO extraction.schedules VALUES (gen_random_uuid(), 'c', 'n', 's', now())")
    migrate.upgrade(empty)
    assert database.execute("SELECT count(*) FROM extraction.schedules") == [(1,)]


def test_two_at_once_are_one_after_the_other(database, empty: Place):
    errors: list[BaseException] = []
    barrier = threading.Barrier(4)

    def run() -> None:
        barrier.wait()
        try:
            migrate.upgrade(empty)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert migrate.current(empty) == ("0003", "0003")
    assert database.execute("SELECT count(*) FROM extraction.alembic_version") == [(1,)]


def test_a_step_that_fails_leaves_nothing(database, empty: Place):
    # A view of this name is in the way of the last statements.
    database.execute("CREATE SCHEMA extraction CREATE TABLE daily (x int)")
    with pytest.raises(psycopg.Error):
        migrate.upgrade(empty)
    assert database.execute("SELECT table_name FROM information_schema.tables WHERE table_schema = 'extraction'") == [
        ("daily",)
    ]
    database.execute("DROP TABLE extraction.daily")
    migrate.upgrade(empty)
    assert migrate.current(empty)[0] == "0003"


def test_a_server_that_is_away_is_waited_for_within_bounds():
    now, tries = [0.0], []

    def work() -> None:
        tries.append(now[0])
        if len(tries) < 4:
            raise psycopg.OperationalError("away")

    def sleep(seconds: float) -> None:
        now[0] += seconds

    retry(work, timedelta(seconds=60), clock=lambda: now[0], sleep=sleep)
    assert tries == [0.0, 0.5, 1.5, 3.5]
    tries.clear()
    with pytest.raises(psycopg.OperationalError):
        retry(work, timedelta(seconds=1), clock=lambda: now[0], sleep=sleep)
