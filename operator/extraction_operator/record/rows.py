"""What was observed → rows of the record (pure). Nothing here knows what is recorded already."""

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any, NamedTuple

from extraction_contract.messages import BundleMessage, FailureMessage, PlanMessage, PublishMessage
from extraction_contract.models import DataSource
from extraction_contract.status import ConnectionCounts
from extraction_operator.plan.facts import FINAL
from extraction_operator.plan.values import Container, Pod, Role
from extraction_operator.record.redact import job_spec, source_spec
from extraction_record.tables import ATTEMPTS, BUNDLES, DATA_SOURCES, JOB_SPECS, JOBS, SCHEDULES, Table

DELETED = "Deleted"
"""The phase of a job whose object was deleted before its end, and the outcome of its attempt."""
_LONGEST_MESSAGE = 2000
Json = Mapping[str, Any]
_NOTHING: Json = MappingProxyType({})
_FOUND = {"rows": "rows", "bytes": "bytes", "files": "files", "digest": "digest"}
"""Fields of a result, and columns of a job and of an attempt."""
_RESULT = {**_FOUND, "manifest": "manifest", "consistency": "consistency"}
"""Fields of a result, and columns of a job."""
_PLAN = {
    "digest": "plan_digest", "strategy": "strategy", "chunks": "chunks", "bundles": "bundles",
    "estimatedRows": "estimated_rows", "estimatedBytes": "estimated_bytes",
}  # fmt: skip
"""Fields of a plan, and columns of an attempt."""
_SESSIONS = {
    "opened": "sessions", "checkouts": "session_checkouts", "reuses": "session_reuses", "waits": "session_waits",
    "evicted": "sessions_evicted", "leaks": "sessions_leaked",
}  # fmt: skip
"""Fields of what pools did with connections, and columns."""


class Row(NamedTuple):
    """A row: which table, and its values. A column that has none is null."""

    table: Table
    values: Mapping[str, object]
    version: int | None = None
    """Of the object that it is of; not among the values."""

    @property
    def key(self) -> tuple[object, ...]:
        """What there is one row of."""
        return self.table.key_of(self.values)


class Marked(NamedTuple):
    """A row that most versions of an object don't change: its values are made when its mark is another one."""

    table: Table
    key: tuple[object, ...]
    """What there is one row of, in the order of the table's key."""
    mark: int
    """Changes with the values."""
    make: Callable[[], Mapping[str, object]]
    """Makes the values."""


AnyRow = Row | Marked


def job_rows(job: Json, *, cluster: str, seen: Callable[[], datetime], gone: bool = False) -> Iterator[AnyRow]:
    """Yield the rows of an ExtractionJob: itself, its spec, its attempts as far as its status tells, its schedule.

    Parameters
    ----------
    job
        As the store trims it.
    seen
        Tells when this was observed, where that matters.
    gone
        Whether it was deleted; the job is what it was before.
    """
    metadata, spec, status = job["metadata"], job["spec"], job.get("status") or _NOTHING
    phase, attempt = status.get("phase") or "Pending", status.get("attempt", 0)
    uid, created, generation = metadata["uid"], metadata["creationTimestamp"], metadata.get("generation", 0)
    cut_short = gone and phase not in FINAL
    now = seen() if gone else None
    finished = now if cut_short else status.get("completionTime") if phase in FINAL else None
    outcome = DELETED if cut_short else phase
    explained = _explained(status)
    # Thousands of these come at once, and most know little yet: what is null isn't named at all.
    values = {
        "uid": uid, "created_at": created, "cluster": cluster, "namespace": metadata["namespace"],
        "name": metadata["name"], "source": spec["dataSourceRef"]["name"], "generation": generation,
        "phase": outcome, "attempt": attempt, "sink": _sink(spec["sink"], metadata),
        "format": (spec["sink"].get("format") or _NOTHING).get("type", "Parquet"),
        "verification": spec.get("verification", "Written"), **explained,
    }  # fmt: skip
    if table := spec.get("table"):
        values["table_name"] = table
    if started := status.get("startTime"):
        values["started_at"] = started
    if consistency := status.get("consistency"):
        values["consistency"] = consistency
    if finished is not None:
        values["finished_at"] = finished
    if gone:
        values["deleted_at"] = now
    if result := status.get("result"):
        values |= _result(result)
    schedule = next(iter(metadata.get("ownerReferences") or ()), None)
    if schedule is not None:
        values["schedule_uid"] = schedule["uid"]
    yield Row(JOBS, values, version_of(metadata))
    key = {"job_uid": uid, "job_created_at": created}
    yield Marked(
        JOB_SPECS, (uid, created), generation, lambda: {**key, "generation": generation, "spec": job_spec(spec)}
    )
    if schedule is not None:
        yield Row(
            SCHEDULES,
            {
                "uid": schedule["uid"], "cluster": cluster, "namespace": metadata["namespace"],
                "name": schedule["name"], "last_job_at": created,
            },
        )  # fmt: skip
    if attempt >= 1:
        yield from _attempts(key, status, explained, outcome=outcome, finished=finished, seen=seen)


