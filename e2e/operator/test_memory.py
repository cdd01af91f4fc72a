"""Pods that the kernel kills for their memory: their work is begun again with less of it, and succeeds."""

import contextlib
import json
from pathlib import Path

from e2e.operator.conftest import ROWS
from e2e.operator.test_lifecycle import slowly
from e2e.support.cluster import Object, Refused
from e2e.support.jobs import Job
from e2e.support.stand_in import StandIn

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
    (_process(uid, container) / "oom_score_adj").write_text("1000")
    with contextlib.suppress(Refused):
        job.namespace.kubectl("exec", name, f"--container={container}", "--", "python3", "-c", _SHELL)

    def is_killed(found: Object) -> bool:
        states = [entry["state"] for entry in found["status"]["containerStatuses"] if entry["name"] == container]
        return [state.get("terminated", {}).get("reason") for state in states] == ["OOMKilled"]

    job.namespace.wait_for("pod", name, is_killed)


def _process(uid: str, container: str) -> Path:
    """Return the folder of the process of a container of a pod; the node of e2e/node runs on this machine."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_text().split("\0")
            if f"pod{uid}" in (folder / "cgroup").read_text() and words[-3:-1] == ["pod", container]:
                return folder
    raise AssertionError(f"{container} of pod {uid} doesn't run")


def begun(job: Job, pod: Object) -> Object:
    """Return what a worker logged when it began its bundle."""
    lines = job.namespace.kubectl("logs", pod["metadata"]["name"]).splitlines()
    found: Object = next(entry for entry in map(json.loads, lines) if entry["event"] == "begin")
    return found


def test_a_worker_that_was_killed_for_its_memory_goes_on_with_less(job: Job, stand_in: StandIn) -> None:
    job = slowly(job)
    first = job.wait_for_pod("work")
    index = first["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"]
    job.namespace.wait_for("pod", first["metadata"]["name"], lambda _: "begin" in log_of(job, first))
    before = begun(job, first)
    exhaust(job, first, "work")

    def is_next(pod: Object) -> bool:
        found = pod["metadata"]
        same = found["annotations"]["batch.kubernetes.io/job-completion-index"] == index
        return same and found["uid"] != first["metadata"]["uid"] and "begin" in log_of(job, pod)

    second = job.namespace.wait_for_any("pods", f"--selector={job.selector('work')}", is_next)
    after = begun(job, second)
    assert (before["killed"], after["killed"]) == (0, 1)
    assert after["batch"] < before["batch"]
    assert job.succeed(seconds=180)["rows"] == ROWS
    assert job.status["attempt"] == 1


def test_a_lead_that_was_killed_for_its_memory_begins_anew_with_less(small_job: Job, stand_in: StandIn) -> None:
    # One pod does everything: slowly enough to be caught.
    job = slowly(small_job, rate="64Ki")
    job.wait_for_phase("Running")
    lead = job.wait_for_pod("lead")
    exhaust(job, lead, "publish")
    job.wait_for_reason("OutOfMemory")
    job.succeed(seconds=180)
    assert (job.status["attempt"], job.status["memoryKills"]) == (2, 1)


def log_of(job: Job, pod: Object) -> str:
    """Return a pod's log; empty before there is one."""
    try:
        return job.namespace.kubectl("logs", pod["metadata"]["name"])
    except Refused:
        return ""
