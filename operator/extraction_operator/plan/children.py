"""Manifests of the children: lead, workers, clean-up, check. Pure: from declared objects and settings to JSON."""

import json
import re

from extraction_contract.base import API_VERSION
from extraction_contract.messages import TERMINAL_EXIT_CODES
from extraction_contract.models import DataSource, ExtractionJob, PodTemplate
from extraction_operator.plan import names
from extraction_operator.plan.names import child_name
from extraction_operator.plan.pods import Declared, Json, beside, container_of, environment_of, plain_container, pod_of
from extraction_operator.plan.settings import Settings
from extraction_operator.plan.values import Role

_SPARE_DEADLINE = 600
"""Jobs end by themselves this long after the deadline that the operator keeps: it may be away."""
_FORGOTTEN = 3600
"""A clean-up outlives its owner; it goes by itself after this many seconds."""

_NOT_IN_YAML = re.compile("[^\t\n\r\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
"""Characters that JSON has and YAML hasn't, or takes for the end of a line."""
_STAY = {
    "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
    "karpenter.sh/do-not-disrupt": "true",
}


def lead_job(declared: Declared, *, parallelism: int, one_pod: bool, barred: bool = False) -> Json:
    """Return the lead Job: hold, plan, publish.

    Parameters
    ----------
    parallelism
        Worker pods that will read at the same time.
    one_pod
        Work the whole plan here: nobody else may mount the volume.
    barred
        Make one that never has a pod: it takes the name, so that no other can come.
    """
    settings = declared.settings
    held = declared.consistency == "Snapshot"
    environment = environment_of(declared) | {"EXTRACTION_PARALLELISM": str(parallelism)}
    if declared.job.status.memory_kills:
        environment["EXTRACTION_KILLED"] = str(declared.job.status.memory_kills)
    if one_pod:
        environment["EXTRACTION_BUNDLES"] = "1"
    hold = container_of(declared, "hold", environment, settings.hold) | {"restartPolicy": "Always"}
    plan = container_of(declared, "plan", environment, settings.work)
    publish = container_of(declared, "publish", environment, settings.work)
    pod = pod_of(declared.job, declared.source, settings, [publish], [hold, plan] if held else [plan], shared=True)
    deadline = declared.job.spec.active_deadline_seconds + _SPARE_DEADLINE
    spec = {"backoffLimit": 0, "podReplacementPolicy": "TerminatingOrFailed", "activeDeadlineSeconds": deadline}
    if barred:
        spec["parallelism"] = 0
    name = child_name(declared.job.metadata.name, declared.uid, Role.LEAD, declared.attempt)
    labels = _labels(declared, Role.LEAD)
    job = _job(name, declared.job, labels, _owner_job(declared.job), spec, pod, _manifests(declared), _STAY)
    queue = declared.job.metadata.labels.get(names.QUEUE, "")
    return _queued(job, declared, queue) if queue and not barred else job


def work_job(
    declared: Declared,
    *,
    number: int,
    lead: tuple[str, str] | None,
    bundles: int,
    parallelism: int,
    plan_digest: str,
    beside_lead: bool,
    queue: str = "",
) -> Json:
    """Return the worker Job: an index for each bundle.

    Parameters
    ----------
    lead
        Name and uid of the lead Job, which owns it; without it the ExtractionJob does. Kueue takes what a queued Job
        controls for a part of that, and gives it no quota of its own.
    beside_lead
        Keep the pods on the lead's node: the volume can be mounted on one only.
    queue
        The queue of Kueue's that it waits in.
    """
    settings = declared.settings
    environment = environment_of(declared) | {"EXTRACTION_BUNDLES": str(bundles), "EXTRACTION_PLAN_DIGEST": plan_digest}
    container = container_of(declared, "work", environment, settings.work)
    pod = pod_of(declared.job, declared.source, settings, [container], [])
    if beside_lead:
        pod["affinity"] = beside(pod.get("affinity"), _selector(declared, Role.LEAD))
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
    owner = _owner("batch/v1", "Job", *lead) if lead is not None else _owner_job(declared.job)
    job = _job(name, declared.job, labels, owner, spec, pod, _manifests(declared), {})
    if not queue:
        return job
    if min(parallelism, bundles) > 1:
        # One pod is enough to go on. (Kueue refuses this where there is no more than one.)
        job["metadata"]["annotations"] = {names.LEAST_PODS: "1"}
    return _queued(job, declared, queue)


def clean_job(declared: Declared) -> Json:
    """Return the clean-up of an attempt. Nobody owns it: it must outlive a deleted ExtractionJob."""
    settings = declared.settings
    container = container_of(declared, "clean", environment_of(declared), settings.hold)
    pod = pod_of(declared.job, declared.source, settings, [container], [])
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
    container = plain_container(settings, "check", environment, settings.hold)
    pod = pod_of(None, source, settings, [container], [])
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


def _queued(job: Json, declared: Declared, queue: str) -> Json:
    """Have a Job wait in a queue of Kueue's. Its pods don't get the labels: Kueue would queue them, too."""
    job["metadata"]["labels"][names.QUEUE] = queue
    if priority := declared.job.metadata.labels.get(names.QUEUE_PRIORITY):
        job["metadata"]["labels"][names.QUEUE_PRIORITY] = priority
    return job


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


def _manifests(declared: Declared) -> str:
    return _yaml_stream(declared.source, declared.job)


def _yaml_stream(*objects: DataSource | ExtractionJob) -> str:
    """Return the declared part of the objects: what was written, and nothing that changes by itself."""
    documents = []
    for found in objects:
        metadata: Json = {"name": found.metadata.name, "namespace": found.metadata.namespace, "uid": found.metadata.uid}
        if isinstance(found, DataSource) and found.metadata.generation:
            # What was remembered of another version of it isn't used.
            metadata["generation"] = found.metadata.generation
        spec = found.spec.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude_none=True)
        document = {"apiVersion": API_VERSION, "kind": found.kind, "metadata": metadata, "spec": spec}
        text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
        documents.append(_NOT_IN_YAML.sub(lambda match: f"\\u{ord(match[0]):04x}", text))
    return "\n---\n".join(documents)
