"""Manifests of the children: lead, workers, clean-up, check. Pure: from declared objects and settings to JSON.

Pods get no token and no permission, run as any user but root on a read-only root file system, and read their secrets
from files, so that a rotated one is seen.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from extraction_contract.base import API_VERSION
from extraction_contract.messages import TERMINAL_EXIT_CODES
from extraction_contract.models import DataSource, ExtractionJob, PodTemplate
from extraction_operator.plan import names
from extraction_operator.plan.names import child_name, run_id
from extraction_operator.plan.settings import Resources, Settings
from extraction_operator.plan.values import Role

Json = dict[str, Any]

ETC = "/etc/extraction"
RUN = "/run/extraction"
_USER = 65532
_SPARE_DEADLINE = 600
"""Jobs end by themselves this long after the deadline that the operator keeps: it may be away."""
_FORGOTTEN = 3600
"""A clean-up outlives its owner; it goes by itself after this many seconds."""

_SECURITY: Json = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}
_STAY = {
    "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
    "karpenter.sh/do-not-disrupt": "true",
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


def lead_job(declared: Declared, *, parallelism: int, one_pod: bool) -> Json:
    """Return the lead Job: hold, plan, publish.

    Parameters
    ----------
    parallelism
        Worker pods that will read at the same time.
    one_pod
        Work the whole plan here: nobody else may mount the volume.
    """
    settings = declared.settings
    held = declared.consistency == "Snapshot"
    environment = _environment(declared) | {"EXTRACTION_PARALLELISM": str(parallelism)}
    if one_pod:
        environment["EXTRACTION_BUNDLES"] = "1"
    hold = _container(declared, "hold", environment, settings.hold) | {"restartPolicy": "Always"}
    plan = _container(declared, "plan", environment, settings.work)
    publish = _container(declared, "publish", environment, settings.work)
    pod = _pod(declared.job, declared.source, settings, [publish], [hold, plan] if held else [plan], shared=True)
    deadline = declared.job.spec.active_deadline_seconds + _SPARE_DEADLINE
    spec = {"backoffLimit": 0, "podReplacementPolicy": "TerminatingOrFailed", "activeDeadlineSeconds": deadline}
    name = child_name(declared.job.metadata.name, declared.uid, Role.LEAD, declared.attempt)
    labels = _labels(declared, Role.LEAD)
    return _job(name, declared.job, labels, _owner_job(declared.job), spec, pod, _manifests(declared), _STAY)


def work_job(
    declared: Declared,
    *,
    number: int,
    lead: tuple[str, str],
    bundles: int,
    parallelism: int,
    plan_digest: str,
    beside_lead: bool,
) -> Json:
    """Return the worker Job: an index for each bundle.

    Parameters
    ----------
    lead
        Name and uid of the lead Job, which owns it.
    beside_lead
        Keep the pods on the lead's node: the volume can be mounted on one only.
    """
    settings = declared.settings
    environment = _environment(declared) | {"EXTRACTION_BUNDLES": str(bundles), "EXTRACTION_PLAN_DIGEST": plan_digest}
    container = _container(declared, "work", environment, settings.work)
    pod = _pod(declared.job, declared.source, settings, [container], [])
    if beside_lead:
        pod["affinity"] = _beside(pod.get("affinity"), _selector(declared, Role.LEAD))
    spec = {
        "completionMode": "Indexed",
        "completions": bundles,
        "parallelism": parallelism,
        "backoffLimitPerIndex": 3,
        "maxFailedIndexes": 0,
        "activeDeadlineSeconds": declared.job.spec.active_deadline_seconds + _SPARE_DEADLINE,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {
            "rules": [
                {
                    "action": "FailJob",
                    "onExitCodes": {
                        "containerName": "work", "operator": "In", "values": list(TERMINAL_EXIT_CODES)
                    },
                },
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            ]
        },
    }  # fmt: skip
    name = child_name(declared.job.metadata.name, declared.uid, Role.WORK, declared.attempt, number)
    labels = _labels(declared, Role.WORK) | {names.NUMBER: str(number)}
    owner = _owner("batch/v1", "Job", *lead)
    return _job(name, declared.job, labels, owner, spec, pod, _manifests(declared), {})


def clean_job(declared: Declared) -> Json:
    """Return the clean-up of an attempt. Nobody owns it: it must outlive a deleted ExtractionJob."""
    settings = declared.settings
    container = _container(declared, "clean", _environment(declared), settings.hold)
    pod = _pod(declared.job, declared.source, settings, [container], [])
    spec = {
        "backoffLimit": 3,
        "activeDeadlineSeconds": settings.clean_deadline,
        "ttlSecondsAfterFinished": _FORGOTTEN,
    }
    name = child_name(declared.job.metadata.name, declared.uid, Role.CLEAN, declared.attempt)
    labels = _labels(declared, Role.CLEAN)
    return _job(name, declared.job, labels, None, spec, pod, _manifests(declared), {})


def check_job(source: DataSource, settings: Settings, *, number: int, request: str) -> Json:
    """Return the check of a source."""
    uid = source.metadata.uid or ""
    environment = {"EXTRACTION_ATTEMPT": str(number)}
    container = _plain_container(settings, "check", environment, settings.hold)
    pod = _pod(None, source, settings, [container], [])
    labels = {
        names.OWNER_UID: uid, names.SOURCE: source.metadata.name, names.ROLE: Role.CHECK.value,
        names.ATTEMPT: str(number), names.MANAGED_BY: names.MANAGER,
    }  # fmt: skip
    owner = _owner(API_VERSION, "DataSource", source.metadata.name, uid)
    spec = {"backoffLimit": 0, "activeDeadlineSeconds": settings.check_deadline}
    name = child_name(source.metadata.name, uid, Role.CHECK, number)
    job = _job(name, source, labels, owner, spec, pod, _yaml_stream(source), {})
    job["metadata"]["annotations"] = {
        names.GENERATION: str(source.metadata.generation), names.CHECK: request
    }  # fmt: skip
    return job


# Parts -----------------------------------------------------------------------------------------------------------


def _labels(declared: Declared, role: Role) -> dict[str, str]:
    return _selector(declared, role) | {
        names.JOB: declared.job.metadata.name, names.MANAGED_BY: names.MANAGER
    }  # fmt: skip


def _selector(declared: Declared, role: Role) -> dict[str, str]:
    return {names.OWNER_UID: declared.uid, names.ROLE: role.value, names.ATTEMPT: str(declared.attempt)}


def _owner(api_version: str, kind: str, name: str, uid: str) -> Json:
    return {"apiVersion": api_version, "kind": kind, "name": name, "uid": uid, "controller": True}


def _owner_job(job: ExtractionJob) -> Json:
    return _owner(API_VERSION, "ExtractionJob", job.metadata.name, job.metadata.uid or "")


def _job(
    name: str,
    owner: ExtractionJob | DataSource,
    labels: dict[str, str],
    owner_reference: Json | None,
    spec: Json,
    pod: Json,
    manifests: str,
    annotations: dict[str, str],
) -> Json:
    template = owner.spec.pod_template if isinstance(owner, ExtractionJob) else PodTemplate()
    metadata: Json = {"name": name, "namespace": owner.metadata.namespace, "labels": dict(labels)}
    if owner_reference is not None:
        metadata["ownerReferences"] = [owner_reference]
    # Ours last: no template can take the operator's labels away.
    pod_metadata = {
        "labels": template.labels | labels,
        "annotations": template.annotations | annotations | {names.MANIFESTS: manifests},
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": spec | {"template": {"metadata": pod_metadata, "spec": pod}},
    }


def _environment(declared: Declared) -> dict[str, str]:
    return {
        "EXTRACTION_ATTEMPT": str(declared.attempt),
        "EXTRACTION_RUN_ID": run_id(declared.uid, declared.attempt),
        "EXTRACTION_CONSISTENCY": declared.consistency,
        "EXTRACTION_POOL": str(declared.pool),
    }


def _container(declared: Declared, command: str, environment: Mapping[str, str], default: Resources) -> Json:
    container = _plain_container(declared.settings, command, environment, default)
    chosen = declared.job.spec.pod_template.resources
    if command in {"plan", "publish", "work"} and (chosen.requests or chosen.limits):
        container["resources"] = chosen.model_dump(mode="json", by_alias=True)
    mounts = container["volumeMounts"]
    if command in {"hold", "plan", "publish"}:
        mounts.append({"name": "run", "mountPath": RUN})
    volume = declared.job.spec.sink.volume
    if volume is not None and command != "hold":
        mounts.append({"name": "sink", "mountPath": f"{ETC}/volumes/{volume.claim_name}"})
    return container


def _plain_container(settings: Settings, command: str, environment: Mapping[str, str], default: Resources) -> Json:
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


def _pod(
    job: ExtractionJob | None,
    source: DataSource,
    settings: Settings,
    containers: list[Json],
    init_containers: list[Json],
    *,
    shared: bool = False,
) -> Json:
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
    needed += [(reference.name, (reference.key,), False) for reference in authorities if reference is not None]
    sources: list[Json] = []
    for name, keys, optional in dict.fromkeys(needed):
        secret: Json = {"name": name, "items": [{"key": key, "path": f"{name}/{key}"} for key in keys]}
        sources.append({"secret": secret | {"optional": True} if optional else secret})
    return sources


def _beside(affinity: Any, labels: Mapping[str, str]) -> Json:
    """Return the affinity with the requirement to run on the node of the pod that has these labels."""
    whole = dict(affinity or {})
    pods = dict(whole.get("podAffinity") or {})
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    term = {"labelSelector": {"matchLabels": dict(labels)}, "topologyKey": "kubernetes.io/hostname"}
    pods[required] = [*pods.get(required, ()), term]
    return whole | {"podAffinity": pods}


def _manifests(declared: Declared) -> str:
    return _yaml_stream(declared.source, declared.job)


def _yaml_stream(*objects: DataSource | ExtractionJob) -> str:
    """Return the declared part of the objects: what was written, and nothing that changes by itself."""
    documents = []
    for found in objects:
        metadata = {"name": found.metadata.name, "namespace": found.metadata.namespace, "uid": found.metadata.uid}
        spec = found.spec.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude_none=True)
        document = {"apiVersion": API_VERSION, "kind": found.kind, "metadata": metadata, "spec": spec}
        documents.append(json.dumps(document, ensure_ascii=False, separators=(",", ":")))
    return "\n---\n".join(documents)
