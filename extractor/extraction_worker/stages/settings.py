"""From a job and the command line to the settings of its parts: how to reach the source, when to give way, memory."""

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

import xxhash

from extraction_contract.load import object_key
from extraction_contract.models import DataSource, ExtractionJob
from extraction_contract.resolve import ResolvedJob, ResolvedSource
from extraction_worker.source.danger import Protection
from extraction_worker.source.lease import LeaseLimits
from extraction_worker.source.settings import Credentials, SourceSettings
from extraction_worker.source.slots import SlotBudget
from extraction_worker.stream.admission import MemoryPlan, memory_limit, memory_plan

_DEFAULT_MEMORY = 1 << 30
_SMALLEST_BATCH = 64 * 1024
_LONGEST_NAME = 63
_POD = re.compile(r"-([0-9a-f]{8}-((?:lead|work|check)-.+))$")
"""What the operator calls pods, after the name of their owner."""


@dataclass(frozen=True)
class LocalOptions:
    """What the command line says beside the manifests. Sizes are bytes."""

    volumes_dir: Path = Path("volumes")
    threads: int | None = None
    memory: int | None = None
    redis_url_file: Path | None = None


def source_settings(resolved: ResolvedSource, application_name: str, run: str = "") -> SourceSettings:
    """Return how to reach a source; credentials are read anew for each connection.

    Parameters
    ----------
    application_name
        What the server shows of our sessions: :func:`application_name`.
    run
        One attempt of one job, the same in all its processes: they share the slot that its holder offers.
    """
    connection, limits = resolved.source.spec.connection, resolved.source.spec.limits
    protection = resolved.source.spec.protection

    def credentials() -> Credentials:
        found = resolved.credentials()
        return Credentials(found.username, found.password.get_secret_value())

    return SourceSettings(
        host=connection.host,
        port=connection.port,
        database=connection.database,
        credentials=credentials,
        ssl_mode=connection.ssl_mode,
        ca_certificate=resolved.ca(),
        application_name=application_name,
        statement_timeout=limits.statement_timeout.total_seconds(),
        lock_timeout=limits.lock_timeout.total_seconds(),
        protection=Protection(
            slow_at_replication_lag=protection.slow_at_replication_lag.total_seconds(),
            yield_at_replication_lag=protection.yield_at_replication_lag.total_seconds(),
            yield_at_snapshot_age=protection.yield_at_snapshot_age,
            yield_to_index_build_after=protection.yield_to_index_build_after.total_seconds(),
            slow_at_free_connections=protection.slow_at_free_connections,
        ),
        slots=SlotBudget(resolved.source.budget_group, limits.max_connections, run),
    )


def application_name(owner: DataSource | ExtractionJob, pod: str = "") -> str:
    """Return ``extraction/NAMESPACE/NAME``, and ``/POD`` in a cluster: 63 bytes at most, as the server shows no more.

    Where that is too short, what the pod's name repeats of the job is left out, then the digits of the job's uid.
    """
    name = f"extraction/{object_key(owner)}"
    if not pod:
        return name[:_LONGEST_NAME]
    made = _POD.search(pod)
    names = [f"{name}/{part}" for part in ((pod, *made.groups()) if made is not None else (pod,))]
    return next((found for found in names if len(found) <= _LONGEST_NAME), names[-1])[:_LONGEST_NAME]


def cache_scope(source: DataSource) -> str:
    """Return what keys of the cache begin with: another source, or another version of it, remembers nothing of this.

    In a cluster the uid and the generation tell versions apart, locally the declaration itself.
    """
    version = source.metadata.generation or xxhash.xxh3_64_hexdigest(source.spec.model_dump_json().encode())
    return f"{object_key(source)}:{source.metadata.uid or 'local'}:{version}"


def lease_limits(resolved: ResolvedJob) -> LeaseLimits:
    """Return when the holder gives way."""
    return LeaseLimits(
        max_age=resolved.job.spec.snapshot.max_age.total_seconds(),
        yield_to_ddl_after=resolved.source.spec.limits.yield_to_ddl_after.total_seconds(),
    )


def plan_memory(resolved: ResolvedJob, options: LocalOptions) -> MemoryPlan:
    """Return how many threads read, and how large their batches are.

    One process stands for all pods of the job: as many threads as those would have connections, but no more than
    there are processors, and with one connection of the budget left for the holder.
    """
    spec = resolved.source.spec
    wanted = options.threads or min(
        spec.pool.size * resolved.job.spec.parallelism, len(os.sched_getaffinity(0)), spec.limits.max_connections - 1
    )
    limit = options.memory or min(memory_limit(), _DEFAULT_MEMORY * max(1, wanted))
    return memory_plan(limit, max(1, min(wanted, spec.limits.max_connections - 1)))


def shrunk(memory: MemoryPlan, times: int) -> MemoryPlan:
    """Return the settings halved ``times`` times: batches and threads, so that all that grows with them is less.

    The widest row at all stays what it was: such a row is read alone, so neither bounds it.
    """
    batch = max(_SMALLEST_BATCH, memory.batch_bytes >> times)
    return (
        replace(memory, threads=max(1, memory.threads >> times), batch_bytes=batch, ordinary_row_bytes=batch)
        if times
        else memory
    )
