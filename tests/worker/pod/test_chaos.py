"""Whatever is killed, stopped or cut off, and whenever: the same set is published, or nothing; and nothing is left.

``EXTRACTION_CHAOS`` asks for more runs than CI makes (``make chaos``), and then a report is written.
"""

import os
import time
from pathlib import Path

import pytest

from conftest import Database, S3Server
from extraction_worker.demo.postgres import postgres_server
from support.chaos import Chaos, wait_for_quiet
from support.faults import Report
from support.pods import Pods

RUNS = int(os.environ.get("EXTRACTION_CHAOS", "1"))
FIRST_SEED = int(os.environ.get("EXTRACTION_CHAOS_SEED", "1"))
REPORTS = Path("build/chaos")
SPEC = {"partitioning": {"targetBytes": "64Ki"}, "verification": "Decoded"}
ROWS = 12000
RATE = "128Ki"
"""Bytes a second, of 800,000: longer than faults begin, however fast the machine is."""


def digests(manifest) -> list[str]:
    return [part.xxh3_128 for part in manifest.parts]


@pytest.mark.timeout(600 + 120 * RUNS)
def test_every_run_ends_with_the_same_set_or_none_and_leaves_nothing(tmp_path):
    report, began = Report("Chaos of processes"), time.monotonic()
    store = S3Server()
    try:
        with postgres_server() as server:
            database = Database(server)
            database.execute("CREATE TABLE t (id int8 PRIMARY KEY, name text, amount numeric(12,2))")
            database.execute(f"INSERT INTO t SELECT i, md5(i::text), i / 100.0 FROM generate_series(1, {ROWS}) AS i")
            undisturbed = run(tmp_path / "undisturbed", database, server, store, Report(""), seed=0, most=0)
            assert undisturbed is not None
            for seed in range(FIRST_SEED, FIRST_SEED + RUNS):
                manifest = run(tmp_path / str(seed), database, server, store, report, seed=seed)
                assert manifest is None or digests(manifest) == digests(undisturbed)
    finally:
        store.stop()
        if "EXTRACTION_CHAOS" in os.environ:
            report.seconds = time.monotonic() - began
            report.write(REPORTS, "processes")
    assert any(one.published for one in report.runs)
    assert report.faults


def run(folder: Path, database, server, store: S3Server, report: Report, *, seed: int, most: int = 3):
    """Run a job of three bundles, and report how it ended; return the manifest; check that nothing is left of it."""
    bucket = f"chaos-{seed}"
    client = store.client()
    client.create_bucket(Bucket=bucket)
    source = {"limits": {"bytesPerSecond": RATE}} if most else {}
    pods = Pods(folder, database, bundles=3, spec=SPEC, s3=(store, bucket), source=source)
    chaos = Chaos(pods, server, store.process, seed, most)
    outcome = chaos.run()
    report.runs.append(outcome)
    report.faults += chaos.happened
    wait_for_quiet(server)
    assert "Uploads" not in client.list_multipart_uploads(Bucket=bucket)
    keys = {entry["Key"] for entry in client.list_objects_v2(Bucket=bucket).get("Contents", [])}
    assert not {key for key in keys if "_staging" in key}
    manifest = pods.published()
    names = {key.rpartition("/")[2] for key in keys}
    assert names == ({part.name for part in manifest.parts} | {"_manifest.json"} if manifest is not None else set())
    if chaos.published is None:
        assert manifest is None
        assert outcome.reasons
    else:
        assert chaos.published.rows == manifest.rows == ROWS
    return manifest
