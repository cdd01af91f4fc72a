"""Pods that the kernel kills for their memory: their work is begun again with less of it, and succeeds."""

import contextlib
import json
import time

from e2e.operator.conftest import ROWS
from e2e.operator.test_lifecycle import full_speed, slowly
from e2e.support.api import Object
from e2e.support.cluster import Refused
from e2e.support.jobs import Job
from e2e.support.processes import process_of
from e2e.support.stand_in import StandIn

_INDEX = "batch.kubernetes.io/job-completion-index"
_SHELL = """
import os, time
for _ in range(64):
    if os.fork() == 0:
        hog = bytearray(b"x" * (24 << 20))
        time.sleep(60)
        os._exit(0)
    time.sleep(0.02)
time.sleep(60)
"""
"""Fills the container's memory by many small processes: none of them is larger than the one that works."""


def exhaust(job: Job, pod: Object, container: str) -> None:
    """Have the kernel kill a container for its memory."""
    name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
    # From outside: what works there lets nobody else look into it.
    process = process_of(uid, "pod", container)
    assert process is not None
    (process / "oom_score_adj").write_text("1000")
    with contextlib.suppress(Refused):
        job.namespace.kubectl("exec", name, f"--container={container}", "--", "python3", "-c", _SHELL)

    def is_killed(found: Object) -> bool:
        states = [entry["state"] for entry in found["status"]["containerStatuses"] if entry["name"] == container]
        return [state.get("terminated", {}).get("reason") for state in states] == ["OOMKilled"]

    job.namespace.wait_for("pod", name, is_killed)


def begun(job: Job, pod: Object, seconds: float = 60) -> Object:
    """Wait until a worker has begun its bundle; return what it logged then."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(Refused):
            for entry in map(json.loads, job.namespace.kubectl("logs", pod["metadata"]["name"]).splitlines()):
                if entry["event"] == "begin":
                    found: Object = entry
                    return found
        time.sleep(0.2)
    raise TimeoutError(f"{pod['metadata']['name']} didn't begin its bundle")


def test_a_worker_that_was_killed_for_its_memory_goes_on_with_less(job: Job, stand_in: StandIn) -> None:
    job = slowly(job)
    first = job.wait_for_pod("work")
    before = begun(job, first)
    exhaust(job, first, "work")

    def is_next(pod: Object) -> bool:
        same = pod["metadata"]["annotations"][_INDEX] == first["metadata"]["annotations"][_INDEX]
        another = pod["metadata"]["uid"] != first["metadata"]["uid"]
        return bool(same and another and pod["status"]["phase"] == "Running")

    second = job.namespace.wait_for_any("pods", f"--selector={job.selector('work')}", is_next)
    after = begun(job, second)
    assert (before["killed"], after["killed"]) == (0, 1)
    assert after["batch"] < before["batch"]
    assert job.succeed(seconds=180)["rows"] == ROWS
    assert job.status["attempt"] == 1


def test_a_lead_that_was_killed_for_its_memory_begins_anew_with_less(job: Job, stand_in: StandIn) -> None:
    # One pod does everything: slowly enough to be caught on a busy machine, too.
    job = slowly(job, rate="1Mi", partitioning={"strategy": "None"})
    job.wait_for_phase("Running")
    lead = job.wait_for_pod("lead")
    full_speed(job)
    exhaust(job, lead, "publish")
    job.wait_for_reason("OutOfMemory")
    job.succeed(seconds=180)
    assert (job.status["attempt"], job.status["memoryKills"]) == (2, 1)
