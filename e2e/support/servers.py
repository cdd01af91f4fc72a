"""Real servers on this machine for pods to use: PostgreSQL that insists on TLS, and S3."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from tests.support.s3_server import start_s3_server

from e2e.node.commands import run
from extraction_worker.demo.postgres import PostgresServer


@dataclass(frozen=True)
class Postgres:
    """A PostgreSQL that takes connections over TLS alone on an address of this machine."""

    server: PostgresServer
    ca: str
    reader_password: str
    reader: str = "reader"
    """A role without any right but to connect; grant it what it shall read."""

    def connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        """Connect as superuser, over loopback, in autocommit mode."""
        return psycopg.connect(self.server.conninfo(), autocommit=True)


@contextlib.contextmanager
def postgres_with_tls(address: str, name: str, password: str = "reader-password") -> Iterator[Postgres]:
    """Start a PostgreSQL whose certificate is for a name and an address, with a reader; remove it at the end."""
    folder = Path(tempfile.mkdtemp(prefix="e2e-postgres-"))
    folder.chmod(0o755)
    certificates = folder / "certificates"
    certificates.mkdir()
    _certify(certificates, name, address)
    server = PostgresServer(_binaries(), folder / "server", {
        "listen_addresses": f"127.0.0.1,{address}", "ssl": "on",
        "ssl_cert_file": str(certificates / "server.crt"), "ssl_key_file": str(certificates / "server.key"),
    })  # fmt: skip
    try:
        server.create()
        for file in certificates.iterdir():
            os.chown(file, server.data.stat().st_uid, -1)
        with (server.data / "pg_hba.conf").open("a") as rules:
            rules.write("hostssl all all samenet scram-sha-256\nhostssl all all 10.0.0.0/8 scram-sha-256\n")
        server.start()
        found = Postgres(server, (certificates / "ca.crt").read_text(), password)
        with found.connect() as connection:
            role = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}")
            connection.execute(role.format(sql.Identifier(found.reader), sql.Literal(found.reader_password)))
        yield found
    finally:
        server.stop()
        shutil.rmtree(folder)


def _binaries() -> Path:
    """Return a PostgreSQL of the distribution: the embedded one is built without TLS."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if not found:
        raise RuntimeError("a PostgreSQL with TLS is missing: apt-get install -y postgresql")
    return found[-1].parent


def _certify(folder: Path, name: str, address: str) -> None:
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    run("openssl", "req", "-x509", *key, "-days", "2", "-subj", "/CN=e2e authority",
        "-keyout", folder / "ca.key", "-out", folder / "ca.crt")  # fmt: skip
    run("openssl", "req", "-x509", *key, "-days", "2", "-subj", f"/CN={name}",
        "-addext", f"subjectAltName=DNS:{name},IP:{address}", "-addext", "basicConstraints=critical,CA:FALSE",
        "-CA", folder / "ca.crt", "-CAkey", folder / "ca.key",
        "-keyout", folder / "server.key", "-out", folder / "server.crt")  # fmt: skip


@dataclass(frozen=True)
class Store:
    """An S3 store."""

    address: str
    port: int
    access_key: str = "e2e-access-key"
    secret_key: str = "e2e-secret-key"

    def endpoint(self, host: str) -> str:
        """Return the URL of the store for those who call this machine `host`."""
        return f"http://{host}:{self.port}"

    def client(self) -> Any:
        """Return a boto3 client."""
        import boto3

        return boto3.client(
            "s3", endpoint_url=self.endpoint(self.address), region_name="us-east-1",
            aws_access_key_id=self.access_key, aws_secret_access_key=self.secret_key,
        )  # fmt: skip


@contextlib.contextmanager
def s3_store(address: str) -> Iterator[Store]:
    """Start an S3 server on an address of this machine; end it at the end."""
    # Otherwise it takes the first part of the host's name for that of a bucket.
    process, port = start_s3_server(address, S3_IGNORE_SUBDOMAIN_BUCKETNAME="true")
    try:
        yield Store(address, port)
    finally:
        process.terminate()
        process.wait(10)
