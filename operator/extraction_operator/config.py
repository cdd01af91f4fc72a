"""How this process runs, as the command line says."""

from dataclasses import dataclass, field
from pathlib import Path

from extraction_operator.cluster.timing import Timing
from extraction_operator.plan.budget import DEFAULT_CAP
from extraction_operator.plan.settings import Settings
from extraction_operator.plan.values import Key
from extraction_record.connection import Place


@dataclass(frozen=True)
class Election:
    """Where the Lease is, and who we are in it."""

    lease: Key
    identity: str
    timing: Timing = field(default_factory=Timing)


@dataclass(frozen=True)
class RecordConfig:
    """Where and how the analytics record is written."""

    place: Place
    cluster: str = "default"
    """Name of this cluster, where several share a record."""
    spool_bytes: int = 64 * 1024 * 1024
    """Memory of what waits while the record is away."""


@dataclass(frozen=True)
class Config:
    """How this process runs."""

    plan: Settings
    identity: str
    """Name of this process: of its pod, and a part that no other process has."""
    namespaces: tuple[str, ...] = ()
    """What is watched; empty is everything."""
    election: Election | None = None
    """None where there is one replica and never two."""
    kubeconfig: Path | None = None
    context: str | None = None
    metrics_host: str = "0.0.0.0"  # noqa: S104 -- the kubelet and Prometheus ask from outside of the pod
    metrics_port: int = 8080
    max_source_connections: int = DEFAULT_CAP
    """Over all sources: promised to jobs at any moment."""
    workers: int = 16
    """Keys that are worked on at the same time."""
    compare_seconds: float = 300.0
    """Between two comparisons of the store by LIST."""
    flush_seconds: float = 1.0
    """Between two batches of statuses, and of the record."""
    pod: Key | None = None
    """The pod of this process; None outside of a cluster."""
    record: RecordConfig | None = None
    """Where what happens is recorded; None is nowhere."""
    redis_url_file: Path | None = None
    """Where the URL of Redis is, from which live progress is read."""
    live_seconds: float = 10.0
    """Between two reads of live progress."""
