"""How an attempt ends: published, or stopped, cleaned up, and then failed, cancelled or begun anew.

The reason to end is derived again from what is observed at every step, so nothing has to be remembered; what decides
it (a failed Job, the spec, a deadline) doesn't go away while the steps are taken.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from extraction_contract.messages import PublishMessage
from extraction_contract.models import DataSource
from extraction_contract.status import ProgressStatus, ResultStatus
from extraction_operator.plan import children, conditions
from extraction_operator.plan.children import Declared
from extraction_operator.plan.conditions import State
from extraction_operator.plan.draft import Draft
from extraction_operator.plan.facts import BEGUN, Facts, ended_well
from extraction_operator.plan.failures import Failure, Kind, of_job, of_pod, of_workers
from extraction_operator.plan.values import (
    FINALIZER,
    ChildJob,
    CreateJob,
    DeleteJob,
    Event,
    RemoveFinalizer,
    Role,
    ScaleJob,
)
from extraction_operator.plan.values import Ending as JobEnding


@dataclass(frozen=True)
class Cause:
    """Why an attempt ends. Without a failure: by success, by ``cancel`` or by deletion, whichever holds."""

    failure: Failure | None = None
    published: PublishMessage | None = None
    wait: float | None = None
    """Not known yet: look again after so many seconds."""


def find_ending(facts: Facts) -> Cause | None:
    """Return why the current attempt ends; None while it goes on."""
    seen, status, spec = facts.seen, facts.seen.job.status, facts.seen.job.spec
    if facts.published is not None:
        # Also when it was cancelled meanwhile: readers have the set.
        return Cause(published=facts.published)
    if spec.cancel or seen.job.metadata.deletion_timestamp is not None:
        return Cause()
    if status.start_time is not None and facts.since(status.start_time, spec.active_deadline_seconds):
        text = f"activeDeadlineSeconds ({spec.active_deadline_seconds} s) passed before the job was done."
        return Cause(Failure(Kind.TERMINAL, "DeadlineExceeded", text))
    return _of_lead(facts) or _of_workers(facts)


def _of_lead(facts: Facts) -> Cause | None:
    lead, pod = facts.lead, facts.lead_pod
    if lead is None:
        if facts.phase in BEGUN:
            return Cause(_disrupted(facts, f"The lead Job of attempt {facts.attempt} is gone."))
        return None
    found = of_pod(pod) if pod is not None else None
    if found is not None:
        return Cause(_disrupted(facts, found.message) if found.kind is Kind.DISRUPTION else found)
    plan = pod.container("plan") if pod is not None else None
    if pod is not None and plan is not None and plan.exit_code == 0 and facts.planned is None:
        return Cause(Failure(Kind.TRANSIENT, "PodFailed", f"What pod {pod.name} planned can't be read."))
    if lead.deleting:
        return Cause(_disrupted(facts, f"Job {lead.name} was deleted."))
    if pod is not None and pod.phase != "Succeeded" and facts.is_lost(pod):
        return Cause(_disrupted(facts, f"Pod {pod.name} hangs on node {pod.node}, which is silent."))
    if lead.ending is not None:
        if not facts.since(lead.ended_at, facts.settings.last_words):
            return Cause(wait=facts.settings.busy_poll)
        if lead.ending is JobEnding.FAILED:
            return Cause(of_job(lead))
        text = f"Pod of {lead.name} ended without a word. What it did is found out by cleaning up."
        return Cause(Failure(Kind.TRANSIENT, "PodFailed", text))
    if lead.suspended:
        # We did that, for a reason that isn't there any more.
        return Cause(Failure(Kind.TRANSIENT, "Stopped", f"Attempt {facts.attempt} was stopped."))
    return None


def _of_workers(facts: Facts) -> Cause | None:
    workers = facts.workers
    if workers is None or workers.ending is not JobEnding.FAILED:
        return None
    found = of_workers(workers, facts.pods(Role.WORK))
    if found is None:
        if not facts.since(workers.ended_at, facts.settings.last_words):
            return Cause(wait=facts.settings.busy_poll)
        found = of_job(workers)
    return Cause(found)


def _disrupted(facts: Facts, message: str) -> Failure:
    """Return the failure of an attempt whose lead was ended from outside: its snapshot went with it."""
    status = facts.seen.job.status
    consistency = status.consistency or facts.seen.job.spec.consistency
    if status.plan is not None and consistency == "Snapshot":
        return Failure(Kind.SNAPSHOT, "SnapshotLost", f"{message} The snapshot ended with it.")
    return Failure(Kind.DISRUPTION, "Disrupted", message)


class Ending:
    """Takes the next step towards the end of an attempt."""

    def __init__(self, facts: Facts, draft: Draft, cause: Cause, declared: Callable[[DataSource], Declared]) -> None:
        self.facts = facts
        self.draft = draft
        self.cause = cause
        self.declared = declared
        self.seen = facts.seen
        self.spec = facts.seen.job.spec
        self.status = facts.seen.job.status

    @property
    def deleting(self) -> bool:
        """Whether the object is to go."""
        return self.seen.job.metadata.deletion_timestamp is not None

    def go(self) -> None:
        """Take the step."""
        if self.cause.published is not None:
            self.succeed(self.cause.published)
        elif self.cause.wait is not None:
            self.draft.again_in(self.cause.wait)
        elif self.stopped() and self.cleaned():
            self.settle()

    # Published -------------------------------------------------------------------------------------------------------

    def succeed(self, published: PublishMessage) -> None:
        """Say what was published."""
        now, plan = self.seen.now, self.status.plan or (self.facts.planned and self.facts.planned.status())
        seconds = max(0, round((now - (self.status.start_time or now)).total_seconds()))
        chunks = plan.chunks if plan is not None else 0
        result = ResultStatus(
            rows=published.rows,
            bytes=published.bytes,
            files=published.files,
            digest=published.digest,
            manifest=published.manifest,
            seconds=seconds,
            consistency=published.consistency,
            verification=published.verification,
        )
        before = self.status.progress or ProgressStatus()
        progress = before.model_copy(
            update={
                "summary": f"{chunks}/{chunks}", "chunks": chunks, "rows": published.rows,
                "rows_per_second": round(published.rows / max(1, seconds)),
                "completed_bundles": f"0-{plan.bundles - 1}" if plan is not None and plan.bundles > 1 else "",
            }
        )  # fmt: skip
        message = f"{published.rows:,} rows in {published.files} files: {published.manifest}"
        self.draft.change(
            phase="Succeeded", attempt=self.facts.attempt, start_time=self.status.start_time or now,
            completion_time=now, next_attempt_time=None, plan=plan, progress=progress, result=result,
            consistency=published.consistency,
        )  # fmt: skip
        self.draft.say(conditions.succeeded(message))
        self.draft.event("Succeeded", message)

    # Stopped ---------------------------------------------------------------------------------------------------------

    def stopped(self) -> bool:
        """Stop what still runs; return whether nothing does any more."""
        running = self.facts.running_jobs()
        if self.deleting:
            self.draft.act(*(DeleteJob(job.name, job.uid) for job in running))
        else:
            # Suspended and not deleted, so that failed pods stay for their logs.
            self.draft.act(*(ScaleJob(job.name, job.uid, suspend=True) for job in running if not job.suspended))
        if self.facts.still_running:
            self.draft.again_in(self.facts.settings.busy_poll * 2)
            self.explain("Stopping", "pods are being stopped")
            return False
        return True

    # Cleaned ---------------------------------------------------------------------------------------------------------

    @property
    def left_nothing(self) -> bool:
        """Whether the attempt can't have left anything in staging, nor published."""
        failure = self.cause.failure
        if failure is not None and failure.planned_nothing:
            return True
        return self.facts.phase == "Pending" and self.facts.lead is None and not self.facts.pods(Role.LEAD)

    def cleaned(self) -> bool:
        """Have the attempt's staging cleaned; return whether that is over, one way or the other."""
        if self.left_nothing or self.facts.cleaned:
            return True
        clean, settings = self.facts.clean, self.facts.settings
        if clean is None or clean.deleting:
            source = self.seen.source
            if source is None:
                return self.give_up("there is no DataSource to make a clean-up from")
            if clean is None:
                manifest = children.clean_job(self.declared(source))
                self.draft.act(CreateJob(manifest["metadata"]["name"], Role.CLEAN, manifest))
            self.draft.again_in(settings.clean_deadline)
            self.explain("CleaningUp", "staging is being cleaned up")
            return False
        if clean.ending is not None and self.facts.since(clean.ended_at, settings.last_words):
            how = "ended without a word" if ended_well(clean) else f"failed ({clean.ending_reason})"
            return self.give_up(f"Job {clean.name} {how}")
        if self.facts.since(clean.created, settings.clean_deadline + settings.grace):
            return self.give_up(f"Job {clean.name} took too long")
        self.draft.again_in(settings.busy_poll if clean.ending is not None else settings.clean_deadline / 4)
        return False

    def give_up(self, why: str) -> bool:
        """Go on without a clean-up, and name what may be left."""
        message = f"Staging of attempt {self.facts.attempt} below {self.seen.job.sink_path} may be left: {why}."
        self.draft.event("StagingLeft", message, warning=True)
        return True

    def explain(self, reason: str, what: str) -> None:
        """Say why the job doesn't go on."""
        failure = self.cause.failure
        message = f"{failure.message} Now {what}." if failure is not None else f"The job ends: {what}."
        self.draft.say(conditions.in_progress(failure.reason if failure is not None else reason, message))

    # Settled ---------------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Say how the attempt ended, or begin the next."""
        failure = self.cause.failure
        if self.deleting:
            if FINALIZER in self.seen.job.metadata.finalizers:
                self.draft.act(RemoveFinalizer())
            self.draft.act(*(DeleteJob(job.name, job.uid) for job in self.ended_cleans()))
        elif failure is None:
            message = "spec.cancel is true: the job was ended without a result."
            self.end("Cancelled", conditions.ended("Cancelled", message, failed=False), Event("Cancelled", message))
        elif self.begins_anew(failure):
            self.begin_anew(failure)
        else:
            event = Event(failure.reason, failure.message, warning=True)
            self.end("Failed", conditions.ended(failure.reason, failure.message, failed=True), event)

    def ended_cleans(self) -> list[ChildJob]:
        """Return the clean-up, where it has ended."""
        clean = self.facts.clean
        return [clean] if clean is not None and clean.ending is not None and not clean.deleting else []

    def end(self, phase: str, states: tuple[State, ...], event: Event) -> None:
        """Enter a final phase."""
        self.draft.change(
            phase=phase, attempt=self.facts.attempt, completion_time=self.seen.now, next_attempt_time=None
        )  # fmt: skip
        self.draft.say(states)
        self.draft.event(event.reason, event.message, warning=event.warning)

    def begins_anew(self, failure: Failure) -> bool:
        """Whether another attempt follows by itself."""
        if failure.kind is Kind.DISRUPTION:
            return True
        counted = self.status.restarts < self.facts.settings.max_restarts
        if failure.kind is Kind.SNAPSHOT:
            return counted and self.spec.snapshot.on_loss != "Fail"
        return counted and failure.kind is Kind.TRANSIENT

    def begin_anew(self, failure: Failure) -> None:
        """Begin the next attempt, after a while."""
        settings, attempt = self.facts.settings, self.facts.attempt + 1
        counted = failure.kind is not Kind.DISRUPTION
        wait = min(settings.backoff * 2**self.status.restarts, settings.backoff_limit)
        degraded = failure.kind is Kind.SNAPSHOT and self.spec.snapshot.on_loss == "Degrade"
        message = f"{failure.message} Attempt {attempt} follows."
        self.draft.change(
            phase="Pending", attempt=attempt, restarts=self.status.restarts + counted, workers=0,
            consistency="PerPartition" if degraded else self.status.consistency,
            next_attempt_time=self.seen.now + timedelta(seconds=wait), plan=None, progress=None,
        )  # fmt: skip
        self.draft.say(conditions.in_progress(failure.reason, message))
        self.draft.event("Restarting", message, warning=True)
