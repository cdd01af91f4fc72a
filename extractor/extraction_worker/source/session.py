"""Sessions on the source: psycopg connections, for planning and holding, and for reading by COPY.

Both begin each transaction under the session contract. A reading session adopts the plan's snapshot, takes the
plan's locks and compares the whole identity before it reads a row.
"""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Generator, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast, overload

import psycopg
from psycopg.pq import TransactionStatus

from extraction_worker.errors import (
    ExtractionError,
    SnapshotLost,
    SourceBusy,
    SourceNotPinned,
    SourceUnavailable,
    UnsupportedSource,
)
from extraction_worker.model import Consistency, Plan, SnapshotIdentity
from extraction_worker.source.contract import BEGIN, contract_settings, contract_sql, opening_sql
from extraction_worker.source.danger import Pacer
from extraction_worker.source.failures import translate
from extraction_worker.source.identity import IDENTITY_SQL, check_identity, held_sql, identity_from_row
from extraction_worker.source.settings import SourceSettings
from extraction_worker.source.shape import check_shape, check_storage, shape_sql
from extraction_worker.source.slots import Claim, take_slot

if TYPE_CHECKING:
    import pyarrow as pa

OLDEST_SERVER = 120000
_CANCEL_TIMEOUT = 5.0
"""Seconds in which a cancel must reach the server, and then end what it cancels; else the connection is given up."""


_KEPT_BYTES = 16 << 20
"""The largest row after which a connection is kept: libpq's buffer grows to the size of a row, and never shrinks."""


class SourceConnection(psycopg.Connection[tuple[Any, ...]]):
    """A connection that has its slot until it is closed."""

    behind_pooler = False
    """Whether the server's session outlives this connection."""

    def close(self) -> None:
        """Close it. What would stay with the server's session, behind a pooler, is released before."""
        if self.behind_pooler and not self.closed:
            with contextlib.suppress(psycopg.Error):
                if self.info.transaction_status in (TransactionStatus.INTRANS, TransactionStatus.INERROR):
                    self.execute("ROLLBACK")
                # In the middle of a statement it can't be; but a pooler ends a session that was left like that.
                if self.info.transaction_status is TransactionStatus.IDLE:
                    self.execute("SELECT pg_catalog.pg_advisory_unlock_all()")
        super().close()


_Connection = TypeVar("_Connection", bound=SourceConnection)


@overload
def connect(settings: SourceSettings, claim: Claim = Claim.WORK) -> SourceConnection: ...


@overload
def connect(settings: SourceSettings, claim: Claim = Claim.WORK, *, kind: type[_Connection]) -> _Connection: ...


def connect(
    settings: SourceSettings, claim: Claim = Claim.WORK, *, kind: type[SourceConnection] = SourceConnection
) -> SourceConnection:
    """Open a psycopg connection in autocommit mode, take its slot, and refuse servers that can't be read safely.

    Parameters
    ----------
    claim
        What the session is for.
    kind
        The class of the connection.

    Raises
    ------
    SourceBusy
        The server has no connection for us, or the budget no slot.
    AuthenticationFailed, NotFound, TLSFailed, SourceUnavailable
        As the server or libpq said.
    UnsupportedSource
        An old server, or a pooler that gives each transaction another connection.
    """
    where = f"Connecting to {settings.host}:{settings.port}/{settings.database}"
    with settings.knocking:
        connection: SourceConnection | None = None
        try:
            connection = _open(settings, kind)
            _admit(connection, settings, claim)
        except BaseException as error:
            if connection is not None:
                connection.close()
            if isinstance(error, psycopg.Error):
                raise translate(error, where) from None
            raise
    return connection


def _open(settings: SourceSettings, kind: type[_Connection]) -> _Connection:
    """Connect to the address of the holder's server if there is one, otherwise by name.

    Whoever answers there is judged by the identity of the snapshot, as everybody else is.
    """
    if settings.address and not settings.unreachable.is_set():
        try:
            return kind.connect(settings.conninfo(pinned=True), autocommit=True, prepare_threshold=None)
        except psycopg.Error as error:
            if isinstance(translate(error, ""), SourceBusy):
                raise
        connection = kind.connect(settings.conninfo(), autocommit=True, prepare_threshold=None)
        settings.unreachable.set()
        return connection
    return kind.connect(settings.conninfo(), autocommit=True, prepare_threshold=None)


