"""What was observed → rows of the record (pure). Nothing here knows what is recorded already."""

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from pydantic_core import from_json

from extraction_contract.messages import BundleMessage, FailureMessage, PublishMessage
from extraction_contract.models import DataSource
from extraction_operator.plan.facts import FINAL
from extraction_operator.plan.values import Container, Pod, Role
from extraction_operator.record.redact import job_spec, source_spec
from extraction_record.tables import ATTEMPTS, BUNDLES, DATA_SOURCES, JOB_SPECS, JOBS, SCHEDULES, Table

DELETED = "Deleted"
"""The phase of a job whose object was deleted before its end, and the outcome of its attempt."""
_LONGEST_MESSAGE = 2000
Json = Mapping[str, Any]


class Row(NamedTuple):
    """A row: which table, and its values."""

    table: Table
    values: Mapping[str, object]
    version: int | None = None
    """Of the object that it is of; not among the values."""
    mark: int | None = None
    """Changes with the values, so that they needn't be compared."""
    costly: Callable[[], Mapping[str, object]] | None = None
    """Makes the rest of the values, where there is a mark: most versions of an object don't change it."""

    @property
    def key(self) -> tuple[object, ...]:
        """What there is one row of."""
        return self.table.key_of(self.values)

    def everything(self) -> Mapping[str, object]:
        """Return all values."""
        return self.values if self.costly is None else {**self.values, **self.costly()}


def job_rows(document: bytes, *, cluster: str, seen: datetime, gone: bool = False) -> Iterator[Row]:
    """Yield the rows of an ExtractionJob: itself, its spec, its attempts as far as its status tells, its schedule.

    Parameters
    ----------
    document
        As the store keeps it.
    seen
        When this was observed.
    gone
        Whether it was deleted; the document is what it was before.
    """
    job = from_json(document)
    metadata, spec, status = job["metadata"], job["spec"], job.get("status") or {}
    result, phase = status.get("result") or {}, status.get("phase") or "Pending"
    ready: Json = next((item for item in status.get("conditions") or () if item["type"] == "Ready"), {})
    cut_short = gone and phase not in FINAL
    finished = status.get("completionTime") if phase in FINAL else seen if cut_short else None
    schedule = next(iter(metadata.get("ownerReferences") or ()), None)
    yield Row(
        JOBS,
        {
            "uid": metadata["uid"], "created_at": metadata["creationTimestamp"], "cluster": cluster,
            "namespace": metadata["namespace"], "name": metadata["name"], "source": spec["dataSourceRef"]["name"],
            "table_name": spec.get("table"), "schedule_uid": schedule and schedule["uid"],
            "generation": metadata.get("generation", 0), "phase": DELETED if cut_short else phase,
            "attempt": status.get("attempt", 0), "started_at": status.get("startTime"), "finished_at": finished,
            "deleted_at": seen if gone else None, "sink": _sink(spec["sink"], metadata),
            "format": (spec["sink"].get("format") or {}).get("type", "Parquet"),
            "verification": spec.get("verification", "Written"),
            "consistency": result.get("consistency") or status.get("consistency"),
            "rows": result.get("rows"), "bytes": result.get("bytes"), "files": result.get("files"),
            "digest": result.get("digest"), "manifest": result.get("manifest"),
            "reused_run": (result.get("reused") or {}).get("run"),
            **_sessions(result.get("connections") or {}),
            **_explained(ready),
        },
        version_of(metadata),
    )  # fmt: skip
    key = {"job_uid": metadata["uid"], "job_created_at": metadata["creationTimestamp"]}
    generation = metadata.get("generation", 0)
    yield Row(JOB_SPECS, key | {"generation": generation}, mark=generation, costly=lambda: {"spec": job_spec(spec)})
    if schedule is not None:
        yield Row(
            SCHEDULES,
            {
                "uid": schedule["uid"], "cluster": cluster, "namespace": metadata["namespace"],
                "name": schedule["name"], "last_job_at": metadata["creationTimestamp"],
            },
        )  # fmt: skip
    yield from _attempts(key, status, ready, outcome=DELETED if cut_short else phase, finished=finished, seen=seen)


def _attempts(key: Json, status: Json, ready: Json, *, outcome: str, finished: object, seen: datetime) -> Iterator[Row]:
    """Yield what a status tells of the current attempt, and of the one before, where that was given up just now."""
    attempt, plan, result = status.get("attempt", 0), status.get("plan") or {}, status.get("result") or {}
    if attempt < 1:
        return
    if attempt > 1:
        # Another one begins only then; nobody may have watched when it did.
        before: dict[str, object] = {"outcome": "Failed"}
        if outcome == "Pending" and status.get("nextAttemptTime"):
            before |= {"finished_at": seen, **_explained(ready)}
        yield Row(ATTEMPTS, {**key, "attempt": attempt - 1, **before})
    ended = {"outcome": outcome, "finished_at": finished} if finished is not None else {}
    if finished is not None and outcome not in {"Succeeded", DELETED}:
        ended |= _explained(ready)
    found = {
        "plan_digest": plan.get("digest"), "strategy": plan.get("strategy"), "chunks": plan.get("chunks"),
        "bundles": plan.get("bundles"), "estimated_rows": plan.get("estimatedRows"),
        "estimated_bytes": plan.get("estimatedBytes"), "consistency": status.get("consistency") if plan else None,
        "rows": result.get("rows"), "bytes": result.get("bytes"), "files": result.get("files"),
        "digest": result.get("digest"), **ended,
    }  # fmt: skip
    known = {name: value for name, value in found.items() if value is not None}
    if known or outcome != "Pending":
        yield Row(ATTEMPTS, {**key, "attempt": attempt, **known})


