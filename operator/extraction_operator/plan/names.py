"""Names and labels of children: deterministic, so that creating twice is creating once."""

from extraction_contract.base import GROUP
from extraction_operator.plan.values import Role

OWNER_UID = f"{GROUP}/owner-uid"
JOB = f"{GROUP}/job"
SOURCE = f"{GROUP}/source"
ROLE = f"{GROUP}/role"
ATTEMPT = f"{GROUP}/attempt"
NUMBER = f"{GROUP}/number"
MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGER = "extraction-operator"

GENERATION = f"{GROUP}/generation"
"""Annotation of a check's Job: the generation of the source that it looks at."""
CHECK = f"{GROUP}/check"
"""Annotation of a DataSource: a new value asks for a check. Of a check's Job: the value that it answers."""
MANIFESTS = f"{GROUP}/manifests"
"""Annotation of a pod: the manifests that it works on."""
CONNECTIONS = f"{GROUP}/connections"
"""Resource: sessions that a container has on the source, at most."""

# Kueue's: https://kueue.sigs.k8s.io/docs/reference/labels-and-annotations/
QUEUE = "kueue.x-k8s.io/queue-name"
"""Label of a Job, which Kueue keeps suspended until its queue has room for it; of an ExtractionJob, for its Jobs."""
QUEUE_PRIORITY = "kueue.x-k8s.io/priority-class"
"""Label: the WorkloadPriorityClass of a Job in its queue."""
LEAST_PODS = "kueue.x-k8s.io/job-min-parallelism"
"""Annotation of a Job: with how few pods Kueue may start it."""

_POD_NAME = 63
_INDEX = len("-99999")


def child_name(owner: str, uid: str, role: Role, *numbers: int) -> str:
    """Return the name of a child Job, e.g. ``orders-1f0c9a3e-work-2-1``.

    The owner's name is cut so that a pod's host name, which is the Job's and the index, fits into a DNS label. The
    digits of the uid keep children of two objects apart; whose a Job is, its label says.
    """
    tail = "-".join([uid[:8], role.value, *map(str, numbers)])
    return f"{owner[: _POD_NAME - _INDEX - len(tail) - 1].rstrip('-')}-{tail}"


def run_id(uid: str, attempt: int) -> str:
    """Return the key of an attempt's staging."""
    return f"{uid}-{attempt}"
