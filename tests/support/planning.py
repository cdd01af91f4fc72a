"""Transactions as planning has them."""

import contextlib
from collections.abc import Iterator
from typing import Any

import psycopg

from extraction_worker.source.session import begin, connect
from support.databases import settings_of


@contextlib.contextmanager
def planning(database, user: str | None = None, password: str | None = None) -> Iterator[psycopg.Connection[Any]]:
    """Yield a connection of the role inside a read-only transaction under the session contract."""
    settings = settings_of(database, user, password)
    with contextlib.closing(connect(settings)) as connection:
        begin(connection, settings)
        yield connection
