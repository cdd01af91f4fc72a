"""The status of an ExtractionJob. Counts, never a list that grows with the table."""

from datetime import datetime
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from extraction_contract.base import Contract, Matches, Rule
from extraction_contract.meta import Conditions

Phase = Literal["Pending", "Planning", "Running", "Suspended", "Publishing", "Succeeded", "Failed", "Cancelled"]
Count = Annotated[int, Field(ge=0)]
Digest = Annotated[str, Field(max_length=32), Matches(r"[0-9a-f]{32}", "must be 32 hexadecimal digits")]


class PlanStatus(Contract):
    """The plan of the current attempt."""

    digest: Digest
    """Of all that decides which rows and bytes come out."""
    chunks: Count
    """Units of reading, retrying and proving."""
    bundles: Count
    """Indexes of the worker Job; each works several chunks."""
    estimated_rows: Count
    """Rows, from the statistics of the source."""
    estimated_bytes: Count
    """Bytes that the source will send, from its statistics."""
    strategy: Literal["ctid", "range", "none"]
    """How the table was split."""
    reason: Annotated[str, Field(max_length=1024)] = ""
    """Why it was split like that."""


class ProgressStatus(Contract):
    """How far the current attempt is."""

    summary: Annotated[str, Field(max_length=32)] = ""
    """Chunks that are done, of all, e.g. ``12/40``."""
    chunks: Count = 0
    """Chunks that are done."""
    rows: Count = 0
    """Rows in them."""
    bytes: Count = 0
    """Bytes that the source sent for them."""
    rows_per_second: Count = 0
    """Since the attempt began to read."""
    completed_bundles: Annotated[str, Field(max_length=4096)] = ""
    """Bundles that are done, as ranges, e.g. ``0-11,14``; cut where it gets long."""


class ConnectionCounts(Contract):
    """What the pods that read did with connections to the source, summed."""

    opened: Count = 0
    """Connections that were opened."""
    checkouts: Count = 0
    """How often one was taken from a pool."""
    reuses: Count = 0
    """How often it was one that had been used before."""
    waits: Count = 0
    """How often none was ready."""
    evicted: Count = 0
    """Connections that were closed because they were broken, or kept much memory."""
    leaks: Count = 0
    """Connections that were taken, and neither read nor came back for a minute."""

    def __add__(self, other: "ConnectionCounts") -> "ConnectionCounts":
        return self._combined(other, 1)

    def __sub__(self, other: "ConnectionCounts") -> "ConnectionCounts":
        return self._combined(other, -1)

    def _combined(self, other: "ConnectionCounts", sign: int) -> "ConnectionCounts":
        names = ConnectionCounts.model_fields
        return ConnectionCounts(**{name: getattr(self, name) + sign * getattr(other, name) for name in names})


class ReusedStatus(Contract):
    """Whose result was taken."""

    job: Annotated[str, Field(max_length=128)]
    """``NAMESPACE/NAME``."""
    run: Annotated[str, Field(max_length=192)]
    """Its run: the job's uid and the attempt."""
    published_at: datetime
    """When that was published."""


class ResultStatus(Contract):
    """What was published."""

    rows: Count
    """Rows in all files."""
    bytes: Count
    """Bytes of all files."""
    files: Count
    """Number of files."""
    digest: Digest
    """Of all files' names, rows and digests: one value for the whole set."""
    manifest: Annotated[str, Field(max_length=2048)]
    """URI of ``_manifest.json``."""
    seconds: Count
    """From the attempt's begin to its end."""
    consistency: Literal["Snapshot", "PerPartition"]
    """What the rows are one picture of; less than declared only after ``snapshot.onLoss: Degrade``."""
    verification: Literal["None", "Written", "Decoded", "Source"]
    """How much was proven."""
    connections: ConnectionCounts | None = None
    """What it took to read the chunks; unset where nobody knows any more."""
    reused: ReusedStatus | None = None
    """Whose files these are copies of, where nothing was read; unset is nobody's."""


_ENDED = "has(oldSelf.phase) && oldSelf.phase in ['Succeeded', 'Failed', 'Cancelled']"
_RETRIED = "oldSelf.phase == 'Failed' && self.attempt > oldSelf.attempt"


def _stays(field: str) -> str:
    """Return CEL for: the optional field is what it was."""
    return f"has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || self.{field} == oldSelf.{field})"


class ExtractionJobStatus(Contract):
    """What the operator found and did."""

    observed_generation: Annotated[int, Field(ge=-1)] = -1
    """The generation of the spec that this status is about; -1 before the first look."""
    phase: Phase | None = None
    """One word for people; programs read the conditions. Succeeded, Failed and Cancelled are final, but for a
    retry of what Failed."""
    attempt: Count = 0
    """The attempt that is under way or was the last; a retry begins the next."""
    retries: Count = 0
    """The value of ``spec.retry`` that the current attempt answers."""
    restarts: Count = 0
    """Attempts that were begun without being asked for since then, after a failure that may pass or a lost
    snapshot."""
    memory_kills: Count = 0
    """Attempts since then whose lead was killed for its memory; each halves what the next one keeps in memory."""
    workers: Count = 0
    """Number of the worker Job within the attempt; it grows when a Job is replaced because its pods hang on a lost
    node."""
    consistency: Literal["Snapshot", "PerPartition"] | None = None
    """What the current attempt gives; less than declared after ``snapshot.onLoss: Degrade``."""
    next_attempt_time: datetime | None = None
    """When the attempt begins at the earliest: a failure that may pass is given time."""
    start_time: datetime | None = None
    """When the job was admitted first, or admitted again by a retry."""
    completion_time: datetime | None = None
    """When it ended."""
    conditions: Conditions = ()
    """Ready, Reconciling and Stalled, as kstatus reads them; Succeeded and Failed for ``kubectl wait``; Secure warns
    of a store that is reached without TLS."""
    plan: PlanStatus | None = None
    """The plan of the current attempt."""
    progress: ProgressStatus | None = None
    """How far the current attempt is."""
    result: ResultStatus | None = None
    """What was published."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule("attempt", "attempt never goes back", "self.attempt >= oldSelf.attempt"),
        Rule(
            "phase",
            "phase is final once it is Succeeded, Failed or Cancelled; only a new attempt leaves Failed",
            f"!({_ENDED}) || (has(self.phase) && self.phase == oldSelf.phase) || ({_RETRIED})",
        ),
        Rule(
            "result",
            "result is final once phase is",
            f"!({_ENDED}) || ({_RETRIED}) || ({_stays('result')})",
        ),
        Rule(
            "plan",
            "plan.digest of an attempt never changes",
            "!has(oldSelf.plan) || self.attempt > oldSelf.attempt"
            " || (has(self.plan) && self.plan.digest == oldSelf.plan.digest)",
        ),
    )
