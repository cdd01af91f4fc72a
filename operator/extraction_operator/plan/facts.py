"""What of an observed ExtractionJob belongs to its current attempt."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Literal

from extraction_contract.messages import CleanMessage, PlanMessage, PublishMessage
from extraction_contract.status import PlanStatus
from extraction_operator.plan.conditions import shorten
from extraction_operator.plan.names import QUEUE
from extraction_operator.plan.settings import Settings
from extraction_operator.plan.values import FINALIZER, ChildJob, Ending, ObservedJob, Pod, Role

FINAL = frozenset({"Succeeded", "Failed", "Cancelled"})
BEGUN = frozenset({"Planning", "Running", "Suspended", "Publishing"})
"""Phases in which the lead of the attempt has been created."""


_LONGEST_REASON = 300
"""Bytes of the plan's reason: all of a status must fit into 4 KiB."""


@dataclass(frozen=True)
class Facts:
    """An observed job, sorted. Everything is as the store believes, and of the current attempt unless it says so."""

    seen: ObservedJob
    settings: Settings

    @cached_property
    def attempt(self) -> int:
        """The current attempt; the first one needs no stored status."""
        return max(1, self.seen.job.status.attempt)

    @property
    def phase(self) -> str:
        """The stored phase."""
        return self.seen.job.status.phase or "Pending"

    @property
    def consistency(self) -> Literal["Snapshot", "PerPartition"]:
        """What the current attempt gives."""
        return self.seen.job.status.consistency or self.seen.job.spec.consistency

    @property
    def protected(self) -> bool:
        """Whether the job has our finalizer, as it has from before its first pod."""
        return FINALIZER in self.seen.job.metadata.finalizers

    @property
    def deleting(self) -> bool:
        """Whether the job is to go."""
        return self.seen.job.metadata.deletion_timestamp is not None

    @cached_property
    def view_is_stale(self) -> bool:
        """Whether there are children that the job, as it is seen, doesn't know of yet."""
        return any(
            job.attempt > self.attempt or (job.attempt == self.attempt and job.number > self.seen.job.status.workers)
            for job in self.seen.jobs
        )

    @cached_property
    def strays(self) -> tuple[ChildJob, ...]:
        """Children of earlier attempts, and worker Jobs that were replaced."""
        return tuple(
            job
            for job in self.seen.jobs
            if not job.deleting
            and (job.attempt < self.attempt or (job.role is Role.WORK and job.number < self.seen.job.status.workers))
        )

    @cached_property
    def lead(self) -> ChildJob | None:
        """The lead Job."""
        return self._job(Role.LEAD)

    @cached_property
    def clean(self) -> ChildJob | None:
        """The clean-up Job."""
        return self._job(Role.CLEAN)

    @cached_property
    def workers(self) -> ChildJob | None:
        """The worker Job of the stored number."""
        found = [job for job in self._jobs(Role.WORK) if job.number == max(1, self.seen.job.status.workers)]
        return found[0] if found else None

    @cached_property
    def older_workers(self) -> bool:
        """Whether a worker Job that was replaced is still there, and not even being deleted."""
        return any(job.role is Role.WORK for job in self.strays if job.attempt == self.attempt)

    @cached_property
    def lead_pod(self) -> Pod | None:
        """The pod of the lead Job; the newest, should there be two."""
        lead = self.lead
        mine = [pod for pod in self.pods(Role.LEAD) if lead is None or pod.job_uid == lead.uid]
        return max(mine, key=lambda pod: (pod.created, pod.uid), default=None)

    @property
    def lead_is_failing(self) -> bool:
        """Whether the lead's pod ends by itself, as a container has failed; the sidecar goes after the others."""
        pod = self.lead_pod
        return pod is not None and any(
            container.name != "hold" and container.exit_code not in {None, 0} for container in pod.containers
        )

    @cached_property
    def planned(self) -> PlanMessage | None:
        """What *plan* said."""
        pod = self.lead_pod
        return pod.said("plan", PlanMessage) if pod is not None else None

    @cached_property
    def plan(self) -> PlanStatus | None:
        """The plan that is stored, or else what *plan* said."""
        if self.seen.job.status.plan is not None or self.planned is None:
            return self.seen.job.status.plan
        return self.planned.status().model_copy(update={"reason": shorten(self.planned.reason, _LONGEST_REASON)})

    @cached_property
    def published(self) -> PublishMessage | None:
        """What *publish* said, or *clean* found out about it."""
        for pod in self.pods(Role.LEAD):
            if (message := pod.said("publish", PublishMessage)) is not None:
                return message
        for pod in self.pods(Role.CLEAN):
            if (message := pod.said("clean", PublishMessage)) is not None:
                return message
        return None

    @cached_property
    def cleaned(self) -> bool:
        """Whether *clean* said that nothing is left."""
        return any(pod.said("clean", CleanMessage) is not None for pod in self.pods(Role.CLEAN))

    @property
    def queue(self) -> str:
        """The queue of Kueue's that the attempt's Jobs are in; empty is none."""
        # Whoever gave it to the lead: Kueue has a default for namespaces.
        return self.lead.queue if self.lead is not None else self.seen.job.metadata.labels.get(QUEUE, "")

    @property
    def queued(self) -> ChildJob | None:
        """A Job that waits in a queue of Kueue's for its quota."""
        found = (job for job in (self.lead, self.workers) if job is not None and job.queue and job.suspended)
        return next((job for job in found if job.ending is None and not job.deleting), None)

    @property
    def never_began(self) -> bool:
        """Whether the lead waits in a queue, and the attempt hasn't begun."""
        return self.queued is not None and self.queued.role is Role.LEAD and self.phase not in BEGUN

    @cached_property
    def barred(self) -> bool:
        """Whether the lead is one that never has a pod, made to keep another from coming."""
        return self.lead is not None and _never_has_pods(self.lead)

    @cached_property
    def still_running(self) -> bool:
        """Whether pods of a stopped attempt may still be at work; a pod on a node that went silent isn't waited for."""
        if any(self._may_have_pods(job) for job in (*self._jobs(Role.LEAD), *self._jobs(Role.WORK))):
            return True
        return any(not self.has_ended(pod) for pod in (*self.pods(Role.LEAD), *self.pods(Role.WORK)))

    def _may_have_pods(self, job: ChildJob) -> bool:
        if _never_has_pods(job):
            return False
        # Until the controller has seen a suspension, it may make another pod.
        suspended = job.suspended_since if job.suspended else None
        since = job.deleting_since or job.ended_at or suspended
        if since is None:
            return True
        patience = self.settings.grace + self.settings.lost_after
        # A Job that is deleted goes after its pods.
        return (job.active > 0 or job.terminating > 0 or job.deleting) and not self.since(since, patience)

    def worker_pods(self, bundles: int) -> int:
        """Return how many worker pods there should be at the same time."""
        return min(self.seen.job.spec.parallelism, self.seen.grant.parallelism, bundles)

    def has_ended(self, pod: Pod) -> bool:
        """Whether a pod has ended, or is lost."""
        return pod.phase in {"Succeeded", "Failed"} or self.is_lost(pod)

    def is_lost(self, pod: Pod) -> bool:
        """Whether a pod should have been gone for so long that its node must be silent."""
        since = pod.deleting_since
        return since is not None and self.seen.now > since + timedelta(seconds=self.settings.lost_after)

    def pods(self, role: Role) -> tuple[Pod, ...]:
        """Return the pods of a role."""
        return tuple(pod for pod in self.seen.pods if pod.role is role and pod.attempt == self.attempt)

    def running_jobs(self) -> tuple[ChildJob, ...]:
        """Return the lead and worker Jobs that would go on by themselves."""
        jobs = (*self._jobs(Role.LEAD), *self._jobs(Role.WORK))
        return tuple(job for job in jobs if job.ending is None and not job.deleting and not _never_has_pods(job))

    def since(self, moment: datetime | None, seconds: float) -> bool:
        """Whether as many seconds have passed since then; a moment that isn't known has passed."""
        return moment is None or self.seen.now >= moment + timedelta(seconds=seconds)

    def _jobs(self, role: Role) -> tuple[ChildJob, ...]:
        return tuple(job for job in self.seen.jobs if job.role is role and job.attempt == self.attempt)

    def _job(self, role: Role) -> ChildJob | None:
        found = self._jobs(role)
        return found[0] if found else None


def _never_has_pods(job: ChildJob) -> bool:
    """Whether it was made like that; a worker Job may have got there by somebody's scaling."""
    return job.role is Role.LEAD and job.parallelism == 0


def ended_well(job: ChildJob | None) -> bool:
    """Whether a Job is complete."""
    return job is not None and job.ending is Ending.COMPLETE
