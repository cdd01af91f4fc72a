"""Every metric of the system, once: what ``/metrics`` shows and docs/metrics.md lists is made from here.

Names begin with ``extraction_operator_`` where they are about the operator itself, and with ``extraction_`` where they
are about extractions: what pods did reaches the operator with their last words (``accounts.py``). Units are base
units. Every label is bounded: its values are listed here, or are kinds and codes of Kubernetes.
"""

from dataclasses import dataclass, field
from typing import Literal

FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
LONG = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 4 * 3600.0, 12 * 3600.0, 24 * 3600.0)
SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
ROWS = (1, 10, 100, 1000, 10_000)
MEMORY = tuple(float(1 << power) for power in range(26, 36))


@dataclass(frozen=True)
class Definition:
    """One metric."""

    name: str
    """As in Prometheus, but for the ``_total`` of a counter."""
    kind: Literal["counter", "gauge", "histogram"]
    text: str
    labels: dict[str, str] = field(default_factory=dict)
    """Each with what it may be."""
    buckets: tuple[float, ...] = FAST

    @property
    def shown(self) -> str:
        """The name of its series in Prometheus."""
        return f"{self.name}_total" if self.kind == "counter" else self.name


def _counter(name: str, text: str, **labels: str) -> Definition:
    return Definition(name, "counter", text, labels)


def _gauge(name: str, text: str, **labels: str) -> Definition:
    return Definition(name, "gauge", text, labels)


def _histogram(name: str, text: str, buckets: tuple[float, ...] = FAST, **labels: str) -> Definition:
    return Definition(name, "histogram", text, labels, buckets)


_FORMAT = "`Parquet`, `Arrow`, `CSV`, `JSONL`"
_OUTCOME = "`Succeeded`, `Failed`, `Cancelled`, `Restarted` (the attempt failed, and another one begins by itself)"
_PHASE = "a phase of ExtractionJobs"
_CACHE = "`introspection`, `pages`, `statistics`, `result`"
_KIND = "a watched kind"
_TABLE = "a table of the record"
_CALL = {"verb": "`get`, `list`, `create`, …", "resource": "a kind that is talked about", "code": "the HTTP status"}

CATALOG: tuple[Definition, ...] = (
    # What was extracted
    _counter("extraction_records", "Rows that were published.", format=_FORMAT),
    _counter("extraction_bytes", "Bytes of the files that were published.", format=_FORMAT),
    _counter("extraction_source_bytes", "Bytes that sources sent, also for chunks that were read again."),
    _counter("extraction_attempts", "Attempts that ended.", outcome=_OUTCOME),
    _counter("extraction_failures", "Attempts that didn't succeed, by why.", reason="docs/exit-codes.md"),
    _histogram("extraction_duration_seconds", "From admission of a job to its end.", LONG, outcome=_OUTCOME),
    _counter("extraction_chunk_retries", "Chunks that were read again."),
    _histogram("extraction_worker_memory_bytes", "The most memory that a pod had that read rows.", MEMORY),
    _histogram("extraction_snapshot_age_seconds", "For how long an attempt's snapshot was held.", LONG),
    _gauge("extraction_snapshot_oldest_seconds", "Since the oldest attempt that holds a snapshot began; 0 without."),
    # Pools of connections, in the pods that read
    _counter("extraction_pool_sessions", "Connections that were opened."),
    _counter("extraction_pool_checkouts", "How often a connection was taken from a pool."),
    _counter("extraction_pool_reuses", "How often it was one that had been used before."),
    _counter("extraction_pool_waits", "How often none was ready."),
    _counter("extraction_pool_evicted", "Connections that were closed because they were broken, or kept much memory."),
    _counter("extraction_pool_leaks", "Connections that were taken, and neither read nor came back for a minute."),
    _histogram("extraction_pool_active_sessions", "The most of a pool that were in use at the same time.", SIZES),
    _histogram("extraction_pool_idle_sessions", "Opened by a pod, and never in use at the same time.", SIZES),
    # Sources
    _gauge(
        "extraction_source_connections",
        "Connections to all sources together.",
        state="`reserved` (given to jobs), `limit` (declared by the sources that jobs use)",
    ),
    _gauge("extraction_source_budget_used_ratio", "The largest share of a source's connections that is reserved."),
    # Caches
    _counter(
        "extraction_cache_lookups", "What pods looked for in Redis.", cache=_CACHE, result="`hit`, `miss`, `error`"
    ),
    # The operator: jobs
    _gauge("extraction_operator_jobs", "ExtractionJobs by phase.", phase=_PHASE),
    _counter("extraction_operator_job_transitions", "Phases that jobs came into.", phase=_PHASE),
    _histogram(
        "extraction_operator_job_seen_to_lead_seconds", "From the first sight of an ExtractionJob to its lead Job."
    ),
    # The operator: its queue
    _gauge("extraction_operator_queue_depth", "Keys that are due."),
    _gauge("extraction_operator_queue_waiting", "Keys that are due now or later."),
    _gauge("extraction_operator_queue_oldest_seconds", "Since the oldest key has been due."),
    _gauge("extraction_operator_queue_longest_work_seconds", "Of the key at work."),
    _histogram("extraction_operator_queue_wait_seconds", "From due to taken up."),
    _counter("extraction_operator_queue_retries", "Reconciliations that failed and are tried again."),
    _histogram("extraction_operator_reconcile_seconds", "Of one reconciliation.", result="`success`, `error`"),
    _gauge("extraction_operator_heartbeat_age_seconds", "Since the event loop turned."),
    # The operator: the API server
    _histogram("extraction_operator_api_call_seconds", "Of one call to the API server.", FAST, **_CALL),
    _counter("extraction_operator_writes", "Writes to the API server.", **_CALL),
    _gauge("extraction_operator_statuses_waiting", "Statuses that wait for the next batch."),
    _histogram("extraction_operator_status_flush_size", "Statuses in a batch; empty ones aren't counted.", SIZES),
    _histogram("extraction_operator_status_flush_lag_seconds", "For how long the oldest status of a batch had waited."),
    _counter("extraction_operator_events_dropped", "Events that weren't written."),
    _counter("extraction_operator_unreadable_objects", "Objects that don't follow the contract.", kind=_KIND),
    _counter("extraction_operator_watch_events", "Events that a watch sent.", kind=_KIND),
    _counter("extraction_operator_watch_errors", "Events that couldn't be taken in.", kind=_KIND),
    _counter("extraction_operator_store_drift", "Objects that a comparison by LIST corrected."),
    _gauge("extraction_operator_leader", "1 while this replica is the leader."),
    # The operator: its record
    _counter("extraction_operator_record_rows", "Rows that were written to the record.", table=_TABLE),
    _histogram(
        "extraction_operator_record_flush_seconds", "Of one transaction of the record.", result="`success`, `error`"
    ),
    _histogram("extraction_operator_record_flush_size", "Rows in a transaction of the record.", ROWS),
    _gauge("extraction_operator_record_waiting_rows", "Rows that wait for the record."),
    _gauge("extraction_operator_record_waiting_bytes", "Memory of these."),
    _gauge("extraction_operator_record_lag_seconds", "Since the oldest of these has waited."),
    _gauge("extraction_operator_record_up", "1 after the record could be written, 0 after it couldn't."),
    _counter(
        "extraction_operator_record_lost_rows",
        "Rows that the record won't have.",
        table=_TABLE,
        reason="why they were dropped",
    ),
    # The operator: Redis
    _counter("extraction_operator_live_reads", "Reads of live progress from Redis.", result="`success`, `error`"),
)
