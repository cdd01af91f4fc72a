"""A PostgreSQL with an empty record, as durable as a real one."""

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
