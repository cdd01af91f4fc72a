"""A pod of a job: its manifests, its environment, and what is made from both."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from extraction_contract.live import Promised
from extraction_contract.load import load_files, object_key
from extraction_contract.messages import PublishMessage
from extraction_contract.resolve import ResolvedJob, resolve
from extraction_contract.status import ReusedStatus
from extraction_worker.cache.connection import RedisConnection
from extraction_worker.cache.store import Cache
from extraction_worker.errors import VerificationFailed
from extraction_worker.model import Consistency, Manifest, Plan
from extraction_worker.sink.abc import MANIFEST_NAME, Sink
from extraction_worker.sink.open import open_sink
from extraction_worker.stages.bundles import bundle_count
from extraction_worker.stages.pod.environment import Environment
from extraction_worker.stages.pod.invocation import Invocation
from extraction_worker.stages.pod.lead import Holder, LeadFiles
from extraction_worker.stages.settings import cache_scope, shrunk
from extraction_worker.stages.source import JobSource
from extraction_worker.stream.admission import MemoryPlan, memory_limit, memory_plan

if TYPE_CHECKING:
    from extraction_worker.stages.reuse import Results, Taken

PLAN_NAME = "plan.json"
_MAX_URI = 1024


@dataclass(frozen=True)
class JobPod:
    """A pod of a job. ``resolved`` has the consistency of this attempt, which may be less than declared."""

    invocation: Invocation
    environment: Environment
    resolved: ResolvedJob
    redis: RedisConnection | None = None

    @classmethod
    def load(cls, invocation: Invocation) -> Self:
        """Read what is mounted.

        Raises
        ------
        ManifestError, InvalidManifest
            What is missing or wrong, by name.
        """
        environment = Environment.parse(invocation.variables)
        manifests = load_files([invocation.mounts.manifests])
        resolved = resolve(manifests.job(), manifests, invocation.mounts.secrets)
        spec = resolved.job.spec.model_copy(update={"consistency": environment.consistency.value})
        resolved = replace(resolved, job=resolved.job.model_copy(update={"spec": spec}))

        def say(message: str) -> None:
            invocation.log.warning("said", message=message)

        file = invocation.mounts.redis
        redis = RedisConnection.of_file(file if file.exists() else None, say)
        if redis is not None and redis.weakness:
            say(redis.weakness)
        return cls(invocation, environment, resolved, redis)

    @property
    def name(self) -> str:
        """``NAMESPACE/NAME`` of the job."""
        return str(object_key(self.resolved.job))

    @property
    def is_held(self) -> bool:
        """Whether a holder keeps the snapshot."""
        return self.environment.consistency is Consistency.SNAPSHOT

    @property
    def parallelism(self) -> int:
        """Worker pods at the same time."""
        return self.environment.parallelism or self.resolved.job.spec.parallelism

    def bundles(self, plan: Plan) -> int:
        """Return into how many bundles the plan is divided; every container of the lead finds the same."""
        limit = self.resolved.source.spec.limits.bytes_per_second
        rate = int(limit) if limit is not None else None
        return self.environment.bundles or bundle_count(plan, self.parallelism, rate)

    def promised(self, plan: Plan) -> Promised:
        """Return what the plan promises, for those who watch."""
        return Promised(len(plan.chunks), self.bundles(plan), plan.estimated_rows, plan.estimated_bytes)

    def holder(self) -> Holder:
        """Return the holder, for the other containers of the lead."""
        return Holder(LeadFiles(self.invocation.mounts.run), self.invocation.stop)

    def source(self, cache: Cache | None = None) -> JobSource:
        """Return the job's source; its sessions name this pod."""
        return JobSource(self.resolved, self.environment.run_id, self.environment.pod_name, cache)

    def cache(self) -> Cache | None:
        """Return what is remembered of the source; None without Redis."""
        return Cache(self.redis, cache_scope(self.resolved.source)) if self.redis is not None else None

    def results(self, cache: Cache | None) -> "Results | None":
        """Return results of before, where the job declares that it may take one, and they are remembered."""
        if cache is None or self.resolved.job.spec.reuse is None:
            return None
        # Here and not above: most jobs don't.
        from extraction_worker.stages.reuse import Results

        invocation = self.invocation

        def say(message: str) -> None:
            invocation.log.info("said", message=message)

        return Results(self.resolved, cache, invocation.mounts.volumes, say, invocation.stop.check)

    def taken(self, sink: Sink, plan: Plan) -> "Taken | None":
        """Return the result that stands in the place of the plan, if one was taken."""
        if self.resolved.job.spec.reuse is None:
            return None
        from extraction_worker.stages.reuse import taken_for

        return taken_for(sink, plan)

    def sink(self) -> Sink:
        """Return the job's sink, with the staging of this attempt."""
        mounts = self.invocation.mounts
        return open_sink(self.resolved, volumes_dir=mounts.volumes, run_id=self.environment.run_id)

    def memory(self, halvings: int = 0) -> MemoryPlan:
        """Return how many threads read, and how large their batches are."""
        return shrunk(memory_plan(memory_limit(), self.environment.pool), halvings)

    def staged_plan(self, sink: Sink) -> Plan | None:
        """Return the plan of this attempt, if it is in staging already.

        Raises
        ------
        VerificationFailed
            What is there isn't a plan of this attempt.
        """
        data = sink.get_state(PLAN_NAME)
        if data is None:
            return None
        try:
            plan = Plan.from_json(data)
        except ValueError:
            raise VerificationFailed(f"{PLAN_NAME} in staging isn't a plan of this version.") from None
        if plan.run_id != self.environment.run_id:
            raise VerificationFailed(f"{PLAN_NAME} in staging is of run {plan.run_id}.")
        return plan

    def require_plan(self, sink: Sink) -> Plan:
        """Return the plan of this attempt from staging; raises VerificationFailed, also where there is none."""
        plan = self.staged_plan(sink)
        if plan is None:
            raise VerificationFailed(f"The plan of run {self.environment.run_id} isn't in staging.")
        return plan

    def published(self, sink: Sink) -> Manifest | None:
        """Return the manifest at the sink's path if this attempt published it; raises SinkExists as the sink does."""
        manifest = sink.published()
        return manifest if manifest is not None and manifest.run_id == self.environment.run_id else None


def publish_message(manifest: Manifest, sink: Sink) -> PublishMessage:
    """Return what the operator is told of a published set."""
    reused = manifest.reused
    return PublishMessage(
        rows=manifest.rows,
        bytes=manifest.bytes,
        files=len(manifest.parts),
        digest=manifest.digest,
        manifest=f"{sink.uri}/{MANIFEST_NAME}"[:_MAX_URI],
        plan_digest=manifest.plan_digest,
        consistency=manifest.consistency.value,
        verification=manifest.verification.value,
        reused=ReusedStatus(job=reused.job, run=reused.run_id, published_at=reused.published_at) if reused else None,
    )
