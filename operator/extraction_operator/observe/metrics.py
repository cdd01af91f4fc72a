"""Counters for Prometheus. Every label is bounded."""

from collections import Counter as Counts
from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from extraction_operator.accounts import Ended, Totals
from extraction_operator.observe.catalog import CATALOG, Definition

_JOBS = "extraction_operator_jobs"
_MOST_REASONS = 64


class Metrics:
    """What the operator counts. It answers to the observers' protocols of the other packages."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._histograms: dict[str, Histogram] = {}
        self._reasons: set[str] = set()
        for found in CATALOG:
            self._make(found)

    def _make(self, found: Definition) -> None:
        labels = tuple(found.labels)
        if found.name == _JOBS:
            return  # counted when it is asked for
        if found.kind == "counter":
            self._counters[found.name] = Counter(found.name, found.text, labels, registry=self.registry)
        elif found.kind == "gauge":
            self._gauges[found.name] = Gauge(found.name, found.text, labels, registry=self.registry)
        else:
            self._histograms[found.name] = Histogram(
                found.name, found.text, labels, buckets=found.buckets, registry=self.registry
            )

    def _count(self, name: str, by: float = 1, *labels: str) -> None:
        counter = self._counters[name]
        (counter.labels(*labels) if labels else counter).inc(by)

    def _observe(self, name: str, value: float, *labels: str) -> None:
        histogram = self._histograms[name]
        (histogram.labels(*labels) if labels else histogram).observe(max(value, 0.0))

    # Told by others ----------------------------------------------------------------------------------------------

    def waited(self, seconds: float) -> None:
        """Take note that a key is taken up so long after it was due."""
        self._observe("extraction_operator_queue_wait_seconds", seconds)

    def worked(self, seconds: float, *, failed: bool) -> None:
        """Take note that a key was worked on for so long."""
        self._observe("extraction_operator_reconcile_seconds", seconds, "error" if failed else "success")
        if failed:
            self._count("extraction_operator_queue_retries")

    def called(self, verb: str, kind: str, code: str, seconds: float) -> None:
        """Count a call to the API server that ended."""
        self._observe("extraction_operator_api_call_seconds", seconds, verb, kind, code)
        if verb not in {"get", "list"}:
            self._count("extraction_operator_writes", 1, verb, kind, code)

    def leads(self, *, leader: bool) -> None:
        """Show whether this replica is the leader."""
        self._gauges["extraction_operator_leader"].set(leader)

    def came_into(self, phase: str) -> None:
        """Count a job that came into a phase."""
        self._count("extraction_operator_job_transitions", 1, phase)

    def lead_created(self, seconds: float) -> None:
        """Take note that a job's first lead Job was created so long after the job was seen."""
        self._observe("extraction_operator_job_seen_to_lead_seconds", seconds)

    def event_dropped(self) -> None:
        """Count an Event that wasn't written."""
        self._count("extraction_operator_events_dropped")

    def unreadable(self, kind: str) -> None:
        """Count an object that doesn't follow the contract."""
        self._count("extraction_operator_unreadable_objects", 1, kind)

    def watched(self, kind: str) -> None:
        """Count an event that a watch sent."""
        self._count("extraction_operator_watch_events", 1, kind)

    def watch_failed(self, kind: str) -> None:
        """Count an event that couldn't be taken in."""
        self._count("extraction_operator_watch_errors", 1, kind)

    def drifted(self, objects: int) -> None:
        """Count the objects that a comparison by LIST corrected."""
        self._count("extraction_operator_store_drift", objects)

    def flushed(self, statuses: int, seconds: float) -> None:
        """Take note of a batch of statuses, the oldest of which had waited for so long."""
        self._observe("extraction_operator_status_flush_size", statuses)
        self._observe("extraction_operator_status_flush_lag_seconds", seconds)

    def read_live(self, *, failed: bool) -> None:
        """Count a read of live progress."""
        self._count("extraction_operator_live_reads", 1, "error" if failed else "success")

    def attempt_ended(self, ended: Ended) -> None:
        """Count an attempt that ended."""
        self._count("extraction_attempts", 1, ended.outcome)
        if ended.outcome == "Succeeded":
            self._count("extraction_records", ended.rows, ended.format)
            self._count("extraction_bytes", ended.bytes, ended.format)
        elif ended.reason:
            # They are ours, and few; whatever else a pod may say must not become a series each.
            if len(self._reasons) < _MOST_REASONS:
                self._reasons.add(ended.reason)
            self._count("extraction_failures", 1, ended.reason if ended.reason in self._reasons else "Other")
        if ended.seconds is not None:
            self._observe("extraction_duration_seconds", ended.seconds, ended.outcome)

    def pods_did(self, totals: Totals) -> None:
        """Count what pods did."""
        self._count("extraction_source_bytes", totals.source_bytes)
        self._count("extraction_chunk_retries", totals.retries)
        for name, number in totals.pools.items():
            self._count(f"extraction_pool_{name}", number)
        for (cache, result), number in totals.caches.items():
            self._count("extraction_cache_lookups", number, cache, result)
        for name, values in (
            ("extraction_pool_active_sessions", totals.active),
            ("extraction_pool_idle_sessions", totals.idle),
            ("extraction_worker_memory_bytes", totals.memory),
            ("extraction_snapshot_age_seconds", totals.snapshot_seconds),
        ):
            for value in values:
                self._observe(name, value)

    def record_flushed(self, rows: Mapping[str, int], seconds: float) -> None:
        """Count a transaction of the record that was committed, and its rows by table."""
        self._observe("extraction_operator_record_flush_seconds", seconds, "success")
        self._observe("extraction_operator_record_flush_size", sum(rows.values()))
        for table, count in rows.items():
            self._count("extraction_operator_record_rows", count, table)

    def record_failed(self, seconds: float) -> None:
        """Count an attempt to write to the record that failed."""
        self._observe("extraction_operator_record_flush_seconds", seconds, "error")

    def record_lost(self, tables: Iterable[str], reason: str) -> None:
        """Count rows that will never be written, by their tables."""
        for table, count in Counts(tables).items():
            self._count("extraction_operator_record_lost_rows", count, table, reason)

    # Asked for when scraped --------------------------------------------------------------------------------------

    def gauge_of(self, name: str, value: Callable[[], float], *labels: str) -> None:
        """Show what a function returns.

        Parameters
        ----------
        name
            Of a gauge of the catalog.
        """
        gauge = self._gauges[name]
        (gauge.labels(*labels) if labels else gauge).set_function(value)

    def record_of(
        self, rows: Callable[[], float], size: Callable[[], float], lag: Callable[[], float], up: Callable[[], float]
    ) -> None:
        """Show what waits for the record, and whether that can be written."""
        self.gauge_of("extraction_operator_record_waiting_rows", rows)
        self.gauge_of("extraction_operator_record_waiting_bytes", size)
        self.gauge_of("extraction_operator_record_lag_seconds", lag)
        self.gauge_of("extraction_operator_record_up", up)

    def phases_of(self, phases: Callable[[], Iterable[str]]) -> None:
        """Show how many jobs are in each phase."""
        text = next(found.text for found in CATALOG if found.name == _JOBS)
        self.registry.register(_Phases(_JOBS, text, phases))

    def page(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)


class _Phases(Collector):
    def __init__(self, name: str, text: str, phases: Callable[[], Iterable[str]]) -> None:
        self._name = name
        self._text = text
        self._phases = phases

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Count anew: a job that is gone must not stay in a gauge."""
        family = GaugeMetricFamily(self._name, self._text, labels=("phase",))
        for phase, count in sorted(Counts(self._phases()).items()):
            family.add_metric((phase,), count)
        yield family
