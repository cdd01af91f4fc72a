"""Sessions on the source: a psycopg connection for planning and holding, an ADBC connection for reading.

Both begin each transaction under the session contract. A reading session adopts the plan's snapshot, takes the
plan's locks and compares the whole identity before it reads a row.
"""

import contextlib
import threading
from collections.abc import Generator, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Self, cast

import adbc_driver_manager
import psycopg
from adbc_driver_manager import AdbcConnection, AdbcDatabase, AdbcStatement

# Not the raw reader: this one knows the SQLSTATE of an error in the middle of a stream.
from adbc_driver_manager._reader import AdbcRecordBatchReader
from adbc_driver_postgresql import StatementOptions

from extraction_worker.errors import SchemaDrift, SourceUnavailable, UnsupportedSource
from extraction_worker.model import Consistency, Plan, SnapshotIdentity
from extraction_worker.source.contract import BEGIN, contract_settings, contract_sql, opening_sql
from extraction_worker.source.failures import translate
from extraction_worker.source.identity import IDENTITY_SQL, check_identity, identity_from_row
from extraction_worker.source.settings import SourceSettings

if TYPE_CHECKING:
    import pyarrow as pa

OLDEST_SERVER = 120000


def connect(settings: SourceSettings) -> psycopg.Connection[tuple[Any, ...]]:
    """Open a psycopg connection in autocommit mode, and refuse servers that can't be read safely.

    Raises
    ------
    AuthenticationFailed, NotFound, TLSFailed, SourceBusy, SourceUnavailable
        As the server or libpq said.
    UnsupportedSource
        An old server, or a pooler that gives each transaction another connection.
    """
    try:
        connection = psycopg.connect(settings.conninfo(), autocommit=True, prepare_threshold=None)
    except psycopg.Error as error:
        where = f"Connecting to {settings.host}:{settings.port}/{settings.database}"
        raise translate(error, where) from None
    try:
        if connection.info.server_version < OLDEST_SERVER:
            raise UnsupportedSource(
                f"PostgreSQL {connection.info.server_version // 10000} is too old: 12 is the first."
            )
        _refuse_transaction_pooler(connection, settings)
    except BaseException:
        connection.close()
        raise
    return connection


def _backend(connection: psycopg.Connection[tuple[Any, ...]]) -> int:
    row = connection.execute("SELECT pg_catalog.pg_backend_pid()").fetchone()
    return int(row[0]) if row else 0


