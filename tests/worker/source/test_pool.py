"""The pool: bounded, reused, validated, rotated."""

import threading
from contextlib import closing

import pytest

from extraction_worker.errors import AuthenticationFailed, NotFound, SourceBusy, SourceUnavailable
from extraction_worker.source.pool import PoolSettings, SourcePool
from extraction_worker.source.session import begin, connect, read_identity
from extraction_worker.source.settings import Credentials
from support.databases import settings_of, wait_until
from support.plans import make_plan


@pytest.fixture
def pool_of(database18):
    pools = []

    def make(settings=None, **bounds):
        pool = SourcePool(settings or settings_of(database18), PoolSettings(**({"size": 2} | bounds)))
        pools.append(pool)
        return pool

    yield make
    for pool in pools:
        pool.dispose()


def backends(database) -> int:
    [(count,)] = database.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'extraction'"
    )
    return count


def test_a_session_is_reused_and_the_reuse_counted(pool_of, database18):
    pool = pool_of()
    pids = set()
    for _ in range(20):
        with pool.session() as session:
            pids.add(session.backend_pid)
    assert len(pids) == 1
    assert (pool.statistics.created, pool.statistics.checkouts, pool.statistics.evicted) == (1, 20, 0)
    assert pool.statistics.reuse == 0.95
    assert (pool.statistics.waits, pool.statistics.active, pool.statistics.most_active) == (1, 0, 1)


def test_no_more_sessions_than_its_size_and_waiting_ends_with_an_error(pool_of, database18):
    pool = pool_of(acquire_timeout=2)
    with pool.session(), pool.session():
        assert backends(database18) == 2
        with pytest.raises(SourceBusy, match="None of the 2 pooled sessions"), pool.session():
            pass


def test_a_waiting_thread_gets_the_session_that_another_returns(pool_of):
    pool = pool_of(size=1, acquire_timeout=20)
    got = threading.Event()

    def wait_for_it():
        with pool.session():
            got.set()

    with pool.session():
        thread = threading.Thread(target=wait_for_it)
        thread.start()
        assert not got.wait(0.05)
    assert got.wait(20)
    thread.join()
    assert pool.statistics.created == 1


def test_idle_sessions_are_opened_ahead(pool_of, database18):
    pool = pool_of(size=3, min_idle=2)
    pool.open_idle()
    assert backends(database18) == 2
    with pool.session(), pool.session():
        assert pool.statistics.created == 2


def test_a_session_that_broke_while_idle_is_replaced_at_checkout(pool_of, database18):
    pool = pool_of()
    with pool.session() as session:
        first = session.backend_pid
    database18.execute("SELECT pg_terminate_backend(%s, 5000)", first)
    with pool.session() as session:
        assert session.backend_pid != first
        assert session.row("SELECT 1") == (1,)
    assert pool.statistics.evicted == 1


def test_sessions_idle_for_too_long_are_closed_but_the_least_that_stay(pool_of, database18):
    pool = pool_of(size=3, min_idle=1, idle_timeout=0)
    with pool.session(), pool.session(), pool.session():
        assert backends(database18) == 3
    wait_until(lambda: backends(database18) == 1)


def test_a_session_past_its_lifetime_is_replaced_when_it_comes_back(pool_of, database18):
    pool = pool_of(size=1, max_lifetime=0)
    with pool.session() as session:
        first = session.backend_pid
    with pool.session() as session:
        assert session.backend_pid != first


def test_a_session_whose_block_raised_is_closed(pool_of):
    # Of size one: a larger pool may open another one for whoever asks before the closed one is replaced.
    pool = pool_of(size=1)
    pids = []

    def fail():
        with pool.session() as session:
            pids.append(session.backend_pid)
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert pool.statistics.evicted == 1
    with pool.session() as session:
        assert session.backend_pid not in pids
        assert (pool.statistics.created, pool.statistics.reused) == (2, 0)


def test_a_session_that_keeps_the_memory_of_a_wide_row_is_replaced(pool_of):
    pool = pool_of(size=1)
    pids = []
    for mebibytes in (1, 1, 20, 1):
        with pool.session() as session:
            pids.append(session.backend_pid)
            [batch] = session.read(f"SELECT repeat('x', {mebibytes << 20})", batch_bytes=1)
            assert batch.num_rows == 1
    assert pids[0] == pids[1] == pids[2] != pids[3]
    assert pool.statistics.evicted == 1


def test_a_session_that_ran_users_sql_is_not_used_again(pool_of, database18):
    database18.execute("CREATE TABLE t AS SELECT 1 AS id")
    pool = pool_of(size=1)
    pids = []
    with closing(connect(settings_of(database18))) as holder:
        begin(holder, settings_of(database18))
        [snapshot] = holder.execute("SELECT pg_export_snapshot()").fetchone()
        plain = make_plan(identity=read_identity(holder, snapshot))
        for plan in (plain, plain, plain.model_copy(update={"query_hash": "0" * 32}), plain):
            with pool.session() as session:
                pids.append(session.backend_pid)
                session.begin(plan)
                session.end()
    assert pids[0] == pids[1] == pids[2] != pids[3]
    assert (pool.statistics.evicted, pool.statistics.reused) == (0, 2)


