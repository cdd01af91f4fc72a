"""`kubectl extraction` on jobs that run."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from e2e.support.jobs import Job


def plugin(job: Job, command: str, *options: str) -> "subprocess.CompletedProcess[str]":
    """Call a command of the plugin for a job."""
    cluster = job.namespace
    environment = os.environ | {"KUBECTL": str(cluster.kubectl_path), "KUBECONFIG": str(cluster.kubeconfig)}
    program = Path(sys.executable).with_name("kubectl-extraction")
    words: list[str | Path] = [program, command, job.name, "--namespace", cluster.namespace, *options]
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=200, check=False)


def test_a_job_is_followed_until_it_succeeds(small_job: Job) -> None:
    job = small_job.apply()
    done = plugin(job, "watch")
    assert done.returncode == 0, done.stderr
    assert "Succeeded" in done.stderr.splitlines()[-1]
    assert job.status["phase"] == "Succeeded"


def test_a_failure_is_told_by_exit_code_and_logs(small_job: Job) -> None:
    job = replace(small_job, extraction=replace(small_job.extraction, table="public.nothing")).apply()
    done = plugin(job, "watch")
    assert done.returncode == 12, done.stderr
    told = plugin(job, "logs").stdout
    assert "/plan failed with NotFound: " in told
    assert "can't show it" not in told


def test_a_job_is_suspended_resumed_and_cancelled(small_job: Job) -> None:
    job = small_job.apply(suspend=True)
    job.wait_for_reason("Suspended")
    assert "already" in plugin(job, "suspend").stdout
    assert plugin(job, "cancel").returncode == 0
    assert plugin(job, "watch").returncode == 130
    refused = plugin(job, "resume")
    assert (refused.returncode, "Cancelled" in refused.stderr) == (1, True)
