"""Objects as the API server writes them."""

from typing import Any

from extraction_operator.plan.names import ATTEMPT, JOB, MANAGED_BY, MANAGER, NUMBER, OWNER_UID, ROLE

Object = dict[str, Any]
API = "extraction-operator.io/v1alpha1"
CREATED = "2026-11-22T06:00:00Z"


def metadata(name: str, version: int, uid: str = "", namespace: str = "default", **more: Any) -> Object:
    """Return metadata as it comes from the API server, with what nobody reads."""
    return {
        "name": name, "namespace": namespace, "uid": uid or f"uid-of-{name}", "resourceVersion": str(version),
        "generation": 1, "creationTimestamp": CREATED,
        "managedFields": [{"manager": "kubectl", "operation": "Update", "fieldsV1": {"f:spec": {}}}],
    } | more  # fmt: skip


def extraction_job(
    name: str = "orders", version: int = 1, *, source: str = "shop", phase: str = "", **more: Any
) -> Object:
    """Return an ExtractionJob."""
    found = {
        "apiVersion": API, "kind": "ExtractionJob", "metadata": metadata(name, version, **more),
        "spec": {
            "dataSourceRef": {"name": source}, "table": "public.orders",
            "sink": {"format": {"type": "Parquet"}, "s3": {"bucket": "lake"}},
        },
    }  # fmt: skip
    return found | {"status": {"observedGeneration": 1, "phase": phase, "attempt": 1}} if phase else found


def data_source(name: str = "shop", version: int = 1, *, ready: bool | None = None, **more: Any) -> Object:
    """Return a DataSource; ``ready`` None is one that was never checked."""
    found = {
        "apiVersion": API, "kind": "DataSource", "metadata": metadata(name, version, **more),
        "spec": {
            "type": "PostgreSQL", "connection": {"host": "db", "database": "shop"},
            "credentialsSecretRef": {"name": "reader"},
        },
    }  # fmt: skip
    if ready is None:
        return found
    condition = {
        "type": "Ready", "status": "True" if ready else "False", "reason": "Connected", "message": "",
        "observedGeneration": 1, "lastTransitionTime": CREATED,
    }  # fmt: skip
    return found | {"status": {"observedGeneration": 1, "checks": 1, "conditions": [condition]}}


def labels(owner: str, role: str, attempt: int = 1, number: int = 0) -> dict[str, str]:
    """Return the labels of a child."""
    found = {OWNER_UID: owner, ROLE: role, ATTEMPT: str(attempt), MANAGED_BY: MANAGER, JOB: "orders"}
    return found | ({NUMBER: str(number)} if number else {})


def child(
    name: str = "orders-lead-1", version: int = 1, *, owner: str = "uid-of-orders", role: str = "lead",
    attempt: int = 1, number: int = 0, spec: Object | None = None, status: Object | None = None, **more: Any,
) -> Object:  # fmt: skip
    """Return a Job of ours."""
    return {
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": metadata(name, version, labels=labels(owner, role, attempt, number), **more),
        "spec": {"parallelism": 1, "completions": 1, "template": {"spec": {}}} | (spec or {}), "status": status or {},
    }  # fmt: skip


def condition(kind: str, status: str = "True", at: str = CREATED, **more: str) -> Object:
    """Return a condition."""
    return {"type": kind, "status": status, "lastTransitionTime": at} | more


def pod(
    name: str = "orders-lead-1-x", version: int = 1, *, owner: str = "uid-of-orders", role: str = "lead",
    phase: str = "Running", job: str = "orders-lead-1", status: Object | None = None, **more: Any,
) -> Object:  # fmt: skip
    """Return a pod of ours."""
    owners = [{"apiVersion": "batch/v1", "kind": "Job", "name": job, "uid": f"uid-of-{job}", "controller": True}]
    return {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": metadata(name, version, labels=labels(owner, role), ownerReferences=owners, **more),
        "spec": {"nodeName": "node-1"}, "status": {"phase": phase} | (status or {}),
    }  # fmt: skip
