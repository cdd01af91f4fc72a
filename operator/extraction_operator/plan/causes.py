"""Why an attempt ends, derived anew from what is observed at each step: nothing has to be remembered."""

from dataclasses import dataclass

from extraction_contract.messages import PublishMessage
from extraction_operator.plan.facts import BEGUN, Facts
from extraction_operator.plan.failures import Failure, Kind, of_job, of_pod, of_workers
from extraction_operator.plan.values import Ending, Role


@dataclass(frozen=True)
class Cause:
    """Why an attempt ends. Without a failure: by success, by ``cancel`` or by deletion, whichever holds."""

    failure: Failure | None = None
    published: PublishMessage | None = None
    wait: float | None = None
    """Not known yet: look again after so many seconds."""


def find_ending(facts: Facts) -> Cause | None:
    """Return why the current attempt ends; None while it goes on."""
    status, spec = facts.seen.job.status, facts.seen.job.spec
    if facts.published is not None:
        # Also when it was cancelled meanwhile: readers have the set.
        return Cause(published=facts.published)
    if spec.cancel or facts.deleting:
        return Cause()
    if status.start_time is not None and facts.since(status.start_time, spec.active_deadline_seconds):
        text = f"activeDeadlineSeconds ({spec.active_deadline_seconds} s) passed before the job was done."
        return Cause(Failure(Kind.TERMINAL, "DeadlineExceeded", text))
    if facts.lead is not None and facts.lead.suspended:
        # What its pod says now comes of being stopped, for what the workers said.
        return _of_workers(facts) or _of_words(facts) or _of_lead(facts)
    return _of_words(facts) or _of_workers(facts) or _of_lead(facts)


def _of_words(facts: Facts) -> Cause | None:
    """Return what the lead's pod said, unless that is only that it was ended from outside."""
    pod = facts.lead_pod
    found = of_pod(pod) if pod is not None else None
    if pod is None or facts.lead is None or (found is not None and found.kind is Kind.DISRUPTION):
        return None
    plan = pod.container("plan")
    if found is None and plan is not None and plan.exit_code == 0 and facts.planned is None:
        found = Failure(Kind.TRANSIENT, "PodFailed", f"What pod {pod.name} planned can't be read.")
    return Cause(found) if found is not None else None


def _of_workers(facts: Facts) -> Cause | None:
    workers = facts.workers
    if workers is None or workers.ending is not Ending.FAILED:
        return None
    found, known = of_workers(workers, facts.pods(Role.WORK)), of_job(workers)
    by_policy = known.kind in {Kind.TERMINAL, Kind.SNAPSHOT}
    if found is None or (by_policy and found.kind in {Kind.TRANSIENT, Kind.DISRUPTION}):
        # The pod that failed it hasn't been heard yet.
        if not facts.since(workers.ended_at, facts.settings.last_words):
            return Cause(wait=facts.settings.busy_poll)
        found = known
    return Cause(found)


def _of_lead(facts: Facts) -> Cause | None:
    """Return how the lead was lost, or ended without a word."""
    lead, pod = facts.lead, facts.lead_pod
    if lead is None:
        lost = facts.phase in BEGUN
        return _loss(facts, f"The lead Job of attempt {facts.attempt} is gone.") if lost else None
    if pod is not None and (found := of_pod(pod)) is not None:
        return _loss(facts, found.message)
    if lead.deleting:
        return _loss(facts, f"Job {lead.name} was deleted.")
    if pod is not None and pod.phase != "Succeeded" and facts.is_lost(pod):
        return _loss(facts, f"Pod {pod.name} hangs on node {pod.node}, which is silent.")
    if lead.ending is not None:
        if not facts.since(lead.ended_at, facts.settings.last_words):
            return Cause(wait=facts.settings.busy_poll)
        if lead.ending is Ending.FAILED:
            failure = of_job(lead)
            from_outside = pod is None or pod.disrupted or pod.deleting_since is not None
            if from_outside and failure.kind is Kind.TRANSIENT:
                return _loss(facts, failure.message, failure)
            return Cause(failure)
        text = f"Pod of {lead.name} ended without a word. What it did is found out by cleaning up."
        return Cause(Failure(Kind.TRANSIENT, "PodFailed", text))
    if lead.queue and lead.suspended:
        if facts.never_began:
            return None
        return _loss(facts, f"Kueue took the quota of Job {lead.name}, in queue {lead.queue}, for others.")
    if lead.suspended or facts.clean is not None:
        # We did that, for a reason that isn't there any more.
        return _loss(facts, f"Attempt {facts.attempt} was stopped.")
    return None


def _loss(facts: Facts, message: str, otherwise: Failure | None = None) -> Cause:
    """Return the end of an attempt whose lead was ended from outside: its snapshot went with it, if it had one."""
    if facts.seen.job.status.plan is not None and facts.consistency == "Snapshot":
        return Cause(Failure(Kind.SNAPSHOT, "SnapshotLost", f"{message} The snapshot ended with it."))
    return Cause(otherwise or Failure(Kind.DISRUPTION, "Disrupted", message))
