"""A source in trouble: what is seen from within our transactions, when jobs slow down, when they give way."""

import threading
from contextlib import closing

import psycopg
import pytest

from extraction_worker.errors import SourceInDanger
from extraction_worker.source.danger import Judge, Lookout, Pacer, Protection, Signs, Waiter
from extraction_worker.source.lease import LeaseLimits, LockTarget, SnapshotLease
from extraction_worker.source.session import begin, connect
from support.databases import settings_of, wait_until

WAITER = Waiter(42, "app (migration)")


# What is decided --------------------------------------------------------------------------------------------------


def test_a_source_that_is_well_is_neither_slowed_for_nor_given_way_to():
    judge = Judge(Protection())
    well = Signs((), 0.0, "replica", 1000, 50)
    for signs in (Signs(), well):
        assert judge.reason_to_slow(signs) == ""
        assert judge.reason_to_yield(signs, 0.0) == ""


@pytest.mark.parametrize(
    ("signs", "reason"),
    [
        (Signs(lag=30.0, replica="r1"), "Replica r1 is 30 s behind."),
        (Signs(lag=31.0), "Replica of the source is 31 s behind."),
        (Signs(free_connections=2), "The server has 2 connections left for everybody else."),
        (Signs(free_connections=-1), "The server has 0 connections left for everybody else."),
    ],
)
def test_why_to_slow_down(signs, reason):
    assert Judge(Protection()).reason_to_slow(signs) == reason


def test_an_index_build_may_wait_for_a_while_and_is_then_named():
    judge, signs = Judge(Protection(yield_to_index_build_after=60)), Signs(index_builds=(WAITER,))
    assert judge.reason_to_yield(signs, 100.0) == ""
    assert judge.reason_to_yield(Signs(), 150.0) == ""  # it was another one's turn
    assert judge.reason_to_yield(signs, 155.0) == ""
    assert judge.reason_to_yield(signs, 214.0) == ""
    assert "Backend 42 of app (migration) has waited 60 s" in judge.reason_to_yield(signs, 215.0)


def test_a_replica_far_behind_twice_in_a_row_is_given_way_to():
    judge, far = Judge(Protection()), Signs(lag=300.0, replica="r1")
    assert judge.reason_to_yield(far, 0) == ""
    assert judge.reason_to_yield(Signs(lag=299.0), 3) == ""
    assert judge.reason_to_yield(far, 6) == ""
    assert judge.reason_to_yield(far, 9) == "Replica r1 is 300 s behind"


def test_a_snapshot_that_is_too_old_in_transactions_is_given_up():
    assert "100,000,000 transactions" in Judge(Protection()).reason_to_yield(Signs(snapshot_age=10**8), 0)


# What is seen -----------------------------------------------------------------------------------------------------


@pytest.fixture
def holder(database):
    database.execute("CREATE TABLE t AS SELECT i FROM generate_series(1, 100) AS i")
    role = database.role("plain", password="p", grant="GRANT SELECT ON t")
    settings = settings_of(database, role, "p")
    with closing(connect(settings)) as connection:
        begin(connection, settings, locks=["public.t"])
        connection.execute("SELECT pg_catalog.pg_export_snapshot()")
        yield connection


@pytest.fixture
def look(holder):
    lookout = Lookout(pytest.fail)
    return lambda: lookout.look(holder, holds=True)


def test_a_plain_role_sees_a_source_that_is_well(look, database):
    signs = look()
    assert signs.index_builds == ()
    assert (signs.lag, signs.snapshot_age) == (None, 0)
    assert 0 < signs.free_connections < 100


def test_connections_that_come_are_counted_within_one_transaction(look, database):
    before = look().free_connections
    others = [psycopg.connect(database.conninfo) for _ in range(5)]
    assert look().free_connections <= before - 5 + 1  # whose backend of before may just be going
    for other in others:
        other.close()


