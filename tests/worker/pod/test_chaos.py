"""Whatever is killed, stopped or cut off, and whenever: the same set is published, or nothing; and nothing is left.

``EXTRACTION_CHAOS`` asks for more runs than CI makes (``make chaos``), and then a report is written.
"""

import os
from collections import Counter
from pathlib import Path

import pytest

from conftest import Database, S3Server
from extraction_worker.demo.postgres import postgres_server
from support.chaos import Chaos, Outcome, wait_for_quiet
from support.pods import Pods

RUNS = int(os.environ.get("EXTRACTION_CHAOS", "1"))
FIRST_SEED = int(os.environ.get("EXTRACTION_CHAOS_SEED", "1"))
REPORT = Path("build/chaos.md")
SPEC = {"partitioning": {"targetBytes": "64Ki"}, "verification": "Decoded"}
ROWS = 12000


def digests(manifest) -> list[str]:
    return [part.xxh3_128 for part in manifest.parts]


@pytest.mark.timeout(600 + 120 * RUNS)
def test_every_run_ends_with_the_same_set_or_none_and_leaves_nothing(tmp_path):
    outcomes: list[Outcome] = []
    store = S3Server()
    try:
        with postgres_server() as server:
            database = Database(server)
            database.execute("CREATE TABLE t (id int8 PRIMARY KEY, name text, amount numeric(12,2))")
            database.execute(f"INSERT INTO t SELECT i, md5(i::text), i / 100.0 FROM generate_series(1, {ROWS}) AS i")
            undisturbed = run(tmp_path / "undisturbed", database, server, store, seed=0, faults=0)
            assert undisturbed[0].published is not None
            for seed in range(FIRST_SEED, FIRST_SEED + RUNS):
                outcome, manifest = run(tmp_path / str(seed), database, server, store, seed=seed)
                outcomes.append(outcome)
                if outcome.published is None:
                    assert manifest is None
                    assert outcome.reasons
                else:
                    assert outcome.published.rows == ROWS
                    assert digests(manifest) == digests(undisturbed[1])
    finally:
        store.stop()
        if "EXTRACTION_CHAOS" in os.environ:
            write(outcomes)
    assert any(outcome.published is not None for outcome in outcomes)


def run(folder: Path, database, server, store: S3Server, *, seed: int, faults: int = 3):
    """Run a job of three bundles; return how it ended, and the manifest; check that nothing is left of it."""
    bucket = f"chaos-{seed}"
    client = store.client()
    client.create_bucket(Bucket=bucket)
    pods = Pods(
        folder, database, bundles=3, spec=SPEC, s3=(store, bucket), source={"limits": {"bytesPerSecond": "1Mi"}}
    )
    chaos = Chaos(pods, server, store.process, seed, faults)
    outcome = chaos.run() if faults else undisturbed_run(chaos)
    wait_for_quiet(server)
    assert "Uploads" not in client.list_multipart_uploads(Bucket=bucket)
    keys = {entry["Key"] for entry in client.list_objects_v2(Bucket=bucket).get("Contents", [])}
    assert not {key for key in keys if "_staging" in key}
    manifest = pods.published()
    names = {key.rpartition("/")[2] for key in keys}
    assert names == ({part.name for part in manifest.parts} | {"_manifest.json"} if manifest is not None else set())
    return outcome, manifest


def undisturbed_run(chaos: Chaos) -> Outcome:
    chaos.strike = lambda *_: None
    chaos.most = 1
    return chaos.run()


def write(outcomes: list[Outcome]) -> None:
    """Write what was done and how it ended."""
    faults = Counter(fault for outcome in outcomes for fault in outcome.faults)
    good = sum(outcome.published is not None for outcome in outcomes)
    reasons = Counter(reason for outcome in outcomes for reason in outcome.reasons if reason)
    ended = f"{good} published the same set, {len(outcomes) - good} nothing"
    lines = [
        f"{len(outcomes)} runs, {sum(faults.values())} faults: {ended}.", "", "| fault | times |", "|---|--:|",
        *(f"| {fault} | {count} |" for fault, count in faults.most_common()), "", "| an attempt ended by | times |",
        "|---|--:|", *(f"| {reason} | {count} |" for reason, count in reasons.most_common()), "",
        "| seed | faults | attempts | seconds | published |", "|--:|---|--:|--:|---|",
        *(
            f"| {one.seed} | {', '.join(one.faults)} | {one.attempts} | {one.seconds:.0f} "
            f"| {'yes' if one.published is not None else 'no'} |"
            for one in outcomes
        ),
    ]  # fmt: skip
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text("\n".join(lines) + "\n")
