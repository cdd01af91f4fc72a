"""``check``: what the server of a DataSource is. Nothing is read from its tables."""

import time
from contextlib import closing
from typing import Any

import psycopg

from extraction_contract.load import Manifests, load_files
from extraction_contract.messages import CheckMessage
from extraction_contract.models import DataSource
from extraction_contract.resolve import resolve_source
from extraction_worker.errors import InvalidManifest
from extraction_worker.source.catalog import Connection
from extraction_worker.source.failures import translate
from extraction_worker.source.session import connect, planning_transaction
from extraction_worker.stages.pod.environment import POD_NAME
from extraction_worker.stages.pod.invocation import Invocation
from extraction_worker.stages.settings import application_name, source_settings

_ROUND_TRIPS = 5
_PATIENCE_SECONDS = 30.0
"""How long a check waits for its turn: the operator gives it a minute in all."""

_SERVER = """
SELECT pg_catalog.split_part(pg_catalog.current_setting('server_version'), ' ', 1),
       pg_catalog.pg_is_in_recovery(),
       pg_catalog.current_setting('max_connections')::pg_catalog.int8,
       (SELECT rolconnlimit FROM pg_catalog.pg_roles WHERE rolname = current_user),
       pg_catalog.pg_backend_pid(),
       (SELECT version FROM pg_catalog.pg_stat_ssl WHERE pid = pg_catalog.pg_backend_pid() AND ssl)
"""

# Temporary tables are no matter: they are gone with the session. Of very many tables it looks at some: one grant to a
# role that only reads is rarely on one table alone.
_CAN_WRITE = """
SELECT (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user)
    OR pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE')
    OR EXISTS (SELECT FROM pg_catalog.pg_roles
               WHERE rolname IN ('pg_write_all_data', 'pg_write_server_files', 'pg_execute_server_program')
                 AND pg_catalog.pg_has_role(oid, 'MEMBER'))
    OR EXISTS (SELECT FROM pg_catalog.pg_namespace
               WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
                 AND pg_catalog.has_schema_privilege(oid, 'CREATE'))
    OR EXISTS (SELECT FROM (SELECT c.oid FROM pg_catalog.pg_class AS c
                            JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
                            WHERE c.relkind IN ('r', 'p', 'v', 'f')
                              AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
                            LIMIT 10000) AS t
               WHERE pg_catalog.has_table_privilege(t.oid, 'INSERT, UPDATE, DELETE, TRUNCATE')
                  OR pg_catalog.has_any_column_privilege(t.oid, 'INSERT, UPDATE'))
"""


def run(invocation: Invocation) -> CheckMessage:
    """Connect as a job would, and look around.

    Raises
    ------
    ManifestError, ExtractionError
        Why no job could read from this source.
    """
    manifests = load_files([invocation.mounts.manifests])
    resolved = resolve_source(_only_source(manifests), manifests, invocation.mounts.secrets)
    name = application_name(resolved.source, invocation.variables.get(POD_NAME, ""))
    settings = source_settings(resolved, name)

    def check() -> CheckMessage:
        with closing(connect(settings)) as connection, planning_transaction(connection, settings):
            return _look(connection)

    try:
        return invocation.patiently(check, seconds=_PATIENCE_SECONDS)
    except psycopg.Error as error:
        raise translate(error, f"Checking {settings.host}:{settings.port}/{settings.database}") from None


def _look(connection: Connection) -> CheckMessage:
    version, replica, limit, role_limit, backend_pid, tls = _row(connection, _SERVER)
    [can_write] = _row(connection, _CAN_WRITE)
    # The pid that the protocol told is the pooler's invention, the other one the server's.
    pooler = backend_pid != connection.info.backend_pid
    if pooler:
        # The server knows its connection to the pooler alone; of ours libpq's Python binding tells no version.
        tls = "TLS" if connection.pgconn.ssl_in_use else ""
    return CheckMessage(
        server_version=version,
        latency_milliseconds=round(min(_round_trip(connection) for _ in range(_ROUND_TRIPS)) * 1000, 3),
        tls=tls or "",
        pooler=pooler,
        replica=replica,
        max_connections=limit,
        role_connection_limit=role_limit,
        can_write=can_write,
    )


def _row(connection: Connection, query: str) -> tuple[Any, ...]:
    row = connection.execute(query).fetchone()
    if row is None:
        raise AssertionError("a SELECT without FROM returns a row")
    return row


def _round_trip(connection: Connection) -> float:
    started = time.perf_counter()
    connection.execute("SELECT 1")
    return time.perf_counter() - started


def _only_source(manifests: Manifests) -> DataSource:
    sources = list(manifests.sources.values())
    if len(sources) != 1:
        raise InvalidManifest(f"{len(sources)} DataSources are mounted, not one.")
    return sources[0]