def test_the_age_of_our_snapshot_grows_within_one_transaction(look, holder, database):
    for _ in range(50):
        database.execute("SELECT txid_current()")
    database.execute("CHECKPOINT")
    assert look().snapshot_age >= 50
    # What it would be if it were asked for: it never changes, which is why it isn't.
    age = "SELECT age(backend_xmin) FROM pg_stat_activity WHERE pid = pg_backend_pid()"
    first = holder.execute(age).fetchone()
    for _ in range(50):
        database.execute("SELECT txid_current()")
    assert holder.execute(age).fetchone() == first


def build_index(database):
    with psycopg.connect(database.conninfo, autocommit=True, application_name="migration") as connection:
        connection.execute("CREATE INDEX CONCURRENTLY ON t (i)")


def test_an_index_build_that_waits_for_us_is_seen_and_named(look, holder, database):
    thread = threading.Thread(target=build_index, args=(database,))
    thread.start()
    wait_until(lambda: look().index_builds)
    [waiter] = look().index_builds
    assert waiter.name == f"{database.server.user} (migration)"
    holder.execute("ROLLBACK")
    thread.join(20)
    assert not thread.is_alive()


def test_what_may_not_be_seen_is_said_once_and_ends_no_transaction(holder, database18, monkeypatch):
    said = []
    lookout = Lookout(said.append)
    monkeypatch.setattr("extraction_worker.source.danger._INDEX_BUILDS", "SELECT * FROM pg_catalog.pg_authid")
    monkeypatch.setattr("extraction_worker.source.danger._FREE_CONNECTIONS", "SELECT pg_catalog.pg_sleep(600)")
    monkeypatch.setattr("extraction_worker.source.danger._STATEMENT_TIMEOUT", "50ms")
    for _ in range(2):
        signs = lookout.look(holder, holds=True)
        assert (signs.index_builds, signs.free_connections) == ((), None)
    assert said == ["The source isn't watched for waiting index builds: the role may not see it."]
    assert holder.execute("SELECT current_setting('statement_timeout')").fetchone() == ("1min",)
    assert holder.execute("SELECT count(*) FROM public.t").fetchone() == (100,)


# What is done -----------------------------------------------------------------------------------------------------


def test_a_holder_gives_way_to_an_index_build_and_the_build_ends(database):
    database.execute("CREATE TABLE t AS SELECT i FROM generate_series(1, 100) AS i")
    lost, reasons = threading.Event(), []

    def on_lost(reason):
        reasons.append(reason)
        lost.set()

    settings = settings_of(database, protection=Protection(yield_to_index_build_after=0.3))
    target = LockTarget(('"public"."t"',), (), (), ())
    lease = SnapshotLease(settings, lambda _: target, LeaseLimits(poll=0.05, look=0.1), on_lost)
    lease.acquire()
    thread = threading.Thread(target=build_index, args=(database,))
    thread.start()
    assert lost.wait(20)
    thread.join(20)
    assert not thread.is_alive()
    assert isinstance(reasons[0], SourceInDanger)
    assert "(migration)" in str(reasons[0])
    assert "spec.protection" in str(reasons[0])
    lease.release()


def test_readers_slow_down_while_connections_are_scarce_and_say_so(holder, database):
    now, slowed, said = [0.0], [], []
    protection = Protection(slow_at_free_connections=60)
    pacer = Pacer(protection, slowed.append, said.append, every=5.0, clock=lambda: now[0])
    others = [psycopg.connect(database.conninfo) for _ in range(60)]
    pacer.look(holder)
    now[0] = 4.0
    pacer.look(holder)  # too soon to look again
    assert slowed == [True]
    now[0] = 5.0
    pacer.look(holder)
    assert slowed == [True]  # still
    for other in others:
        other.close()
    # Their backends end a little later.
    alive = "SELECT count(*) < 20 FROM pg_stat_activity WHERE datid IS NOT NULL"
    wait_until(lambda: database.execute(alive) == [(True,)])
    now[0] = 10.0
    pacer.look(holder)
    assert slowed == [True, False]
    assert "connections left for everybody else. Reading at half speed." in said[0]
    assert "full speed" in said[1]
