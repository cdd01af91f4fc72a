"""What the planner sees and what it decides: frozen values, the only ones that cross its boundary.

Times are UTC. An observed object is what the store believes, perhaps stale; a decision must be right nevertheless.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple, TypeVar

from extraction_contract.live import LiveProgress
from extraction_contract.messages import Message
from extraction_contract.models import DataSource, ExtractionJob
from extraction_contract.source import DataSourceStatus
from extraction_contract.status import ExtractionJobStatus

_M = TypeVar("_M", bound=Message)

FINALIZER = "extraction-operator.io/cleanup"
"""On an ExtractionJob from before its first pod until nothing of it can be left in staging; on a DataSource from
before its first check until no job needs it for that."""


class Role(StrEnum):
    """What a child Job is for; the value of its label ``extraction-operator.io/role``."""

    LEAD = "lead"
    WORK = "work"
    CLEAN = "clean"
    CHECK = "check"


class Key(NamedTuple):
    """An object of a kind that the caller knows. A tuple, as most of what the store does is to look one up."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


# Observed --------------------------------------------------------------------------------------------------------


class Ending(StrEnum):
    """How a Job ended, or is certain to end."""

    COMPLETE = "Complete"
    """``Complete`` or ``SuccessCriteriaMet``."""
    FAILED = "Failed"
    """``Failed`` or ``FailureTarget``: the former waits for terminating pods, on a dead node for ever."""


@dataclass(frozen=True)
class ChildJob:
    """A Job of ours, as last seen."""

    name: str
    uid: str
    role: Role
    attempt: int
    """Of a check: its number."""
    number: int
    """The worker Job's number within the attempt; 0 for the others."""
    created: datetime
    deleting: bool = False
    """Whether it only waits for its pods to be gone."""
    deleting_since: datetime | None = None
    """When somebody asked for that."""
    generation: int = 0
    """Of a check: the source's generation that it looks at."""
    request: str = ""
    """Of a check: the value of the source's annotation that it answers."""
    image: str = ""
    """Of its containers."""
    parallelism: int = 1
    completions: int = 1
    suspended: bool = False
    """``spec.suspend``."""
    suspended_since: datetime | None = None
    """When its condition ``Suspended`` became true."""
    active: int = 0
    terminating: int = 0
    succeeded: int = 0
    failed: int = 0
    completed_indexes: str = ""
    """As the Job controller writes it, e.g. ``0-11,14``."""
    failed_indexes: str = ""
    ending: Ending | None = None
    ending_reason: str = ""
    """E.g. ``PodFailurePolicy``, ``BackoffLimitExceeded``, ``DeadlineExceeded``."""
    ending_message: str = ""
    ended_at: datetime | None = None
    """When the condition of its ending became true."""
    queue: str = ""
    """The queue of Kueue's that it is in: then ``spec.suspend`` is Kueue's alone, and so is ``spec.parallelism`` once
    it is made; whoever wants to stop it deletes it. Empty is none."""


@dataclass(frozen=True)
class Container:
    """A container of a pod, as last seen; init containers and native sidecars, too."""

    name: str
    waiting_reason: str = ""
    """E.g. ``ImagePullBackOff``; empty unless it waits."""
    waiting_message: str = ""
    running: bool = False
    exit_code: int | None = None
    """Set once it ended."""
    ended_reason: str = ""
    """E.g. ``OOMKilled``, ``Completed``, ``Error``."""
    message: str = ""
    """Its termination message."""
    restarts: int = 0
    started_at: datetime | None = None
    """Of its last start that has ended."""
    ended_at: datetime | None = None


@dataclass(frozen=True)
class Pod:
    """A pod of a Job of ours, as last seen."""

    name: str
    uid: str
    job: str
    """Name of its Job."""
    job_uid: str
    role: Role
    attempt: int
    index: int | None
    """The completion index; None for pods that aren't of an Indexed Job."""
    created: datetime
    phase: str
    """``Pending``, ``Running``, ``Succeeded``, ``Failed`` or ``Unknown``."""
    deleting_since: datetime | None = None
    """``metadata.deletionTimestamp``: when its grace ends."""
    node: str = ""
    unschedulable: str = ""
    """The scheduler's message, where it finds no node."""
    disrupted: str = ""
    """The reason of its condition ``DisruptionTarget``, e.g. ``EvictionByEvictionAPI``; empty without."""
    containers: tuple[Container, ...] = ()

    def container(self, name: str) -> Container | None:
        """Return the container of that name."""
        return next((found for found in self.containers if found.name == name), None)

    def said(self, container: str, kind: type[_M]) -> _M | None:
        """Return the message of a kind with which a container ended well; None where it hasn't, or said another."""
        found = self.container(container)
        return kind.of(found.message) if found is not None and found.exit_code == 0 else None


