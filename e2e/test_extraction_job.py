"""An extraction as a plain Job in the cluster publishes what the same manifests publish on this machine."""

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from e2e.support.cluster import HOST_NAME, Cluster
from e2e.support.servers import Postgres, Store, postgres_with_tls, s3_store

from extraction_worker.demo.dataset import load_records

ROWS = 200_000
BUCKET = "lake"
RESTRICTED = {
    "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": True,
    "runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"},
}  # fmt: skip


@pytest.fixture(scope="module")
def postgres(host_address: str) -> Iterator[Postgres]:
    with postgres_with_tls(host_address, HOST_NAME) as found:
        with psycopg.connect(found.server.conninfo(), autocommit=True) as connection:
            load_records(connection, ROWS)
            connection.execute("CREATE ROLE reader LOGIN PASSWORD 'reader-password'")
            connection.execute("GRANT SELECT ON records TO reader")
        yield found


@pytest.fixture(scope="module")
def store(host_address: str) -> Iterator[Store]:
    with s3_store(host_address) as found:
        found.client().create_bucket(Bucket=BUCKET)
        yield found


def secrets(postgres: Postgres, store: Store) -> dict[str, dict[str, str]]:
    return {
        "reader": {"username": "reader", "password": "reader-password"},
        "authority": {"ca.crt": postgres.ca},
        "lake": {"accessKeyId": store.access_key, "secretAccessKey": store.secret_key},
    }


def manifests(postgres: Postgres, store: Store, host: str, sink: str, namespace: str) -> str:
    """Return the manifests of a job for those who call the machine of the servers `host`."""
    target: dict[str, Any] = {"volume": {"claimName": "shelf"}}
    if sink == "s3":
        target = {"s3": {
            "bucket": BUCKET, "prefix": f"{host}/", "endpoint": store.endpoint(host), "region": "us-east-1",
            "credentialsSecretRef": {"name": "lake"}}}  # fmt: skip
    api = "extraction-operator.io/v1alpha1"
    source = {
        "apiVersion": api, "kind": "DataSource", "metadata": {"name": "shop", "namespace": namespace},
        "spec": {
            "type": "PostgreSQL",
            "connection": {
                "host": host, "port": postgres.server.port, "database": "postgres", "sslMode": "verify-full",
                "caSecretRef": {"name": "authority", "key": "ca.crt"},
            },
            "credentialsSecretRef": {"name": "reader"},
        },
    }  # fmt: skip
    job = {
        "apiVersion": api, "kind": "ExtractionJob", "metadata": {"name": "records", "namespace": namespace},
        "spec": {
            "dataSourceRef": {"name": "shop"}, "table": "public.records",
            "partitioning": {"targetBytes": "16Mi"}, "verification": "Decoded",
            "sink": {"format": {"type": "Parquet", "compression": "zstd"}} | target,
        },
    }  # fmt: skip
    return f"{json.dumps(source)}\n---\n{json.dumps(job)}\n"


def run_locally(folder: Path, text: str, values: dict[str, dict[str, str]]) -> None:
    (folder / "job.yaml").write_text(text)
    for name, keys in values.items():
        (folder / "secrets" / name).mkdir(parents=True)
        for key, value in keys.items():
            (folder / "secrets" / name / key).write_text(value)
    (folder / "volumes" / "shelf").mkdir(parents=True)
    command = Path(sys.executable).with_name("extraction")
    subprocess.run(
        [command, "run", folder / "job.yaml", "--secrets-dir", folder / "secrets", "--volumes-dir", folder / "volumes"],
        check=True,
    )


