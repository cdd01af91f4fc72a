"""The pods of a job without a cluster: the tree that is mounted into them, their environment, their containers."""

import io
import json
import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import yaml

from extraction_contract.messages import Message, decode
from extraction_worker.model import Manifest, Plan
from extraction_worker.sink.abc import Sink
from extraction_worker.stages.pod.invocation import Invocation
from extraction_worker.stages.pod.job import JobPod
from extraction_worker.stages.pod.lead import LeadFiles
from extraction_worker.stages.pod.log import EventLog
from extraction_worker.stages.pod.mounts import Mounts
from extraction_worker.stages.pod.stop import Stop
from support.databases import wait_until
from support.jobs import write_job

LEAD = "lead"
COUNTS = ("work", "snapshot_seconds", "connections")
"""What a publish message says only if its pod did the work."""


class Pods:
    """The pods of one attempt of a job on ``public.t``; a pod's name is its uid, too.

    ``bundles`` are what the plan is divided into, ``changes`` those of :func:`support.jobs.write_job`.
    """

    def __init__(self, root: Path, database, *, bundles=1, consistency="Snapshot", run_id="uid-1", **changes) -> None:
        self.root, self.database, self.bundles = root, database, bundles
        self.consistency, self.run_id = consistency, run_id
        self.etc = root / "etc" / "extraction"
        (self.etc / "volumes" / "lake").mkdir(parents=True)
        (root / "logs").mkdir()
        self.declare(**changes)

    def declare(self, **changes) -> None:
        """Write manifests and secrets as they are mounted."""
        manifests, secrets = write_job(self.root / "declared", self.database, **changes)
        documents = [json.dumps(document) for document in yaml.safe_load_all(manifests.read_text())]
        (self.etc / "manifests").mkdir(exist_ok=True)
        (self.etc / "manifests" / "job.json").write_text("\n---\n".join(documents))
        for secret in yaml.safe_load_all(secrets.read_text()):
            folder = self.etc / "secrets" / secret["metadata"]["name"]
            folder.mkdir(parents=True, exist_ok=True)
            for key, value in secret["stringData"].items():
                (folder / key).write_text(value)

    # One container ------------------------------------------------------------------------------------------------

    def variables(self, pod: str, **more: object) -> dict[str, str]:
        values = {
            "EXTRACTION_ATTEMPT": 1, "EXTRACTION_RUN_ID": self.run_id, "EXTRACTION_POD_UID": pod,
            "EXTRACTION_POD_NAME": pod, "EXTRACTION_CONSISTENCY": self.consistency, "EXTRACTION_POOL": 2,
            "EXTRACTION_PARALLELISM": 3, "EXTRACTION_BUNDLES": self.bundles,
        }  # fmt: skip
        return {name: str(value) for name, value in (values | more).items()}

    def worker(self, index: int, **more: object) -> dict[str, object]:
        """Return what a worker's environment has besides."""
        digest = self.plan().plan_digest()
        return {"JOB_COMPLETION_INDEX": index, "EXTRACTION_PLAN_DIGEST": digest} | more

    def run_dir(self, pod: str) -> Path:
        folder = self.root / "run" / pod
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def lead(self, pod: str = LEAD) -> LeadFiles:
        """Return the files that the containers of a lead share."""
        return LeadFiles(self.run_dir(pod))

    def log_of(self, command: str, pod: str) -> Path:
        return self.root / "logs" / f"{command}-{pod}"

    def invocation(self, command: str, pod: str = LEAD, *, stop: Stop | None = None, **more: object) -> Invocation:
        """Return what a command in this process is given."""
        mounts = Mounts.below(self.root, run=self.run_dir(pod), termination_log=self.log_of(command, pod))
        log = EventLog(io.StringIO(), command=command)
        return Invocation(mounts, self.variables(pod, **more), stop or Stop(), log)

    def run(self, command: str, pod: str = LEAD, **more: object):
        """Run a command in this process; return its message."""
        return run(command, self.invocation(command, pod, **more))

    def start(self, command: str, pod: str = LEAD, **more: object) -> subprocess.Popen:
        """Start a command in a process of its own."""
        arguments = [
            sys.executable, "-m", "extraction_worker.cli", "pod", command, "--root", str(self.root),
            "--run-dir", str(self.run_dir(pod)), "--termination-log", str(self.log_of(command, pod)),
        ]  # fmt: skip
        return subprocess.Popen(
            arguments, env=os.environ | self.variables(pod, **more), stderr=subprocess.PIPE, text=True
        )

    def last_words(self, command: str, pod: str = LEAD) -> Message:
        """Return a container's termination message."""
        return decode(self.log_of(command, pod).read_text())

    @contextmanager
    def held(self, pod: str = LEAD):
        """Run ``hold`` in a thread of this process, until the block ends; yields its files."""
        stop = Stop()
        self.holder = self.invocation("hold", pod, stop=stop)
        thread = threading.Thread(target=run, args=("hold", self.holder), daemon=True)
        thread.start()
        try:
            yield self.lead(pod)
        finally:
            stop.request("the test")
            thread.join(20)
            assert not thread.is_alive()

    # What is there ------------------------------------------------------------------------------------------------

    def sink(self) -> Sink:
        """Return the job's sink with the attempt's staging."""
        return JobPod.load(self.invocation("test")).sink()

    def plan(self) -> Plan:
        """Return the plan in staging."""
        return Plan.from_json(self.sink().get_state("plan.json") or b"")

    def results(self) -> list[str]:
        """Return the names of results in staging."""
        return sorted(self.sink().list_state("results/"))

    def published(self) -> Manifest | None:
        """Return the published set's manifest."""
        return self.sink().published()

    def files(self) -> list[str]:
        """Return every file in the volume, staging included."""
        root = self.etc / "volumes" / "lake"
        return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def run(command: str, invocation: Invocation):
    """Run a command; return its message."""
    return import_module(f"extraction_worker.stages.pod.{command}").run(invocation)


def events(invocation: Invocation) -> list[dict]:
    """Return what a command in this process logged."""
    return [json.loads(line) for line in invocation.log._stream.getvalue().splitlines()]


def wait_for_error(files: LeadFiles):
    """Return why the holder lost the snapshot, once it has told."""
    wait_until(lambda: files.read_error() is not None)
    return files.read_error()


def end(process: subprocess.Popen, seconds: float = 60) -> int:
    """Wait for a process; return its exit code."""
    _, log = process.communicate(timeout=seconds)
    sys.stderr.write(f"{process.args[5]} {log}")  # shown where a test fails
    return process.returncode
