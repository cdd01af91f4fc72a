"""The children of an observed job: what is declared and what is known of it → :class:`CreateJob`."""

from dataclasses import dataclass, replace

from extraction_contract.models import DataSource
from extraction_contract.status import PlanStatus
from extraction_operator.plan import children
from extraction_operator.plan.facts import Facts
from extraction_operator.plan.pods import Declared, Json
from extraction_operator.plan.values import CreateJob, Role


@dataclass(frozen=True)
class Maker:
    """Makes the children of the current attempt. A *barred* one takes the name of a child and never has a pod."""

    facts: Facts
    source: DataSource

    @property
    def _declared(self) -> Declared:
        seen = self.facts.seen
        return Declared(
            job=seen.job,
            source=self.source,
            settings=self.facts.settings,
            attempt=self.facts.attempt,
            consistency=self.facts.consistency,
            pool=seen.grant.pool,
        )

    def lead(self, *, barred: bool = False) -> CreateJob:
        """Return the creation of the lead Job."""
        seen = self.facts.seen
        parallelism = min(seen.job.spec.parallelism, seen.grant.parallelism)
        one_pod = seen.claim_modes == ("ReadWriteOncePod",)
        manifest = children.lead_job(self._declared, parallelism=parallelism, one_pod=one_pod, barred=barred)
        return _create(Role.LEAD, manifest)

    def workers(self, plan: PlanStatus, *, barred: bool = False) -> CreateJob:
        """Return the creation of the worker Job.

        It has the lead's image: an operator that was upgraded meanwhile has another, whose workers may read the lead's
        plan otherwise than it is meant, or not at all.
        """
        seen, lead, queue = self.facts.seen, self.facts.lead, self.facts.queue
        declared = self._declared
        if lead is not None and lead.image:
            declared = replace(declared, settings=replace(declared.settings, image=lead.image))
        manifest = children.work_job(
            declared,
            number=max(1, seen.job.status.workers),
            lead=(lead.name, lead.uid) if lead is not None and not queue else None,
            bundles=plan.bundles,
            parallelism=0 if barred else self.facts.worker_pods(plan.bundles),
            plan_digest=plan.digest,
            beside_lead=seen.job.spec.sink.volume is not None and "ReadWriteMany" not in seen.claim_modes,
            queue="" if barred else queue,
        )
        return _create(Role.WORK, manifest)

    def clean(self) -> CreateJob:
        """Return the creation of the clean-up Job."""
        return _create(Role.CLEAN, children.clean_job(self._declared))


def _create(role: Role, manifest: Json) -> CreateJob:
    return CreateJob(manifest["metadata"]["name"], role, manifest)
