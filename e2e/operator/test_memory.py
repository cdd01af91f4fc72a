"""Pods that the kernel kills for their memory: their work is begun again with less of it, and succeeds."""

import json

from e2e.operator.conftest import ROWS
from e2e.operator.test_lifecycle import slowly
from e2e.support.cluster import Object, Refused
from e2e.support.jobs import Job

_SHELL = """
import os, time
open("/proc/1/oom_score_adj", "w").write("1000")
for _ in range(64):
    if os.fork() == 0:
        hog = bytearray(b"x" * (24 << 20))
        time.sleep(60)
        os._exit(0)
    time.sleep(0.02)
time.sleep(60)
"""
"""Fills the container's memory by many small processes, so that the first one, which does the work, is the kernel's
choice."""


def exhaust(job: Job, pod: Object, container: str) -> None:
    """Have the kernel kill a container for its memory."""
    name = pod["metadata"]["name"]
    try:
        job.namespace.kubectl("exec", name, f"--container={container}", "--", "python3", "-c", _SHELL)
    except Refused:
        return
    raise AssertionError(f"{container} of {name} has no memory limit")


def begun(job: Job, pod: Object) -> Object:
    """Return what a worker logged when it began its bundle."""
    lines = job.namespace.kubectl("logs", pod["metadata"]["name"]).splitlines()
    found: Object = next(entry for entry in map(json.loads, lines) if entry["event"] == "begin")
    return found


def test_a_worker_that_was_killed_for_its_memory_goes_on_with_less(job: Job) -> None:
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


def test_a_lead_that_was_killed_for_its_memory_begins_anew_with_less(small_job: Job) -> None:
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
