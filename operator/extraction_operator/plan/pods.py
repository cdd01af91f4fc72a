"""Pods of the children: no token, no permission, any user but root, a read-only root, and secrets as files."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from extraction_contract.models import DataSource, ExtractionJob, PodTemplate
from extraction_operator.plan import names
from extraction_operator.plan.names import run_id
from extraction_operator.plan.settings import Resources, Settings

Json = dict[str, Any]

ETC = "/etc/extraction"
RUN = "/run/extraction"
_USER = 65532

_SECURITY: Json = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}


@dataclass(frozen=True)
class Declared:
    """What children of an ExtractionJob are made from."""

    job: ExtractionJob
    source: DataSource
    settings: Settings
    attempt: int
    consistency: str
    pool: int
    """Connections of one pod."""

    @property
    def uid(self) -> str:
        """The owner's uid."""
        return self.job.metadata.uid or ""


def environment_of(declared: Declared) -> dict[str, str]:
    """Return the variables that all pods of a job have."""
    return {
        "EXTRACTION_ATTEMPT": str(declared.attempt),
        "EXTRACTION_RUN_ID": run_id(declared.uid, declared.attempt),
        "EXTRACTION_CONSISTENCY": declared.consistency,
        "EXTRACTION_POOL": str(declared.pool),
    }


def container_of(declared: Declared, command: str, environment: Mapping[str, str], default: Resources) -> Json:
    """Return the container of a command in a pod of a job."""
    container = plain_container(declared.settings, command, environment, default)
    chosen = declared.job.spec.pod_template.resources
    if command in {"plan", "publish", "work"} and (chosen.requests or chosen.limits):
        container["resources"] = chosen.model_dump(mode="json", by_alias=True)
    sessions = {"hold": 1, "plan": 1, "publish": declared.pool, "work": declared.pool}.get(command, 0)
    if declared.settings.request_connections and sessions:
        # As with every resource that Kubernetes doesn't know, what is requested is the limit.
        for kind in ("requests", "limits"):
            container["resources"].setdefault(kind, {})[names.CONNECTIONS] = str(sessions)
    mounts = container["volumeMounts"]
    if declared.settings.redis_secret and command in {"plan", "publish", "work"}:
        mounts.append({"name": "redis", "mountPath": f"{ETC}/redis", "readOnly": True})
    if command in {"hold", "plan", "publish"}:
        mounts.append({"name": "run", "mountPath": RUN})
    volume = declared.job.spec.sink.volume
    if volume is not None and command != "hold":
        mounts.append({"name": "sink", "mountPath": f"{ETC}/volumes/{volume.claim_name}"})
    return container


