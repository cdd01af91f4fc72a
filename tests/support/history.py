"""A history of any length, made by the server itself; for the tests of plans and for ``bench.record``."""

import hashlib
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg

from extraction_record import partitions

Db = psycopg.Connection[tuple[Any, ...]]

SOURCES, NAMESPACES, SCHEDULES = 500, 20, 200
"""That jobs name."""

_JOBS = """
INSERT INTO extraction.jobs (uid, created_at, cluster, namespace, name, source, table_name, schedule_uid, generation,
    resource_version, phase, attempt, started_at, finished_at, sink, format, verification, consistency, rows, bytes,
    files, digest, manifest, sessions, session_checkouts, session_reuses, session_waits, sessions_evicted,
    sessions_leaked, reason, message)
SELECT md5(i::text)::uuid, created, 'main', 'team-' || i % {namespaces}, 'job-' || i, 'source-' || i % {sources},
    'public.table_' || i % 5000, CASE WHEN i % 10 = 0 THEN md5('schedule-' || i / 10 % {schedules})::uuid END, 1,
    i, phase, 1, created + interval '1 second' * (i % 30),
    CASE WHEN phase <> 'Running'
        THEN created + interval '1 second' * (320 + i % 30 + hashint8(i)::bigint % 300) END,
    's3://lake/team-' || i % {namespaces} || '/job-' || i, 'Parquet', 'Written', 'Snapshot',
    CASE WHEN phase = 'Succeeded' THEN 1000 * (1 + i % 5000) END,
    CASE WHEN phase = 'Succeeded' THEN 100000 * (1 + i % 5000) END,
    CASE WHEN phase = 'Succeeded' THEN 1 + i % 40 END, CASE WHEN phase = 'Succeeded' THEN md5('digest' || i) END,
    CASE WHEN phase = 'Succeeded' THEN 's3://lake/team-' || i % {namespaces} || '/job-' || i || '/_manifest.json' END,
    CASE WHEN phase = 'Succeeded' THEN 8 END, CASE WHEN phase = 'Succeeded' THEN 16 END,
    CASE WHEN phase = 'Succeeded' THEN 8 END, CASE WHEN phase = 'Succeeded' THEN 0 END,
    CASE WHEN phase = 'Succeeded' THEN 0 END, CASE WHEN phase = 'Succeeded' THEN 0 END,
    CASE phase WHEN 'Failed' THEN 'OutOfMemory' WHEN 'Running' THEN 'Planned' ELSE phase END,
    CASE phase WHEN 'Failed' THEN 'The container work of a pod was killed for using more memory than its limit.'
        ELSE '1,000 rows in 8 files: s3://lake/orders/_manifest.json' END
FROM (
    SELECT i,
        {begin}::timestamptz + ({end}::timestamptz - {begin}::timestamptz) * (i::double precision / {jobs}) AS created,
        CASE WHEN i > {jobs} - greatest(20, {jobs} / 5000) THEN 'Running' WHEN i % 100 = 7 THEN 'Failed'
             WHEN i % 200 = 9 THEN 'Cancelled' ELSE 'Succeeded' END AS phase
    FROM generate_series(0, {jobs} - 1) AS i
) AS made
"""
_SPECS = """
INSERT INTO extraction.job_specs (job_uid, job_created_at, generation, spec)
SELECT uid, created_at, 1, jsonb_build_object(
    'dataSourceRef', jsonb_build_object('name', source), 'table', table_name, 'parallelism', 1 + resource_version % 8,
    'consistency', 'Snapshot', 'verification', 'Written', 'onUnrepresentable', 'Fail',
    'columns', jsonb_build_array('id', 'created', 'customer', 'amount', 'status'),
    'partitioning', jsonb_build_object('strategy', 'Auto', 'targetBytes', '64Mi'),
    'snapshot', jsonb_build_object('maxAge', '6h', 'onLoss', 'Fail'),
    'sink', jsonb_build_object('format', jsonb_build_object('type', 'Parquet', 'compression', 'zstd'),
        'ifExists', 'Fail', 's3', jsonb_build_object('bucket', 'lake', 'prefix', 'team/' || name)))
FROM extraction.jobs
"""
_ATTEMPTS = """
INSERT INTO extraction.attempts (job_uid, job_created_at, attempt, outcome, started_at, planned_at, finished_at,
    plan_digest, strategy, chunks, bundles, estimated_rows, estimated_bytes, consistency, rows, bytes, files, digest,
    node)
SELECT uid, created_at, 1, nullif(phase, 'Running'), started_at, started_at + interval '4 seconds', finished_at,
    md5(name), 'ctid', 16, 4, rows, bytes, consistency, rows, bytes, files, digest, 'node-' || resource_version % 50
FROM extraction.jobs WHERE created_at >= {since}
"""
_BUNDLES = """
INSERT INTO extraction.bundles (job_uid, job_created_at, attempt, bundle, pod_uid, pod, node, outcome, exit_code,
    started_at, finished_at, rows, bytes, chunks, reused_chunks, retries, seconds, sessions, session_reuses,
    session_waits, session_checkouts, sessions_evicted, sessions_leaked)
SELECT uid, created_at, 1, b, md5(name || b)::uuid, name || '-1a2b3c4d-work-1-1-' || b || '-x7k2p',
    'node-' || resource_version % 50, 'Succeeded', 0, started_at, finished_at, rows / 4, bytes / 4, 4, 0, 0, 55.5,
    2, 2, 0, 4, 0, 0
FROM extraction.jobs, generate_series(0, 3) AS b WHERE created_at >= {since}
"""
_SOURCES = """
INSERT INTO extraction.data_sources (uid, cluster, namespace, name, type, host, port, database, budget_group,
    generation, resource_version, created_at, deleted_at, ready, reason, server_version, spec)
SELECT md5('source-' || i)::uuid, 'main', 'team-' || i % {namespaces}, 'source-' || i, 'PostgreSQL', 'db-' || i,
    5432, 'shop', 'db-' || i, 1, i, {begin}, CASE WHEN i % 100 <> 3 THEN {end}::timestamptz END, true, 'Connected',
    '18.6', '{{"type": "PostgreSQL"}}' FROM generate_series(0, {many} - 1) AS i
"""