def _admit(connection: SourceConnection, settings: SourceSettings, claim: Claim) -> None:
    if connection.info.server_version < OLDEST_SERVER:
        raise UnsupportedSource(f"PostgreSQL {connection.info.server_version // 10000} is too old: 12 is the first.")
    # A pooler shows itself by a backend pid that isn't the one of the protocol's key.
    connection.behind_pooler = _backend(connection) != connection.info.backend_pid
    if connection.behind_pooler and not settings.known_pooler.is_set():
        # Before the slot: in transaction mode it would stay with a session of the pooler's.
        _refuse_transaction_pooler(connection, settings)
        settings.known_pooler.set()
    if settings.slots is not None:
        take_slot(connection, settings.slots, claim)


def _backend(connection: psycopg.Connection[tuple[Any, ...]]) -> int:
    row = connection.execute("SELECT pg_catalog.pg_backend_pid()").fetchone()
    return int(row[0]) if row else 0


def _refuse_transaction_pooler(connection: psycopg.Connection[tuple[Any, ...]], settings: SourceSettings) -> None:
    """Refuse a pooler in transaction mode: it would hand our snapshot's session to others between statements.

    A second client is given the chance to get the first one's server connection while the first is still connected:
    only a pooler that assigns per transaction (or statement) does that. Poolers reuse the connection returned last,
    so one try shows it on a quiet pool; several make it sure on a busy one. Neither of the two has a slot: a process
    does this once, in some milliseconds, and a job that waited here for a slot would keep its holder's meanwhile.
    """
    refusal = UnsupportedSource(
        f"{settings.host}:{settings.port} is a connection pooler in transaction mode: a snapshot can't be "
        "held through it, and session settings would leak to other clients.",
        hint="Connect to PostgreSQL itself, or to a pool in session mode.",
    )
    for _ in range(5):
        first = _backend(connection)
        with psycopg.connect(settings.conninfo(), autocommit=True, prepare_threshold=None) as other:
            try:
                other.execute(BEGIN)
            except psycopg.Error:  # statement mode allows no transaction at all
                raise refusal from None
            second = _backend(other)
            other.execute("ROLLBACK")
        if first == second or _backend(connection) != first:
            raise refusal


@contextlib.contextmanager
def planning_transaction(
    connection: psycopg.Connection[tuple[Any, ...]], settings: SourceSettings, snapshot_id: str | None = None
) -> Iterator[None]:
    """Run a block in one read-only transaction under the session contract; always rolled back."""
    try:
        begin(connection, settings, snapshot_id=snapshot_id)
        yield
    finally:
        # A broken connection has no transaction to end.
        with contextlib.suppress(psycopg.Error):
            connection.execute("ROLLBACK")


def begin(
    connection: psycopg.Connection[tuple[Any, ...]],
    settings: SourceSettings,
    *,
    locks: Iterable[str] = (),
    snapshot_id: str | None = None,
) -> None:
    """Begin a transaction: adopt a snapshot, take locks, then make the session contract hold.

    Statements are bounded by the settings' statement time-out; psycopg's errors are raised as they are.
    """
    for statement in opening_sql(lock_timeout=settings.lock_timeout, locks=locks, snapshot_id=snapshot_id):
        connection.execute(statement)
    contract = contract_settings(
        connection.info.server_version,
        statement_timeout=settings.statement_timeout,
        lock_timeout=settings.lock_timeout,
    )
    connection.execute(contract_sql(contract))


def read_identity(connection: psycopg.Connection[tuple[Any, ...]], snapshot_id: str) -> SnapshotIdentity:
    """Read the identity of the current transaction's snapshot."""
    row = connection.execute(IDENTITY_SQL).fetchone()
    if row is None:  # a SELECT without FROM returns a row
        raise SourceUnavailable("The server returned no identity.")
    return identity_from_row(row, snapshot_id)


def storage_sql(oids: Iterable[int]) -> str:
    """Return a SELECT of one array: the storage number of each relation, in order, as of now, not of the snapshot."""
    listed = ", ".join(str(int(oid)) for oid in oids)
    return (
        "SELECT pg_catalog.array_agg(pg_catalog.pg_relation_filenode(u.oid)::pg_catalog.int8 ORDER BY u.position) "
        f"FROM pg_catalog.unnest(ARRAY[{listed}]::pg_catalog.oid[]) WITH ORDINALITY AS u(oid, position)"
    )


