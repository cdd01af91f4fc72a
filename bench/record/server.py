"""A PostgreSQL with an empty record, as durable as a real one."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from extraction_record.connection import Place
from extraction_record.migrate import upgrade
from extraction_worker.demo.postgres import postgres_server

_SETTINGS = {
    "fsync": "on", "synchronous_commit": "on", "full_page_writes": "on", "autovacuum": "on", "shared_buffers": "1GB",
    "effective_cache_size": "4GB", "maintenance_work_mem": "512MB", "max_wal_size": "8GB", "jit": "off",
}  # fmt: skip


@contextmanager
def recorded() -> Iterator[tuple[Place, psycopg.Connection[tuple[Any, ...]]]]:
    """Yield where the record is, and a connection of the superuser in autocommit mode."""
    with postgres_server(settings=_SETTINGS) as server, tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "username").write_text(server.user)
        (Path(folder) / "password").write_text(server.password)
        place = Place(f"postgresql://{server.host}:{server.port}/postgres?sslmode=disable", Path(folder))
        upgrade(place)
        with psycopg.connect(server.conninfo(), autocommit=True) as connection:
            yield place, connection


class Cpu:
    """What a server has taken: its processes that are there, and those that have ended.

    Parameters
    ----------
    postmaster
        Its first process.
    """

    def __init__(self, postmaster: int) -> None:
        self._postmaster = postmaster

    def seconds(self) -> float:
        """Return CPU seconds so far, of user and system."""
        before, _ = self._read()
        # One that ends meanwhile may be missed both as a process and among those that have ended.
        while (now := self._read())[0] != before:
            before = now[0]
        return now[1] / os.sysconf("SC_CLK_TCK")

    def _read(self) -> tuple[set[int], int]:
        """Return the server's processes, and the ticks of all."""
        pids, ticks = set(), 0
        for entry in Path("/proc").glob("[0-9]*/stat"):
            try:
                # The name in parentheses may have blanks.
                pid, fields = int(entry.parent.name), entry.read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if pid == self._postmaster:
                ticks += sum(map(int, fields[11:15]))
            elif int(fields[1]) == self._postmaster:
                pids.add(pid)
                ticks += sum(map(int, fields[11:13]))
        return pids, ticks


def data_directory(connection: psycopg.Connection[tuple[Any, ...]]) -> Path:
    """Return where a server on this machine keeps its data."""
    found = connection.execute("SHOW data_directory").fetchone()
    return Path(found[0] if found else "")