def generate(connection: Db, *, jobs: int, sources: int, months: int, end: datetime) -> None:
    """Fill an empty record: jobs over some months up to ``end``, attempts and bundles (four each) of the last month.

    Parameters
    ----------
    connection
        In autocommit mode.
    """
    begin = end - timedelta(days=30 * months)
    partitions.make(connection, months=months, today=begin.date())
    # Built at once afterwards, which takes a fraction of the time.
    indexes = _drop_indexes(connection)
    values = {
        "jobs": jobs, "many": sources, "sources": SOURCES, "namespaces": NAMESPACES, "schedules": SCHEDULES,
        "begin": f"'{begin.isoformat()}'", "end": f"'{end.isoformat()}'",
        "since": f"'{(end - timedelta(days=30)).isoformat()}'",
    }  # fmt: skip
    for statement in (_SOURCES, _JOBS, _SPECS, _ATTEMPTS, _BUNDLES):
        connection.execute(statement.format(**values).encode())
    connection.execute(
        "INSERT INTO extraction.schedules (uid, cluster, namespace, name, last_job_at)"
        " SELECT md5('schedule-' || i)::uuid, 'main', 'team-0', 'schedule-' || i, %s FROM generate_series(0, %s) AS i",
        (end, SCHEDULES - 1),
    )
    for definition in indexes:
        connection.execute(definition.encode())
    tables = ", ".join(f"extraction.{table}" for table in (*partitions.PARENTS, "data_sources", "schedules"))
    connection.execute(f"VACUUM (ANALYZE) {tables}".encode())


def parameters(end: datetime) -> dict[str, Any]:
    """Return parameters for every reference query that find something in a generated history."""
    day = end - timedelta(days=5)
    schedule = hashlib.md5(b"schedule-3", usedforsecurity=False).hexdigest()
    return {
        "namespace": "team-3", "source": "source-3", "name": "job-503", "phase": "Succeeded", "type": "PostgreSQL",
        "schedule": str(UUID(schedule)), "spec": '{"table": "public.table_503", "parallelism": 8}',
        "since": day, "until": day + timedelta(days=1), "limit": 50,
    }  # fmt: skip


def _drop_indexes(connection: Db) -> list[str]:
    """Drop what isn't a primary key; return how to make it again."""
    found = connection.execute(
        "SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index JOIN pg_class c"
        " ON c.oid = indrelid WHERE NOT indisprimary AND NOT c.relispartition"
        " AND relnamespace = 'extraction'::regnamespace"
    ).fetchall()
    for name, _ in found:
        connection.execute(f"DROP INDEX {name}".encode())
    # Of a partitioned table pg_get_indexdef says ON ONLY, which would leave the partitions without.
    return [definition.replace(" ON ONLY ", " ON ") for _, definition in found]