class ReadSession:
    """One connection that reads. Not for several threads at once, but :meth:`cancel` may come from another.

    Parameters
    ----------
    connection
        In autocommit mode, from :func:`connect`; the session is its only user, and closes it.
    """

    def __init__(self, connection: psycopg.Connection[tuple[Any, ...]], settings: SourceSettings) -> None:
        self._settings = settings
        self._connection = connection
        self._lock = threading.Lock()
        self._cancelled_at: float | None = None
        # Not that of the protocol's key: behind a pooler this is another one.
        self.backend_pid = _backend(connection)
        self.server_version = connection.info.server_version
        self.bloated = False
        """Whether the connection holds memory that a wide row needed."""
        self.ran_user_sql = False
        """Whether a query or a predicate of users ran in it: what that left behind isn't known."""
        self.at_work = 0
        """How many statements and reads of it haven't ended."""
        self.idle_since = time.monotonic()

    @property
    def is_closed(self) -> bool:
        """Whether the connection is gone, as far as we know."""
        return self._connection.closed

    def begin(self, plan: Plan) -> None:
        """Begin a transaction under the contract, on the plan's snapshot, with its locks, and compare identities.

        Raises
        ------
        SnapshotLost, SourceNotPinned
            This session doesn't see the plan's snapshot, or nobody holds it any more.
        """
        with self._lock:
            self._cancelled_at = None
        self.ran_user_sql = self.ran_user_sql or plan.query_hash is not None
        shared = plan.consistency is Consistency.SNAPSHOT
        snapshot_id = plan.identity.snapshot_id if shared else None
        try:
            for statement in opening_sql(
                lock_timeout=self._settings.lock_timeout, locks=plan.locks, snapshot_id=snapshot_id
            ):
                self._execute(statement)
        except SnapshotLost:
            self._look_where_it_is(plan.identity)
            raise
        contract = contract_settings(self.server_version, statement_timeout=0, lock_timeout=self._settings.lock_timeout)
        found = self._row(contract_sql(contract))
        for (name, value), now in zip(contract.items(), found, strict=True):
            if now != value:
                raise UnsupportedSource(
                    f"The server made {name} {now!r} of {value!r}: the session contract doesn't hold."
                )
        held = held_sql(snapshot_id) if snapshot_id else "true"
        *row, is_held = self._row(f"{IDENTITY_SQL}, {held}")
        check_identity(plan.identity, identity_from_row(tuple(row), plan.identity.snapshot_id), snapshot=shared)
        if not is_held:
            # Who waited for the holder may have been let in before us, and others may wait for us now: nobody is left
            # who would end this session for them.
            raise SnapshotLost("The snapshot was let go before the tables were locked.")

    def _look_where_it_is(self, expected: SnapshotIdentity) -> None:
        """Raise a better reason why a snapshot isn't there, if there is one: another server, or a restarted one.

        Whichever it is, the snapshot is lost to this session: after a failover the name leads to another server, too.
        """
        self._execute("ROLLBACK")
        found = identity_from_row(self._row(IDENTITY_SQL), expected.snapshot_id)
        try:
            check_identity(expected, found.model_copy(update={"snapshot": expected.snapshot}), snapshot=True)
        except SourceNotPinned as error:
            raise SnapshotLost(error.message, hint=error.hint) from None

    def end(self) -> None:
        """End the transaction."""
        self._execute("ROLLBACK")

    def bound_buffer(self, size: int) -> None:
        """Have the kernel take no more than about ``size`` bytes from the server before they are read.

        Left alone, it takes several MiB of each connection as fast as they come, however slowly they are read.
        """
        with socket.socket(fileno=os.dup(self._connection.pgconn.socket)) as same:
            same.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)

    def read(self, query: str, *, batch_bytes: int) -> Generator["pa.RecordBatch"]:
        """Yield the rows of ``query`` as record batches of about ``batch_bytes`` Arrow bytes, one row at least.

        The statement is cancelled when the iterator is closed early, and the session can go on.

        Raises
        ------
        UnsupportedSource
            A column has a type that isn't decoded, or what came can't be.
        SourceUnavailable
            The session was cancelled, or the connection failed.
        psycopg.Error
            What the server said. Terminate, cancel and a lost connection are errors, never an end.
        """
        from extraction_worker.source.copy.stream import read_copy

        self._refuse_cancelled()
        batches = read_copy(self._connection, query, batch_bytes=batch_bytes, tick=self._give_up_cancelled)
        with self._working(), contextlib.closing(batches):
            for batch in batches:
                # A cancel that came when nothing ran yet was lost on the server.
                self._refuse_cancelled()
                self.bloated = self.bloated or batch.nbytes > max(batch_bytes, _KEPT_BYTES)
                yield batch

    def row(self, query: str) -> tuple[object, ...]:
        """Return the only row of ``query``, within the transaction if there is one."""
        return self._row(query)

    def check_drift(self, plan: Plan) -> None:
        """Raise SchemaDrift if what was just read isn't what was planned: another table, columns, leaves or storage.

        Reading took locks that last until the end of the transaction, so an equal number now means that nothing
        was rewritten between the plan and the lock. Under ``Snapshot`` the holder's locks give that already.
        """
        if plan.consistency is Consistency.SNAPSHOT:
            return
        if plan.pin is not None:
            check_shape(plan, plan.pin, self._row(shape_sql(plan, plan.pin)))
        if plan.leaves:
            [found] = self._row(storage_sql(leaf.oid for leaf in plan.leaves))
            check_storage(plan, cast("list[int | None]", found))

    def look(self, pacer: Pacer) -> None:
        """Look how the source is, from within the transaction.

        Raises
        ------
        Transient, Terminal
            The transaction or the connection has ended.
        """
        self._refuse_cancelled()
        try:
            with self._working():
                pacer.look(self._connection)
        except psycopg.Error as error:
            raise self._explain(error) from None

    def cancel(self) -> None:
        """Cancel what the session runs, from any thread, and what it would run next, until :meth:`begin`.

        A server that can't be reached for that loses the connection, so that whoever waits for it is woken.
        """
        with self._lock:
            self._cancelled_at = time.monotonic()
        try:
            self._connection.cancel_safe(timeout=_CANCEL_TIMEOUT)
        except psycopg.Error:
            self._hang_up()

    def ping(self) -> None:
        """Raise unless the session answers."""
        self._row("SELECT 1")

    def close(self) -> None:
        """Close the connection. Never raises."""
        with contextlib.suppress(Exception):
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _working(self) -> Iterator[None]:
        self.at_work += 1
        try:
            yield
        finally:
            self.at_work -= 1
            self.idle_since = time.monotonic()

    def _execute(self, statement: str) -> psycopg.Cursor[tuple[Any, ...]]:
        self._refuse_cancelled()
        try:
            with self._working():
                return self._connection.execute(cast("Any", statement))
        except psycopg.Error as error:
            raise self._explain(error) from None

    def _explain(self, error: psycopg.Error) -> ExtractionError:
        # The statement may be a proof of a chunk, with its bounds.
        return translate(error, f"Talking to {self._settings.host}:{self._settings.port}", quoting=False)

    def _row(self, query: str) -> tuple[object, ...]:
        rows = self._execute(query).fetchall()
        if len(rows) != 1:
            raise SourceUnavailable(f"The server answered with {len(rows)} rows where it should with one.")
        return rows[0]

    def _refuse_cancelled(self) -> None:
        with self._lock:
            if self._cancelled_at is not None:
                raise SourceUnavailable("The session was cancelled.")

    def _give_up_cancelled(self) -> None:
        """Raise where the server had its time to end what was cancelled."""
        with self._lock:
            if self._cancelled_at is not None and time.monotonic() > self._cancelled_at + _CANCEL_TIMEOUT:
                raise SourceUnavailable(f"The server didn't end a cancelled read within {_CANCEL_TIMEOUT:g} s.")

    def _hang_up(self) -> None:
        """End the conversation, not the descriptor: threads that wait for it wake up, and libpq closes it."""
        with (
            contextlib.suppress(psycopg.Error, OSError),
            socket.socket(fileno=os.dup(self._connection.fileno())) as end,
        ):
            end.shutdown(socket.SHUT_RDWR)
