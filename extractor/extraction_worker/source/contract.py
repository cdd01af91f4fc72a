"""The session contract: what holds in every transaction of ours, whatever the role, database or pooler sets.

It is set per transaction (``SET LOCAL``), because a session's settings leak to others behind a pooler, and a
transaction that isn't told otherwise is READ COMMITTED, READ WRITE. See PostgreSQL's documentation of each setting.
"""

from collections.abc import Iterable

from psycopg import sql

BEGIN = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"

LOCKING = 1.25
"""Times the lock time-out, all LOCKs of a transaction may take together."""

# Values as current_setting() prints them, so that they can be compared when read back.
_ALWAYS: dict[str, str] = {
    # What is read means the same in every session.
    "search_path": "",
    "TimeZone": "UTC",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "iso_8601",
    "bytea_output": "hex",
    "extra_float_digits": "3",
    "client_encoding": "UTF8",
    "standard_conforming_strings": "on",
    "transform_null_equals": "off",
    # Hidden rows are an error, never silently missing.
    "row_security": "off",
    # Chunks are ours to parallelise; a chunk reads its pages in order.
    "max_parallel_workers_per_gather": "0",
    "synchronize_seqscans": "off",
    "jit": "off",
    # A reader waits for a slow sink as long as it takes; its progress is watched on the client.
    "idle_in_transaction_session_timeout": "0",
}
_SINCE: dict[int, dict[str, str]] = {
    # The server notices that a client is gone while it waits or computes.
    140000: {"client_connection_check_interval": "10s", "idle_session_timeout": "0"},
    170000: {"transaction_timeout": "0"},
}


def contract_settings(server_version: int, *, statement_timeout: float, lock_timeout: float) -> dict[str, str]:
    """Return the settings of a transaction.

    Parameters
    ----------
    server_version
        ``server_version_num``.
    statement_timeout
        Seconds; 0 is none. It would count back-pressure, so it bounds planning only.
    lock_timeout
        Seconds that a LOCK of ours may wait in front of the application's statements.
    """
    settings = dict(_ALWAYS)
    for version, more in _SINCE.items():
        if server_version >= version:
            settings |= more
    settings["statement_timeout"] = _milliseconds(statement_timeout)
    settings["lock_timeout"] = _milliseconds(lock_timeout)
    return settings


def contract_sql(settings: dict[str, str]) -> str:
    """Return one SELECT that makes the settings for this transaction."""
    calls = [
        sql.SQL("pg_catalog.set_config({}, {}, true)").format(sql.Literal(name), sql.Literal(value))
        for name, value in settings.items()
    ]
    return sql.SQL("SELECT {}").format(sql.SQL(", ").join(calls)).as_string(None)


def opening_sql(*, lock_timeout: float, locks: Iterable[str] = (), snapshot_id: str | None = None) -> list[str]:
    """Return the statements that open a transaction, up to where its snapshot may be taken.

    The order matters. An exported snapshot must be adopted by the first statement. A lock must come before a
    snapshot of the transaction's own, or a rewrite between the two would hide rows: so what the LOCKs need is made
    with SET LOCAL, which takes no snapshot, and the contract (a SELECT) follows them.

    Parameters
    ----------
    lock_timeout
        Seconds for a LOCK, and, times :data:`LOCKING`, for all together: who waits for the second lock keeps the first,
        and others may wait for that.
    locks
        Quoted names of tables and views.
    snapshot_id
        An exported snapshot to adopt.
    """
    statements = [BEGIN]
    if snapshot_id:
        statements.append(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(snapshot_id)).as_string(None))
    timeout = sql.Literal(_milliseconds(lock_timeout))
    statements.append(sql.SQL("SET LOCAL lock_timeout = {}").format(timeout).as_string(None))
    statements.append("SET LOCAL search_path = ''")
    if tables := ", ".join(locks):
        # A lock time-out bounds each wait anew, and a LOCK of a partitioned table may have many. The limit of the whole
        # comes a little later: of a single wait, the lock's own time-out says better what happened.
        whole = sql.Literal(_milliseconds(lock_timeout * LOCKING))
        statements.append(sql.SQL("SET LOCAL statement_timeout = {}").format(whole).as_string(None))
        statements.append(f"LOCK TABLE {tables} IN ACCESS SHARE MODE")
    return statements


def _milliseconds(seconds: float) -> str:
    """Format as current_setting() does."""
    milliseconds = round(seconds * 1000)
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1000)):
        if milliseconds and milliseconds % size == 0:
            return f"{milliseconds // size}{unit}"
    return f"{milliseconds}ms" if milliseconds else "0"
