"""Batches → PostgreSQL: one transaction each, sent as one pipeline. Writing one twice is the same as once."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Sequence
from functools import cache
from typing import Any, TypeVar

import psycopg
from psycopg import AsyncConnection

from extraction_operator.record.spool import Batch
from extraction_record.connection import Place, PlaceError
from extraction_record.tables import TABLES, Table

T = TypeVar("T")

_CONNECT_SECONDS = 10.0
_WRITE_SECONDS = 60.0
_SETTINGS = "SET statement_timeout = '55s'; SET lock_timeout = '30s'; SET TimeZone = 'UTC'"

_NO_SCHEMA = (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn, psycopg.errors.InvalidSchemaName)

_ABSENT = """
WITH ended AS (
    UPDATE extraction.jobs SET phase = 'Deleted', finished_at = now(), deleted_at = now(), recorded_at = now()
    WHERE finished_at IS NULL AND cluster = %(cluster)s
      AND (%(namespaces)s::text[] = '{}' OR namespace = ANY (%(namespaces)s))
      AND NOT uid = ANY (%(jobs)s::uuid[])
    RETURNING uid, created_at, attempt
), given_up AS (
    UPDATE extraction.attempts SET outcome = 'Deleted', finished_at = coalesce(finished_at, now()), recorded_at = now()
    FROM ended WHERE (job_uid, job_created_at, attempts.attempt) = (uid, created_at, ended.attempt) AND outcome IS NULL
)
SELECT count(*) FROM ended
"""
_ABSENT_SOURCES = """
UPDATE extraction.data_sources SET deleted_at = now(), recorded_at = now()
WHERE deleted_at IS NULL AND cluster = %(cluster)s
      AND (%(namespaces)s::text[] = '{}' OR namespace = ANY (%(namespaces)s))
  AND NOT uid = ANY (%(sources)s::uuid[])
"""


class UnavailableError(Exception):
    """The record can't be written now; the message says why, without names or passwords of the connection."""


class Writer:
    """Writes batches. It holds at most one connection, and makes another where that is broken.

    Parameters
    ----------
    rejected
        Told the table of a row that the server will never take, and why.
    """

    def __init__(self, place: Place, rejected: Callable[[str, str], None]) -> None:
        self._place = place
        self._rejected = rejected
        self._connection: AsyncConnection[tuple[object, ...]] | None = None
        self.transactions = 0
        """That were committed."""

    async def write(self, batch: Batch) -> None:
        """Write a batch.

        Raises
        ------
        UnavailableError
            Nothing of it was written, or all of it; writing it again is right in both cases.
        """
        try:
            await self._guarded(self._send(batch))
        except (psycopg.DataError, psycopg.IntegrityError) as error:
            if len(batch) > 1:
                # One bad row shall not keep the others away for ever.
                for half in batch.halves():
                    await self.write(half)
            else:
                (entry,) = batch.entries.values()
                self._rejected(entry.table.name, type(error).__name__)

    async def end_absent(
        self, *, cluster: str, namespaces: Sequence[str], jobs: Sequence[str], sources: Sequence[str]
    ) -> int:
        """End what is recorded as being there and isn't: it went while nobody watched. Return how many jobs.

        Raises
        ------
        UnavailableError
            Doing it again is right.
        """
        given = {
            "cluster": cluster, "namespaces": list(namespaces), "jobs": list(jobs), "sources": list(sources),
        }  # fmt: skip

        async def work() -> int:
            connection = await self._connected()
            async with connection.transaction():
                await connection.execute(_ABSENT_SOURCES, given)
                found = await (await connection.execute(_ABSENT, given)).fetchone()
            return int(str(found[0])) if found else 0

        return await self._guarded(work())

    async def close(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _send(self, batch: Batch) -> None:
        connection, texts = await self._connected(), batch.texts()
        async with connection.pipeline(), connection.transaction():
            for table in TABLES:
                if text := texts.get(table.name):
                    await connection.execute(_statement(table), (text,))
        self.transactions += 1

    async def _guarded(self, work: Coroutine[Any, Any, T]) -> T:
        """Bound the time of some work, and translate its failures; what is wrong with the rows is raised as it is."""
        try:
            async with asyncio.timeout(_WRITE_SECONDS):
                return await work
        except (psycopg.DataError, psycopg.IntegrityError):
            raise
        except _NO_SCHEMA:
            await self._abandon()
            raise UnavailableError("Its schema isn't there, or is older: run `extraction record migrate`.") from None
        except (psycopg.Error, PlaceError, OSError) as error:
            # Where it is unknown whether the commit came through, the batch is written again.
            await self._abandon()
            raise UnavailableError(_describe(error)) from None
        except BaseException:
            await self._abandon()
            raise

    async def _abandon(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(psycopg.Error, OSError):
                await connection.close()

    async def _connected(self) -> AsyncConnection[tuple[object, ...]]:
        if self._connection is None or self._connection.closed:
            parameters = self._place.parameters()
            async with asyncio.timeout(_CONNECT_SECONDS):
                # Nothing is prepared: a pooler in transaction mode wouldn't know of it.
                connection = await AsyncConnection.connect(**parameters, autocommit=True, prepare_threshold=None)
            self._connection = connection
            await connection.execute(_SETTINGS)
        return self._connection


@cache
def _statement(table: Table) -> bytes:
    return table.statement().as_bytes()


def _describe(error: Exception) -> str:
    """Return what happened in one line; the texts of libpq name host and user, which are in the URL anyway."""
    first = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
