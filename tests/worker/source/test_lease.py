"""The lease: lock before snapshot, yield to DDL, end by age and by loss."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import psycopg
import pytest

from extraction_worker.errors import SnapshotLost, SourceInDanger, SourceUnavailable
from extraction_worker.source import lease as lease_module
from extraction_worker.source.contract import contract_settings, opening_sql
from extraction_worker.source.lease import LeaseLimits, LockTarget, SnapshotLease
from extraction_worker.source.session import connect, planning_transaction, read_identity
from support.databases import settings_of, wait_until


class Lost:
    """Catches why a lease ended."""

    def __init__(self):
        self.event = threading.Event()
        self.reasons = []

    def __call__(self, reason):
        self.reasons.append(reason)
        self.event.set()

    def wait(self):
        assert self.event.wait(20), "the lease did not end"
        [reason] = self.reasons
        return reason


def target_of(database, name="t", *, lockable=True) -> LockTarget:
    [(oid,)] = database.execute("SELECT %s::regclass::oid::int8", f"public.{name}")
    quoted = f'"public"."{name}"'
    return LockTarget((quoted,) if lockable else (), () if lockable else (quoted,), (oid,), (oid,))


@pytest.fixture
def table(database):
    database.execute("CREATE TABLE t AS SELECT i FROM generate_series(1, 1000) AS i")
    return database


def lease_of(database, lost, target=None, **limits) -> SnapshotLease:
    target = target or target_of(database)
    return SnapshotLease(settings_of(database), lambda _: target, LeaseLimits(**({"poll": 0.05} | limits)), lost)


def test_others_see_the_snapshot_while_the_lease_is_held_and_not_after(table):
    lost = Lost()
    lease = lease_of(table, lost)
    identity = lease.acquire()
    table.execute("DELETE FROM t")
    settings = settings_of(table)
    with closing(connect(settings)) as reader:
        with planning_transaction(reader, settings, identity.snapshot_id):
            assert reader.execute("SELECT count(*) FROM public.t").fetchone() == (1000,)
            assert read_identity(reader, identity.snapshot_id).snapshot == identity.snapshot
        holder = lease._connection.info.backend_pid
        lease.release()
        wait_until(lambda: not table.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", holder))
        with (
            pytest.raises(psycopg.Error, match="snapshot"),
            planning_transaction(reader, settings, identity.snapshot_id),
        ):
            pass
    assert lost.reasons == []


def test_the_session_contract_holds_in_the_holders_transaction_but_for_the_time_out_of_statements(table):
    lease = lease_of(table, Lost())
    identity = lease.acquire()
    names = contract_settings(identity.server_version, statement_timeout=0, lock_timeout=5)
    names |= {"transaction_isolation": "repeatable read", "transaction_read_only": "on"}
    found = {name: lease._connection.execute("SELECT current_setting(%s)", [name]).fetchone()[0] for name in names}
    assert found == names
    lease.release()


CONTRACT = {
    "transaction_isolation": "repeatable read", "transaction_read_only": "on", "row_security": "off", "search_path": "",
    "TimeZone": "UTC", "DateStyle": "ISO, MDY", "IntervalStyle": "iso_8601", "bytea_output": "hex",
    "extra_float_digits": "3", "client_encoding": "UTF8", "synchronize_seqscans": "off",
    "max_parallel_workers_per_gather": "0", "idle_in_transaction_session_timeout": "0", "statement_timeout": "0",
}  # fmt: skip
"""What holds while a snapshot is held, as it was found to be needed."""
DECLARED = {
    "default_transaction_isolation": "serializable", "default_transaction_read_only": "off", "row_security": "on",
    "search_path": "public", "TimeZone": "Asia/Tokyo", "DateStyle": "German", "IntervalStyle": "sql_standard",
    "bytea_output": "escape", "extra_float_digits": "0", "client_encoding": "LATIN1", "synchronize_seqscans": "on",
    "max_parallel_workers_per_gather": "8", "idle_in_transaction_session_timeout": "1min", "statement_timeout": "1min",
}  # fmt: skip
"""What a role may have instead of each."""
SINCE = {
    140000: ({"client_connection_check_interval": "10s"}, {"client_connection_check_interval": "0"}),
    170000: ({"transaction_timeout": "0"}, {"transaction_timeout": "1min"}),
}
"""What else holds since a version, and what a role may have instead."""


def test_the_contract_holds_for_the_holder_whatever_its_role_declares_and_after_each_of_its_looks(table):
    server = table.execute("SELECT current_setting('server_version_num')::int")[0][0]
    contract, declared = dict(CONTRACT), dict(DECLARED)
    for version, (holds, instead) in SINCE.items():
        if server >= version:
            contract |= holds
            declared |= instead
    role = table.role("holder", password="right", grant="GRANT SELECT ON ALL TABLES IN SCHEMA public")
    for name, value in declared.items():
        table.execute(f"ALTER ROLE {role} SET {name} = '{value}'")
    settings = settings_of(table, role, "right")
    with closing(psycopg.connect(settings.conninfo())) as plain:
        query = "SELECT current_setting('TimeZone'), current_setting('idle_in_transaction_session_timeout')"
        assert plain.execute(query).fetchone() == ("Asia/Tokyo", "1min")
    lease = SnapshotLease(settings, lambda _: target_of(table), LeaseLimits(poll=0.02, look=0.02), Lost())
    looked, look = [], lease._lookout.look

    def counting(connection, **options):
        signs = look(connection, **options)
        # In the holder's thread and its own transaction, between two of its looks.
        found = {name: connection.execute("SELECT current_setting(%s)", [name]).fetchone()[0] for name in contract}
        looked.append(found)
        return signs

    lease._lookout.look = counting
    lease.acquire()
    wait_until(lambda: len(looked) >= 3)
    assert all(found == contract for found in looked)
    lease.finish()


@pytest.mark.parametrize("ddl", ["TRUNCATE t", "VACUUM FULL t", "ALTER TABLE t ADD c int DEFAULT 1", "DROP TABLE t"])
def test_waiting_ddl_ends_the_lease_and_then_runs(table, ddl):
    lost = Lost()
    lease = lease_of(table, lost, yield_to_ddl_after=0.3)
    lease.acquire()
    table.execute("SET statement_timeout = '20s'")
    table.execute(ddl)  # returns only because the lease gave way
    reason = lost.wait()
    assert isinstance(reason, SourceInDanger)
    assert "public.t" in str(reason)
    assert lease.lost is reason
    lease.release()


def test_statements_that_do_not_conflict_do_not_end_the_lease(table):
    lost = Lost()
    lease = lease_of(table, lost, yield_to_ddl_after=0.1)
    lease.acquire()
    for statement in ("INSERT INTO t VALUES (1)", "CREATE INDEX ON t (i)", "VACUUM t", "ANALYZE t"):
        table.execute(statement)
    assert not lost.event.wait(0.5)
    lease.release()


def test_ddl_that_waits_less_than_the_limit_is_let_wait(table):
    lost = Lost()
    lease = lease_of(table, lost, yield_to_ddl_after=600)
    lease.acquire()
    table.execute("SET lock_timeout = '500ms'")
    with pytest.raises(psycopg.errors.LockNotAvailable):
        table.execute("TRUNCATE t")
    assert lost.reasons == []
    lease.release()


def test_a_lease_that_gets_too_old_ends(table):
    lost = Lost()
    lease = lease_of(table, lost, max_age=0.2)
    lease.acquire()
    reason = lost.wait()
    assert isinstance(reason, SourceInDanger)
    assert "maxAge" in str(reason)
    assert lease.age >= 0.2
    lease.release()


def test_a_terminated_holder_is_a_lost_snapshot(table):
    lost = Lost()
    lease = lease_of(table, lost)
    lease.acquire()
    holders = "application_name = 'extraction' AND datname = current_database()"
    table.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {holders}")
    assert isinstance(lost.wait(), SnapshotLost)
    lease.release()


def test_a_lock_that_is_not_free_is_a_transient_error_and_leaves_no_session(table):
    table.execute("BEGIN")
    table.execute("LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
    target = target_of(table)
    lease = SnapshotLease(settings_of(table, lock_timeout=0.2), lambda _: target, LeaseLimits(), Lost())
    with pytest.raises(SourceUnavailable, match="Another session holds a lock"):
        lease.acquire()
    table.execute("ROLLBACK")
    assert table.execute("SELECT count(*) FROM pg_locks WHERE relation = 't'::regclass AND NOT granted") == [(0,)]


def test_who_waits_for_what_is_locked_already_gets_it_while_the_rest_isnt_free(table):
    table.execute("CREATE TABLE other (i int)")
    table.execute(f"ALTER DATABASE {table.name} SET deadlock_timeout = '300ms'")
    one, two = target_of(table), target_of(table, "other")
    both = LockTarget(one.lockable + two.lockable, (), one.oids + two.oids, ())
    settings = settings_of(table, lock_timeout=600)
    lease = SnapshotLease(settings, lambda _: both, LeaseLimits(poll=0.05), Lost())
    waiting = "SELECT 1 FROM pg_locks WHERE relation = 'other'::regclass AND NOT granted"
    with ThreadPoolExecutor(1) as threads, psycopg.connect(table.conninfo) as application:
        # It finds no deadlock: only that the lease lets go brings it on.
        application.execute("SET deadlock_timeout = '60s'")
        application.execute("SET lock_timeout = '20s'")
        application.execute("LOCK TABLE other IN ACCESS EXCLUSIVE MODE")
        acquired = threads.submit(lease.acquire)
        wait_until(lambda: table.execute(waiting))
        application.execute("TRUNCATE t")
        application.commit()
        identity = acquired.result()
    with closing(connect(settings)) as reader, planning_transaction(reader, settings, identity.snapshot_id):
        assert reader.execute("SELECT count(*) FROM public.t").fetchone() == (0,)
    lease.release()


def test_all_locks_together_are_bounded_and_not_only_each_wait(table):
    opening = opening_sql(lock_timeout=0.2, locks=['"public"."t"'])
    # Many short waits never reach this one.
    whole = [statement for statement in opening if "lock_timeout" not in statement]
    assert len(whole) == len(opening) - 1
    table.execute("BEGIN")
    table.execute("LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
    with closing(connect(settings_of(table))) as reader:
        for statement in whole[:-1]:
            reader.execute(statement)
        with pytest.raises(psycopg.errors.QueryCanceled):
            reader.execute(whole[-1])
    table.execute("ROLLBACK")


def test_a_table_replaced_between_look_and_lock_is_looked_at_again(table):
    targets = [target_of(table)]
    table.execute("DROP TABLE t")
    table.execute("CREATE TABLE t AS SELECT i FROM generate_series(1, 10) AS i")
    new = target_of(table)
    asked = []

    def resolve(_connection):
        asked.append(1)
        return targets.pop() if targets else new

    lease = SnapshotLease(settings_of(table), resolve, LeaseLimits(), Lost())
    lease.acquire()
    assert len(asked) == 3  # before the lock, under it (another), and again under the next
    lease.release()


def test_tables_that_change_for_ever_are_given_up(table):
    numbers = iter(range(1, 100))
    lease = SnapshotLease(settings_of(table), lambda _: LockTarget((), (), (next(numbers),), ()), LeaseLimits(), Lost())
    with pytest.raises(SourceUnavailable, match="kept changing"):
        lease.acquire()


def test_a_materialized_view_is_locked_though_lock_table_refuses_it(table):
    table.execute("CREATE MATERIALIZED VIEW mv AS SELECT * FROM t")
    lease = lease_of(table, Lost(), target_of(table, "mv", lockable=False))
    lease.acquire()
    table.execute("SET lock_timeout = '300ms'")
    with pytest.raises(psycopg.errors.LockNotAvailable):
        table.execute("REFRESH MATERIALIZED VIEW mv")
    lease.release()
    table.execute("REFRESH MATERIALIZED VIEW mv")


def test_a_materialized_view_refreshed_between_snapshot_and_lock_is_noticed(table, monkeypatch):
    table.execute("CREATE MATERIALIZED VIEW mv AS SELECT * FROM t")
    target = target_of(table, "mv", lockable=False)
    seen = []

    def identity_and_refresh(connection, snapshot_id):
        # The snapshot is taken here, and the view not locked yet: the moment at which a refresh would be lost.
        if not seen:
            table.execute("REFRESH MATERIALIZED VIEW mv")
        seen.append(snapshot_id)
        return read_identity(connection, snapshot_id)

    monkeypatch.setattr(lease_module, "read_identity", identity_and_refresh)
    lease = lease_of(table, Lost(), target)
    identity = lease.acquire()
    assert len(seen) == 2
    settings = settings_of(table)
    with closing(connect(settings)) as reader, planning_transaction(reader, settings, identity.snapshot_id):
        assert reader.execute("SELECT count(*) FROM public.mv").fetchone() == (1000,)
    lease.release()
