"""Secrets and values of rows, planted in whole jobs of real processes and looked for wherever something is left.

The processes log as much as libraries can (``DEBUG`` everywhere). What may hold what: part files the columns that
aren't masked; ``plan.json`` in staging the bounds of chunks, until it goes with the publish. Nothing else, nothing.
"""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from extraction_worker.stages.pod.job import PLAN_NAME
from extraction_worker.stages.work import ChunkWorker
from support.canaries import Evidence
from support.databases import wait_until
from support.pods import LEAD, Pods

pytestmark = pytest.mark.timeout(400)
"""Some ten processes a test, which log all they can: a busy machine needs a while."""

PASSWORD = "canary-of-the-'pass\"word\\ %s {}"
S3_SECRET = "canary-of-the-secret-access-key/+="
S3_TOKEN = "canary-of-the-session-token"
MASK_KEY = "canary-of-the-mask-key-0123456789abcdef"
SECRETS = {"password": PASSWORD, "S3 secret": S3_SECRET, "S3 token": S3_TOKEN, "mask key": MASK_KEY}
EMAIL = "canary-of-an-email"
KEY = "canary-of-a-bound"
NAME = "canary-of-a-name"
ROWS = {"masked value": EMAIL, "bound": KEY, "value": NAME}

# Runs before the command, in the same process: everybody logs everything, and a bug may show a batch.
DEBUGGING = """
import logging, os
logging.basicConfig(level=logging.DEBUG)
logging.getLogger("canary").debug("everything is logged")
if os.environ.get("PLANTED_BUG"):
    from extraction_worker.stream.convert import BatchConverter
    def convert(self, batch):
        raise RuntimeError(f"a bug with {batch.to_pylist()}")
    BatchConverter.convert = convert
"""
SPEC = {
    "columns": ["key", "email", "name"],
    "partitioning": {"strategy": "Range", "column": "key", "targetBytes": "64Ki"},
    "masks": [{"column": "email", "method": "Hash", "keySecretRef": {"name": "mask"}}],
    "verification": "Source",
    "sink": {"format": {"type": "Parquet", "compression": "none"}},
}


class Job:
    """The pods of one job as processes, and what they leave."""

    def __init__(self, tmp_path: Path, database, **changes) -> None:
        self.evidence = Evidence()
        self.tools = tmp_path / "tools"
        self.tools.mkdir()
        (self.tools / "sitecustomize.py").write_text(DEBUGGING)
        role = database.role("canary", password=PASSWORD, grant="GRANT SELECT ON ALL TABLES IN SCHEMA public")
        declared = {"user": role, "password": PASSWORD, "secrets": {"mask": {"key": MASK_KEY}}, "spec": SPEC}
        self.pods = Pods(tmp_path / "pods", database, bundles=2, **(declared | changes))
        if "s3" in changes:
            folder = self.pods.etc / "secrets" / "lake"
            (folder / "secretAccessKey").write_text(S3_SECRET)
            (folder / "sessionToken").write_text(S3_TOKEN)
        self.processes: list[tuple[str, subprocess.Popen]] = []

    def start(self, command: str, pod: str = LEAD, **more: object) -> subprocess.Popen:
        process = self.pods.start(command, pod, PYTHONPATH=str(self.tools), TMPDIR=str(self.tmp), **more)
        self.processes.append((f"{command}-{pod}", process))
        return process

    @property
    def tmp(self) -> Path:
        """What is mounted at /tmp."""
        folder = self.pods.root / "tmp"
        folder.mkdir(exist_ok=True)
        return folder

    def look_at(self, process: subprocess.Popen, name: str) -> None:
        """Note what ``ps`` would show of a running process."""
        for part in ("cmdline", "environ"):
            self.evidence.add(f"/proc of {name}: {part}", Path(f"/proc/{process.pid}/{part}").read_bytes())

    def end(self, process: subprocess.Popen) -> int:
        _, log = process.communicate(timeout=150)
        name = next(name for name, found in self.processes if found is process)
        self.evidence.add(f"log of {name}", log)
        assert "everything is logged" in log
        return process.returncode

    def run(self, *, workers: bool = True, **more: object) -> list[int]:
        """Run all containers to their ends; return their exit codes: plan, workers, publish."""
        pods = self.pods
        hold = self.start("hold")
        codes = [self.end(self.start("plan"))]
        self.look_at(hold, "hold")
        if codes == [0] and workers:
            staged = Evidence()
            staged.add(PLAN_NAME, pods.sink().get_state(PLAN_NAME) or b"")
            self.planned = staged
            publish = self.start("publish")
            started = [self.start("work", f"pod-{index}", **pods.worker(index) | more) for index in range(2)]
            self.look_at(started[0], "work")
            self.look_at(publish, "publish")
            codes += [self.end(process) for process in started]
            if any(codes):
                publish.send_signal(signal.SIGTERM)
            codes.append(self.end(publish))
        self.evidence.add_tree(pods.root / "run")
        hold.send_signal(signal.SIGTERM)
        self.end(hold)
        self.evidence.add_tree(pods.root / "logs")
        self.evidence.add_tree(self.tmp)
        return codes


@pytest.fixture
def table(database18):
    database18.execute("CREATE TABLE t (key text PRIMARY KEY, email text, name text, born date)")
    database18.execute(
        "INSERT INTO t SELECT %s || '-' || i, %s || '-' || i || repeat('x', 50), %s || '-' || i, date '2000-01-01'"
        " FROM generate_series(1, 4000) AS i",
        KEY, EMAIL, NAME,
    )  # fmt: skip
    database18.execute("ANALYZE t")
    return database18


