"""Manifests: sources that are ready, jobs whose pods say what real ones would, and bare Jobs to compare with."""

from typing import Any

from extraction_contract.messages import CleanMessage, PlanMessage, PublishMessage

Raw = dict[str, Any]

API = "extraction-operator.io/v1alpha1"
KWOK = "e2e.extraction-operator.io"
"""What kwok's pods read of their annotations, see e2e/node/manifests/kwok.yaml."""
HOLD = f"{KWOK}/hold"

_DIGEST = "0123456789abcdef" * 2
_CHUNKS = 8


def source(namespace: str, name: str, *, jobs: int) -> Raw:
    """Return a DataSource that admits so many jobs at once."""
    return {
        "apiVersion": API, "kind": "DataSource", "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "type": "PostgreSQL",
            "connection": {"host": f"{name}.{namespace}", "port": 5432, "database": "shop"},
            "credentialsSecretRef": {"name": "reader"},
            "limits": {"maxConnections": 1000, "activeJobs": jobs},
        },
    }  # fmt: skip


def ready(generation: int) -> Raw:
    """Return the status of a source that was checked: no pod can, where there is no database."""
    now = "2026-01-01T00:00:00Z"
    condition = {"lastTransitionTime": now, "observedGeneration": generation, "reason": "Connected", "message": ""}
    return {
        "status": {
            "observedGeneration": generation, "checks": 1, "checkedAt": now,
            "conditions": [
                condition | {"type": "Ready", "status": "True"},
                condition | {"type": "Reconciling", "status": "False"},
                condition | {"type": "Stalled", "status": "False"},
                condition | {"type": "ReadOnly", "status": "True"},
            ],
        }
    }  # fmt: skip


def job(namespace: str, name: str, source: str, *, bundles: int, hold: str) -> Raw:
    """Return an ExtractionJob.

    Parameters
    ----------
    bundles
        What its *plan* will say; with one there is no worker Job.
    hold
        Which main container runs until the annotation changes (``publish``), ``true`` for all, empty for none.
    """
    plan = PlanMessage(
        digest=_DIGEST, chunks=_CHUNKS, bundles=bundles, estimated_rows=10_000_000, estimated_bytes=1 << 32,
        strategy="ctid", reason="",
    )  # fmt: skip
    published = PublishMessage(
        rows=10_000_000, bytes=1 << 30, files=_CHUNKS, digest=_DIGEST, manifest=f"s3://lake/{name}/_manifest.json",
        plan_digest=_DIGEST, consistency="Snapshot", verification="Written",
    )  # fmt: skip
    words = {"plan": plan, "publish": published, "clean": CleanMessage()}
    annotations = {f"message.{KWOK}/{container}": message.encode() for container, message in words.items()}
    return {
        "apiVersion": API, "kind": "ExtractionJob", "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "dataSourceRef": {"name": source}, "table": "public.orders", "parallelism": 2,
            "podTemplate": {"annotations": annotations | ({HOLD: hold} if hold else {})},
            "sink": {"s3": {"bucket": "lake", "prefix": f"{name}/", "credentialsSecretRef": {"name": "lake"}}},
        },
    }  # fmt: skip


def succeeded(name: str) -> Raw:
    """Return the status of a job that ended well, as the operator writes it."""
    now = "2026-01-01T00:00:00Z"
    condition = {"lastTransitionTime": now, "observedGeneration": 1, "reason": "Succeeded", "message": ""}
    message = f"10,000,000 rows in {_CHUNKS} files: s3://lake/{name}/_manifest.json"
    return {
        "status": {
            "observedGeneration": 1, "phase": "Succeeded", "attempt": 1, "consistency": "Snapshot", "workers": 1,
            "startTime": now, "completionTime": now,
            "conditions": [
                condition | {"type": "Ready", "status": "True", "message": message},
                condition | {"type": "Reconciling", "status": "False"},
                condition | {"type": "Stalled", "status": "False"},
                condition | {"type": "Succeeded", "status": "True", "message": message},
                condition | {"type": "Failed", "status": "False"},
            ],
            "plan": {"digest": _DIGEST, "chunks": _CHUNKS, "bundles": 2, "estimatedRows": 10_000_000,
                     "estimatedBytes": 1 << 32, "strategy": "ctid"},
            "progress": {"summary": f"{_CHUNKS}/{_CHUNKS}", "chunks": _CHUNKS, "rows": 10_000_000,
                         "completedBundles": "0-1"},
            "result": {"rows": 10_000_000, "bytes": 1 << 30, "files": _CHUNKS, "digest": _DIGEST, "seconds": 60,
                       "manifest": f"s3://lake/{name}/_manifest.json", "consistency": "Snapshot",
                       "verification": "Written"},
        }
    }  # fmt: skip


def bare(namespace: str, name: str, step: str, *, indexes: int) -> Raw:
    """Return a Job of nobody's, with so many pods of one container."""
    spec: Raw = {"backoffLimit": 0}
    if indexes > 1:
        spec = {"completionMode": "Indexed", "completions": indexes, "parallelism": indexes, "backoffLimitPerIndex": 3}
    container = {"name": "main", "image": "none", "resources": {"requests": {"cpu": "250m", "memory": "640Mi"}}}
    return {
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"name": f"{name}-{step}", "namespace": namespace, "labels": {"pair": name, "step": step}},
        "spec": spec | {"template": {"spec": {"restartPolicy": "Never", "containers": [container]}}},
    }  # fmt: skip
