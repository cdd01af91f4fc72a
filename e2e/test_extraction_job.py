"""An extraction as a plain Job in the cluster publishes what the same manifests publish on this machine."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from e2e.support.cluster import HOST_NAME, Cluster, has_condition
from e2e.support.extraction import CLAIM, Extraction, claim
from e2e.support.pods import RESTRICTED
from e2e.support.servers import Postgres, Store
from extraction_worker.demo.dataset import load_records

ROWS = 200_000


@pytest.fixture(scope="module")
def records(postgres: Postgres) -> str:
    """A table that the reader may read."""
    with postgres.connect() as connection:
        load_records(connection, ROWS)
        connection.execute("GRANT SELECT ON records TO reader")
    return "public.records"


def essence(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return what has to be the same wherever a job ran; snapshot, times and the names of parts are of the run."""
    parts = [[part[key] for key in ("chunk", "rows", "bytes", "xxh3_128", "crc32")] for part in manifest["parts"]]
    chunks = [[chunk[key] for key in ("chunk", "rows", "columns")] for chunk in manifest["chunks"]]
    same = {key: manifest[key] for key in ("rows", "bytes", "columns", "arrowSchema", "format", "verification")}
    return same | {"parts": parts, "chunks": chunks}


def assert_same(there: dict[str, Any], here: dict[str, Any]) -> None:
    assert here["rows"] == ROWS
    assert len(here["parts"]) > 1
    assert essence(there) == essence(here)


def test_a_job_publishes_to_a_store_what_local_mode_publishes(
    restricted: Cluster, extractor_image: str, postgres: Postgres, store: Store, bucket: str, records: str,
    host_address: str, tmp_path: Path,
) -> None:  # fmt: skip
    inside = Extraction(restricted.namespace, postgres, records, HOST_NAME, store, bucket, "there/")
    ended = inside.run_as_job(restricted, volume={"emptyDir": {}})
    assert has_condition(ended, "Complete"), restricted.kubectl("logs", "job/records")
    dataclasses.replace(inside, host=host_address, prefix="here/").run_locally(tmp_path)
    there, here = (
        json.load(store.client().get_object(Bucket=bucket, Key=f"{prefix}/_manifest.json")["Body"])
        for prefix in ("there", "here")
    )
    assert_same(there, here)


def test_a_job_publishes_to_a_volume_what_local_mode_publishes(
    restricted: Cluster, extractor_image: str, postgres: Postgres, records: str, host_address: str, tmp_path: Path
) -> None:
    restricted.apply(claim())
    inside = Extraction(restricted.namespace, postgres, records, HOST_NAME)
    ended = inside.run_as_job(restricted)
    assert has_condition(ended, "Complete"), restricted.kubectl("logs", "job/records")
    volume = dataclasses.replace(inside, host=host_address).run_locally(tmp_path)
    published = f"{restricted.namespace}/records"
    here = json.loads((volume / published / "_manifest.json").read_text())
    assert_same(read_volume(restricted, published, extractor_image), here)


def read_volume(namespace: Cluster, folder: str, image: str) -> dict[str, Any]:
    """Verify a published set within the cluster; return its manifest."""
    mounts = [{"name": CLAIM, "mountPath": "/shelf", "readOnly": True}]
    mounted = {
        "container": {"volumeMounts": mounts, "securityContext": RESTRICTED},
        "volumes": [{"name": CLAIM, "persistentVolumeClaim": {"claimName": CLAIM}}],
    }
    namespace.run_pod("verify", "extraction", "verify", f"/shelf/{folder}", image=image, **mounted)
    text = namespace.run_pod("read", "cat", f"/shelf/{folder}/_manifest.json", image=image, **mounted)
    manifest: dict[str, Any] = json.loads(text)
    return manifest
