"""A world that may be broken: an operator with Redis and a record, and servers, all of them of these tests alone."""

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.chaos.driver import IS_LONG, LARGE, SMALL, SPEC, Essence, essence
from e2e.chaos.world import REDIS_PASSWORD, World, redis_url
from e2e.operator.conftest import CHART, values
from e2e.support.api import Object
from e2e.support.charts import Helm
from e2e.support.cluster import HOST_NAME, Cluster
from e2e.support.extraction import Extraction, read_published
from e2e.support.gate import gate_to
from e2e.support.servers import Postgres, Store, postgres_with_tls, s3_store
from e2e.support.stand_in import StandIn
from support.redis_server import RedisServer

collect_ignore = [] if IS_LONG else ["test_long.py"]

ROWS = {LARGE: 34_000, SMALL: 5_000}
"""Of 8 KiB each: a little more than a lead reads alone, and less."""


@pytest.fixture(scope="package")
def chaos_source(host_address: str) -> Iterator[Postgres]:
    """The source of these tests, with its tables."""
    with postgres_with_tls(host_address, HOST_NAME, "canary-of-the-source-password") as found:
        with found.connect() as connection:
            for table, rows in ROWS.items():
                connection.execute(f"CREATE TABLE {table} (id int8 PRIMARY KEY, word text, filler text)")
                # Stored as it is, so that little work reads many bytes.
                connection.execute(f"ALTER TABLE {table} ALTER filler SET STORAGE EXTERNAL")
                connection.execute(
                    f"INSERT INTO {table} SELECT i, md5(i::text), repeat(md5((i * 7)::text), 256)"
                    " FROM generate_series(1, %s::int) AS i", [rows],
                )  # fmt: skip
                connection.execute(f"VACUUM ANALYZE {table}")
                connection.execute(f"GRANT SELECT ON {table} TO reader")
        yield found


@pytest.fixture(scope="package")
def undisturbed(
    chaos_source: Postgres, host_address: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Essence]:
    """What jobs publish of each table when nothing happens."""
    found = {}
    for table, rows in ROWS.items():
        extraction = Extraction("chaos", chaos_source, table, host_address, spec=SPEC)
        volume = extraction.run_locally(tmp_path_factory.mktemp("undisturbed"))
        found[table] = essence(read_published(volume, extraction))
        assert sum(count for _, count, _ in found[table]) == rows
    return found


@pytest.fixture(scope="package")
def world(
    cluster: Cluster, helm_program: Path, operator_image: str, extractor_image: str, host_address: str,
    chaos_source: Postgres, tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[World]:  # fmt: skip
    """The operator, installed with Redis and a record, a namespace for jobs, and servers; there is no source yet."""
    with (
        postgres_with_tls(host_address, HOST_NAME, "canary-of-the-record-password") as record,
        s3_store(host_address) as behind,
        gate_to(host_address, behind.port) as gate,
        RedisServer("--bind", "127.0.0.1", host_address, "--requirepass", REDIS_PASSWORD) as redis,
        cluster.fresh_namespace() as operator, cluster.fresh_namespace() as jobs,
    ):  # fmt: skip
        with record.connect() as connection:
            connection.execute(f"CREATE DATABASE extraction OWNER {record.reader}")
            # What it has confirmed survives its crash, as on any server that isn't a test's.
            connection.execute(f"ALTER ROLE {record.reader} SET synchronous_commit = on")
        url = {"url": redis_url(redis, HOST_NAME)}
        access = {"username": record.reader, "password": record.reader_password, "ca.crt": record.ca}
        operator.apply(secret("record", access), secret("redis", url))
        jobs.apply(secret("redis", url))
        folder = tmp_path_factory.mktemp("record")
        for name, value in access.items():
            (folder / name).write_text(value)
        helm = Helm(helm_program, operator, tmp_path_factory.mktemp("helm"))
        chosen = values(operator_image, extractor_image) | {
            "redis": {"existingSecret": "redis", "jobs": {"secretName": "redis"}},
            "record": {
                "enabled": True, "host": HOST_NAME, "port": record.server.port,
                "credentialsSecretRef": {"name": "record"}, "caSecretRef": {"name": "record"},
            },
        }  # fmt: skip
        helm.install("chaos", CHART, chosen, "--take-ownership")
        store = Store(host_address, gate.port, secret_key="canary-of-the-secret-access-key/+=")
        stand_in = StandIn(cluster) if cluster.is_stand_in else None
        extraction = Extraction(jobs.namespace, chaos_source, LARGE, HOST_NAME, store)
        extraction.apply_secrets(jobs)
        try:
            source = extraction.source
            yield World(operator, jobs, chaos_source, store, gate, redis, record, folder, stand_in, source)
        finally:
            # A test that was ended in the middle of a storm has healed nothing.
            if stand_in is not None:
                stand_in.wake_kubelet()
            gate.let_go()
            helm.uninstall("chaos")


def secret(name: str, values: dict[str, str]) -> Object:
    """Return a Secret."""
    data = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data}
