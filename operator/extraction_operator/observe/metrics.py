"""Counters for Prometheus. Every label is bounded."""

from collections import Counter as Counts
from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

_PREFIX = "extraction_operator"
_FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """What the operator counts. It answers to the observers' protocols of the other packages."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._waited = self._histogram("queue_wait_seconds", "From due to taken up.")
        self._worked = self._histogram("reconcile_seconds", "Of one reconciliation.", "result")
        self._retries = self._counter("queue_retries", "Reconciliations that failed and are tried again.")
        self._calls = self._histogram("api_call_seconds", "Of one call to the API server.", "verb", "resource", "code")
        self._writes = self._counter("writes", "Writes to the API server.", "verb", "resource", "code")
        self._leader = self._gauge("leader", "1 while this replica is the leader.")
        self._transitions = self._counter("job_transitions", "Phases that jobs came into.", "phase")
        self._to_lead = self._histogram(
            "job_seen_to_lead_seconds", "From the first sight of an ExtractionJob to its lead Job."
        )
        self._events_dropped = self._counter("events_dropped", "Events that weren't written.")
        self._broken = self._counter("unreadable_objects", "Objects that don't follow the contract.", "kind")
        self._watched = self._counter("watch_events", "Events that a watch sent.", "kind")
        self._handler_errors = self._counter("watch_errors", "Events that couldn't be taken in.", "kind")
        self._drift = self._counter("store_drift", "Objects that a comparison by LIST corrected.")
        self._drift.inc(0)
        self._recorded = self._counter("record_rows", "Rows that were written to the record.", "table")
        self._record_seconds = self._histogram("record_flush_seconds", "Of one transaction of the record.", "result")
        self._record_waiting = self._gauge("record_waiting_rows", "Rows that wait for the record.")
        self._record_bytes = self._gauge("record_waiting_bytes", "Memory of these.")
        self._record_lag = self._gauge("record_lag_seconds", "Since the oldest of these has waited.")
        self._record_up = self._gauge("record_up", "1 after the record could be written, 0 after it couldn't.")
        self._record_lost = self._counter("record_lost_rows", "Rows that the record won't have.", "table", "reason")

    def _name(self, name: str) -> str:
        return f"{_PREFIX}_{name}"

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(self._name(name), text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(self._name(name), text, registry=self.registry)

    def _histogram(self, name: str, text: str, *labels: str) -> Histogram:
        return Histogram(self._name(name), text, labels, buckets=_FAST, registry=self.registry)

    # Told by others ----------------------------------------------------------------------------------------------

    def waited(self, seconds: float) -> None:
        """Take note that a key is taken up so long after it was due."""
        self._waited.observe(max(seconds, 0.0))

    def worked(self, seconds: float, *, failed: bool) -> None:
        """Take note that a key was worked on for so long."""
        self._worked.labels("error" if failed else "success").observe(seconds)
        if failed:
            self._retries.inc()

    def called(self, verb: str, kind: str, code: str, seconds: float) -> None:
        """Count a call to the API server that ended."""
        self._calls.labels(verb, kind, code).observe(seconds)
        if verb not in {"get", "list"}:
            self._writes.labels(verb, kind, code).inc()

    def leads(self, *, leader: bool) -> None:
        """Show whether this replica is the leader."""
        self._leader.set(leader)

    def came_into(self, phase: str) -> None:
        """Count a job that came into a phase."""
        self._transitions.labels(phase).inc()

    def lead_created(self, seconds: float) -> None:
        """Take note that a job's first lead Job was created so long after the job was seen."""
        self._to_lead.observe(max(seconds, 0.0))

    def event_dropped(self) -> None:
        """Count an Event that wasn't written."""
        self._events_dropped.inc()

    def unreadable(self, kind: str) -> None:
        """Count an object that doesn't follow the contract."""
        self._broken.labels(kind).inc()

    def watched(self, kind: str) -> None:
        """Count an event that a watch sent."""
        self._watched.labels(kind).inc()

    def watch_failed(self, kind: str) -> None:
        """Count an event that couldn't be taken in."""
        self._handler_errors.labels(kind).inc()

    def drifted(self, objects: int) -> None:
        """Count the objects that a comparison by LIST corrected."""
        self._drift.inc(objects)

    def record_flushed(self, rows: Mapping[str, int], seconds: float) -> None:
        """Count a transaction of the record that was committed, and its rows by table."""
        self._record_seconds.labels("success").observe(seconds)
        for table, count in rows.items():
            self._recorded.labels(table).inc(count)

    def record_failed(self, seconds: float) -> None:
        """Count an attempt to write to the record that failed."""
        self._record_seconds.labels("error").observe(seconds)

    def record_lost(self, tables: Iterable[str], reason: str) -> None:
        """Count rows that will never be written, by their tables."""
        for table, count in Counts(tables).items():
            self._record_lost.labels(table, reason).inc(count)

    # Asked for when scraped --------------------------------------------------------------------------------------

    def gauge_of(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Show what a function returns."""
        self._gauge(name, text).set_function(value)

    def record_of(
        self, rows: Callable[[], float], size: Callable[[], float], lag: Callable[[], float], up: Callable[[], float]
    ) -> None:
        """Show what waits for the record, and whether that can be written."""
        self._record_waiting.set_function(rows)
        self._record_bytes.set_function(size)
        self._record_lag.set_function(lag)
        self._record_up.set_function(up)

    def phases_of(self, phases: Callable[[], Iterable[str]]) -> None:
        """Show how many jobs are in each phase."""
        self.registry.register(_Phases(self._name("jobs"), phases))

    def page(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)


class _Phases(Collector):
    def __init__(self, name: str, phases: Callable[[], Iterable[str]]) -> None:
        self._name = name
        self._phases = phases

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Count anew: a job that is gone must not stay in a gauge."""
        family = GaugeMetricFamily(self._name, "ExtractionJobs by phase.", labels=("phase",))
        for phase, count in sorted(Counts(self._phases()).items()):
            family.add_metric((phase,), count)
        yield family
