"""How an attempt ends: published, or stopped, cleaned up, and then failed, cancelled or begun anew.

Each step is taken by one decision, and only from what is stored and observed. Should the cause vanish meanwhile (a pod
or a Job that somebody deletes), the attempt ends nevertheless: what was stopped doesn't go on.
"""

from collections.abc import Callable
from datetime import timedelta

from extraction_contract.messages import PublishMessage
from extraction_contract.status import ProgressStatus, ResultStatus
from extraction_operator.plan import conditions
from extraction_operator.plan.causes import Cause
from extraction_operator.plan.conditions import State
from extraction_operator.plan.draft import Draft
from extraction_operator.plan.facts import BEGUN, Facts, ended_well
from extraction_operator.plan.failures import OUT_OF_MEMORY, Failure, Kind
from extraction_operator.plan.making import Maker
from extraction_operator.plan.values import ChildJob, CreateJob, DeleteJob, Event, RemoveFinalizer, Role, ScaleJob


def stop(job: ChildJob) -> DeleteJob | ScaleJob:
    """Return the action after which a Job has no pods."""
    return DeleteJob(job.name, job.uid) if job.queue else ScaleJob(job.name, job.uid, suspend=True)


class Ending:
    """Takes the next step towards the end of an attempt."""

    def __init__(self, facts: Facts, draft: Draft, cause: Cause) -> None:
        self.facts = facts
        self.draft = draft
        self.cause = cause
        self.seen = facts.seen
        self.spec = facts.seen.job.spec
        self.status = facts.seen.job.status
        self.left = ""
        """What wasn't cleaned, for people."""

    def go(self) -> None:
        """Take the step."""
        if self.cause.published is not None:
            self.succeed(self.cause.published)
        elif self.cause.wait is not None:
            self.draft.again_in(self.cause.wait)
        elif self.took_too_long() or (self.recorded() and self.stopped() and self.cleaned()):
            self.settle()

    def took_too_long(self) -> bool:
        """Whether a deleted job can't be held any longer."""
        deleted = self.seen.job.metadata.deletion_timestamp
        if deleted is None or not self.facts.since(deleted, 2 * self.facts.settings.clean_deadline):
            return False
        return self.give_up("pods couldn't be stopped, or the clean-up couldn't be made, for too long")

    # Published -------------------------------------------------------------------------------------------------------

    def succeed(self, published: PublishMessage) -> None:
        """Say what was published."""
        now, plan = self.seen.now, self.facts.plan
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
            connections=published.connections,
            reused=published.reused,
        )
        before = self.status.progress or ProgressStatus()
        progress = before.model_copy(
            update={
                "summary": f"{chunks}/{chunks}", "chunks": chunks, "rows": published.rows,
                "rows_per_second": round(published.rows / max(1, seconds)),
                "completed_bundles": f"0-{plan.bundles - 1}" if plan is not None and plan.bundles > 1 else "",
            }
        )  # fmt: skip
        how = f", copied from the result of {published.reused.job}" if published.reused is not None else ""
        message = f"{published.rows:,} rows in {published.files} files{how}: {published.manifest}"
        self.draft.change(
            phase="Succeeded", attempt=self.facts.attempt, start_time=self.status.start_time or now,
            completion_time=now, next_attempt_time=None, plan=plan, progress=progress, result=result,
            consistency=published.consistency,
        )  # fmt: skip
        self.draft.say(conditions.succeeded(message))
        self.draft.event("Succeeded", message)

    # Stopped ---------------------------------------------------------------------------------------------------------

    @property
    def left_nothing(self) -> bool:
        """Whether the attempt can't have left anything in staging, nor published."""
        return self.facts.phase not in BEGUN or self.planned_nothing

    @property
    def planned_nothing(self) -> bool:
        """Whether the attempt ended by its own planning; should there ever be two lead pods, who knows."""
        failure, alone = self.cause.failure, len(self.facts.pods(Role.LEAD)) == 1
        return failure is not None and failure.planned_nothing and alone and self.status.plan is None

    def recorded(self) -> bool:
        """Return whether it is certain, also for an operator that starts now, that no lead can come any more.

        A lead that is seen is written down. One that isn't may be on its way nevertheless, as long as the finalizer
        is there: then its name is taken by a barred one.
        """
        facts = self.facts
        if facts.phase in BEGUN or facts.barred or not (facts.protected or facts.lead):
            return True
        if self.planned_nothing:
            return True
        if facts.lead is not None:
            self.draft.change(phase="Planning", attempt=facts.attempt)
            self.draft.urgent()
            self.stopped()
            return False
        return self.bar(lambda maker: maker.lead(barred=True))

    def bar(self, make: Callable[[Maker], CreateJob]) -> bool:
        """Have the name of a child taken that may be on its way; return whether there is no need to wait for that."""
        if self.seen.source is None:
            return self.give_up("there is no DataSource to make anything from")
        self.draft.act(make(Maker(self.facts, self.seen.source)))
        self.draft.again_in(self.facts.settings.busy_poll * 2)
        self.explain("Stopping", "it is made sure that no pod is on its way")
        return False

    def stopped(self) -> bool:
        """Stop what still runs; return whether nothing does any more."""
        # Suspended and not deleted, so that failed pods stay for their logs. A suspended Job deletes the pods that
        # haven't failed yet, and what they said with them. In a queue Kueue would let it go on.
        running = [job for job in self.facts.running_jobs() if job.queue or not job.suspended]
        if self.facts.lead_is_failing:
            running = [job for job in running if job.role is not Role.LEAD]
        lead, plan, queue = self.facts.lead, self.status.plan, self.facts.queue
        awaited = self.facts.phase in {"Running", "Suspended"} and self.status.workers and self.facts.workers is None
        # What comes too late goes with the lead that owns it; in a queue nobody would stop it.
        barred = plan if awaited and (queue or (lead is not None and not lead.deleting)) else None
        if barred is None or not queue:
            self.draft.act(*(stop(job) for job in running))
        if barred is not None:
            return self.bar(lambda maker: maker.workers(barred, barred=True))
        if self.facts.still_running:
            self.draft.again_in(self.facts.settings.busy_poll * 2)
            self.explain("Stopping", "pods are being stopped")
            return False
        return True

    # Cleaned ---------------------------------------------------------------------------------------------------------

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
                self.draft.act(Maker(self.facts, source).clean())
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
        self.left = f"Staging of attempt {self.facts.attempt} below {self.seen.job.sink_path} may be left: {why}."
        self.draft.event("StagingLeft", self.left, warning=True)
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
        if self.facts.deleting:
            if self.facts.protected:
                self.draft.act(RemoveFinalizer())
            self.draft.act(*(DeleteJob(job.name, job.uid) for job in self.ended_cleans()))
        elif failure is None:
            message = self.with_what_is_left("spec.cancel is true: the job was ended without a result.")
            self.end("Cancelled", conditions.ended("Cancelled", message, failed=False), Event("Cancelled", message))
        elif self.begins_anew(failure):
            self.begin_anew(failure)
        else:
            message = self.with_what_is_left(failure.message)
            event = Event(failure.reason, failure.message, warning=True)
            self.end("Failed", conditions.ended(failure.reason, message, failed=True), event)

    def with_what_is_left(self, message: str) -> str:
        """Return a message that also says what wasn't cleaned: an Event may get lost, a condition stays."""
        if not self.left:
            return message
        return f"{conditions.shorten(message, conditions.LONGEST // 2)} {self.left}"

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
        message = self.with_what_is_left(f"{failure.message} Attempt {attempt} follows.")
        self.draft.change(
            phase="Pending", attempt=attempt, restarts=self.status.restarts + counted, workers=0,
            memory_kills=self.status.memory_kills + (failure.reason == OUT_OF_MEMORY),
            consistency="PerPartition" if degraded else self.status.consistency,
            next_attempt_time=self.seen.now + timedelta(seconds=wait), plan=None, progress=None,
        )  # fmt: skip
        self.draft.say(conditions.in_progress(failure.reason, message))
        self.draft.event("Restarting", message, warning=True)
