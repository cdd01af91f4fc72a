"""The real Kueue, installed by the chart of its release, and an operator that has it meter connections."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from e2e.node.build import KUEUE, module_folder
from e2e.node.images import ProgramImage
from e2e.operator.conftest import CHART, values
from e2e.support.api import Object
from e2e.support.charts import Helm
from e2e.support.cluster import Cluster
from e2e.support.stand_in import StandIn

RESOURCE = "extraction-operator.io/connections"
API = "kueue.x-k8s.io/v1beta2"
# Served by what goes with this release: an API of a group without a server would keep namespaces from going.
_ASIDE = ("v1beta1.visibility.kueue.x-k8s.io", "v1beta2.visibility.kueue.x-k8s.io")


@pytest.fixture(scope="package")
def kueue(
    cluster: Cluster, helm_program: Path, kueue_program: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Cluster]:  # fmt: skip
    """The namespace of Kueue, which runs and is configured as its chart does it."""
    if not cluster.is_stand_in:
        pytest.skip("needs the node of e2e/node, for which Kueue was built")
    folder = tmp_path_factory.mktemp("kueue")
    repository = "localhost/kueue"
    archive = folder / "kueue.tar"
    ProgramImage(f"{repository}:{KUEUE.version}", kueue_program, "manager", user="65532").write(archive)
    cluster.run_kind("load", "image-archive", str(archive))
    manager = {
        "image": {"repository": repository, "tag": KUEUE.version, "pullPolicy": "Never"},
        "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}},
    }  # fmt: skip
    with cluster.fresh_namespace() as namespace:
        helm = Helm(helm_program, namespace, folder / "helm")
        chart = module_folder(KUEUE) / "charts" / "kueue"
        helm(
            "install", "kueue", str(chart), "--values=-", stdin=json.dumps({"controllerManager": {"manager": manager}})
        )
        namespace.kubectl("delete", "apiservice", *_ASIDE)
        # It makes a certificate and waits for that in its volume: of a running pod that takes the kubelet minutes.
        namespace.wait_for("secret", "kueue-webhook-server-cert", lambda found: "tls.crt" in (found.get("data") or {}))
        namespace.kubectl("delete", "pods", "--all", "--wait=false")
        namespace.kubectl("rollout", "status", "deployment/kueue-controller-manager", "--timeout=2m", timeout=150)
        yield namespace
        helm.uninstall("kueue")


@pytest.fixture(scope="package")
def operator(
    kueue: Cluster, cluster: Cluster, helm_program: Path, operator_image: str, extractor_image: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Cluster]:  # fmt: skip
    """The namespace of an operator whose pods request connections, on a node that has more than enough of them."""
    capacity = {"op": "add", "path": "/status/capacity/extraction-operator.io~1connections", "value": "1000"}
    node = StandIn(cluster).node_name
    cluster.kubectl("patch", "node", node, "--subresource=status", "--type=json", "--patch", json.dumps([capacity]))
    with cluster.fresh_namespace() as namespace:
        helm = Helm(helm_program, namespace, tmp_path_factory.mktemp("helm"))
        chosen = values(operator_image, extractor_image) | {"settings": {"requestConnections": True}}
        helm.install("extraction", CHART, chosen, "--take-ownership")
        yield namespace
        helm.uninstall("extraction")


@dataclass(frozen=True)
class Queue:
    """A queue of Kueue's with a quota of its own, in one namespace."""

    namespace: Cluster

    @property
    def name(self) -> str:
        """Of the LocalQueue, the ClusterQueue and the ResourceFlavor."""
        return self.namespace.namespace

    def make(self, connections: int) -> None:
        """Have a quota of so many connections, and of more than enough of everything else."""
        quotas = {"cpu": "20", "memory": "40Gi", RESOURCE: connections}
        flavor = {
            "name": self.name,
            "resources": [{"name": name, "nominalQuota": quota} for name, quota in quotas.items()],
        }  # fmt: skip
        self.namespace.apply(
            self._object("ResourceFlavor", {}),
            self._object("ClusterQueue", {
                "namespaceSelector": {},
                "resourceGroups": [{"coveredResources": list(quotas), "flavors": [flavor]}],
            }),
            self._object("LocalQueue", {"clusterQueue": self.name}),
        )  # fmt: skip

    def stop(self, policy: str) -> None:
        """Have the queue stop (``HoldAndDrain``: at once, also what runs), or go on (``None``)."""
        patch = json.dumps({"spec": {"stopPolicy": policy}})
        self.namespace.kubectl("patch", "clusterqueue", self.name, "--type=merge", "--patch", patch)

    def workloads(self, condition: str) -> list[str]:
        """Return the names of the Jobs whose Workload has a condition, e.g. ``QuotaReserved``."""
        return sorted(
            workload["metadata"]["ownerReferences"][0]["name"]
            for workload in self.namespace.get_all("workloads")
            if any(found["type"] == condition and found["status"] == "True" for found in _conditions(workload))
        )

    def remove(self) -> None:
        """Remove it, as long as Kueue is there to let it go."""
        for kind in ("extractionjobs", "localqueues", "clusterqueues", "resourceflavors"):
            whose = ("--all",) if kind == "extractionjobs" else (self.name, "--ignore-not-found")
            self.namespace.kubectl("delete", kind, *whose, "--timeout=90s")

    def _object(self, kind: str, spec: dict[str, Any]) -> Object:
        return {"apiVersion": API, "kind": kind, "metadata": {"name": self.name}, "spec": spec}


def _conditions(found: Object) -> list[dict[str, Any]]:
    conditions: list[dict[str, Any]] = found.get("status", {}).get("conditions") or []
    return conditions


@pytest.fixture
def queue(operator: Cluster, restricted: Cluster) -> Iterator[Queue]:
    """A queue that isn't made yet."""
    found = Queue(restricted)
    yield found
    found.remove()
