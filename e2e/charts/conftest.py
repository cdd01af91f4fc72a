"""Helm without a cluster, and an API server without a node."""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.support.api_server import ApiServer, api_server

CHART = Path(__file__).parents[2] / "charts" / "extraction-operator"
Object = dict[str, Any]
Render = Callable[..., list[Object]]


def _folder(kind: str, *extras: str) -> Path | None:
    """Return the folder of the programs that the stand-in has built; None with the real kind."""
    if Path(kind).parent.name != "node":
        return None
    built = subprocess.run([kind, "programs", *extras], stdout=subprocess.PIPE, text=True, check=True)
    return Path(built.stdout.strip())


@pytest.fixture(scope="session")
def helm_alone(request: pytest.FixtureRequest) -> Callable[..., str]:
    """Run helm without a cluster; fails with what helm says."""
    folder = _folder(request.config.option.kind_bin, "helm")
    program = shutil.which("helm", path=str(folder) if folder else None)
    if not program:
        raise pytest.UsageError("helm is needed beside kind, and isn't on PATH")

    def run(*words: str, values: Object | None = None) -> str:
        done = subprocess.run(
            [program, *words, "--values=-"], input=json.dumps(values or {}), capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise AssertionError(done.stderr)
        return done.stdout

    return run


@pytest.fixture(scope="session")
def render(helm_alone: Callable[..., str]) -> Render:
    """Render the chart as release ``extraction`` in namespace ``system``."""

    def run(**values: Any) -> list[Object]:
        # Helm that was built from source takes itself for one of Kubernetes 1.20.
        words = ("template", "extraction", str(CHART), "--namespace=system", "--kube-version=1.36.3")
        return [found for found in yaml.safe_load_all(helm_alone(*words, values=values)) if found]

    return run


@pytest.fixture(scope="session")
def api(request: pytest.FixtureRequest) -> Iterator[ApiServer]:
    """A real API server, without a node."""
    folder = _folder(request.config.option.kind_bin)
    if folder is None:
        pytest.skip("needs the programs of e2e/node")
    with api_server(folder) as found:
        yield found
