"""Pods as the tests write them."""

from typing import Any

BUSYBOX = "localhost/busybox:1"
EXTRACTOR = "localhost/extraction-operator/extractor:dev"
OPERATOR = "localhost/extraction-operator/operator:dev"

RESTRICTED: dict[str, Any] = {
    "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": True,
    "runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"},
}  # fmt: skip
"""What a container has to declare in a namespace with the Pod Security standard "restricted"."""


def pod(
    name: str, *command: str, image: str = BUSYBOX, container: dict[str, Any] | None = None,
    labels: dict[str, str] | None = None, **spec: Any,
) -> dict[str, Any]:  # fmt: skip
    """Return a pod of one container that is never started again; ``container`` and ``spec`` are merged into it."""
    main = {"name": "main", "image": image, "imagePullPolicy": "Never"} | (container or {})
    if command:
        main["command"] = list(command)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name} | (labels or {})},
        "spec": {
            "restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [main],
            "automountServiceAccountToken": "serviceAccountName" in spec,
        } | spec,
    }  # fmt: skip
