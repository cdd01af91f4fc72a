"""Everything that a job needs, and that may die."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from prometheus_client.parser import text_string_to_metric_families

from e2e.support.api import Object
from e2e.support.cluster import Cluster, Refused
from e2e.support.gate import Gate
from e2e.support.jobs import SOURCE, Job, is_source_ready
from e2e.support.servers import Postgres, Store
from e2e.support.stand_in import StandIn
from extraction_contract.live import LiveProgress, live_key
from support.redis_server import RedisServer

REDIS_PASSWORD = "canary-of-the-redis-password"


def redis_url(redis: RedisServer, host: str) -> str:
    """Return the URL of Redis for those who call this machine ``host``."""
    return f"redis://:{REDIS_PASSWORD}@{host}:{redis.port}/0"


@dataclass(frozen=True)
class World:
    """The operator, jobs, and their servers. ``stand_in`` is None on a real kind: some faults are missing there."""

    operator: Cluster
    """Its namespace."""
    jobs: Cluster
    """Their namespace."""
    source: Postgres
    store: Store
    """Reached through ``gate``."""
    gate: Gate
    redis: RedisServer
    record: Postgres
    record_access: Path
    """Folder of the files ``username``, ``password`` and ``ca.crt``."""
    stand_in: StandIn | None
    declared: Object
    """The DataSource, whose limits :meth:`limit` declares."""

    def limit(self, bytes_per_second: str) -> None:
        """Let pods of attempts that begin from now on read so many bytes a second, those of a job together."""
        limits = {"maxConnections": 40, "activeJobs": 10, "bytesPerSecond": bytes_per_second}
        self.jobs.apply(self.declared | {"spec": self.declared["spec"] | {"limits": limits}})

    def wait_for_source(self) -> None:
        """Wait until the source was checked as declared now: a check that finds it away is repeated much later."""
        # A check may take longer than it may on a busy machine, and is repeated, too.
        self.jobs.wait_for(SOURCE, self.declared["metadata"]["name"], is_source_ready, 240)

    def pods(self, *, role: str) -> list[Object]:
        """Return the running pods of a role, of all jobs, by name; none while the API server is away."""
        return _running(self.jobs, f"extraction-operator.io/role={role}")

    def replicas(self) -> list[Object]:
        """Return the operator's running pods; none while the API server is away."""
        return _running(self.operator, "app.kubernetes.io/name=extraction-operator")

    def leader(self) -> Object | None:
        """Return the pod of the operator that leads, if there is one."""
        try:
            leases = self.operator.get_all("leases.coordination.k8s.io")
        except Refused:
            return None
        names = {lease["spec"].get("holderIdentity", "").partition("_")[0] for lease in leases}
        return next((pod for pod in self.replicas() if pod["metadata"]["name"] in names), None)

    def sessions(self) -> list[str]:
        """Return the names of the jobs' sessions on the source."""
        with self.source.connect() as connection:
            rows = connection.execute(
                "SELECT application_name FROM pg_stat_activity WHERE application_name LIKE 'extraction/%'"
            ).fetchall()
        return [str(name) for (name,) in rows]

    def recorded(self) -> dict[str, str]:
        """Return the phase of each job in the record, by name."""
        with psycopg.connect(self.record.server.conninfo("extraction")) as connection:
            rows = connection.execute(
                "SELECT name, phase FROM extraction.jobs WHERE namespace = %s", [self.jobs.namespace]
            ).fetchall()
        return dict(rows)

    def history(self, *words: str) -> Any:
        """Ask the record, as people do from a machine of theirs; return the answer."""
        url = f"postgresql://{self.store.address}:{self.record.server.port}/extraction"
        place = ("--url", f"{url}?sslrootcert={self.record_access / 'ca.crt'}", "--credentials", self.record_access)
        program = Path(sys.executable).with_name("extraction")
        command: list[str | Path] = [program, "history", *words, *place, "--output=json"]
        return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=60).stdout)

    def watching(self, job: Job, folder: Path) -> "subprocess.Popen[str]":
        """Follow a job and what Redis has of it, as people do; its lines are the output."""
        file = folder / "redis-url"
        file.write_text(redis_url(self.redis, self.store.address))
        program = Path(sys.executable).with_name("extraction")
        place: tuple[str | Path, ...] = ("--namespace", self.jobs.namespace, "--kubeconfig", self.jobs.kubeconfig)
        return subprocess.Popen(
            [program, "watch", job.name, *place, "--redis-url-file", file],
            env=os.environ | {"KUBECTL": str(self.jobs.kubectl_path)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def live(self, job: Job) -> LiveProgress | None:
        """Return what the pods of a job's first attempt have told in Redis."""
        with self.redis.client(password=REDIS_PASSWORD) as client:
            return LiveProgress.of(client.hgetall(live_key(f"{job.uid}-1")))

    def metrics(self) -> dict[tuple[str, ...], float]:
        """Return what the leader serves, by the name of the metric and the values of its labels, which are sorted."""
        leader = self.leader()
        assert leader is not None
        path = f"/api/v1/namespaces/{self.operator.namespace}/pods/{leader['metadata']['name']}:8080/proxy/metrics"
        return {
            (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(self.operator.kubectl("get", "--raw", path))
            for sample in family.samples
        }

    def kept(self, bucket: str, prefix: str) -> tuple[set[str], list[str]]:
        """Return the keys below a prefix of the store, without it, and the keys of uploads that aren't complete."""
        client = self.store.client()
        keys: set[str] = set()
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            keys |= {entry["Key"].removeprefix(prefix) for entry in page.get("Contents", ())}
        uploads = client.list_multipart_uploads(Bucket=bucket, Prefix=prefix).get("Uploads", [])
        return keys, [upload["Key"] for upload in uploads]

    def manifest(self, bucket: str, prefix: str) -> dict[str, Any]:
        """Return a published set's manifest."""
        body = self.store.client().get_object(Bucket=bucket, Key=f"{prefix}_manifest.json")["Body"]
        found: dict[str, Any] = json.loads(body.read())
        return found


def _running(namespace: Cluster, selector: str) -> list[Object]:
    try:
        found = namespace.get_all("pods", f"--selector={selector}")
    except Refused:
        return []
    return [pod for pod in found if pod["status"].get("phase") == "Running"]
