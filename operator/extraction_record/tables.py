"""What is written to each table, and by which statement: the same row twice is the same as once.

A statement takes all of its rows as one JSON document: one parameter and one round trip whatever their number, and no
temporary table, which would leave dead rows in the server's catalog every second.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from typing import LiteralString

from psycopg import sql

_NEWER: LiteralString = (
    "(excluded.resource_version, excluded.deleted_at IS NOT NULL) > (old.resource_version, old.deleted_at IS NOT NULL)"
)
"""A newer version of the object, or its end, which has the version before it."""


@dataclass(frozen=True)
class Table:
    """A table: its key, what else is written, and what becomes of a row that is there already.

    Parameters
    ----------
    newer
        SQL of the condition under which ``excluded`` takes the place of ``old``. Empty: what is known stays, and what
        isn't yet is filled in.
    """

    name: str
    key: tuple[str, ...]
    columns: tuple[str, ...]
    newer: LiteralString = ""

    @cached_property
    def key_of(self) -> Callable[[Mapping[str, object]], tuple[object, ...]]:
        """Takes a row's key from its values."""
        if len(self.key) > 1:
            return itemgetter(*self.key)
        (name,) = self.key
        return lambda values: (values[name],)

    def statement(self) -> sql.Composed:
        """Return the statement that writes rows: its parameter is a JSON array of objects, each key once."""
        names = _list((*self.key, *self.columns))
        return sql.SQL(
            "INSERT INTO {table} AS old ({names}) SELECT {names} FROM json_populate_recordset(NULL::{table}, %s::json)"
            " ON CONFLICT ({key}) DO UPDATE SET {values}, recorded_at = now() WHERE {condition}"
        ).format(
            table=sql.Identifier("extraction", self.name), names=names, key=_list(self.key),
            values=self._each("{0} = excluded.{0}" if self.newer else "{0} = coalesce(old.{0}, excluded.{0})", ", "),
            condition=sql.SQL(self.newer) if self.newer else self._each(
                "(old.{0} IS NULL AND excluded.{0} IS NOT NULL)", " OR "
            ),
        )  # fmt: skip

    def _each(self, template: LiteralString, between: LiteralString) -> sql.Composed:
        return sql.SQL(between).join(sql.SQL(template).format(sql.Identifier(name)) for name in self.columns)


def _list(names: tuple[str, ...]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, names))


_SESSIONS = (
    "sessions", "session_checkouts", "session_reuses", "session_waits", "sessions_evicted", "sessions_leaked",
)  # fmt: skip
"""What pools of connections did."""

DATA_SOURCES = Table(
    "data_sources", ("uid",),
    (
        "cluster", "namespace", "name", "type", "host", "port", "database", "budget_group", "generation",
        "resource_version", "created_at", "deleted_at", "ready", "reason", "message", "server_version", "tls", "pooler",
        "replica", "can_write", "latency_milliseconds", "checked_at", "spec",
    ),
    _NEWER,
)  # fmt: skip
SCHEDULES = Table(
    "schedules", ("uid",), ("cluster", "namespace", "name", "last_job_at"), "excluded.last_job_at > old.last_job_at"
)
JOBS = Table(
    "jobs", ("uid", "created_at"),
    (
        "cluster", "namespace", "name", "source", "table_name", "schedule_uid", "generation", "resource_version",
        "phase", "attempt", "started_at", "finished_at", "deleted_at", "sink", "format", "verification", "consistency",
        "rows", "bytes", "files", "digest", "manifest", "reused_run", *_SESSIONS, "reason", "message",
    ),
    _NEWER,
)  # fmt: skip
JOB_SPECS = Table(
    "job_specs", ("job_uid", "job_created_at"), ("generation", "spec"), "excluded.generation > old.generation"
)
ATTEMPTS = Table(
    "attempts", ("job_uid", "attempt", "job_created_at"),
    (
        "outcome", "started_at", "planned_at", "finished_at", "plan_digest", "strategy", "chunks", "bundles",
        "estimated_rows", "estimated_bytes", "consistency", "rows", "bytes", "files", "digest", "reason", "message",
        "node",
    ),
)  # fmt: skip
BUNDLES = Table(
    "bundles", ("job_uid", "attempt", "bundle", "pod_uid", "job_created_at"),
    (
        "pod", "node", "outcome", "exit_code", "started_at", "finished_at", "rows", "bytes", "chunks", "reused_chunks",
        "retries", "seconds", *_SESSIONS, "reason", "message",
    ),
)  # fmt: skip

TABLES = (DATA_SOURCES, SCHEDULES, JOBS, JOB_SPECS, ATTEMPTS, BUNDLES)
"""All of them, in the order in which a flush writes."""