def _result(result: Json) -> dict[str, object]:
    """Return what the row of a job has of its result."""
    values = _named(result, _RESULT)
    if reused := result.get("reused"):
        values["reused_run"] = reused["run"]
    if connections := result.get("connections"):
        values |= _named(connections, _SESSIONS)
    return values


def _attempts(
    key: Json, status: Json, explained: Json, *, outcome: str, finished: object, seen: Callable[[], datetime]
) -> Iterator[AnyRow]:
    """Yield what a status tells of the current attempt, and of the one before, where that was given up just now."""
    attempt, plan, result = status["attempt"], status.get("plan") or _NOTHING, status.get("result") or _NOTHING
    if attempt > 1:
        # Another one begins only then; nobody may have watched when it did.
        before: dict[str, object] = {"outcome": "Failed"}
        if outcome == "Pending" and status.get("nextAttemptTime"):
            before |= {"finished_at": seen(), **explained}
        yield Row(ATTEMPTS, {**key, "attempt": attempt - 1, **before})
    if outcome == "Pending" and not plan and not result:
        return
    ended: Json = _NOTHING
    if finished is not None:
        why = _NOTHING if outcome in {"Succeeded", DELETED} else explained
        ended = {"outcome": outcome, "finished_at": finished, **why}

    consistency = status.get("consistency") if plan else None

    def make() -> Json:
        known = {**key, "attempt": attempt, **_named(plan, _PLAN), **_named(result, _FOUND), **ended}
        return {**known, "consistency": consistency} if consistency else known

    # Plan and result of an attempt never change, and their digests are of all that is in them.
    mark = hash((plan.get("digest"), result.get("digest"), consistency, *ended.values()))
    yield Marked(ATTEMPTS, (key["job_uid"], attempt, key["job_created_at"]), mark, make)


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
        if publish is not None and _has_worked(pod, publish, said):
            yield Row(BUNDLES, key | _bundle(pod, publish, said.work if said is not None else None))
    elif pod.role is Role.WORK and (work := pod.container("work")) is not None and work.exit_code is not None:
        yield Row(BUNDLES, key | _bundle(pod, work, pod.said("work", BundleMessage)))


def _has_worked(lead: Pod, publish: Container, said: PublishMessage | None) -> bool:
    """Tell whether a lead that has ended worked a plan of one bundle itself, with success or not."""
    if said is not None:
        return said.work is not None
    if publish.exit_code in {None, 0}:
        return False
    if (failure := FailureMessage.of(publish.message)) is not None:
        return failure.bundle is not None
    # It was killed. Such a plan is read before all else, and little comes after that.
    plan = lead.said("plan", PlanMessage)
    return plan is not None and plan.bundles == 1


def _bundle(pod: Pod, work: Container, done: BundleMessage | None) -> dict[str, object]:
    found: dict[str, object] = {
        "bundle": pod.index or 0, "pod_uid": pod.uid, "pod": pod.name, "node": pod.node or None,
        "outcome": "Succeeded" if work.exit_code == 0 else "Failed", "exit_code": work.exit_code,
        "started_at": work.started_at, "finished_at": work.ended_at,
    }  # fmt: skip
    did: ConnectionCounts | None = None
    if done is not None:
        did = done.connections
        found |= {
            "rows": done.rows, "bytes": done.bytes, "chunks": done.chunks, "reused_chunks": done.reused,
            "retries": done.retries, "seconds": done.seconds,
        }  # fmt: skip
    elif failure := FailureMessage.of(work.message):
        did = failure.connections
        found |= {"reason": failure.reason, "message": _shorten(failure.message), "retries": failure.retries}
    elif work.exit_code != 0:
        found |= {"reason": pod.disrupted or work.ended_reason or None}
    if did is not None:
        found |= {column: getattr(did, field) for field, column in _SESSIONS.items()}
    return found


def version_of(metadata: Json) -> int:
    """Return the ``resourceVersion`` as a number; 0 of one that is none, so that what comes first stays."""
    return _number(metadata["resourceVersion"])


def _number(version: str) -> int:
    return int(version) if version.isdecimal() else 0


def _explained(status: Json) -> dict[str, object]:
    """Return reason and message of the condition Ready."""
    for condition in status.get("conditions") or ():
        if condition["type"] == "Ready":
            found = {"reason": condition.get("reason"), "message": condition.get("message")}
            return {name: _shorten(text) for name, text in found.items() if text}
    return {}


def _named(found: Json, columns: Mapping[str, str]) -> dict[str, object]:
    """Return those fields that are known, by their columns."""
    return {column: found[field] for field, column in columns.items() if field in found}


def _shorten(message: str) -> str:
    # A text of PostgreSQL's can't have NUL.
    return message.replace("\0", "")[:_LONGEST_MESSAGE]


def _sink(sink: Json, metadata: Json) -> str:
    default = f"{metadata['namespace']}/{metadata['name']}"
    if s3 := sink.get("s3"):
        return f"s3://{s3['bucket']}/{s3.get('prefix') or default}"
    volume = sink["volume"]
    return f"volume:{volume['claimName']}/{volume.get('path') or default}"
