"""Partitions by month: made ahead, dropped as a whole. What belongs to none lies in the default partition meanwhile.

A job's month is that of its creation, in all tables: what belongs together is dropped together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import psycopg
from psycopg import sql

AHEAD = 3
"""Months that are made ahead, beside the current one."""
PARENTS = {
    "jobs": "created_at", "job_specs": "job_created_at", "attempts": "job_created_at", "bundles": "job_created_at",
}  # fmt: skip
"""The partitioned tables, and what they are partitioned by."""
_PATIENCE = "5s"
"""Longest wait for a lock, because the operator's writes wait behind it."""

_LOCK = 0x65787472_70617274
"""``extrpart`` in ASCII."""

Db = psycopg.Connection[tuple[object, ...]]


@dataclass(frozen=True)
class Pruned:
    """What :func:`prune` did."""

    dropped: tuple[str, ...]
    """Names of partitions."""
    kept: tuple[str, ...]
    """Partitions that are old enough but have jobs that haven't ended."""
    rows: int
    """Rows that were deleted one by one: of default partitions, and sources and schedules that are gone."""


def make(connection: Db, *, months: int = AHEAD, today: date | None = None) -> list[str]:
    """Make the partitions of this month and of some to come, and of all months that the default partitions have.

    Parameters
    ----------
    connection
        In autocommit mode: each partition is a transaction of its own.

    Raises
    ------
    psycopg.Error
        Those that were made until then stay; doing it again goes on.
    """
    first = (today or datetime.now(UTC).date()).replace(day=1)
    wanted = {first}
    for _ in range(months):
        wanted.add(first := _next(first))
    made: list[str] = []
    for parent, key in PARENTS.items():
        stray = _column(connection, sql.SQL("SELECT DISTINCT date_trunc('month', {} AT TIME ZONE 'UTC')::date FROM {}")
                        .format(sql.Identifier(key), _name(f"{parent}_default")))  # fmt: skip
        there = _partitions(connection, parent)
        months_here = sorted(wanted | {month for month in stray if isinstance(month, date)})
        missing = [month for month in months_here if f"{parent}_{month:%Y_%m}" not in there]
        made.extend(name for month in missing if (name := _make(connection, parent, key, month)))
    return made


def prune(connection: Db, *, keep: timedelta, now: datetime | None = None) -> Pruned:
    """Drop the partitions whose jobs were all created longer ago than ``keep``.

    Raises
    ------
    psycopg.Error
        What was dropped until then is gone; doing it again goes on.
    """
    limit = (now or datetime.now(UTC)) - keep
    dropped: list[str] = []
    kept: list[str] = []
    for table, month in _partitions(connection, "jobs").items():
        if _next(month) > limit.astimezone(UTC).date():
            continue
        if _column(connection, sql.SQL("SELECT 1 FROM {} WHERE finished_at IS NULL LIMIT 1").format(_name(table))):
            kept.append(table)
            continue
        tables = [f"{parent}_{month:%Y_%m}" for parent in PARENTS]
        with connection.transaction():
            _take_turns(connection)
            connection.execute(
                sql.SQL("DROP TABLE IF EXISTS {}").format(sql.SQL(", ").join(_name(name) for name in tables))
            )
        dropped += tables
    rows = 0
    for parent, key in PARENTS.items():
        rows += _delete(connection, f"{parent}_default", sql.SQL("{} < %s").format(sql.Identifier(key)), limit)
    rows += _delete(connection, "data_sources", sql.SQL("deleted_at < %s"), limit)
    rows += _delete(connection, "schedules", sql.SQL("last_job_at < %s"), limit)
    return Pruned(tuple(dropped), tuple(kept), rows)


def _make(connection: Db, parent: str, key: str, month: date) -> str:
    """Make one partition; what the default partition has of this month moves into it. Empty: another has made it."""
    name = f"{parent}_{month:%Y_%m}"
    begin, end = (datetime(day.year, day.month, 1, tzinfo=UTC) for day in (month, _next(month)))
    columns = sql.SQL(", ").join(sql.Identifier(str(column)) for column in _columns(connection, parent))
    parts = {
        "new": _name(name), "parent": _name(parent), "default": _name(f"{parent}_default"),
        "key": sql.Identifier(key), "begin": sql.Literal(begin), "end": sql.Literal(end), "columns": columns,
    }  # fmt: skip
    with connection.transaction():
        _take_turns(connection)
        if name in _partitions(connection, parent):
            return ""
        # Attached, not created as a partition: that would stop all writes to the parent until it is done.
        for statement in (
            "LOCK TABLE {default} IN ACCESS EXCLUSIVE MODE",
            "CREATE TABLE {new} (LIKE {parent} INCLUDING ALL)",
            (
                "WITH moved AS (DELETE FROM {default} WHERE {key} >= {begin} AND {key} < {end} RETURNING *)"
                " INSERT INTO {new} ({columns}) SELECT {columns} FROM moved"
            ),
            "ALTER TABLE {parent} ATTACH PARTITION {new} FOR VALUES FROM ({begin}) TO ({end})",
        ):
            connection.execute(sql.SQL(statement).format(**parts))
    return name


def _delete(connection: Db, table: str, condition: sql.Composable, limit: datetime) -> int:
    done = connection.execute(sql.SQL("DELETE FROM {} WHERE {}").format(_name(table), condition), (limit,))
    return done.rowcount


def _partitions(connection: Db, parent: str) -> dict[str, date]:
    """Return the partitions of a table by name with their months, oldest first; not the default one."""
    names = _column(
        connection,
        sql.SQL("SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid"
                " WHERE inhparent = {}::regclass AND relname ~ {} ORDER BY relname").format(
            sql.Literal(f"extraction.{parent}"), sql.Literal(rf"^{parent}_\d{{4}}_\d{{2}}$")
        ),
    )  # fmt: skip
    return {str(name): datetime.strptime(str(name)[-7:], "%Y_%m").replace(tzinfo=UTC).date() for name in names}


def _columns(connection: Db, table: str) -> Sequence[object]:
    return _column(
        connection,
        sql.SQL("SELECT attname FROM pg_attribute WHERE attrelid = {}::regclass AND attnum > 0 AND NOT attisdropped"
                " AND attgenerated = '' ORDER BY attnum").format(sql.Literal(f"extraction.{table}")),
    )  # fmt: skip


def _take_turns(connection: Db) -> None:
    """Wait for others who make or drop partitions; for everybody else only as long as their writes may wait for us."""
    connection.execute(sql.SQL("SELECT pg_advisory_xact_lock({})").format(sql.Literal(_LOCK)))
    connection.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(_PATIENCE)))


def _column(connection: Db, query: sql.Composed) -> list[object]:
    return [row[0] for row in connection.execute(query).fetchall()]


def _name(table: str) -> sql.Identifier:
    return sql.Identifier("extraction", table)


def _next(month: date) -> date:
    return (month.replace(day=28) + timedelta(days=4)).replace(day=1)
