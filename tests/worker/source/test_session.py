"""Sessions: the contract in every transaction, the plan's snapshot and locks, refusal of other servers."""

import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime

import psycopg
import pytest

from extraction_worker.errors import (
    AuthenticationFailed,
    NotFound,
    SchemaDrift,
    SnapshotLost,
    SourceNotPinned,
    SourceUnavailable,
    TLSFailed,
    UnsupportedSource,
)
from extraction_worker.model import Consistency, Leaf, Plan
from extraction_worker.source import session as session_module
from extraction_worker.source.contract import contract_settings
from extraction_worker.source.session import ReadSession, begin, connect, planning_transaction, read_identity
from extraction_worker.source.settings import Credentials, SourceSettings
from support.databases import settings_of, wait_until
from support.plans import make_plan


@pytest.fixture
def settings(database) -> SourceSettings:
    database.execute("CREATE TABLE t (id int8 PRIMARY KEY, name text)")
    database.execute("INSERT INTO t SELECT i, 'name ' || i FROM generate_series(1, 5000) AS i")
    return settings_of(database)


@pytest.fixture
def session(settings) -> Iterator[ReadSession]:
    with ReadSession(connect(settings), settings) as value:
        yield value


@pytest.fixture
def holder(settings) -> Iterator[psycopg.Connection]:
    with closing(connect(settings)) as connection:
        begin(connection, settings)
        yield connection


def plan_of(holder: psycopg.Connection, **changes) -> Plan:
    [snapshot_id] = holder.execute("SELECT pg_export_snapshot()").fetchone()
    return make_plan(identity=read_identity(holder, snapshot_id), **changes)


def test_the_contract_holds_in_every_transaction_of_a_reading_session(session, holder):
    plan = plan_of(holder)
    names = contract_settings(session.server_version, statement_timeout=0, lock_timeout=5)
    assert len(names) > 14
    query = "SELECT " + ", ".join(f"pg_catalog.current_setting('{name}')" for name in names)
    for _ in range(3):
        session.begin(plan)
        assert dict(zip(names, session.row(query), strict=True)) == names
        assert session.row(
            "SELECT current_setting('transaction_isolation'), current_setting('transaction_read_only')"
        ) == (
            "repeatable read",
            "on",
        )
        session.end()
    assert session.row("SELECT pg_catalog.current_setting('row_security')") == ("on",)


def test_the_contract_holds_in_planning_transactions(settings):
    with closing(connect(settings)) as connection:
        names = contract_settings(connection.info.server_version, statement_timeout=60, lock_timeout=5)
        with planning_transaction(connection, settings):
            for name, value in names.items():
                assert connection.execute("SELECT pg_catalog.current_setting(%s)", [name]).fetchone() == (value,)
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                connection.execute("CREATE TABLE public.no (id int)")
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


def test_a_session_sees_the_snapshot_and_not_what_came_later(session, holder, database):
    plan = plan_of(holder)
    database.execute("DELETE FROM t")
    session.begin(plan)
    assert session.row("SELECT count(*) FROM public.t") == (5000,)
    session.end()
    assert session.row("SELECT count(*) FROM public.t") == (0,)


def test_a_session_holds_the_plans_locks(session, holder, database):
    session.begin(plan_of(holder))
    held = database.execute(
        "SELECT count(*) FROM pg_locks WHERE relation = 't'::regclass AND mode = 'AccessShareLock' AND pid = %s",
        session.backend_pid,
    )
    assert held == [(1,)]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"system_identifier": "1"}, SourceNotPinned),
        ({"server_address": "10.0.0.1:5432"}, SourceNotPinned),
        ({"in_recovery": True}, SnapshotLost),
        ({"timeline": 7}, SnapshotLost),
        ({"snapshot": "1:1:"}, SnapshotLost),
        ({"postmaster_start": datetime(2020, 1, 1, tzinfo=UTC)}, SnapshotLost),
    ],
)
def test_any_other_identity_is_refused(session, holder, change, error):
    plan = plan_of(holder)
    identity = plan.identity.model_copy(update=change)
    with pytest.raises(error, match="doesn't see the snapshot"):
        session.begin(plan.model_copy(update={"identity": identity}))


