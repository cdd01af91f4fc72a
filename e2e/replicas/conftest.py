"""An API server without a node, and replicas of the operator as processes of this machine."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from e2e.support.api_server import ApiServer, api_server
from e2e.support.replica import Replica


@pytest.fixture(scope="session")
def api(request: pytest.FixtureRequest) -> Iterator[ApiServer]:
    """The API server of the session."""
    with api_server(_programs(request.config.option.kind_bin)) as found:
        yield found


def _programs(kind: str) -> Path:
    """Return where etcd and kube-apiserver are: the stand-in builds them; otherwise they must be on PATH."""
    if Path(kind).parent.name == "node":
        built = subprocess.run([kind, "programs"], stdout=subprocess.PIPE, text=True, check=True)
        return Path(built.stdout.strip())
    found = shutil.which("kube-apiserver")
    if not found or not Path(found).with_name("etcd").exists():
        pytest.skip("needs kube-apiserver and etcd beside each other on PATH, or the node of e2e/node")
    return Path(found).parent


@pytest.fixture
def replica(api: ApiServer, tmp_path: Path) -> Iterator[Callable[..., Replica]]:
    """Start replicas; all are ended with the test."""
    started: list[Replica] = []

    def start(user: str, namespace: str, **options: object) -> Replica:
        started.append(Replica(api, user, namespace, tmp_path, **options))  # type: ignore[arg-type]
        return started[-1]

    yield start
    for process in started:
        process.kill()
