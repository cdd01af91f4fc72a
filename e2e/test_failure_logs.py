"""A failed test leaves what one needs to understand it, in a folder that its report names."""

import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

from e2e.support.cluster import Cluster
from e2e.support.lines import whole_lines

HERE = Path(__file__).parent
FAILING = """
import pytest

def test_that_passes(namespace):
    namespace.start_pod("fine", "sleep", "3600")

def test_that_fails(namespace):
    namespace.run_pod("talker", "sh", "-c", "echo last words; exit 3")

@pytest.fixture
def broken(namespace):
    namespace.start_pod("early", "sh", "-c", "echo early words; sleep 3600")
    raise RuntimeError("broken")

def test_whose_fixture_fails(broken):
    pass
"""


def test_a_failure_leaves_logs_of_pods_events_and_components_in_a_folder_that_it_names(
    cluster: Cluster, tmp_path: Path
) -> None:
    logs = tmp_path / "logs"
    (tmp_path / "test_failing.py").write_text(FAILING)
    command: list[str | Path] = [
        sys.executable, "-m", "pytest", "-p", "e2e.conftest", "-c", HERE / "pytest.ini", "--rootdir", tmp_path,
        "--cluster-name", cluster.name, "--kind-bin", cluster.kind, "--kubeconfig", cluster.kubeconfig,
        "--keep-cluster", "--failure-logs", logs, tmp_path / "test_failing.py",
    ]  # fmt: skip
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(HERE.parent)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 passed" in done.stdout
    # A test that passed leaves nothing.
    assert sorted(folder.name for folder in logs.iterdir()) == ["test_that_fails", "test_whose_fixture_fails"]
    for name, pod, words in (
        ("test_that_fails", "talker", "last words"), ("test_whose_fixture_fails", "early", "early words"),
    ):  # fmt: skip
        folder = logs / name
        assert str(folder) in done.stdout
        assert any(words in file.read_text() for file in folder.rglob("*.log") if pod in str(file.relative_to(logs)))
        pods = yaml.safe_load((folder / "pods.yaml").read_text())["items"]
        [found] = [item for item in pods if item["metadata"]["name"] == pod]
        events = yaml.safe_load((folder / "events.yaml").read_text())["items"]
        told = {item["reason"] for item in events if item["involvedObject"].get("uid") == found["metadata"]["uid"]}
        assert {"Scheduled", "Started"} <= told
        components = {file.name for file in folder.rglob("*.log")}
        if cluster.is_stand_in:
            assert components >= {"kubelet.log", "kube-apiserver.log", "etcd.log", "containerd.log", "audit.log"}
            lines = whole_lines(next(folder.rglob("audit.log")).read_text())
            assert json.loads(lines[-1])["kind"] == "Event"
        else:
            assert "kubelet.log" in components
