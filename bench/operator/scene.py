"""Sources and jobs in a namespace, and what stands for the databases that aren't there."""

from dataclasses import dataclass, field

from bench.operator import objects
from bench.operator.client import CORE, GROUP, Client, Raw, all_of, has_condition

OWNER = "extraction-operator.io/owner-uid"
ROLE = "extraction-operator.io/role"


@dataclass(frozen=True)
class Scene:
    """A namespace with sources that are ready."""

    client: Client
    namespace: str
    sources: int

    @classmethod
    async def create(cls, client: Client, namespace: str, *, sources: int, jobs: int) -> "Scene":
        """Create the namespace, and sources that each admit so many jobs at once.

        An operator that runs meanwhile would check the sources; start it later.
        """
        await client.namespace(namespace)
        here = cls(client, namespace, sources)
        names = [f"source-{number}" for number in range(sources)]
        await all_of(lambda name=name: here._source(name, jobs) for name in names)  # type: ignore[misc]
        return here

    async def _source(self, name: str, jobs: int) -> None:
        path = f"{GROUP}/namespaces/{self.namespace}/datasources"
        made = await self.client.create(path, objects.source(self.namespace, name, jobs=jobs))
        await self.client.merge(f"{path}/{name}/status", objects.ready(made["metadata"]["generation"]))

    def job(self, number: int, *, bundles: int, hold: str, prefix: str = "job") -> Raw:
        """Return a job; they are dealt to the sources in turn."""
        source = f"source-{number % self.sources}"
        return objects.job(self.namespace, f"{prefix}-{number}", source, bundles=bundles, hold=hold)

    @property
    def jobs(self) -> str:
        """Path of the ExtractionJobs."""
        return f"{GROUP}/namespaces/{self.namespace}/extractionjobs"


@dataclass
class Publisher:
    """Ends the *publish* of each job as soon as its workers are complete, as results in staging would."""

    client: Client
    namespace: str
    _leads: dict[str, str] = field(default_factory=dict)
    _ready: set[str] = field(default_factory=set)
    _told: set[str] = field(default_factory=set)
    waiting: list[str] = field(default_factory=list)
    """Pods to be told."""

    def pod(self, _: str, found: Raw) -> None:
        """Take note of a lead pod."""
        owner = found["metadata"]["labels"][OWNER]
        self._leads[owner] = found["metadata"]["name"]
        self._tell(owner)

    def job(self, _: str, found: Raw) -> None:
        """Take note of a worker Job."""
        if has_condition(found, "Complete"):
            owner = found["metadata"]["labels"][OWNER]
            self._ready.add(owner)
            self._tell(owner)

    def _tell(self, owner: str) -> None:
        if owner in self._ready and owner in self._leads and owner not in self._told:
            self._told.add(owner)
            self.waiting.append(self._leads[owner])

    async def publish(self, pod: str) -> None:
        """Let a lead pod end."""
        patch = {"metadata": {"annotations": {objects.HOLD: None}}}
        await self.client.merge(f"{CORE}/namespaces/{self.namespace}/pods/{pod}", patch)
