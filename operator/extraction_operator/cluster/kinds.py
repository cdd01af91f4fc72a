"""The kinds of objects that the operator knows, and where the API server keeps them."""

from dataclasses import dataclass

from extraction_contract.base import GROUP, VERSION
from extraction_operator.plan.names import MANAGED_BY, MANAGER


@dataclass(frozen=True)
class Kind:
    """A kind of object: its group, version, plural, and the selector that keeps others' objects away."""

    group: str
    version: str
    plural: str
    name: str
    selector: str = ""

    def path(self, namespace: str | None = None, name: str = "", subresource: str = "") -> str:
        """Return the path of a collection or, with ``name``, of an object; without a namespace, of all namespaces."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        where = f"/namespaces/{namespace}" if namespace else ""
        return "/".join(part for part in (f"{root}{where}/{self.plural}", name, subresource) if part)

    @property
    def api_version(self) -> str:
        """As objects of the kind name it: ``GROUP/VERSION``."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def __str__(self) -> str:
        return self.name


_OURS = f"{MANAGED_BY}={MANAGER}"

EXTRACTION_JOB = Kind(GROUP, VERSION, "extractionjobs", "ExtractionJob")
DATA_SOURCE = Kind(GROUP, VERSION, "datasources", "DataSource")
JOB = Kind("batch", "v1", "jobs", "Job", _OURS)
POD = Kind("", "v1", "pods", "Pod", _OURS)
LEASE = Kind("coordination.k8s.io", "v1", "leases", "Lease")
EVENT = Kind("events.k8s.io", "v1", "events", "Event")
CORE_EVENT = Kind("", "v1", "events", "Event")
NAMESPACE = Kind("", "v1", "namespaces", "Namespace")
CLAIM = Kind("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim")

WATCHED = (EXTRACTION_JOB, DATA_SOURCE, JOB, POD)
"""What the store holds."""