def parts_and_rest(job: Job, store, bucket) -> tuple[Evidence, Evidence]:
    """Return what is published, part files and all others; nothing else is left in the sink."""
    parts, rest = Evidence(), Evidence()
    if store is None:
        root = job.pods.etc / "volumes" / "lake"
        found = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    else:
        client = store.client()
        listed = client.list_objects_v2(Bucket=bucket).get("Contents", [])
        found = {item["Key"]: client.get_object(Bucket=bucket, Key=item["Key"])["Body"].read() for item in listed}
    for name, data in found.items():
        (parts if "/part-" in name else rest).add(name, data)
    return parts, rest


@pytest.mark.parametrize("where", ["volume", "s3"])
def test_a_job_that_succeeds_leaves_its_secrets_and_values_nowhere(table, tmp_path, where, s3_server, bucket):
    store = s3_server if where == "s3" else None
    job = Job(tmp_path, table, **({"s3": (s3_server, bucket)} if store else {}))
    assert job.run() == [0, 0, 0, 0]
    parts, rest = parts_and_rest(job, store, bucket)
    everywhere = Evidence()
    everywhere.places = job.evidence.places | rest.places | job.planned.places | parts.places
    for what, canary in (SECRETS | {"masked value": EMAIL}).items():
        assert everywhere.holding(canary) == set(), what
    # The test can see: values that may be there are found in the parts, bounds in the plan, and nowhere else.
    assert parts.holding(NAME) == set(parts.places)
    assert job.planned.holding(KEY) == {PLAN_NAME}
    for what, canary in {"bound": KEY, "value": NAME}.items():
        assert job.evidence.holding(canary) | rest.holding(canary) == set(), what
    assert [name for name in rest.places if not name.endswith("_manifest.json")] == [], "the plan is gone"


FAILURES = {
    "a value that can't be computed": {"where": "name::pg_catalog.int4 > 0"},
    "a value that the file can't hold": {"columns": ["key", "email", "name", "born"]},
    "a bug": {},
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_job_that_fails_tells_no_secret_and_no_value(table, tmp_path, failure):
    spec = SPEC | FAILURES[failure]
    table.execute("UPDATE t SET born = 'infinity' WHERE key LIKE '%7'")
    job = Job(tmp_path, table, spec=spec)
    codes = job.run(**({"PLANTED_BUG": "1"} if failure == "a bug" else {}))
    assert any(codes)
    job.evidence.add_tree(job.pods.etc / "volumes")
    for what, canary in SECRETS.items():
        assert job.evidence.holding(canary) == set(), what
    for what, canary in ROWS.items():
        found = {place for place in job.evidence.holding(canary) if not place.endswith(PLAN_NAME)}
        found = {place for place in found if "part-" not in place or what == "masked value"}
        assert found == set(), what


def test_a_refused_password_is_not_repeated(table, tmp_path):
    job = Job(tmp_path, table)
    (job.pods.etc / "secrets" / "reader" / "password").write_text(PASSWORD + "-wrong")
    hold = job.start("hold")
    wait_until(lambda: job.pods.lead().read_error() is not None)
    assert job.end(job.start("plan")) != 0
    hold.send_signal(signal.SIGTERM)
    job.end(hold)
    job.evidence.add_tree(job.pods.root / "run")
    job.evidence.add_tree(job.pods.root / "logs")
    assert job.evidence.holding(PASSWORD) == set()


def test_no_pod_dumps_its_memory(table, tmp_path):
    job = Job(tmp_path, table)
    hold = job.start("hold")
    wait_until(lambda: job.pods.lead().read_snapshot() is not None)
    limits = Path(f"/proc/{hold.pid}/limits").read_text()
    [cores] = [line.split() for line in limits.splitlines() if line.startswith("Max core file size")]
    assert cores[4:6] == ["0", "0"]
    hold.send_signal(signal.SIGTERM)
    job.end(hold)


def test_a_process_that_keeps_its_memory_private_cannot_be_dumped():
    code = (
        "import ctypes, resource; from extraction_worker.hardening import keep_memory_private; keep_memory_private();"
        "print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), resource.getrlimit(resource.RLIMIT_CORE))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "0 (0, 0)\n"


def test_a_password_that_is_rotated_while_a_job_runs_is_the_next_session_s(table, tmp_path, monkeypatch):
    role = table.role("rotating", password="the first", grant="GRANT SELECT ON ALL TABLES IN SCHEMA public")
    spec = SPEC | {"masks": []}
    pods = Pods(tmp_path, table, bundles=2, user=role, password="the first", spec=spec)
    rotated: list[int] = []
    original = ChunkWorker.extract

    def extract(self, chunk):
        if not rotated:
            rotated.append(chunk.index)
            table.execute(f"ALTER ROLE {role} PASSWORD 'the second'")
            (pods.etc / "secrets" / "reader" / "password").write_text("the second")
            table.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name LIKE 'extraction/default/job/pod-%'"
            )
        return original(self, chunk)

    monkeypatch.setattr(ChunkWorker, "extract", extract)
    with pods.held():
        pods.run("plan")
        for index in range(2):
            pods.run("work", f"pod-{index}", **pods.worker(index))
        assert pods.run("publish").rows == 4000
    assert rotated