def plain_container(settings: Settings, command: str, environment: Mapping[str, str], default: Resources) -> Json:
    """Return the container of a command that mounts nothing of a job."""
    fields = {"EXTRACTION_POD_NAME": "metadata.name", "EXTRACTION_POD_UID": "metadata.uid"}
    return {
        "name": command,
        "image": settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        "args": ["pod", command],
        "env": [
            *({"name": name, "value": value} for name, value in environment.items()),
            *({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in fields.items()),
        ],
        "resources": {
            "requests": {"cpu": default.cpu_request, "memory": default.memory}, "limits": {"memory": default.memory}
        },
        "securityContext": _SECURITY,
        "terminationMessagePolicy": "File",
        "volumeMounts": [
            {"name": "manifests", "mountPath": f"{ETC}/manifests", "readOnly": True},
            {"name": "secrets", "mountPath": f"{ETC}/secrets", "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - the path within the pod
        ],
    }  # fmt: skip


def pod_of(
    job: ExtractionJob | None,
    source: DataSource,
    settings: Settings,
    containers: list[Json],
    init_containers: list[Json],
    *,
    shared: bool = False,
) -> Json:
    """Return the pod of these containers.

    Parameters
    ----------
    shared
        Whether the containers share a folder.
    """
    template = job.spec.pod_template if job is not None else PodTemplate()
    path = f"metadata.annotations['{names.MANIFESTS}']"
    volumes: list[Json] = [
        {
            "name": "manifests",
            "downwardAPI": {"items": [{"path": "job.json", "fieldRef": {"fieldPath": path}}]},
        },
        {"name": "secrets", "projected": {"sources": _secrets(job, source)}},
        {"name": "tmp", "emptyDir": {}},
    ]
    if shared:
        volumes.append({"name": "run", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}})
    if any(mount["name"] == "redis" for container in (*containers, *init_containers)
           for mount in container["volumeMounts"]):  # fmt: skip
        volumes.append({"name": "redis", "secret": {"secretName": settings.redis_secret, "optional": True}})
    if job is not None and job.spec.sink.volume is not None:
        claim = job.spec.sink.volume.claim_name
        volumes.append({"name": "sink", "persistentVolumeClaim": {"claimName": claim}})
    pod: Json = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": settings.grace,
        "securityContext": {
            "runAsNonRoot": True,
            "fsGroup": _USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "tolerations": _tolerations(template, settings),
        "containers": containers,
        "volumes": volumes,
    }
    if init_containers:
        pod["initContainers"] = init_containers
    if template.node_selector:
        pod["nodeSelector"] = dict(template.node_selector)
    if template.affinity is not None:
        pod["affinity"] = template.affinity
    if template.service_account_name is not None:
        pod["serviceAccountName"] = template.service_account_name
    if template.priority_class_name is not None:
        pod["priorityClassName"] = template.priority_class_name
    if template.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": reference.name} for reference in template.image_pull_secrets]
    return pod


def _tolerations(template: PodTemplate, settings: Settings) -> list[Json]:
    """Return the template's, and that a node which went silent is left sooner than after the usual five minutes."""
    declared = [found.model_dump(mode="json", by_alias=True, exclude_none=True) for found in template.tolerations]
    chosen = {toleration.get("key") for toleration in declared if toleration.get("effect") in {None, "NoExecute"}}
    taints = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
    return declared + [
        {
            "key": taint, "operator": "Exists", "effect": "NoExecute",
            "tolerationSeconds": settings.unreachable_toleration,
        }
        for taint in taints
        if taint not in chosen and None not in chosen
    ]  # fmt: skip


def _secrets(job: ExtractionJob | None, source: DataSource) -> list[Json]:
    """Return the projection of every Secret that the manifests refer to, as NAME/KEY."""
    needed: list[tuple[str, tuple[str, ...], bool]] = [
        (source.spec.credentials_secret_ref.name, ("username", "password"), False)
    ]
    authorities = [source.spec.connection.ca_secret_ref]
    store = job.spec.sink.s3 if job is not None else None
    if store is not None:
        authorities.append(store.ca_secret_ref)
        if store.credentials_secret_ref is not None:
            name = store.credentials_secret_ref.name
            needed += [(name, ("accessKeyId", "secretAccessKey"), False), (name, ("sessionToken",), True)]
    hashed = [mask.key_secret_ref for mask in job.spec.masks] if job is not None else []
    needed += [(found.name, (found.key,), False) for found in (*authorities, *hashed) if found is not None]
    sources: list[Json] = []
    for name, keys, optional in dict.fromkeys(needed):
        secret: Json = {"name": name, "items": [{"key": key, "path": f"{name}/{key}"} for key in keys]}
        sources.append({"secret": secret | {"optional": True} if optional else secret})
    return sources


def beside(affinity: Any, labels: Mapping[str, str]) -> Json:
    """Return the affinity with the requirement to run on the node of the pod that has these labels."""
    whole = dict(affinity or {})
    pods = dict(whole.get("podAffinity") or {})
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    term = {"labelSelector": {"matchLabels": dict(labels)}, "topologyKey": "kubernetes.io/hostname"}
    pods[required] = [*pods.get(required, ()), term]
    return whole | {"podAffinity": pods}
