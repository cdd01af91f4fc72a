"""What the record is asked: each query once, for ``extraction history``, the tests of plans and the benchmark."""

from dataclasses import dataclass
from typing import LiteralString

_JOB: LiteralString = (
    "j.uid, j.created_at, j.cluster, j.namespace, j.name, j.source, j.table_name, j.phase, j.attempt, j.started_at,"
    " j.finished_at, j.duration_seconds, j.rows, j.bytes, j.files, j.rows_per_second, j.bytes_per_second,"
    " j.consistency, j.verification, j.reused_run, j.sessions, j.session_checkouts, j.session_reuses, j.session_waits,"
    " j.sessions_evicted, j.sessions_leaked, j.reason, j.message, j.deleted_at"
)


@dataclass(frozen=True)
class Query:
    """A query, and the index without which it would have to look at every row."""

    name: str
    text: LiteralString
    """With psycopg's named parameters."""
    index: str


BY_SOURCE = Query(
    "by_source",
    f"SELECT {_JOB} FROM extraction.jobs j WHERE namespace = %(namespace)s AND source = %(source)s"
    " AND phase = %(phase)s ORDER BY started_at DESC LIMIT %(limit)s",
    "jobs_source",
)
BY_SCHEDULE = Query(
    "by_schedule",
    f"SELECT {_JOB} FROM extraction.jobs j WHERE schedule_uid = %(schedule)s AND phase = %(phase)s"
    " ORDER BY started_at DESC LIMIT %(limit)s",
    "jobs_schedule",
)
BY_NAME = Query(
    "by_name",
    f"SELECT {_JOB} FROM extraction.jobs j WHERE namespace = %(namespace)s AND name = %(name)s"
    " ORDER BY created_at DESC LIMIT %(limit)s",
    "jobs_name",
)
RECENT = Query(
    "recent",
    f"SELECT {_JOB} FROM extraction.jobs j WHERE finished_at IS NOT NULL ORDER BY finished_at DESC LIMIT %(limit)s",
    "jobs_finished",
)
RUNNING = Query(
    "running",
    f"SELECT {_JOB} FROM extraction.jobs j WHERE finished_at IS NULL ORDER BY started_at LIMIT %(limit)s",
    "jobs_running",
)
FAILURES = Query(
    "failures",
    f"SELECT {_JOB} FROM extraction.jobs j WHERE phase = 'Failed' AND finished_at >= %(since)s"
    " ORDER BY finished_at DESC LIMIT %(limit)s",
    "jobs_failed",
)
IN_RANGE = Query(
    "in_range",
    f"SELECT {_JOB} FROM extraction.jobs j WHERE created_at >= %(since)s AND created_at < %(until)s"
    " ORDER BY created_at DESC LIMIT %(limit)s",
    "jobs_created",
)
BY_SPEC = Query(
    "by_spec",
    f"SELECT {_JOB} FROM extraction.job_specs s JOIN extraction.jobs j"
    " ON j.uid = s.job_uid AND j.created_at = s.job_created_at"
    " WHERE s.spec @> %(spec)s::jsonb ORDER BY j.created_at DESC LIMIT %(limit)s",
    "job_specs_spec",
)
ACTIVE_SOURCES = Query(
    "active_sources",
    "SELECT uid, cluster, namespace, name, host, database, ready, reason, server_version FROM extraction.data_sources"
    " WHERE type = %(type)s AND deleted_at IS NULL ORDER BY cluster, namespace, name LIMIT %(limit)s",
    "data_sources_active",
)
HOURLY = Query(
    "hourly",
    "SELECT * FROM extraction.hourly WHERE hour >= %(since)s AND hour < %(until)s ORDER BY hour, source, table_name",
    "jobs_hour",
)
DAILY = Query(
    "daily",
    "SELECT * FROM extraction.daily WHERE day >= %(since)s AND day < %(until)s ORDER BY day, source, table_name",
    "jobs_day",
)

REFERENCE = (
    BY_SOURCE, BY_SCHEDULE, BY_NAME, RECENT, RUNNING, FAILURES, IN_RANGE, BY_SPEC, ACTIVE_SOURCES, HOURLY, DAILY,
)  # fmt: skip
"""What the indexes are for."""

JOB_COLUMNS = _JOB
_FAILED_PODS: LiteralString = (
    " LEFT JOIN LATERAL ("
    "SELECT sum(pods)::bigint AS failed_pods, jsonb_object_agg(reason, pods) AS failed_because FROM ("
    "SELECT CASE WHEN place <= 5 THEN reason ELSE 'others' END AS reason, sum(pods)::bigint AS pods FROM ("
    "SELECT coalesce(b.reason, 'exit code ' || b.exit_code, 'unknown') AS reason, count(*) AS pods,"
    " row_number() OVER (ORDER BY count(*) DESC, coalesce(b.reason, 'exit code ' || b.exit_code, 'unknown')) AS place"
    " FROM extraction.bundles b WHERE b.job_uid = {uid} AND b.job_created_at = {created_at}"
    " AND b.attempt = {attempt} AND b.outcome = 'Failed' GROUP BY 1) AS by_reason GROUP BY 1) AS bounded) f ON true"
)
"""Worker pods of an attempt that failed: how many, and of the most frequent reasons how often each."""

ATTEMPTS: LiteralString = (
    "SELECT a.attempt, outcome, started_at, planned_at, finished_at, plan_seconds, duration_seconds, strategy, chunks,"
    " bundles, failed_pods, failed_because, estimated_rows, consistency, rows, bytes, files, digest, reason, message"
    " FROM extraction.attempts a"
    + _FAILED_PODS.format(uid="a.job_uid", created_at="a.job_created_at", attempt="a.attempt")
    + " WHERE a.job_uid = %(uid)s AND a.job_created_at = %(created_at)s ORDER BY a.attempt"
)
FAILED_PODS: LiteralString = _FAILED_PODS.format(uid="j.uid", created_at="j.created_at", attempt="j.attempt")
"""A join to jobs ``j``: of the last attempt."""
BUNDLES: LiteralString = (
    "SELECT attempt, bundle, outcome, exit_code, pod, node, started_at, finished_at, duration_seconds, rows, bytes,"
    " rows_per_second, chunks, reused_chunks, retries, sessions, session_checkouts, session_reuses, session_waits,"
    " sessions_evicted, sessions_leaked, reason, message FROM extraction.bundles"
    " WHERE job_uid = %(uid)s AND job_created_at = %(created_at)s ORDER BY attempt, bundle, finished_at"
)
SPEC: LiteralString = (
    "SELECT spec, s.generation FROM extraction.job_specs s WHERE job_uid = %(uid)s AND job_created_at = %(created_at)s"
)
STATS: LiteralString = (
    "SELECT (date_trunc('day', finished_at AT TIME ZONE 'UTC'))::date AS day, namespace, source, count(*) AS jobs,"
    " count(*) FILTER (WHERE phase = 'Succeeded') AS succeeded, count(*) FILTER (WHERE phase = 'Failed') AS failed,"
    " sum(rows)::bigint AS rows, sum(bytes)::bigint AS bytes,"
    " percentile_cont(0.5) WITHIN GROUP (ORDER BY duration_seconds) AS p50_seconds,"
    " percentile_cont(0.95) WITHIN GROUP (ORDER BY duration_seconds) AS p95_seconds,"
    " max(duration_seconds) AS max_seconds FROM extraction.jobs j WHERE finished_at >= %(since)s"
)
