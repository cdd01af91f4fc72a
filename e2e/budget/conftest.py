"""Two operators in one cluster, each with a namespace of its own, and jobs of both on one server."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.operator.conftest import CHART, values
from e2e.support.charts import Helm
from e2e.support.cluster import Cluster


@pytest.fixture
def two_operators(
    cluster: Cluster, helm_program: Path, operator_image: str, extractor_image: str, tmp_path: Path
) -> Iterator[list[Cluster]]:
    """The namespaces of two releases that know nothing of each other."""
    with contextlib.ExitStack() as stack:
        namespaces = []
        for number in (1, 2):
            # A release watches its own namespace alone, and lives in it. One replica: nobody is there to elect.
            namespace = stack.enter_context(cluster.fresh_namespace())
            helm = Helm(helm_program, namespace, tmp_path / f"helm-{number}")
            chosen = values(operator_image, extractor_image) | {
                "replicas": 1, "leaderElection": {"enabled": False}, "watch": {"namespaces": [namespace.namespace]},
                "crds": {"enabled": number == 1}, "rbac": {"create": True, "aggregate": False},
            }  # fmt: skip
            helm.install(f"operator-{number}", CHART, chosen, "--take-ownership")
            stack.callback(helm.uninstall, f"operator-{number}")
            namespaces.append(namespace)
        yield namespaces