def test_a_rotated_user_is_used_by_the_next_session(pool_of, database18):
    roles = [database18.role("one", password="p1"), database18.role("two", password="p2")]
    current = [Credentials(roles[0], "p1")]
    pool = pool_of(settings_of(database18, credentials=lambda: current[-1]))
    with pool.session() as session:
        assert session.row("SELECT current_user::text") == (roles[0],)
        current.append(Credentials(roles[1], "p2"))
        with pool.session() as other:
            assert other.row("SELECT current_user::text") == (roles[1],)


def test_errors_of_connecting_are_ours_and_come_at_once(pool_of, database18):
    pool = pool_of(settings_of(database18, "nobody", "x"), min_idle=1, acquire_timeout=100)
    with pytest.raises(AuthenticationFailed, match="credentialsSecretRef"):
        pool.open_idle()
    with pytest.raises(AuthenticationFailed, match="credentialsSecretRef"), pool.session():
        pass
    assert pool.statistics.created == 0


def test_credentials_that_cannot_be_read_are_told(pool_of, database18):
    def credentials():
        raise NotFound("Secret gone.")

    pool = pool_of(settings_of(database18, credentials=credentials), acquire_timeout=100)
    with pytest.raises(NotFound, match="Secret gone"), pool.session():
        pass


def test_a_server_without_a_connection_for_us_is_busy_and_tried_again_later(pool_of, database18):
    role = database18.role("few", password="p")
    database18.execute(f"ALTER ROLE {role} CONNECTION LIMIT 1")
    pool = pool_of(settings_of(database18, role, "p"), acquire_timeout=100)
    with pool.session(), pytest.raises(SourceBusy, match="too many connections"), pool.session():
        pass
    database18.execute(f"ALTER ROLE {role} CONNECTION LIMIT 2")
    with pool.session(), pool.session():
        pass
    assert pool.statistics.created == 2


def test_nothing_of_psycopgs_own_logging_is_printed(pool_of, database18, capfd):
    pool = pool_of(settings_of(database18, "nobody", "secret-password"))
    with pytest.raises(AuthenticationFailed), pool.session():
        pass
    assert capfd.readouterr() == ("", "")


def test_after_its_end_a_pool_closes_what_comes_back(pool_of, database18):
    pool = pool_of()
    with pool.session() as session:
        pool.dispose()
        assert session.row("SELECT 1") == (1,)
    wait_until(lambda: backends(database18) == 0)
    pool.dispose()
    with pytest.raises(SourceUnavailable, match="Asking the pool"), pool.session():
        pass


# Leaks ------------------------------------------------------------------------------------------------------------


def test_a_session_that_never_comes_back_is_told_once_with_who_took_it(database18):
    told = []
    pool = SourcePool(settings_of(database18), PoolSettings(size=1, leak_after=0), told.append)

    def forgetful():
        return pool.session()

    with forgetful() as session:
        assert session.row("SELECT 1") == (1,)
        pool.find_leaks()
        pool.find_leaks()
        [message] = told
        assert "neither reads nor comes back" in message
        assert "test_pool.py" in message
        assert "test_a_session_that_never_comes_back" in message
    pool.dispose()
    assert pool.statistics.leaks == 1


def test_a_session_that_reads_is_no_leak_however_long_it_takes(database18):
    told = []
    pool = SourcePool(settings_of(database18), PoolSettings(size=1, leak_after=0), told.append)
    with pool.session() as session:
        for _ in session.read("SELECT generate_series(1, 1000)", batch_bytes=1000):
            pool.find_leaks()
        assert told == []
        thread = threading.Thread(target=session.row, args=("SELECT pg_sleep(0.5)::text",))
        thread.start()
        wait_until(lambda: session.at_work)
        pool.find_leaks()
        assert told == []
        thread.join()
    pool.find_leaks()
    assert told == []
    pool.dispose()


def test_a_leak_is_found_by_itself(database18):
    found = threading.Event()
    pool = SourcePool(settings_of(database18), PoolSettings(size=1, leak_after=0.1), lambda _: found.set())
    with pool.session():
        assert found.wait(20)
    pool.dispose()


# In trouble -------------------------------------------------------------------------------------------------------


def test_a_bound_pool_gives_sessions_back_and_takes_them_again(pool_of, database18):
    pool = pool_of(size=4)
    with pool.session(), pool.session(), pool.session(), pool.session():
        pool.bound(2)
        assert backends(database18) == 4  # nothing that reads is ended
    wait_until(lambda: backends(database18) == 2)
    with pool.session(), pool.session(), pytest.raises(SourceBusy, match="in trouble"), pool.session():
        pass
    pool.bound(4)
    with pool.session(), pool.session(), pool.session(), pool.session():
        assert backends(database18) == 4