@dataclass(frozen=True)
class Grant:
    """What the source's budget gives a job. Without one, ``reason`` says what it waits for."""

    admitted: bool
    reason: str = ""
    parallelism: int = 1
    """Worker pods at the same time."""
    pool: int = 1
    """Connections of each."""
    again_at: datetime | None = None
    """When asking again will give more, if nothing happens until then."""


@dataclass(frozen=True)
class ObservedJob:
    """Everything that is known about an ExtractionJob at one moment.

    ``warnings`` are messages of Warning events about its children, by child name; they are fetched when a decision
    asks for them (:class:`LookForWarnings`), because a missing Secret or a quota shows nowhere else.
    """

    job: ExtractionJob
    now: datetime
    source: DataSource | None = None
    grant: Grant = Grant(admitted=False, reason="Not asked yet.")
    jobs: tuple[ChildJob, ...] = ()
    pods: tuple[Pod, ...] = ()
    warnings: Mapping[str, str] = field(default_factory=dict)
    namespace_terminating: bool = False
    claim_modes: tuple[str, ...] = ()
    """Access modes of the sink's claim; empty without a claim, or where it couldn't be read."""
    live: LiveProgress | None = None
    """What pods told of the current attempt; None without Redis."""


@dataclass(frozen=True)
class ObservedSource:
    """Everything that is known about a DataSource at one moment."""

    source: DataSource
    now: datetime
    jobs: tuple[ChildJob, ...] = ()
    pods: tuple[Pod, ...] = ()
    warnings: Mapping[str, str] = field(default_factory=dict)
    active_jobs: int = 0
    waiting_jobs: int = 0
    reserved_connections: int = 0
    grant: Grant = Grant(admitted=True)
    """Whether a check that is due may begin."""


# Decided ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CreateJob:
    """Create a child. That one of this name and of our owner is there already is success."""

    name: str
    role: Role
    manifest: Mapping[str, Any]


@dataclass(frozen=True)
class DeleteJob:
    """Delete a child after its pods (propagation Foreground); ``uid`` is a precondition."""

    name: str
    uid: str


@dataclass(frozen=True)
class ScaleJob:
    """Change what may change of a worker Job; ``uid`` is a precondition, None leaves a field alone."""

    name: str
    uid: str
    parallelism: int | None = None
    suspend: bool | None = None


@dataclass(frozen=True)
class AddFinalizer:
    """Put :data:`FINALIZER` on the object."""


@dataclass(frozen=True)
class RemoveFinalizer:
    """Take :data:`FINALIZER` off the object."""


@dataclass(frozen=True)
class LookForWarnings:
    """Fetch the Warning events about these children, then decide again."""

    names: tuple[str, ...]


Action = CreateJob | DeleteJob | ScaleJob | AddFinalizer | RemoveFinalizer | LookForWarnings


@dataclass(frozen=True)
class Event:
    """An Event about the object, for ``kubectl describe``."""

    reason: str
    message: str
    warning: bool = False


@dataclass(frozen=True)
class JobDecision:
    """What to do about an ExtractionJob now. Deciding again at once, on what came of it, must be harmless.

    The status is written first where ``urgent``; actions that need a stored status are only decided once the
    observed object has it, so their order doesn't matter.
    """

    status: ExtractionJobStatus
    actions: tuple[Action, ...] = ()
    events: tuple[Event, ...] = ()
    urgent: bool = False
    """Write the status at once instead of with the next batch: a transition that people wait for."""
    again_at: datetime | None = None
    """Decide again then, although nothing may have happened."""


@dataclass(frozen=True)
class SourceDecision:
    """What to do about a DataSource now; see :class:`JobDecision`."""

    status: DataSourceStatus
    actions: tuple[Action, ...] = ()
    events: tuple[Event, ...] = ()
    urgent: bool = False
    again_at: datetime | None = None
