"""What the operator's own configuration decides about jobs. Times are seconds."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Resources:
    """Requests and limits of a container, as Kubernetes writes quantities."""

    cpu_request: str
    memory: str
    """Request and limit: with both equal, a pod isn't evicted for using what it asked for. The CPU has no limit:
    throttling would only make the snapshot older."""


@dataclass(frozen=True)
class Settings:
    """Settings of the planner."""

    image: str
    image_pull_policy: str = "IfNotPresent"
    hold: Resources = field(default_factory=lambda: Resources("20m", "160Mi"))
    work: Resources = field(default_factory=lambda: Resources("250m", "640Mi"))
    grace: int = 30
    """Given to pods to end."""
    lost_after: float = 30.0
    """Added to a pod's grace before it counts as lost: its node is silent."""
    unreachable_toleration: int = 30
    """How long a pod stays bound to a node that went silent."""
    max_restarts: int = 3
    """Attempts that are begun without being asked for, unless a disruption is the cause."""
    backoff: float = 5.0
    """Before the first restart; doubled for each further one."""
    backoff_limit: float = 300.0
    explain_after: float = 8.0
    """How long a pod may be pending before events are searched for the reason."""
    last_words: float = 5.0
    """How long to wait for the message of a pod whose Job has failed already."""
    brief: float = 5.0
    """How long publishing lasts before the phase says so."""
    clean_deadline: int = 600
    """Longest clean-up; what is left then is named in an Event."""
    check_deadline: int = 60
    check_backoff: float = 10.0
    """Before a source that isn't ready is checked again; doubled with each failure."""
    check_backoff_limit: float = 300.0
    redis_secret: str = ""
    """A Secret in each job's namespace with the URL of Redis; where it isn't there, pods do without. Empty is none."""
    request_connections: bool = False
    """Have containers request :data:`names.CONNECTIONS`, which nodes must advertise then."""
    busy_poll: float = 1.0
    """How soon to look again at something that no watch tells."""