def run_in_cluster(namespace: Cluster, text: str, values: dict[str, dict[str, str]], image: str) -> None:
    """Run `extraction run` as a Job: any user, no token, nothing to write to but /tmp and the volume."""
    for name, keys in values.items():
        data = {key: base64.b64encode(value.encode()).decode() for key, value in keys.items()}
        namespace.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data})
    namespace.kubectl("label", "namespace", namespace.namespace, "pod-security.kubernetes.io/enforce=restricted")
    namespace.apply(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "manifests"}, "data": {"job.yaml": text}},
        {
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "shelf"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        },
        {
            "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "records"},
            "spec": {
                "backoffLimit": 0,
                "template": {
                    "spec": {
                        "restartPolicy": "Never", "automountServiceAccountToken": False,
                        "containers": [{
                            "name": "extraction", "image": image, "imagePullPolicy": "Never",
                            "args": ["run", "/manifests/job.yaml", "--secrets-dir=/secrets", "--volumes-dir=/volumes"],
                            "resources": {"limits": {"memory": "768Mi"}}, "securityContext": RESTRICTED,
                            "volumeMounts": [
                                {"name": "manifests", "mountPath": "/manifests"}, {"name": "tmp", "mountPath": "/tmp"},
                                {"name": "shelf", "mountPath": "/volumes/shelf"},
                                *({"name": name, "mountPath": f"/secrets/{name}"} for name in values),
                            ],
                        }],
                        "volumes": [
                            {"name": "manifests", "configMap": {"name": "manifests"}}, {"name": "tmp", "emptyDir": {}},
                            {"name": "shelf", "persistentVolumeClaim": {"claimName": "shelf"}},
                            *({"name": name, "secret": {"secretName": name}} for name in values),
                        ],
                    },
                },
            },
        },
    )  # fmt: skip
    ended = namespace.wait("job", "records", lambda job: bool(ending(job)), seconds=180)
    log = namespace.kubectl("logs", "job/records")
    assert ending(ended) == "Complete", log


def ending(job: dict[str, Any]) -> str | None:
    conditions = job.get("status", {}).get("conditions", [])
    return next((entry["type"] for entry in conditions if entry["type"] in {"Complete", "Failed"}), None)


def essence(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return what has to be the same wherever a job ran; snapshot, times and the names of parts are of the run."""
    parts = [[part[key] for key in ("chunk", "rows", "bytes", "xxh3_128", "crc32")] for part in manifest["parts"]]
    chunks = [[chunk[key] for key in ("chunk", "rows", "columns")] for chunk in manifest["chunks"]]
    same = {key: manifest[key] for key in ("rows", "bytes", "columns", "arrowSchema", "format", "verification")}
    return same | {"parts": parts, "chunks": chunks}


@pytest.mark.parametrize("sink", ["s3", "volume"])
def test_a_job_in_the_cluster_publishes_what_local_mode_publishes(
    namespace: Cluster, extractor_image: str, postgres: Postgres, store: Store, host_address: str, sink: str,
    tmp_path: Path,
) -> None:  # fmt: skip
    values = secrets(postgres, store)
    name = namespace.namespace
    run_locally(tmp_path, manifests(postgres, store, host_address, sink, name), values)
    run_in_cluster(namespace, manifests(postgres, store, HOST_NAME, sink, name), values, extractor_image)
    if sink == "s3":
        there, here = (
            json.load(store.client().get_object(Bucket=BUCKET, Key=f"{host}/_manifest.json")["Body"])
            for host in (HOST_NAME, host_address)
        )
    else:
        here = json.loads((tmp_path / "volumes/shelf" / name / "records/_manifest.json").read_text())
        there = json.loads(read_volume(namespace, f"{name}/records/_manifest.json", extractor_image))
    assert here["rows"] == ROWS
    assert len(here["parts"]) > 1
    assert essence(there) == essence(here)


def read_volume(namespace: Cluster, file: str, image: str) -> str:
    """Verify a published set within the cluster; return one of its files."""
    script = f"import sys; sys.stdout.write(open('/shelf/{file}').read())"
    mounted = {
        "container": {
            "volumeMounts": [{"name": "shelf", "mountPath": "/shelf", "readOnly": True}], "securityContext": RESTRICTED,
        },
        "volumes": [{"name": "shelf", "persistentVolumeClaim": {"claimName": "shelf"}}],
    }  # fmt: skip
    namespace.run_pod("verify", "extraction", "verify", f"/shelf/{Path(file).parent}", image=image, **mounted)
    return namespace.run_pod("read", "/opt/extraction/bin/python", "-c", script, image=image, **mounted)


def test_the_image_is_small_and_has_no_build_tools(namespace: Cluster, extractor_image: str) -> None:
    script = "import shutil, sys; print([tool for tool in ('pip', 'gcc', 'apt-get', 'make') if shutil.which(tool)])"
    log = namespace.run_pod("tools", "/opt/extraction/bin/python", "-c", script, image=extractor_image)
    assert log == "[]\n"
    archive = Path(__file__).parents[1] / "build" / "images" / "extractor.tar"
    assert archive.stat().st_size < 400_000_000


def test_the_command_starts_on_a_read_only_file_system(namespace: Cluster, extractor_image: str) -> None:
    log = namespace.run_pod(
        "version", "extraction", "--version", image=extractor_image, container={"securityContext": RESTRICTED}
    )
    assert log.startswith("extraction, version ")
