"""Secrets and values of rows, planted around the operator's own jobs and looked for wherever anything is left.

It comes after the other tests here: what their operator, jobs and stores left while things broke is looked at, too.
"""

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import psycopg
import pytest

from e2e.chaos.conftest import secret
from e2e.chaos.world import REDIS_PASSWORD, World
from e2e.support.api import Object
from e2e.support.cluster import HOST_NAME, Cluster
from e2e.support.extraction import Extraction
from e2e.support.jobs import SOURCE, Job, is_source_ready
from support.canaries import Evidence

ROWS = 3000
BOUND, EMAIL = "canary-of-a-bound", "canary-of-an-email"
MASK_KEY = "canary-of-the-mask-key-0123456789abcdef"
WRONG = "canary-of-a-refused-password"
TABLE = "public.planted"
SPEC = {
    "columns": ["key", "email", "born"],
    "partitioning": {"strategy": "Range", "column": "key", "targetBytes": "64Ki"},
    "masks": [{"column": "email", "method": "Hash", "keySecretRef": {"name": "mask"}}],
    "verification": "Source",
    "sink": {"format": {"type": "Parquet", "compression": "none"}},
}
REFUSED = "refused"


@pytest.fixture
def planted(world: World) -> None:
    """A table with values that are nobody's business, of which one fits into no file; and the key of a mask."""
    with world.source.connect() as connection:
        connection.execute(f"CREATE TABLE {TABLE} (key text PRIMARY KEY, email text, born date)")
        connection.execute(
            f"INSERT INTO {TABLE} SELECT %s || '-' || i, %s || '-' || i || repeat('x', 50),"
            " CASE i WHEN 7 THEN date 'infinity' ELSE date '2000-01-01' END FROM generate_series(1, %s::int) AS i",
            [BOUND, EMAIL, ROWS],
        )
        connection.execute(f"ANALYZE {TABLE}")
        connection.execute(f"GRANT SELECT ON {TABLE} TO reader")
    world.jobs.apply(secret("mask", {"key": MASK_KEY}))


@pytest.mark.timeout(450)
def test_secrets_and_values_of_rows_are_left_nowhere(world: World, planted: None) -> None:
    bucket = "canaries"
    world.store.client().create_bucket(Bucket=bucket)
    world.limit("64Mi")
    # Another source, whose password is right for its check alone.
    right = {"username": world.source.reader, "password": world.source.reader_password}
    world.jobs.apply(secret(REFUSED, right))
    spec = world.declared["spec"] | {"credentialsSecretRef": {"name": REFUSED}, "budgetGroup": REFUSED}
    other = world.declared | {"metadata": world.declared["metadata"] | {"name": REFUSED}, "spec": spec}
    world.jobs.apply(other)
    world.wait_for_source()
    world.jobs.wait_for(SOURCE, REFUSED, is_source_ready)
    world.jobs.apply(secret(REFUSED, right | {"password": WRONG}))

    succeeds, unfit, refused = (job_of(world, bucket, name) for name in ("succeeds", "unfit", "refused"))
    evidence = Evidence()
    fits = [column for column in SPEC["columns"] if column != "born"]
    replace_spec(succeeds, columns=fits).apply_alone()
    unfit.apply_alone()
    replace_spec(refused, dataSourceRef={"name": REFUSED}).apply_alone()
    with logs_of(world.jobs, succeeds.wait_for_pod("lead"), evidence):
        assert succeeds.succeed()["rows"] == ROWS
    assert unfit.fail()["reason"] == "Unrepresentable"
    assert refused.fail()["reason"] == "AuthenticationFailed"
    # Whoever is asked again says it, too.
    annotation = f"extraction-operator.io/check={REFUSED}"
    world.jobs.kubectl("annotate", SOURCE, REFUSED, annotation)
    world.jobs.wait_for(SOURCE, REFUSED, lambda found: not is_source_ready(found))

    add_cluster(evidence, "jobs", world.jobs)
    add_cluster(evidence, "operator", world.operator)
    for pod in world.replicas():
        path = f"/api/v1/namespaces/{world.operator.namespace}/pods/{pod['metadata']['name']}:8080/proxy/metrics"
        evidence.add("metrics", world.operator.kubectl("get", "--raw", path))
    add_redis(evidence, world)
    add_record(evidence, world)
    parts = Evidence()
    add_store(evidence, parts, world)

    secrets = {
        "password": world.source.reader_password, "refused password": WRONG, "mask key": MASK_KEY,
        "S3 secret": world.store.secret_key, "Redis password": REDIS_PASSWORD,
        "record password": world.record.reader_password,
    }  # fmt: skip
    for what, canary in (secrets | {"bound": BOUND, "masked value": EMAIL}).items():
        assert evidence.holding(canary) == set(), what
    for what, canary in (secrets | {"masked value": EMAIL}).items():
        assert parts.holding(canary) == set(), what
    # The test can see: what may be there is found, in each kind of place.
    assert parts.holding(BOUND) == set(parts.places) != set()
    known = {
        "jobs objects": [TABLE, "AuthenticationFailed", "Unrepresentable"], "operator objects": ["chaos"],
        "jobs logs": ["AuthenticationFailed", "Unrepresentable"], "jobs followed": ["holding", "planned", "published"],
        "operator logs": ["This replica is the leader."], "metrics": ["extraction_records_total"],
        "redis": [succeeds.uid], "record": [TABLE], "store": [TABLE],
    }  # fmt: skip
    for kind, words in known.items():
        for word in words:
            assert {place for place in evidence.holding(word) if place.partition(":")[0] == kind}, (kind, word)


