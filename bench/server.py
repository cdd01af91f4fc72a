"""A PostgreSQL 18 with the data set, its pages in memory, and a role that may read it."""

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

from bench.measure import ServerCpu
from extraction_worker.demo.dataset import load_records
from extraction_worker.demo.postgres import PostgresServer, postgres_server

_SETTINGS = {
    "shared_buffers": "1GB",
    "effective_cache_size": "4GB",
    "work_mem": "16MB",
    "maintenance_work_mem": "256MB",
    "max_wal_size": "8GB",
}
READER = "bench_reader"


@dataclass(frozen=True)
class Source:
    """A table that can be read, and what reading all of it must give. ``rows`` and ``key_sum`` are the server's."""

    server: PostgresServer
    table: str
    key: str
    rows: int
    key_sum: int
    heap_bytes: int
    server_version: str

    @property
    def environment(self) -> dict[str, str]:
        """What libpq needs to connect as the reader."""
        return {
            "PGHOST": self.server.host,
            "PGPORT": str(self.server.port),
            "PGDATABASE": "postgres",
            "PGUSER": READER,
            "PGPASSWORD": self.server.password,
            "PGSSLMODE": "disable",
        }

    @property
    def binaries(self) -> Path:
        """Folder of ``psql``."""
        return self.server.binaries

    @property
    def cpu(self) -> ServerCpu:
        """Counts the server's CPU time."""
        return ServerCpu(int((self.server.data / "postmaster.pid").read_text().split()[0]))


@contextmanager
def bench_source(rows: int, script: Path | None, table: str, key: str) -> Iterator[Source]:
    """Start a server, load ``rows`` rows of the data set, or what an SQL script makes; stop it at the end.

    Parameters
    ----------
    script
        A file for psql that makes ``table``; ``rows`` isn't looked at then.
    key
        A column of integers: parallel peers split by it, and its sum shows that every row came once.
    """
    with postgres_server(settings=_SETTINGS) as server:
        if script is not None:
            _run_script(server, script)
        with psycopg.connect(server.conninfo(), autocommit=True) as connection:
            if script is None:
                load_records(connection, rows)
            yield _prepare(server, connection, table, key)


def _run_script(server: PostgresServer, script: Path) -> None:
    psql = str(server.binaries / "psql")
    command = [psql, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", str(script), server.conninfo()]
    environment = {**os.environ, "PGPASSWORD": server.password}
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)


def _prepare(
    server: PostgresServer, connection: psycopg.Connection[tuple[object, ...]], table: str, key: str
) -> Source:
    if not re.fullmatch(r"\w+\.\w+", table):
        raise ValueError(f"--table {table} isn't of the form schema.name")
    name = sql.Identifier(*table.split("."))
    connection.execute(sql.SQL("VACUUM (ANALYZE) {}").format(name))
    connection.execute(
        sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(READER), sql.Literal(server.password))
    )
    connection.execute(sql.SQL("GRANT SELECT ON {} TO {}").format(name, sql.Identifier(READER)))
    connection.execute("CHECKPOINT")
    found = connection.execute(
        sql.SQL("SELECT count(*), sum({})::text, pg_relation_size({}), version() FROM {}").format(
            sql.Identifier(key), sql.Literal(table), name
        )
    ).fetchone()
    if found is None:
        raise AssertionError("an aggregate returns a row")
    rows, key_sum, heap_bytes, version = (str(value) for value in found)
    return Source(server, table, key, int(rows), int(key_sum), int(heap_bytes), " ".join(version.split()[:2]))