def source_rows(source: DataSource, *, cluster: str, seen: datetime, gone: bool = False) -> Iterator[Row]:
    """Yield the row of a DataSource."""
    metadata, spec, status = source.metadata, source.spec, source.status
    ready = next((item for item in status.conditions if item.type == "Ready"), None)
    server = status.server
    yield Row(
        DATA_SOURCES,
        {
            "uid": metadata.uid, "cluster": cluster, "namespace": metadata.namespace, "name": metadata.name,
            "type": spec.type, "host": spec.connection.host, "port": spec.connection.port,
            "database": spec.connection.database, "budget_group": source.budget_group,
            "generation": metadata.generation, "created_at": metadata.creation_timestamp,
            "deleted_at": seen if gone else None,
            "ready": None if ready is None else ready.status == "True",
            "reason": ready and ready.reason, "message": ready and _shorten(ready.message),
            "server_version": server and server.version, "tls": server and server.tls,
            "pooler": server and server.pooler, "replica": server and server.replica,
            "can_write": server and server.can_write,
            "latency_milliseconds": server and server.latency_milliseconds, "checked_at": status.checked_at,
            "spec": source_spec(spec.model_dump(mode="json", by_alias=True, exclude_none=True)),
        },
        _number(metadata.resource_version or ""),
    )  # fmt: skip


def pod_rows(pod: Pod, job_uid: str, job_created_at: str) -> Iterator[Row]:
    """Yield what a pod of an ExtractionJob tells: a lead of its attempt, whoever read that it ended with a bundle."""
    key = {"job_uid": job_uid, "job_created_at": job_created_at, "attempt": pod.attempt}
    if pod.role is Role.LEAD:
        planned = pod.container("plan")
        found: dict[str, object] = {"started_at": pod.created}
        if pod.node:
            found["node"] = pod.node
        if planned is not None and planned.exit_code == 0:
            found["planned_at"] = planned.ended_at
        failures = (FailureMessage.of(container.message) for container in pod.containers if container.exit_code)
        if failure := next((failure for failure in failures if failure is not None), None):
            found |= {"reason": failure.reason, "message": _shorten(failure.message)}
        yield Row(ATTEMPTS, key | found)
        publish, said = pod.container("publish"), pod.said("publish", PublishMessage)
        if publish is not None and said is not None and said.work is not None:
            # A plan of one bundle is worked by the lead.
            yield Row(BUNDLES, key | _bundle(pod, publish, said.work))
    elif pod.role is Role.WORK and (work := pod.container("work")) is not None and work.exit_code is not None:
        yield Row(BUNDLES, key | _bundle(pod, work, pod.said("work", BundleMessage)))


def _bundle(pod: Pod, work: Container, done: BundleMessage | None) -> dict[str, object]:
    found: dict[str, object] = {
        "bundle": pod.index or 0, "pod_uid": pod.uid, "pod": pod.name, "node": pod.node or None,
        "outcome": "Succeeded" if work.exit_code == 0 else "Failed", "exit_code": work.exit_code,
        "started_at": work.started_at, "finished_at": work.ended_at,
    }  # fmt: skip
    if done is not None:
        found |= {
            "rows": done.rows, "bytes": done.bytes, "chunks": done.chunks, "reused_chunks": done.reused,
            "retries": done.retries, "seconds": done.seconds, "sessions": done.sessions,
            "session_checkouts": done.checkouts, "session_reuses": done.session_reuses,
            "session_waits": done.session_waits, "sessions_evicted": done.sessions_evicted,
            "sessions_leaked": done.sessions_leaked,
        }  # fmt: skip
    elif failure := FailureMessage.of(work.message):
        found |= {"reason": failure.reason, "message": _shorten(failure.message)}
    elif work.exit_code != 0:
        found |= {"reason": pod.disrupted or work.ended_reason or None}
    return found


def version_of(metadata: Json) -> int:
    """Return the ``resourceVersion`` as a number; 0 of one that is none, so that what comes first stays."""
    return _number(metadata["resourceVersion"])


def _number(version: str) -> int:
    return int(version) if version.isdecimal() else 0


def _explained(ready: Json) -> dict[str, object]:
    return {"reason": ready.get("reason"), "message": _shorten(ready["message"]) if ready.get("message") else None}


def _sessions(connections: Json) -> dict[str, object]:
    return {
        "sessions": connections.get("opened"), "session_checkouts": connections.get("checkouts"),
        "session_reuses": connections.get("reuses"), "session_waits": connections.get("waits"),
        "sessions_evicted": connections.get("evicted"), "sessions_leaked": connections.get("leaks"),
    }  # fmt: skip


def _shorten(message: str) -> str:
    # A text of PostgreSQL's can't have NUL.
    return message.replace("\0", "")[:_LONGEST_MESSAGE]


def _sink(sink: Json, metadata: Json) -> str:
    default = f"{metadata['namespace']}/{metadata['name']}"
    if s3 := sink.get("s3"):
        return f"s3://{s3['bucket']}/{s3.get('prefix') or default}"
    volume = sink["volume"]
    return f"volume:{volume['claimName']}/{volume.get('path') or default}"
