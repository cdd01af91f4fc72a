"""A record of a test: its place, its rows, and observed objects as the operator's store tells them."""

import uuid
from pathlib import Path
from typing import Any

from extraction_operator.cluster.parse import trim
from extraction_record.connection import Place
from support.objects import Object, extraction_job

NAMESPACE_UUID = uuid.UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8")


def place_of(database: Any, folder: Path) -> Place:
    """Return where a test's database is, with the superuser's credentials as files."""
    server = database.server
    folder.mkdir(exist_ok=True)
    (folder / "username").write_text(server.user)
    (folder / "password").write_text(f"{server.password}\n")
    return Place(f"postgresql://{server.host}:{server.port}/{database.name}?sslmode=disable", folder)


def uid(name: str) -> str:
    """Return a uid like the API server's, the same for the same name."""
    return str(uuid.uuid5(NAMESPACE_UUID, name))


def job(
    name: str = "orders", version: int = 1, *, phase: str = "", status: Object | None = None, **more: Any
) -> Object:
    """Return an ExtractionJob with a uid that is one."""
    found = extraction_job(name, version, phase=phase, uid=uid(name), **more)
    if status is not None:
        found["status"] = {"observedGeneration": 1, "phase": phase, "attempt": 1} | status
    return found


def observed(name: str = "orders", version: int = 1, **more: Any) -> Object:
    """Return an ExtractionJob as the store tells it."""
    return trim(job(name, version, **more))


PLAN = {
    "digest": "0" * 32, "chunks": 8, "bundles": 2, "estimatedRows": 1000, "estimatedBytes": 64000, "strategy": "ctid",
}  # fmt: skip
RESULT = {
    "rows": 1000, "bytes": 32000, "files": 8, "digest": "1" * 32, "manifest": "s3://lake/orders/_manifest.json",
    "seconds": 60, "consistency": "Snapshot", "verification": "Written",
}  # fmt: skip
STARTED, COMPLETED = "2026-11-22T06:00:10Z", "2026-11-22T06:01:10Z"


def succeeded(**more: Any) -> Object:
    """Return the status of a job that succeeded in 60 seconds."""
    ready = {
        "type": "Ready", "status": "True", "reason": "Succeeded", "message": "1,000 rows", "observedGeneration": 1,
        "lastTransitionTime": COMPLETED,
    }  # fmt: skip
    return {
        "startTime": STARTED, "completionTime": COMPLETED, "consistency": "Snapshot", "plan": PLAN, "result": RESULT,
        "conditions": [ready],
    } | more  # fmt: skip
