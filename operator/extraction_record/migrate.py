"""The schema, brought to a version: all of it or nothing, and by one at a time.

Alembic knows which steps there are and which were taken. It has no lock of its own, so the transaction takes an
advisory one: a second run waits, and then finds nothing to do. Unlike a row in a table, no killed process leaves it
behind.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from alembic import command, op
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from extraction_record import partitions
from extraction_record.connection import Place

SCHEMA = "extraction"
_FOLDER = Path(__file__).parent / "migrations"
_LOCK = 0x65787472_7265636F
"""``extrreco`` in ASCII."""
_PATIENCE = "5min"
"""Longest wait for another run, and for a lock of any table."""


def upgrade(place: Place, revision: str = "head", *, months: int = partitions.AHEAD) -> None:
    """Bring the schema to a version, and make partitions ahead.

    Raises
    ------
    psycopg.Error, PlaceError
        Nothing was changed.
    """
    with _locked(place) as connection:
        command.upgrade(_config(connection), revision)
    with psycopg.connect(**place.parameters(), autocommit=True) as plain:
        partitions.make(plain, months=months)


def downgrade(place: Place, revision: str) -> None:
    """Bring the schema back to a version; ``base`` is before the first.

    Raises
    ------
    psycopg.Error, PlaceError
        Nothing was changed.
    """
    with _locked(place) as connection:
        command.downgrade(_config(connection), revision)


def current(place: Place) -> tuple[str | None, str | None]:
    """Return the version of the schema, None before the first, and the newest that there is.

    Raises
    ------
    psycopg.Error, PlaceError
    """
    with _locked(place) as connection:
        context = MigrationContext.configure(connection, opts={"version_table_schema": SCHEMA})
        return context.get_current_revision(), ScriptDirectory.from_config(_config(connection)).get_current_head()


def run_file(name: str) -> None:
    """Run a file of statements beside the versions; called by these."""
    driver = op.get_bind().connection.driver_connection
    if not isinstance(driver, psycopg.Connection):
        raise TypeError("migrations run on psycopg")
    # Without parameters the server takes several statements at once.
    driver.execute((_FOLDER / "versions" / name).read_bytes())


@contextmanager
def _locked(place: Place) -> Iterator[Connection]:
    # Connected first: what goes wrong then is psycopg's to say.
    driver = psycopg.connect(**place.parameters())
    engine = create_engine("postgresql+psycopg://", creator=lambda: driver, poolclass=NullPool)
    try:
        with engine.begin() as connection:
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_PATIENCE}'")
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
            connection.exec_driver_sql(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
            yield connection
    except DBAPIError as error:
        raise error.orig or error from None
    finally:
        engine.dispose()
        driver.close()


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_FOLDER))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config