def test_an_ended_snapshot_is_lost_not_replaced(session, holder):
    plan = plan_of(holder)
    holder.execute("ROLLBACK")
    with pytest.raises(Exception, match="snapshot") as caught:
        session.begin(plan)
    assert isinstance(session_module.translate(caught.value, "Reading"), SnapshotLost)


def test_a_snapshot_that_is_let_go_while_a_session_waits_for_its_locks_is_lost(session, holder, database):
    """DDL that waited for the holder is let in first; nobody would let through whoever waits for this session."""
    holder.execute("LOCK TABLE public.t IN ACCESS SHARE MODE")
    plan, errors = plan_of(holder), []

    def read() -> None:
        try:
            session.begin(plan)
        except SnapshotLost as error:
            errors.append(error)

    def waiting(mode: str) -> object:
        return database.execute("SELECT 1 FROM pg_locks WHERE mode = %s AND NOT granted", mode)

    with psycopg.connect(database.conninfo) as ddl:
        threads = [threading.Thread(target=ddl.execute, args=["LOCK TABLE public.t"]), threading.Thread(target=read)]
        threads[0].start()
        wait_until(lambda: waiting("AccessExclusiveLock"))
        threads[1].start()
        wait_until(lambda: waiting("AccessShareLock"))
        holder.execute("ROLLBACK")
        threads[0].join()
        ddl.rollback()
        threads[1].join()
    assert [str(error) for error in errors] == ["The snapshot was let go before the tables were locked."]


def test_per_partition_takes_a_snapshot_of_its_own(session, holder, database):
    plan = plan_of(holder, consistency=Consistency.PER_PARTITION)
    holder.execute("ROLLBACK")
    database.execute("DELETE FROM t WHERE id > 10")
    session.begin(plan)
    assert session.row("SELECT count(*) FROM public.t") == (10,)


@pytest.mark.parametrize("statement", ["TRUNCATE t", "VACUUM FULL t", "ALTER TABLE t ALTER id TYPE numeric"])
def test_a_rewrite_after_the_plan_is_noticed_under_per_partition(session, holder, database, statement):
    [(oid, filenode)] = database.execute("SELECT oid::int8, relfilenode::int8 FROM pg_class WHERE relname = 't'")
    leaf = Leaf(oid=oid, name='"public"."t"', relfilenode=filenode, pages=1, heap=True)
    plan = plan_of(holder, consistency=Consistency.PER_PARTITION, leaves=(leaf,))
    holder.execute("ROLLBACK")
    session.begin(plan)
    session.check_drift(plan)
    session.end()
    database.execute(statement)
    session.begin(plan)
    with pytest.raises(SchemaDrift, match="was rewritten, truncated or replaced"):
        session.check_drift(plan)


def test_batches_are_as_large_as_asked_and_one_row_at_least(session, holder):
    session.begin(plan_of(holder))
    query = "SELECT id, name FROM public.t ORDER BY id"
    batches = list(session.read(query, batch_bytes=10_000))
    assert len(batches) > 5
    assert [value for batch in batches for value in batch["id"].to_pylist()] == list(range(1, 5001))
    assert {batch.num_rows for batch in session.read(query, batch_bytes=1)} == {1}


def test_closing_a_read_early_cancels_it_and_leaves_the_session_usable(session, holder, database):
    session.begin(plan_of(holder))
    batches = session.read("SELECT repeat('x', 1000), generate_series(1, 100000000)", batch_bytes=1000)
    next(batches)
    batches.close()
    session.end()
    assert session.row("SELECT 1") == (1,)


def test_cancel_from_another_thread_ends_a_read_with_an_error(session, holder):
    session.begin(plan_of(holder))
    batches = session.read("SELECT pg_sleep(600)::text", batch_bytes=1000)
    timer = threading.Timer(0.3, session.cancel)
    timer.start()
    with pytest.raises(Exception, match=r"(?i)cancel"):
        list(batches)
    timer.join()


