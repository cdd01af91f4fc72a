"""Reading from a server: an end is one only if the server says so, and nothing waits without an end."""

import os
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator

import psycopg
import pytest

from extraction_worker.errors import SourceStalled, SourceUnavailable, UnsupportedSource
from extraction_worker.source import session as session_module
from extraction_worker.source.copy import stream
from extraction_worker.source.copy.stream import read_copy
from extraction_worker.source.rate import ByteRate
from extraction_worker.source.reader import BackendState, Watchdog, read_batches
from extraction_worker.source.session import ReadSession, connect
from support.databases import settings_of, wait_until
from support.relay import Relay, relay_to

ROWS = 20
QUERY = f"SELECT i, i::text AS name FROM generate_series(1, {ROWS}) AS i"


def read(connection, query=QUERY, *, batch_bytes=50, tick=lambda: None):
    return read_copy(connection, query, batch_bytes=batch_bytes, tick=tick)


def rows_of(batches) -> list[int]:
    return [value for batch in batches for value in batch.column(0).to_pylist()]


@pytest.fixture
def relay(database18) -> Iterator[Relay]:
    with relay_to(database18.server.port) as value:
        yield value


@pytest.fixture
def connection(database18, relay) -> Iterator[psycopg.Connection]:
    with connect(settings_of(database18, port=relay.port)) as value:
        yield value


def test_all_rows_come_and_the_connection_can_be_used_again(connection):
    for _ in range(3):
        assert rows_of(read(connection)) == list(range(1, ROWS + 1))
    assert connection.execute("SELECT 1").fetchone() == (1,)
    assert list(read(connection, "SELECT 1 WHERE false")) == []


def test_a_stream_that_is_cut_anywhere_is_an_error_or_complete(database18, relay):
    settings = settings_of(database18, port=relay.port)
    with connect(settings) as connection:
        list(read(connection))
    whole = bytes(relay.stream)
    # Of the first messages, of rows, and every byte of what follows the rows.
    for cut in [*range(1, 60), *range(60, len(whole) - 60, 37), *range(len(whole) - 60, len(whole))]:
        relay.cut_after = cut
        relay.stream.clear()
        with connect(settings) as connection:
            try:
                found = rows_of(read(connection))
            except (psycopg.OperationalError, SourceUnavailable):
                continue
        assert found == list(range(1, ROWS + 1))
        # Nothing of COPY was missing but the server's readiness for the next command.
        assert whole.index(b"C\x00\x00\x00") < cut


def test_a_stream_without_the_mark_of_its_end_is_an_error(connection, relay):
    relay.change = lambda message: b"" if message[:1] == b"d" and message[5:] == b"\xff\xff" else message
    with pytest.raises(SourceUnavailable, match="without the mark of its end"):
        list(read(connection))


def test_a_row_that_is_lost_on_the_way_is_an_error(connection, relay):
    lost = struct.pack("!i", 2) + b"17"
    relay.change = lambda message: b"" if message[:1] == b"d" and message.endswith(lost) else message
    with pytest.raises(SourceUnavailable, match=f"The server sent {ROWS} rows, {ROWS - 1} arrived"):
        list(read(connection))


def test_a_row_that_was_changed_on_the_way_is_an_error_that_names_its_column(connection, relay):
    short = struct.pack("!hi", 2, 4)
    relay.change = lambda message: message.replace(short, struct.pack("!hi", 2, 3))
    with pytest.raises(UnsupportedSource, match="column 'i'"):
        list(read(connection))
    assert connection.execute("SELECT 1").fetchone() == (1,)


def test_an_error_in_the_middle_has_its_state_and_leaves_the_connection_usable(connection):
    batches = read(connection, "SELECT 100 / (1000 - i) FROM generate_series(1, 2000) AS i")
    assert next(batches).num_rows > 0
    with pytest.raises(psycopg.errors.DivisionByZero) as caught:
        list(batches)
    assert caught.value.sqlstate == "22012"
    assert rows_of(read(connection)) == list(range(1, ROWS + 1))


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("SELECT * FROM nowhere", psycopg.errors.UndefinedTable),
        ("SELECT 1; SELECT 2", psycopg.errors.SyntaxError),
        ("SELECT $1::int4", psycopg.Error),
        ("SELECT 1.5 AS amount", UnsupportedSource),
    ],
)
def test_what_cannot_be_read_is_refused_and_leaves_the_connection_usable(connection, query, error):
    with pytest.raises(error):
        list(read(connection, query))
    assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_state_that_psycopg_does_not_know_is_kept(connection):
    connection.execute(
        "CREATE FUNCTION fail() RETURNS int4 LANGUAGE plpgsql AS $$ BEGIN RAISE SQLSTATE 'ZZ999'; END $$"
    )
    with pytest.raises(psycopg.DatabaseError) as caught:
        list(read(connection, "SELECT fail()"))
    assert caught.value.sqlstate == "ZZ999"


