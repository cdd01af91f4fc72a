"""One query's rows, from its text to the last batch, on a psycopg connection that nobody else uses meanwhile.

The server describes the query first: COPY itself says nothing about types. Every wait is short enough for the caller
to stop it, and an end is an end only if the server says so: the mark of the end in the stream, success of the
command, and as many rows as the server counted. All else raises.
"""

import select
import time
from collections.abc import Callable, Generator
from typing import Any

import psycopg
import pyarrow as pa
from psycopg.pq import ConnStatus, DiagnosticField, ExecStatus, TransactionStatus
from psycopg.pq.abc import PGconn, PGresult

from extraction_worker.errors import SourceUnavailable
from extraction_worker.source.copy.columns import WireColumn, wire_column
from extraction_worker.source.copy.library import Decoder, Status

WAIT = 0.25
"""Seconds after which a wait looks whether it is to go on."""
_STOP = 5.0
"""Seconds in which a server must heed a cancel; then the connection is closed."""

Tick = Callable[[], None]
"""Called after each :data:`WAIT` without anything; raises to end the read."""


def read_copy(
    connection: psycopg.Connection[Any], query: str, *, batch_bytes: int, tick: Tick
) -> Generator[pa.RecordBatch]:
    """Yield the rows of ``query`` as record batches of about ``batch_bytes`` Arrow bytes, one row at least.

    What isn't read to its end is cancelled on the server when the iterator is closed; a server that doesn't heed
    that loses the connection. Otherwise the connection can be used again.

    Raises
    ------
    UnsupportedSource
        A column's type isn't decoded, or the stream can't be; the message names the column.
    SourceUnavailable
        The connection failed, or the stream ended before its end.
    psycopg.Error
        What the server said, with its SQLSTATE.
    """
    pgconn = connection.pgconn
    done = False
    decoder: Decoder | None = None
    try:
        # What psycopg calls an attribute for use with libpq through ctypes isn't in its protocol.
        address: int = pgconn.pgconn_ptr  # type: ignore[attr-defined]
        columns = _describe(pgconn, query, tick)
        decoder = Decoder(columns, batch_bytes)
        pgconn.send_query(f"COPY ({query}\n) TO STDOUT (FORMAT binary)".encode())
        _expect(pgconn, ExecStatus.COPY_OUT, tick)
        while (found := decoder.read(address, WAIT)) is not Status.END:
            if isinstance(found, pa.RecordBatch):
                yield found
            elif found is Status.LOST:
                raise _lost(pgconn)
            else:
                tick()
        _finish(pgconn, decoder, tick)
        done = True
    finally:
        if not done:
            _abandon(connection)
        if decoder is not None:
            decoder.close()


def _describe(pgconn: PGconn, query: str, tick: Tick) -> list[WireColumn]:
    pgconn.send_prepare(b"", query.encode())
    _command(pgconn, tick)
    pgconn.send_describe_prepared(b"")
    described = _command(pgconn, tick)
    return [
        wire_column((described.fname(index) or b"").decode(), described.ftype(index))
        for index in range(described.nfields)
    ]


def _command(pgconn: PGconn, tick: Tick) -> PGresult:
    """Return the only result of a command, at its end."""
    result = _expect(pgconn, ExecStatus.COMMAND_OK, tick)
    _drain(pgconn, tick)
    return result


def _finish(pgconn: PGconn, decoder: Decoder, tick: Tick) -> None:
    result = _command(pgconn, tick)
    decoder.finish()
    if result.command_tuples != decoder.rows:
        raise SourceUnavailable(f"The server sent {result.command_tuples} rows, {decoder.rows} arrived.")


def _expect(pgconn: PGconn, status: ExecStatus, tick: Tick) -> PGresult:
    result = _result(pgconn, tick)
    if result is None or result.status != status:
        # After an error the server is ready for the next command: nothing is left to cancel.
        _drain(pgconn, tick)
        raise SourceUnavailable("The server answered with nothing.") if result is None else _server_error(result)
    return result


def _drain(pgconn: PGconn, tick: Tick) -> None:
    """Take what is left of a command's results, and the rows of those that have any."""
    while (result := _result(pgconn, tick)) is not None:
        while result.status == ExecStatus.COPY_OUT and (size := pgconn.get_copy_data(1)[0]) >= 0:
            tick()
            if size == 0:
                _wait(pgconn, select.POLLIN, tick)
                pgconn.consume_input()


def _result(pgconn: PGconn, tick: Tick) -> PGresult | None:
    """Return the next result; None ends the command's results."""
    while pgconn.flush():
        # The server may send what blocks it from receiving.
        if _wait(pgconn, select.POLLIN | select.POLLOUT, tick) & select.POLLIN:
            pgconn.consume_input()
    while pgconn.is_busy():
        _wait(pgconn, select.POLLIN, tick)
        pgconn.consume_input()
    return pgconn.get_result()


def _wait(pgconn: PGconn, events: int, tick: Tick) -> int:
    poll = select.poll()
    poll.register(pgconn.socket, events)
    while not (ready := poll.poll(WAIT * 1000)):
        tick()
    return ready[0][1]


def _server_error(result: PGresult) -> psycopg.Error:
    # Not the whole message: LINE and CONTEXT quote the statement, with the bounds of its chunk.
    message = (result.error_field(DiagnosticField.MESSAGE_PRIMARY) or b"").decode(errors="replace")
    state = (result.error_field(DiagnosticField.SQLSTATE) or b"").decode()
    if not state:
        return psycopg.OperationalError(result.get_error_message())
    try:
        return psycopg.errors.lookup(state)(message)
    except KeyError:  # an extension's, or newer than psycopg
        error = psycopg.DatabaseError(message)
        error.sqlstate = state
        return error


def _lost(pgconn: PGconn) -> psycopg.Error:
    return psycopg.OperationalError(pgconn.get_error_message())


def _abandon(connection: psycopg.Connection[Any]) -> None:
    """Cancel what runs, and take what still comes, or close the connection. Never raises."""
    deadline = time.monotonic() + _STOP

    def tick() -> None:
        if time.monotonic() > deadline:
            raise SourceUnavailable("The server doesn't stop.")

    pgconn = connection.pgconn
    try:
        if pgconn.status != ConnStatus.OK:
            raise _lost(pgconn)
        if pgconn.transaction_status == TransactionStatus.ACTIVE:
            connection.cancel_safe(timeout=_STOP)
            _drain(pgconn, tick)
    except Exception:  # noqa: BLE001 - whatever it was, the connection isn't one to use again
        connection.close()
