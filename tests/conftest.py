"""Servers that the tests share: PostgreSQL 18 (embedded), PostgreSQL 15 (Debian), an S3 server. All on loopback."""

import functools
import gc
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from extraction_worker.demo.postgres import PostgresServer, postgres_server
from support.redis_server import RedisServer
from support.s3_server import start_s3_server

DEBIAN_15 = Path("/usr/lib/postgresql/15/bin")
# Collations of ICU, XML and another major version need Debian's server. CI sets this, so that nothing is skipped.
REQUIRED = os.environ.get("CI") == "true"


def pytest_collection_finish() -> None:
    """Keep the garbage collector from walking through all tests again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def postgres18() -> Iterator[PostgresServer]:
    """The embedded PostgreSQL 18."""
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
def debian_15() -> Path:
    """The binaries of Debian's PostgreSQL 15, with ICU, XML and TLS."""
    if not (DEBIAN_15 / "postgres").exists():
        if REQUIRED:
            pytest.fail("CI needs PostgreSQL 15: apt-get install postgresql-15")
        pytest.skip("PostgreSQL 15 isn't installed (apt-get install postgresql-15)")
    return DEBIAN_15


@pytest.fixture(scope="session")
def postgres15(debian_15: Path) -> Iterator[PostgresServer]:
    """Debian's PostgreSQL 15."""
    with postgres_server(debian_15) as server:
        yield server


@pytest.fixture(scope="session", params=["postgres18", "postgres15"])
def server(request: pytest.FixtureRequest) -> PostgresServer:
    """Each of the supported servers at hand, in turn."""
    value: PostgresServer = request.getfixturevalue(request.param)
    return value


class Database:
    """A database of one test: its server, its name and a superuser connection in autocommit mode."""

    def __init__(self, server: PostgresServer, template: str = "template0") -> None:
        self.server = server
        self.name = f"test_{uuid.uuid4().hex[:12]}"
        with psycopg.connect(server.conninfo(), autocommit=True) as admin:
            names = sql.Identifier(self.name), sql.Identifier(template)
            # By way of its log, as is the default, a server takes a tenth longer.
            admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy").format(*names))
        self.connection = psycopg.connect(self.conninfo, autocommit=True)
        self._roles: list[str] = []

    @property
    def conninfo(self) -> str:
        """Connection string of the superuser."""
        return self.server.conninfo(self.name)

    def execute(self, statement: str, *parameters: object) -> list[tuple[object, ...]]:
        """Run one statement as superuser; return its rows, if it has any."""
        cursor = self.connection.execute(statement, parameters or None)  # type: ignore[arg-type]
        return cursor.fetchall() if cursor.description else []

    def role(self, name: str = "reader", *, password: str = "reader-password", grant: str = "") -> str:
        """Create a login role (roles are of the whole server, so the name gets a suffix); return its name."""
        full = f"{name}_{self.name[-8:]}"
        self.connection.execute(
            sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(full), sql.Literal(password))
        )
        self._roles.append(full)
        if grant:
            self.connection.execute(sql.SQL(grant + " TO {}").format(sql.Identifier(full)))  # type: ignore[arg-type]
        return full

    def drop(self) -> None:
        """Drop the database and its roles."""
        for role in self._roles:
            self.connection.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(role)))
            self.connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))
        self.connection.close()
        with psycopg.connect(self.server.conninfo(), autocommit=True) as admin:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(self.name)))


@pytest.fixture
def database(server: PostgresServer) -> Iterator[Database]:
    """An empty database on each server in turn."""
    value = Database(server)
    yield value
    value.drop()


@pytest.fixture
def database18(postgres18: PostgresServer) -> Iterator[Database]:
    """An empty database on PostgreSQL 18 alone, where the version makes no difference."""
    value = Database(postgres18)
    yield value
    value.drop()


@pytest.fixture(scope="module")
def shared18(postgres18: PostgresServer) -> Iterator[Database]:
    """A database on PostgreSQL 18 for all tests of a file that only read what the file put into it."""
    value = Database(postgres18)
    yield value
    value.drop()


@pytest.fixture(scope="session")
def record_template(postgres18: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A database with the schema of the record; its migration takes longer than a copy."""
    from extraction_record.migrate import upgrade
    from support.record import place_of

    value = Database(postgres18)
    upgrade(place_of(value, tmp_path_factory.mktemp("record")))
    value.connection.close()
    yield value.name
    value.connection = psycopg.connect(value.conninfo, autocommit=True)
    value.drop()


@pytest.fixture
def recorded(postgres18: PostgresServer, record_template: str) -> Iterator[Database]:
    """A database with an empty record on PostgreSQL 18."""
    value = Database(postgres18, record_template)
    yield value
    value.drop()


class S3Server:
    """A real S3 server process (moto) on loopback, with a fresh bucket for each test."""

    access_key = "test-access-key"
    secret_key = "test-secret-key"
    region = "us-east-1"

    def __init__(self) -> None:
        self.process, self.port = start_s3_server()
        self.endpoint = f"http://127.0.0.1:{self.port}"

    @functools.cache  # noqa: B019 - there is one server in a session
    def client(self):
        """Return a boto3 client of this server."""
        import boto3

        return boto3.client(
            "s3", endpoint_url=self.endpoint, region_name=self.region,
            aws_access_key_id=self.access_key, aws_secret_access_key=self.secret_key,
        )  # fmt: skip

    def stop(self) -> None:
        """End the server process."""
        self.process.terminate()
        self.process.wait(10)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """The S3 server of the session."""
    value = S3Server()
    yield value
    value.stop()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A Redis of the session; each test gets it empty (``redis``)."""
    with RedisServer() as value:
        yield value


@pytest.fixture
def redis(redis_server: RedisServer) -> RedisServer:
    """The Redis of the session, emptied."""
    redis_server.client().flushall()
    return redis_server


@pytest.fixture
def bucket(s3_server: S3Server) -> str:
    """A fresh, empty bucket."""
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    s3_server.client().create_bucket(Bucket=name)
    return name
