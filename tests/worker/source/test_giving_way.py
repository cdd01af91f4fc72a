"""Giving way where no holder does it: who looks, when, and for whom."""

import contextlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

import psycopg
import pytest

from extraction_worker.source import giving_way as module
from extraction_worker.source.giving_way import GivingWay, Yielding
from extraction_worker.source.session import begin, connect
from extraction_worker.source.slots import SlotBudget
from support.databases import settings_of, wait_until

AFTER = 0.2
FAMILY = "extraction/default/job"


@pytest.fixture
def settings(database):
    database.execute("CREATE TABLE t (id int8 PRIMARY KEY)")
    return settings_of(database, application_name=f"{FAMILY}/pod", slots=SlotBudget(database.name, 10, database.name))


@pytest.fixture
def reader(settings):
    with closing(connect(settings)) as connection:
        begin(connection, settings, locks=["public.t"])
        yield connection


def giving_way(settings, said, *, since: float | None = 0.0, now: float = AFTER) -> GivingWay:
    """Return what looks for a process that reads since a moment."""
    return GivingWay(settings, Yielding(FAMILY, AFTER), lambda: since, said.append, clock=lambda: now)


def looking(database) -> int:
    """Return how many sessions look."""
    key = SlotBudget(database.name, 10, database.name).yield_key
    query = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid::int8 = %s"
    return database.execute(query, key)[0][0]


@contextlib.contextmanager
def waiting_ddl(database):
    """Run DDL that waits for a reader, which must end within the block; yields its future once it waits for long."""
    with closing(psycopg.connect(database.conninfo, autocommit=True)) as connection, ThreadPoolExecutor(1) as threads:
        connection.execute("SET statement_timeout = '20s'")
        done = threads.submit(connection.execute, "ALTER TABLE t ADD COLUMN more int")
        waiting = "SELECT 1 FROM pg_locks WHERE NOT granted AND waitstart < clock_timestamp() - interval '0.2 s'"
        wait_until(lambda: database.execute(waiting))
        yield done


def test_who_waited_too_long_for_a_reader_is_let_through(settings, reader, database):
    said: list[str] = []
    looks = giving_way(settings, said)
    with waiting_ddl(database) as ddl:
        looks.start()
        ddl.result()
    with pytest.raises(psycopg.OperationalError):
        reader.execute("SELECT 1")
    looks.stop()
    assert set(said) == {"Sessions that read were ended, because somebody waited for t."}
    wait_until(lambda: looking(database) == 0)


def test_nobody_asks_the_server_while_chunks_are_young(settings, reader, database):
    with waiting_ddl(database) as ddl:
        for since in (None, 0.1):
            giving_way(settings, [], since=since).look()
        assert looking(database) == 0
        assert not ddl.done()
        reader.rollback()


def test_readers_of_other_jobs_are_left_alone(settings, database):
    other = replace(settings, application_name="extraction/default/job2/pod", slots=None)
    with closing(connect(other)) as reader:
        begin(reader, other, locks=["public.t"])
        with waiting_ddl(database):
            looks = giving_way(settings, [])
            assert looks.look() == module._POLL
            assert len(looks._late(looks._connection)) == 1
            looks._close()
            assert reader.execute("SELECT 1").fetchone() == (1,)
            reader.rollback()


def test_one_process_of_a_run_looks_and_another_takes_over(settings, database):
    first, second = giving_way(settings, []), giving_way(settings, [])
    assert first.look() == module._POLL
    assert second.look() == module._KNOCK
    assert looking(database) == 1
    first._close()
    wait_until(lambda: second.look() == module._POLL)
    second._close()


def test_an_older_server_doesnt_say_since_when(settings, reader, database, monkeypatch):
    monkeypatch.setattr(module, "_SINCE_WAITSTART", 990000)
    now = AFTER
    looks = GivingWay(settings, Yielding(FAMILY, AFTER), lambda: 0.0, lambda _: None, clock=lambda: now)
    with waiting_ddl(database) as ddl:
        looks.look()
        assert reader.execute("SELECT 1").fetchone() == (1,)
        now += AFTER
        looks.look()
        ddl.result()
    looks._close()


def test_a_server_that_cant_be_asked_is_asked_again(settings, reader, database, monkeypatch):
    tries = []

    def refuse(*arguments):
        tries.append(arguments)
        if len(tries) == 1:
            raise psycopg.OperationalError("away")
        return connect(*arguments)

    monkeypatch.setattr(module, "connect", refuse)
    monkeypatch.setattr(module, "_KNOCK", 0.05)
    looks = giving_way(settings, [])
    with waiting_ddl(database) as ddl:
        looks.start()
        ddl.result()
    looks.stop()
    assert len(tries) == 2