def test_a_wait_can_be_ended_by_its_tick_and_the_server_stops(connection, database18):
    class Enough(Exception):
        pass

    ticks = []

    def tick():
        ticks.append(1)
        if len(ticks) == 2:
            raise Enough

    with pytest.raises(Enough):
        list(read(connection, "SELECT pg_sleep(600)::text", tick=tick))
    assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_peer_that_falls_silent_is_abandoned(connection, relay, monkeypatch):
    monkeypatch.setattr(stream, "_STOP", 0.2)
    batches = read(connection, "SELECT i, repeat('x', 1000) FROM generate_series(1, 1000000) AS i")
    next(batches)
    relay.frozen.set()
    batches.close()
    assert connection.closed


def test_a_stalled_read_through_a_silent_peer_ends(database18, relay, monkeypatch):
    monkeypatch.setattr(session_module, "_CANCEL_TIMEOUT", 0.2)
    monkeypatch.setattr(stream, "_STOP", 0.2)
    watchdog = Watchdog(1, lambda _: BackendState.STUCK)
    watchdog.start()
    settings = settings_of(database18, port=relay.port)
    with ReadSession(connect(settings), settings) as session:
        batches = read_batches(
            session, "SELECT i, repeat('x', 1000) FROM generate_series(1, 1000000) AS i", batch_bytes=1000,
            watchdog=watchdog, rate=ByteRate(None), doing="Reading chunk 7",
        )  # fmt: skip
        next(batches)
        relay.frozen.set()
        with pytest.raises(SourceStalled):
            list(batches)
    watchdog.stop()


def test_a_statement_that_waits_for_a_silent_peer_is_woken_by_a_cancel(database18, relay, monkeypatch):
    monkeypatch.setattr(session_module, "_CANCEL_TIMEOUT", 0.2)
    settings = settings_of(database18, port=relay.port)
    with ReadSession(connect(settings), settings) as session:
        works = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event = 'PgSleep'"

        def cancel():
            wait_until(lambda: database18.execute(works, session.backend_pid))
            relay.frozen.set()
            session.cancel()

        thread = threading.Thread(target=cancel)
        thread.start()
        with pytest.raises(SourceUnavailable):
            session.row("SELECT pg_sleep(600)::text")
        thread.join()


def test_a_cancelled_read_that_the_server_does_not_end_is_given_up(database18, relay, monkeypatch):
    settings = settings_of(database18)
    with ReadSession(connect(settings), settings) as session:
        monkeypatch.setattr(session_module, "_CANCEL_TIMEOUT", 0.1)
        # The cancel goes nowhere, as one that comes between two statements does.
        monkeypatch.setattr(session._connection, "cancel_safe", lambda *, timeout: None)
        monkeypatch.setattr(stream, "_STOP", 0.1)
        timer = threading.Timer(0.1, session.cancel)
        timer.start()
        with pytest.raises(SourceUnavailable, match="didn't end a cancelled read"):
            list(session.read("SELECT pg_sleep(600)::text", batch_bytes=1000))
        timer.join()
        assert session._connection.closed


def test_other_builds_of_psycopg_bring_their_own_libpq(database18):
    script = (
        "import psycopg, sys; from extraction_worker.source.copy.stream import read_copy;"
        "c = psycopg.connect(sys.argv[1], autocommit=True); assert psycopg.pq.__impl__ == 'python';"
        "print(sum(b.num_rows for b in read_copy(c, 'SELECT generate_series(1, 1000)', batch_bytes=99, tick=int)))"
    )
    command = [sys.executable, "-c", script, database18.conninfo]
    done = subprocess.run(
        command, env=os.environ | {"PSYCOPG_IMPL": "python"}, capture_output=True, text=True, check=False
    )
    if "libpq library not found" in done.stderr:
        pytest.skip("the system has no libpq")
    assert (done.stdout, done.stderr) == ("1000\n", "")
