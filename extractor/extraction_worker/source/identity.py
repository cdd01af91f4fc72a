"""Reading the identity of a snapshot and comparing it: the guard against another server, restart or promotion."""

from datetime import UTC, datetime

from extraction_worker.errors import ExtractionError, SnapshotLost, SourceNotPinned
from extraction_worker.model import SnapshotIdentity

# Every part in one statement, so that all belong to one moment of one server. txid_current_snapshot() prints the
# same as pg_current_snapshot() and exists in every version, 12 included.
IDENTITY_SQL = """
SELECT pg_catalog.txid_current_snapshot()::pg_catalog.text AS snapshot,
       (SELECT system_identifier FROM pg_catalog.pg_control_system())::pg_catalog.text AS system_identifier,
       (SELECT timeline_id FROM pg_catalog.pg_control_checkpoint())::pg_catalog.int8 AS timeline,
       (pg_catalog.date_part('epoch', pg_catalog.pg_postmaster_start_time()) * 1000000)::pg_catalog.int8 AS started,
       pg_catalog.pg_is_in_recovery() AS in_recovery,
       COALESCE(pg_catalog.host(pg_catalog.inet_server_addr()) || ':' || pg_catalog.inet_server_port(), '')
           AS server_address,
       pg_catalog.current_setting('server_version_num')::pg_catalog.int8 AS server_version,
       (CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
             ELSE pg_catalog.pg_current_wal_lsn() END)::pg_catalog.text AS lsn
"""


def held_sql(snapshot_id: str) -> str:
    """Return an expression of SQL: whether the transaction that exported a snapshot goes on.

    Every transaction has its virtual id locked, and the file of an exported snapshot is named for it, in hexadecimal
    (``ExportSnapshot`` in PostgreSQL's snapmgr.c).
    """
    process, transaction, _ = (int(part, 16) for part in snapshot_id.split("-"))
    return (
        "EXISTS (SELECT FROM pg_catalog.pg_locks WHERE locktype = 'virtualxid' AND granted "
        f"AND virtualxid = '{process}/{transaction}')"
    )


def identity_from_row(row: tuple[object, ...], snapshot_id: str) -> SnapshotIdentity:
    """Return the identity from a row of :data:`IDENTITY_SQL`."""
    snapshot, system_identifier, timeline, started, in_recovery, address, version, lsn = row
    return SnapshotIdentity(
        snapshot_id=snapshot_id,
        snapshot=str(snapshot),
        system_identifier=str(system_identifier),
        timeline=int(str(timeline)),
        postmaster_start=datetime.fromtimestamp(int(str(started)) / 1_000_000, UTC),
        in_recovery=bool(in_recovery),
        server_address=str(address),
        server_version=int(str(version)),
        lsn=str(lsn),
    )


def check_identity(expected: SnapshotIdentity, found: SnapshotIdentity, *, snapshot: bool) -> None:
    """Compare what a session sees with what the holder saw.

    Parameters
    ----------
    snapshot
        Whether the snapshot itself must be equal; false under ``PerPartition``, where only the server must be.

    Raises
    ------
    SourceNotPinned
        Another server, or another replica of it.
    SnapshotLost
        The same server, but restarted, promoted, or with another snapshot under the same id.
    """
    problem: tuple[type[ExtractionError], str] | None = None
    if found.system_identifier != expected.system_identifier:
        problem = SourceNotPinned, f"system identifier {found.system_identifier}, not {expected.system_identifier}"
    elif found.server_address != expected.server_address:
        problem = (
            SourceNotPinned,
            f"server {found.server_address or 'socket'}, not {expected.server_address or 'socket'}",
        )
    elif found.in_recovery != expected.in_recovery or found.timeline != expected.timeline:
        problem = SnapshotLost, "the server was promoted or recovered meanwhile"
    elif snapshot and found.postmaster_start != expected.postmaster_start:
        problem = SnapshotLost, "the server was restarted meanwhile"
    elif snapshot and found.snapshot != expected.snapshot:
        problem = SnapshotLost, "the snapshot id names another snapshot"
    if problem:
        kind, difference = problem
        raise kind(
            f"This session doesn't see the snapshot of the job: {difference}.",
            hint="Point the DataSource at one server, not at a balanced name." if kind is SourceNotPinned else "",
        )
