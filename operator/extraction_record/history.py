"""What has happened, read from the record: a fixed number of statements, whatever the number of jobs."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from extraction_record import queries
from extraction_record.connection import Place

Row = dict[str, Any]
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True)
class Filter:
    """Which jobs; what is None or empty isn't looked at."""

    namespace: str | None = None
    source: str | None = None
    table: str | None = None
    phase: str | None = None
    schedule: str | None = None
    """Name of a schedule."""
    running: bool = False
    since: datetime | None = None
    """Of the creation; of the end where only ended jobs are asked for."""

    def conditions(self, *, by: LiteralString) -> tuple[sql.Composed, Row]:
        """Return SQL that begins with AND, and its parameters; ``since`` is compared with the column ``by``."""
        exact: dict[LiteralString, str | None] = {
            "namespace": self.namespace, "source": self.source, "table_name": self.table, "phase": self.phase,
        }  # fmt: skip
        found = [sql.SQL(" AND j.{0} = %({0})s").format(sql.SQL(name)) for name, value in exact.items() if value]
        if self.schedule:
            found.append(
                sql.SQL(
                    " AND j.schedule_uid IN (SELECT uid FROM extraction.schedules WHERE name = %(schedule)s)"
                ).format()
            )
        if self.running:
            found.append(sql.SQL(" AND j.finished_at IS NULL").format())
        if self.since:
            found.append(sql.SQL(" AND j.{} >= %(since)s").format(sql.SQL(by)))
        return sql.SQL("").join(found), {**exact, "schedule": self.schedule, "since": self.since}


@dataclass(frozen=True)
class Whole:
    """Everything about one job."""

    job: Row
    spec: Row | None
    attempts: Sequence[Row]
    bundles: Sequence[Row]


class History:
    """Reads the record. A context manager that holds one connection."""

    def __init__(self, connection: psycopg.Connection[Row]) -> None:
        self._connection = connection

    @classmethod
    def open(cls, place: Place) -> "History":
        """Connect, for reading only.

        Raises
        ------
        psycopg.Error, PlaceError
        """
        connection = psycopg.connect(**place.parameters(), row_factory=dict_row)
        connection.read_only = True
        return cls(connection)

    def __enter__(self) -> "History":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def jobs(self, which: Filter, limit: int) -> list[Row]:
        """Return the jobs that were created last."""
        return self._filtered(which, by="created_at", order="j.created_at DESC", limit=limit)

    def failures(self, which: Filter, limit: int) -> list[Row]:
        """Return the jobs that failed last, each with the failed worker pods of its last attempt."""
        return self._filtered(
            which, by="finished_at", also=" AND phase = 'Failed'", order="j.finished_at DESC", limit=limit,
            failed_pods=True,
        )  # fmt: skip

    def slowest(self, which: Filter, limit: int) -> list[Row]:
        """Return the jobs that succeeded and took the longest."""
        also: LiteralString = " AND phase = 'Succeeded' AND finished_at IS NOT NULL AND duration_seconds IS NOT NULL"
        return self._filtered(which, by="finished_at", also=also, order="j.duration_seconds DESC", limit=limit)

    def stats(self, which: Filter) -> list[Row]:
        """Return the jobs that ended since ``which.since``, by day and source."""
        more, parameters = which.conditions(by="finished_at")
        query = sql.SQL(queries.STATS) + more + sql.SQL(" GROUP BY 1, 2, 3 ORDER BY 1 DESC, 2, 3")
        return self._all(query, parameters)

    def show(self, name: str, namespace: str) -> Whole | None:
        """Return everything about a job by its uid, or the newest of a name; None where there is none."""
        query: sql.SQL | sql.Composed = sql.SQL(queries.BY_NAME.text)
        if _UUID.fullmatch(name):
            query = sql.SQL("SELECT {} FROM extraction.jobs j WHERE uid = %(uid)s").format(sql.SQL(queries.JOB_COLUMNS))
        found = self._all(query, {"name": name, "namespace": namespace, "uid": name, "limit": 1})
        if not found:
            return None
        key = {"uid": found[0]["uid"], "created_at": found[0]["created_at"]}
        spec = self._all(sql.SQL(queries.SPEC), key)
        return Whole(
            found[0], spec[0]["spec"] if spec else None,
            self._all(sql.SQL(queries.ATTEMPTS), key), self._all(sql.SQL(queries.BUNDLES), key),
        )  # fmt: skip

    def _filtered(
        self, which: Filter, *, by: LiteralString, order: LiteralString, limit: int, also: LiteralString = "",
        failed_pods: bool = False,
    ) -> list[Row]:  # fmt: skip
        more, parameters = which.conditions(by=by)
        query = sql.SQL("SELECT {} FROM extraction.jobs j WHERE true{}{} ORDER BY {} LIMIT %(limit)s").format(
            sql.SQL(queries.JOB_COLUMNS), sql.SQL(also), more, sql.SQL(order)
        )
        if failed_pods:
            # Counted of those that are shown, not of all that the order is made of.
            query = sql.SQL("SELECT j.*, f.* FROM ({}) AS j {} ORDER BY {}").format(
                query, sql.SQL(queries.FAILED_PODS), sql.SQL(order)
            )
        return self._all(query, {**parameters, "limit": limit})

    def _all(self, query: sql.SQL | sql.Composed, parameters: Mapping[str, object]) -> list[Row]:
        found: list[Row] = self._connection.execute(query, parameters).fetchall()
        return found


def plain(value: object) -> object:
    """Return a value of a row as JSON has it."""
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    if isinstance(value, UUID):
        return str(value)
    return str(value)
