"""The operator, installed by its chart for the tests of this folder and for no other, and jobs for it."""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from e2e.support.charts import Helm
from e2e.support.cluster import HOST_NAME, Cluster
from e2e.support.extraction import Extraction, claim
from e2e.support.jobs import Job
from e2e.support.servers import Postgres, Store
from extraction_worker.demo.dataset import load_records

CHART = Path(__file__).parents[2] / "charts" / "extraction-operator"
ROWS = 70_000
CLAIMED = 10
"""So many times as many rows the statistics promise: worth several worker pods, which have little to do."""
SEVERAL = {"parallelism": 2, "partitioning": {"targetBytes": "64Mi"}}
"""What divides a plan of that table into two bundles of three chunks each."""
FEW = 10_000
"""One pod is enough."""


@dataclass(frozen=True)
class Operator:
    """The installed operator; ``cluster`` is its namespace."""

    cluster: Cluster
    helm: Helm

    def restart_hard(self) -> None:
        """Kill every replica at once, without a word."""
        self.cluster.kubectl(
            "delete", "pods", "--selector=app.kubernetes.io/name=extraction-operator", "--grace-period=0", "--force"
        )


@pytest.fixture(scope="package")
def operator(
    cluster: Cluster, helm_program: Path, operator_image: str, extractor_image: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Operator]:  # fmt: skip
    """The operator as people install it."""
    with cluster.fresh_namespace() as namespace:
        helm = Helm(helm_program, namespace, tmp_path_factory.mktemp("helm"))
        # Another release, or kubectl, may have brought the definitions to this cluster.
        helm.install("extraction", CHART, values(operator_image, extractor_image), "--take-ownership")
        yield Operator(namespace, helm)
        helm.uninstall("extraction")


def values(operator_image: str, extractor_image: str) -> dict[str, object]:
    """Return the chart's values for images that are loaded."""

    def image(name: str) -> dict[str, str]:
        repository, _, tag = name.rpartition(":")
        return {"repository": repository, "tag": tag, "pullPolicy": "Never"}

    return {"image": image(operator_image), "extractor": {"image": image(extractor_image)}}


@pytest.fixture(scope="session")
def records(postgres: Postgres) -> str:
    """A table of :data:`ROWS` rows that the reader may read, and that is planned for several pods."""
    with postgres.connect() as connection:
        connection.execute("DROP TABLE IF EXISTS public.records")
        load_records(connection, ROWS)
        connection.execute("ALTER TABLE public.records RENAME TO many")
        promise_many(connection, "public.many")
    return "public.many"


def promise_many(connection: psycopg.Connection[tuple[Any, ...]], table: str) -> None:
    """Have fresh statistics of a table promise :data:`CLAIMED` times its rows, and let the reader read it."""
    connection.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
    connection.execute("UPDATE pg_class SET reltuples = reltuples * %s WHERE oid = %s::regclass", [CLAIMED, table])
    connection.execute(f"GRANT SELECT ON {table} TO reader")


@pytest.fixture(scope="session")
def few(postgres: Postgres) -> str:
    """A table of :data:`FEW` rows that the reader may read."""
    with postgres.connect() as connection:
        connection.execute("DROP TABLE IF EXISTS public.few")
        connection.execute(
            "CREATE TABLE public.few AS SELECT i AS id, md5(i::text) AS word FROM generate_series(1, %s::int) AS i",
            [FEW],
        )
        connection.execute("GRANT SELECT ON public.few TO reader")
    return "public.few"


@pytest.fixture
def job(operator: Operator, restricted: Cluster, postgres: Postgres, store: Store, bucket: str, records: str) -> Job:
    """A job of two worker pods into a bucket; nothing is applied yet."""
    return Job(
        restricted,
        Extraction(restricted.namespace, postgres, records, HOST_NAME, store, bucket, "records", spec=dict(SEVERAL)),
    )


@pytest.fixture
def small_job(operator: Operator, restricted: Cluster, postgres: Postgres, store: Store, bucket: str, few: str) -> Job:
    """A job of one pod into a bucket; nothing is applied yet."""
    return Job(restricted, Extraction(restricted.namespace, postgres, few, HOST_NAME, store, bucket, "few"))


@pytest.fixture
def volume_job(operator: Operator, restricted: Cluster, postgres: Postgres, records: str) -> Job:
    """A job of two worker pods onto a volume that one node can mount; its claim is there."""
    restricted.apply(claim())
    return Job(restricted, Extraction(restricted.namespace, postgres, records, HOST_NAME, spec=dict(SEVERAL)))


@pytest.fixture
def table(postgres: Postgres, records: str) -> Iterator[str]:
    """A table of the test's own, as large as `records`, that may be changed."""
    name = f"public.t{uuid.uuid4().hex[:8]}"
    with postgres.connect() as connection:
        connection.execute(f"CREATE TABLE {name} AS SELECT * FROM {records}")
        connection.execute(f"VACUUM ANALYZE {name}")
        promise_many(connection, name)
        yield name
        connection.execute(f"DROP TABLE {name}")