def job_of(world: World, bucket: str, name: str) -> Job:
    """Return a job of the planted table that isn't there yet."""
    extraction = Extraction(world.jobs.namespace, world.source, TABLE, HOST_NAME, world.store, bucket, f"{name}/", SPEC)
    # The sink of the spec has a format alone.
    sink = extraction.job["spec"]["sink"] | replace(extraction, spec={}).job["spec"]["sink"] | SPEC["sink"]
    return Job(world.jobs, replace(extraction, spec=SPEC | {"sink": sink}), name)


def replace_spec(job: Job, **spec: object) -> Job:
    """Return a job with another spec."""
    return replace(job, extraction=replace(job.extraction, spec=job.extraction.spec | spec))


@contextmanager
def logs_of(cluster: Cluster, pod: Object, evidence: Evidence) -> Iterator[None]:
    """Note what the containers of a pod log meanwhile: when it has succeeded it is gone."""
    name = pod["metadata"]["name"]
    containers = pod["spec"]["containers"] + pod["spec"].get("initContainers", [])
    with ExitStack() as stack:
        following = {}
        for container in containers:
            command = cluster.command("logs", name, f"--container={container['name']}", "--follow")
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            following[container["name"]] = stack.enter_context(process)
            stack.callback(process.kill)
        yield
        for container, process in following.items():
            evidence.add(f"jobs followed: {container}", process.communicate(timeout=60)[0])


def add_cluster(evidence: Evidence, what: str, cluster: Cluster) -> None:
    """Note all objects of a namespace but Secrets, and what its pods have logged."""
    listed = cluster.kubectl("api-resources", "--namespaced", "--verbs=list", "--output=name").split()
    kinds = ",".join(sorted(set(listed) - {"secrets"}))
    for found in json.loads(cluster.kubectl("get", kinds, "--output=json", "--show-managed-fields"))["items"]:
        # As the API server writes it, and as it is meant.
        evidence.add(f"{what} objects: {found['kind']}", json.dumps(found) + str(found))
    for pod in cluster.get_all("pods"):
        name = pod["metadata"]["name"]
        states = pod["status"].get("containerStatuses", []) + pod["status"].get("initContainerStatuses", [])
        for state in states:
            options = [f"--container={state['name']}"]
            # One that never ran has no log.
            tries: list[list[str]] = [[]] if "waiting" not in state["state"] else []
            for more in (*tries, *([["--previous"]] if state.get("restartCount") else [])):
                evidence.add(f"{what} logs: {name}/{state['name']}", cluster.kubectl("logs", name, *options, *more))


def add_redis(evidence: Evidence, world: World) -> None:
    """Note all keys and values of Redis."""
    with world.redis.client(password=REDIS_PASSWORD) as client:
        for key in client.scan_iter():
            kind = client.type(key)
            assert kind in {b"string", b"hash"}, (key, kind)
            value = client.get(key) if kind == b"string" else repr(client.hgetall(key)).encode()
            evidence.add("redis", b"\n".join((key, value, b"")))


def add_record(evidence: Evidence, world: World) -> None:
    """Note all rows of all tables of the record."""
    with psycopg.connect(world.record.server.conninfo("extraction")) as connection:
        tables = connection.execute(
            "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables"
            " WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        ).fetchall()
        for (table,) in tables:
            rows = connection.execute(f"SELECT t::text, to_jsonb(t)::text FROM {table} AS t").fetchall()
            evidence.add(f"record: {table}", "\n".join(text for row in rows for text in row))


def add_store(evidence: Evidence, parts: Evidence, world: World) -> None:
    """Note all objects of the store; those of tables whose values may be there apart."""
    client = world.store.client()
    for bucket in client.list_buckets()["Buckets"]:
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket["Name"]):
            for entry in page.get("Contents", ()):
                name, key = bucket["Name"], entry["Key"]
                found = parts if "/part-" in key else evidence
                if name == "canaries" or found is evidence:
                    body = client.get_object(Bucket=name, Key=key)["Body"].read()
                    found.add(f"store: {name}/{key}", body)
        uploads = client.list_multipart_uploads(Bucket=bucket["Name"]).get("Uploads", [])
        evidence.add("store: uploads", repr(uploads))
