"""From `kubectl apply` to published files."""

import json

from e2e.operator.conftest import FEW, ROWS
from e2e.support.cluster import Cluster
from e2e.support.jobs import KIND, Job, condition, sessions
from e2e.support.servers import Postgres, Store
from e2e.test_extraction_job import read_volume


def test_a_table_is_read_by_several_pods_into_a_bucket(job: Job, postgres: Postgres, store: Store, bucket: str) -> None:
    job = job.apply()
    result = job.succeed()
    manifest = json.load(store.client().get_object(Bucket=bucket, Key="records/_manifest.json")["Body"])
    assert result["rows"] == manifest["rows"] == ROWS
    assert result["digest"] == manifest["digest"]
    assert result["consistency"] == "Snapshot"
    status = job.status
    assert status["plan"]["bundles"] > 1
    assert status["progress"]["summary"] == f"{status['plan']['chunks']}/{status['plan']['chunks']}"
    assert condition(status, "Succeeded")["status"] == "True"
    assert len(json.dumps(status)) < 4096
    # Nothing is left: no session, no staging, no upload, no pod.
    keys = [entry["Key"] for entry in store.client().list_objects_v2(Bucket=bucket)["Contents"]]
    assert sorted(keys) == sorted(
        ["records/_manifest.json", *(f"records/{part['name']}" for part in manifest["parts"])]
    )
    assert "Uploads" not in store.client().list_multipart_uploads(Bucket=bucket)
    assert sessions(postgres, job.namespace.namespace) == []
    for role in ("lead", "work"):
        job.namespace.kubectl("wait", "--for=delete", "jobs", f"--selector={job.selector(role)}", "--timeout=60s")
    events = job.events()
    assert [reason for reason in events if reason in {"Started", "Planned", "Succeeded"}] == [
        "Started",
        "Planned",
        "Succeeded",
    ]


def test_a_table_is_read_onto_a_volume_of_one_node(volume_job: Job, extractor_image: str) -> None:
    job = volume_job.apply()
    result = job.succeed()
    folder = f"{job.namespace.namespace}/records"
    manifest = read_volume(job.namespace, folder, extractor_image)
    assert result["rows"] == manifest["rows"] == ROWS
    assert job.status["plan"]["bundles"] > 1


def test_a_small_table_costs_one_pod(small_job: Job) -> None:
    job = small_job.apply()
    # Watched from the start, as succeeded children go at once.
    job.wait_for_pod("lead")
    result = job.succeed()
    assert result["rows"] == FEW
    assert job.status["plan"]["bundles"] == 1
    assert job.status.get("workers", 0) == 0


def test_kubectl_tells_the_story(small_job: Job) -> None:
    job = small_job.apply()
    namespace: Cluster = job.namespace
    namespace.kubectl("wait", "--for=condition=Succeeded", f"{KIND}/{job.name}", "--timeout=90s")
    header, line = namespace.kubectl("get", "exj").splitlines()
    assert header.split() == ["NAME", "PHASE", "PROGRESS", "ROWS", "AGE"]
    assert line.split()[:4] == ["records", "Succeeded", "1/1", str(FEW)]
    wide = namespace.kubectl("get", "exj", "-o", "wide")
    assert "Snapshot" in wide
    assert "shop" in wide
    for selector in ("status.phase=Succeeded", "spec.dataSourceRef.name=shop"):
        assert job.name in namespace.kubectl("get", "exj", "--field-selector", selector)
    assert not namespace.kubectl("get", "exj", "--field-selector", "status.phase=Failed")
    described = namespace.kubectl("describe", "exj", job.name)
    assert "Succeeded" in described
    assert f"{FEW:,} rows" in described
    assert "extraction" in namespace.kubectl("get", "extraction")
    explained = namespace.kubectl("explain", "exj.spec.snapshot.onLoss")
    assert "begin anew" in explained


def test_a_source_is_checked_and_says_what_it_is(small_job: Job) -> None:
    small_job.apply_source()
    source = small_job.namespace.wait_for(
        "datasources.extraction-operator.io", "shop", lambda found: bool(found.get("status", {}).get("server"))
    )
    server = source["status"]["server"]
    assert int(server["version"].partition(".")[0]) >= 12
    assert server["tls"].startswith("TLS")
    assert server["latencyMilliseconds"] >= 1
    assert not server.get("canWrite", False)
    assert condition(source["status"], "Ready")["reason"] == "Connected"
