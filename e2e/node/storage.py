"""The provisioner of the default StorageClass: a folder of the node for each claim, removed with it.

Runs as a component of the node. It looks at everything whenever something changed, so a lost event costs nothing.
"""

import shutil
import sys
import time
import traceback
from typing import Any

from e2e.node.api import Api
from e2e.node.errors import NodeError
from e2e.node.state import Inside, Settings

PROVISIONER = "extraction-operator.io/folder"
CLAIMS, VOLUMES = "/api/v1/persistentvolumeclaims", "/api/v1/persistentvolumes"


def main(settings: Settings) -> None:
    """Serve claims until the process is ended."""
    api = Api(settings.node_address, Inside.pki, "storage")
    while True:
        try:
            _reconcile(api)
            for _ in api.changes(CLAIMS, seconds=5):
                _reconcile(api)
        except NodeError as error:
            print(error, file=sys.stderr, flush=True)
            time.sleep(1)
        except Exception:  # noqa: BLE001  a claim that we can't read must not end the service for the others
            traceback.print_exc()
            time.sleep(1)


def _reconcile(api: Api) -> None:
    volumes = {volume["metadata"]["name"]: volume for volume in api.request("GET", VOLUMES)["items"]}
    for claim in api.request("GET", CLAIMS)["items"]:
        annotations = claim["metadata"].get("annotations", {})
        if annotations.get("volume.kubernetes.io/storage-provisioner") != PROVISIONER:
            continue
        if not claim["spec"].get("volumeName") and _volume_name(claim) not in volumes:
            _provision(api, claim)
    for name, volume in volumes.items():
        ours = volume["metadata"].get("annotations", {}).get("pv.kubernetes.io/provisioned-by") == PROVISIONER
        released = volume.get("status", {}).get("phase") == "Released"
        if ours and released and volume["spec"]["persistentVolumeReclaimPolicy"] == "Delete":
            shutil.rmtree(Inside.volumes / name, ignore_errors=True)
            api.request("DELETE", f"{VOLUMES}/{name}")


def _volume_name(claim: dict[str, Any]) -> str:
    return f"pvc-{claim['metadata']['uid']}"


def _provision(api: Api, claim: dict[str, Any]) -> None:
    name, metadata = _volume_name(claim), claim["metadata"]
    folder = Inside.volumes / name
    folder.mkdir(parents=True, exist_ok=True)
    # Pods run as any user; the kubelet sets the group alone, and only where a pod names one.
    folder.chmod(0o777)
    storage_class = claim["spec"]["storageClassName"]
    policy = api.request("GET", f"/apis/storage.k8s.io/v1/storageclasses/{storage_class}").get("reclaimPolicy")
    api.request("POST", VOLUMES, {
        "apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {"name": name, "annotations": {"pv.kubernetes.io/provisioned-by": PROVISIONER}},
        "spec": {
            "accessModes": claim["spec"]["accessModes"],
            "capacity": {"storage": claim["spec"]["resources"]["requests"]["storage"]},
            "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": metadata["namespace"],
                         "name": metadata["name"], "uid": metadata["uid"]},
            "hostPath": {"path": str(folder), "type": "Directory"},
            "persistentVolumeReclaimPolicy": policy or "Delete",
            "storageClassName": storage_class,
        },
    })  # fmt: skip
    print(f"made {name} for {metadata['namespace']}/{metadata['name']}", flush=True)
