"""The restricted profile of Kubernetes' Pod Security Standards, as an oracle.

https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted
"""

from typing import Any

_VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret",
}  # fmt: skip


def violations(pod: dict[str, Any]) -> list[str]:
    """Return what the profile forbids in a pod's spec."""
    found = [field for field in ("hostNetwork", "hostPID", "hostIPC", "hostUsers") if pod.get(field)]
    found += [f"volume {v['name']}" for v in pod.get("volumes", []) if not set(v) - {"name"} <= _VOLUMES]
    whole = pod.get("securityContext", {})
    containers = [*pod.get("initContainers", []), *pod["containers"], *pod.get("ephemeralContainers", [])]
    for container in containers:
        name, own = container["name"], container.get("securityContext", {})
        if own.get("privileged") or own.get("allowPrivilegeEscalation") is not False:
            found.append(f"{name}: privileges")
        capabilities = own.get("capabilities", {})
        if "ALL" not in capabilities.get("drop", []) or set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
            found.append(f"{name}: capabilities")
        if own.get("runAsNonRoot", whole.get("runAsNonRoot")) is not True:
            found.append(f"{name}: runAsNonRoot")
        if 0 in {own.get("runAsUser"), whole.get("runAsUser")}:
            found.append(f"{name}: runAsUser")
        profile = own.get("seccompProfile", whole.get("seccompProfile", {}))
        if profile.get("type") not in {"RuntimeDefault", "Localhost"}:
            found.append(f"{name}: seccompProfile")
        if any(port.get("hostPort") for port in container.get("ports", [])):
            found.append(f"{name}: hostPort")
        if own.get("procMount", "Default") != "Default":
            found.append(f"{name}: procMount")
    return found
