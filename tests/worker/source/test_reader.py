"""Reading under watch: stalls are told from work, rates are kept, closing cancels."""

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from extraction_worker.errors import NotFound, SourceStalled, SourceUnavailable
from extraction_worker.source.rate import ByteRate, wire_bytes
from extraction_worker.source.reader import BackendState, Watchdog, ask_server, read_batches
from extraction_worker.source.session import ReadSession, connect
from support.databases import settings_of, wait_until


@pytest.fixture
def session(database18) -> Iterator[ReadSession]:
    settings = settings_of(database18)
    with ReadSession(connect(settings), settings) as value:
        yield value


def read(session, query, *, watchdog=None, rate=None, batch_bytes=100_000):
    return read_batches(
        session, query, batch_bytes=batch_bytes, watchdog=watchdog or Watchdog(60, lambda _: BackendState.WORKING),
        rate=rate or ByteRate(None), doing="Reading chunk 7",
    )  # fmt: skip


def test_all_rows_come(session):
    batches = list(read(session, "SELECT i FROM generate_series(1, 100000) AS i"))
    assert len(batches) > 1
    assert sum(batch.num_rows for batch in batches) == 100_000


def test_an_error_names_what_was_read(session):
    with pytest.raises(NotFound, match=r"Reading chunk 7.*no_such_table"):
        list(read(session, "SELECT * FROM no_such_table"))


def test_closing_early_cancels_on_the_server(session, database18):
    batches = read(session, "SELECT repeat('x', 1000), generate_series(1, 1000000000)")
    next(batches)
    batches.close()
    # The error that ends the read comes before the server calls the backend idle. Uncancelled, it would work for hours.
    state = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND state = 'idle'"
    wait_until(lambda: database18.execute(state, session.backend_pid))


def test_a_server_that_works_long_before_its_first_row_is_let_work(session, database18):
    now = [0.0]
    watchdog = Watchdog(10, lambda pid: ask_server(settings_of(database18), pid), clock=lambda: now[0])
    database18.execute("SELECT pg_advisory_lock(7)")
    batches = []
    query = "SELECT coalesce(pg_advisory_lock_shared(7)::text, 'done')"
    thread = threading.Thread(target=lambda: batches.extend(read(session, query, watchdog=watchdog)))
    thread.start()
    waits = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event = 'advisory'"
    wait_until(lambda: database18.execute(waits, session.backend_pid))
    [watched] = watchdog._watched.values()
    for _ in range(3):
        now[0] += 100
        watchdog.check()
        assert (watched.suspicions, watched.stalled) == (0, False)
    database18.execute("SELECT pg_advisory_unlock(7)")
    thread.join(20)
    assert [batch.num_rows for batch in batches] == [1]


def test_a_read_that_nobody_works_for_is_cancelled_and_said_to_be_stalled(session):
    watchdog = Watchdog(0.2, lambda _: BackendState.STUCK)
    watchdog.start()
    with pytest.raises(SourceStalled, match=r"Reading chunk 7: nothing came for 0\.2 s"):
        list(read(session, "SELECT pg_sleep(600)::text", watchdog=watchdog))
    watchdog.stop()


class Session:
    """Counts cancels, as a reading session would take them."""

    backend_pid = 1
    cancelled = 0

    def cancel(self):
        self.cancelled += 1


def test_one_suspicion_is_not_enough_and_bytes_clear_it():
    now = [0.0]
    answers = [BackendState.STUCK, BackendState.WORKING, BackendState.STUCK, BackendState.UNKNOWN]
    session = Session()
    watchdog = Watchdog(10, lambda _: answers.pop(0), clock=lambda: now[0])
    watched = watchdog.watch(session)
    watchdog.check()
    assert len(answers) == 4  # it doesn't wait for bytes
    watched.waiting = True
    now[0] = 9.9
    watchdog.check()
    assert len(answers) == 4  # not long enough
    now[0] = 20
    for cancelled in (0, 0, 0, 1):
        watchdog.check()
        assert session.cancelled == cancelled
    assert watched.stalled
    watchdog.check()
    assert session.cancelled == 1
    watchdog.forget(watched)