def _refuse_transaction_pooler(connection: psycopg.Connection[tuple[Any, ...]], settings: SourceSettings) -> None:
    """Refuse a pooler in transaction mode: it would hand our snapshot's session to others between statements.

    A pooler shows itself by a backend pid that isn't the one of the protocol's key. Then a second client is given
    the chance to get the first one's server connection while the first is still connected: only a pooler that
    assigns per transaction (or statement) does that. Poolers reuse the connection returned last, so one try shows
    it on a quiet pool; several make it sure on a busy one.
    """
    first = _backend(connection)
    if first == connection.info.backend_pid:
        return
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
    """One ADBC connection. Not for several threads at once, but :meth:`cancel` may come from another.

    Parameters
    ----------
    database
        The process's handle: it has downloaded the server's types once.
    """

    def __init__(self, database: AdbcDatabase, settings: SourceSettings) -> None:
        self._settings = settings
        self._connection = AdbcConnection(database)
        self._lock = threading.Lock()
        self._statement: AdbcStatement | None = None
        self._cancelled = False
        self.backend_pid = int(str(self._row("SELECT pg_catalog.pg_backend_pid()")[0]))
        self.server_version = int(str(self._row("SELECT pg_catalog.current_setting('server_version_num')")[0]))

    def begin(self, plan: Plan) -> None:
        """Begin a transaction under the contract, on the plan's snapshot, with its locks, and compare identities.

        Raises
        ------
        SnapshotLost, SourceNotPinned
            This session doesn't see the plan's snapshot.
        """
        self._cancelled = False
        shared = plan.consistency is Consistency.SNAPSHOT
        snapshot_id = plan.identity.snapshot_id if shared else None
        for statement in opening_sql(
            lock_timeout=self._settings.lock_timeout, locks=plan.locks, snapshot_id=snapshot_id
        ):
            self._execute(statement)
        contract = contract_settings(self.server_version, statement_timeout=0, lock_timeout=self._settings.lock_timeout)
        found = self._row(contract_sql(contract))
        for (name, value), now in zip(contract.items(), found, strict=True):
            if now != value:
                raise UnsupportedSource(
                    f"The server made {name} {now!r} of {value!r}: the session contract doesn't hold."
                )
        identity = identity_from_row(self._row(IDENTITY_SQL), plan.identity.snapshot_id)
        check_identity(plan.identity, identity, snapshot=shared)

    def end(self) -> None:
        """End the transaction."""
        self._execute("ROLLBACK")

    def read(self, query: str, *, batch_bytes: int) -> Generator["pa.RecordBatch"]:
        """Yield the rows of ``query`` as record batches of about ``batch_bytes`` Arrow bytes, one row at least.

        The statement is cancelled when the iterator is closed early: closing alone would drain the rest.

        Raises
        ------
        Transient, Terminal
            The driver's error in our words; terminate, cancel and a lost connection are errors, never an end.
        """
        statement = AdbcStatement(self._connection)
        reader: AdbcRecordBatchReader | None = None
        done = False
        try:
            with self._lock:
                if self._cancelled:
                    return
                self._statement = statement
            statement.set_options(**{StatementOptions.BATCH_SIZE_HINT_BYTES.value: str(batch_bytes)})
            statement.set_sql_query(query)
            handle, _ = statement.execute_query()
            reader = AdbcRecordBatchReader._import_from_c(handle.address)
            yield from reader
            done = True
        finally:
            with self._lock:
                self._statement = None
            if not done:
                with contextlib.suppress(Exception):
                    statement.cancel()
            if reader is not None:
                with contextlib.suppress(Exception):
                    reader.close()
            with contextlib.suppress(Exception):
                statement.close()

    def row(self, query: str) -> tuple[object, ...]:
        """Return the only row of ``query``, within the transaction."""
        return self._row(query)

    def check_storage(self, plan: Plan) -> None:
        """Raise SchemaDrift if what was just read isn't the storage that was planned (TRUNCATE, rewrite, REFRESH).

        Reading took locks that last until the end of the transaction, so an equal number now means that nothing
        was rewritten between the plan and the lock. Under ``Snapshot`` the holder's locks give that already.
        """
        if plan.consistency is Consistency.SNAPSHOT or not plan.leaves:
            return
        [found] = self._row(storage_sql(leaf.oid for leaf in plan.leaves))
        for leaf, filenode in zip(plan.leaves, cast("list[int | None]", found), strict=True):
            if (filenode or 0) != leaf.relfilenode:
                raise SchemaDrift(
                    f"{leaf.name} was rewritten, truncated or replaced after the plan was made.",
                    hint="Run the job again; under consistency Snapshot a lock prevents this.",
                )

    def cancel(self) -> None:
        """Cancel what the session runs, from any thread, and what it would run next, until :meth:`begin`."""
        with self._lock:
            self._cancelled = True
            statement = self._statement
        if statement is not None:
            with contextlib.suppress(Exception):
                statement.cancel()

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

    def _execute(self, statement_sql: str) -> None:
        with self._statement_of(statement_sql) as statement:
            statement.execute_update()

    def _row(self, query: str) -> tuple[object, ...]:
        with self._statement_of(query) as statement:
            handle, _ = statement.execute_query()
            with contextlib.closing(AdbcRecordBatchReader._import_from_c(handle.address)) as reader:
                # By position: the calls of set_config all bear one name.
                rows = [
                    tuple(column[index].as_py() for column in batch.columns)
                    for batch in reader
                    for index in range(batch.num_rows)
                ]
        if len(rows) != 1:
            raise SourceUnavailable(f"The server answered with {len(rows)} rows where it should with one.")
        return rows[0]

    @contextlib.contextmanager
    def _statement_of(self, text: str) -> Iterator[AdbcStatement]:
        statement = AdbcStatement(self._connection)
        try:
            with self._lock:
                if self._cancelled:
                    raise SourceUnavailable("The session was cancelled.")
                self._statement = statement
            statement.set_sql_query(text)
            yield statement
        except adbc_driver_manager.Error as error:
            raise translate(error, f"Talking to {self._settings.host}:{self._settings.port}") from None
        finally:
            with self._lock:
                self._statement = None
            statement.close()