def test_cancel_from_another_thread_ends_the_servers_proof_too(session, holder, database):
    session.begin(plan_of(holder))
    sleeps = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event = 'PgSleep'"

    def cancel():
        wait_until(lambda: database.execute(sleeps, session.backend_pid))
        session.cancel()

    thread = threading.Thread(target=cancel)
    thread.start()
    with pytest.raises(SourceUnavailable, match=r"(?i)cancel"):
        session.row("SELECT pg_sleep(600)::text")
    thread.join()
    with pytest.raises(SourceUnavailable, match="was cancelled"):
        session.row("SELECT 1")


def test_a_cancelled_session_begins_no_further_read(session, holder):
    session.cancel()
    with pytest.raises(SourceUnavailable, match="was cancelled"):
        list(session.read("SELECT 1", batch_bytes=1000))
    session.begin(plan_of(holder))
    assert [batch.num_rows for batch in session.read("SELECT 1", batch_bytes=1000)] == [1]


def test_a_terminated_session_is_an_error_and_never_an_end(session, holder, database):
    session.begin(plan_of(holder))
    batches = session.read("SELECT id, repeat('x', 1000) FROM public.t, generate_series(1, 1000)", batch_bytes=1000)
    next(batches)
    database.execute("SELECT pg_terminate_backend(%s)", session.backend_pid)
    with pytest.raises(Exception, match=r"terminating|closed the connection|connection reset") as caught:
        list(batches)
    assert isinstance(session_module.translate(caught.value, "Reading"), SourceUnavailable)


def test_a_setting_that_the_server_changes_is_noticed(session, holder, monkeypatch):
    real = contract_settings(session.server_version, statement_timeout=0, lock_timeout=5)
    monkeypatch.setattr(session_module, "contract_settings", lambda *_, **__: real | {"extra_float_digits": "03"})
    with pytest.raises(UnsupportedSource, match="extra_float_digits"):
        session.begin(plan_of(holder))


def test_wrong_passwords_databases_and_hosts_are_named(database):
    role = database.role(password="right:\\ one")
    with closing(connect(settings_of(database, role, "right:\\ one"))):
        pass
    with pytest.raises(AuthenticationFailed, match=f'"{role}".*credentialsSecretRef') as caught:
        connect(settings_of(database, role, "wrong-one"))
    assert "wrong-one" not in str(caught.value)
    with pytest.raises(AuthenticationFailed):
        connect(settings_of(database, "nobody-here", "x"))
    with pytest.raises(NotFound, match="no_such_database"):
        connect(settings_of(database, database="no_such_database"))
    with pytest.raises(SourceUnavailable, match=r"127\.0\.0\.1:1/"):
        connect(settings_of(database, port=1))
    with pytest.raises(SourceUnavailable, match=r"Check connection\.host"):
        connect(settings_of(database, host="no-such-host.invalid"))


def test_a_server_without_tls_is_refused_under_verify_full(database):
    with pytest.raises(TLSFailed, match="sslMode"):
        connect(settings_of(database, ssl_mode="verify-full"))


def test_a_rotated_password_is_used_by_the_next_connection(database):
    role = database.role(password="first")
    passwords = ["first"]
    settings = settings_of(database, credentials=lambda: Credentials(role, passwords[-1]))
    with closing(connect(settings)):
        pass
    database.execute(f"ALTER ROLE {role} PASSWORD 'second, longer'")
    passwords.append("second, longer")
    with closing(connect(settings)):
        pass
    passwords.append("third")
    with pytest.raises(AuthenticationFailed):
        connect(settings)


def test_no_password_is_in_the_connection_string_or_in_a_representation(database):
    settings = settings_of(database, "role", "hunter2")
    assert "hunter2" not in settings.conninfo()
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in repr(Credentials("role", "hunter2"))