def test_a_server_that_cannot_be_asked_for_want_of_a_slot_raises_no_suspicion():
    session = Session()
    watchdog = Watchdog(10, lambda _: BackendState.UNASKED, clock=lambda: 100.0)
    watched = watchdog.watch(session)
    watched.waiting, watched.since = True, 0.0
    for _ in range(5):
        watchdog.check()
    assert (watched.suspicions, session.cancelled) == (0, 0)


def test_bytes_that_come_while_the_server_is_asked_clear_the_suspicion():
    now = [100.0]

    def ask(_):
        watched.since = now[0]
        return BackendState.STUCK

    watchdog = Watchdog(10, ask, clock=lambda: now[0])
    watched = watchdog.watch(Session())
    watched.waiting, watched.since = True, 0.0
    watchdog.check()
    assert watched.suspicions == 0


def test_what_the_server_says_of_a_backend(session, database18):
    settings = settings_of(database18)
    assert ask_server(settings, session.backend_pid) is BackendState.STUCK  # idle
    assert ask_server(settings, 0) is BackendState.STUCK  # gone
    assert ask_server(settings_of(database18, port=1), session.backend_pid) is BackendState.UNKNOWN


def test_a_terminated_backend_is_an_error(session, database18):
    batches = read(session, "SELECT repeat('x', 1000), generate_series(1, 10000000)")
    next(batches)
    database18.execute("SELECT pg_terminate_backend(%s)", session.backend_pid)
    # The server says why (57P01) before it closes, but the close may overtake what it said.
    with pytest.raises(SourceUnavailable, match=r"57P01|closed the connection|connection reset|no connection"):
        list(batches)


def test_with_a_rate_the_kernel_takes_no_more_in_advance_than_a_fraction_of_a_seconds_bytes(session):
    def buffer():
        with socket.socket(fileno=os.dup(session._connection.pgconn.socket)) as same:
            return same.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2  # Linux doubles it for its own needs

    default = buffer()
    list(read(session, "SELECT 1"))
    assert buffer() == default
    rate = ByteRate(8 << 20, readers=8, sleep=lambda _: None)
    assert len(list(read(session, "SELECT i FROM generate_series(1, 100000) AS i", rate=rate))) > 1
    assert buffer() == ByteRate.BURST * (8 << 20) / 8 / 2


COPIED = "SELECT bytes_processed FROM pg_stat_progress_copy WHERE pid = %s"


def test_while_a_read_waits_the_server_waits_too(session, database18):
    batches = read(session, "SELECT repeat('x', 1000) FROM generate_series(1, 1000000)", batch_bytes=100_000)
    next(batches)
    blocked = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event = 'ClientWrite'"
    wait_until(lambda: database18.execute(blocked, session.backend_pid))
    [(sent,)] = database18.execute(COPIED, session.backend_pid)
    assert sent < 16 << 20  # of a gigabyte: what the sockets' buffers hold
    batches.close()


def test_the_bytes_of_a_batch_are_those_that_the_server_sent(session, database18):
    columns = "i AS a, i::int8 AS b, i % 2 = 0 AS c, repeat('x', i % 50) AS d, now() AS e, gen_random_uuid() AS f"
    columns += ", CASE WHEN i % 3 = 0 THEN i::float8 END AS g, i::numeric::text AS h"
    query = f"SELECT {columns} FROM generate_series(1, 20000) AS i"
    counted = sum(wire_bytes(batch) for batch in read(session, query))
    with database18.connection.cursor().copy(f"COPY ({query}) TO STDOUT (FORMAT binary)") as copy:
        sent = sum(len(data) for data in copy)
    assert counted == pytest.approx(sent, rel=0.05)
