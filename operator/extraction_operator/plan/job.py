"""What to do about an ExtractionJob: ``decide_job(observed, settings) → JobDecision``. The phases, in order.

Level-triggered and idempotent: from the same observation comes the same decision, and nothing is concluded from a
view that is known to be stale. How an attempt ends is in :mod:`extraction_operator.plan.ending`.
"""

from datetime import timedelta

from extraction_contract.status import ProgressStatus
from extraction_operator.plan import conditions, indexes
from extraction_operator.plan.admission import NO_SOURCE, hindrance
from extraction_operator.plan.causes import find_ending
from extraction_operator.plan.conditions import in_progress
from extraction_operator.plan.draft import Draft, unchanged
from extraction_operator.plan.ending import Ending, stop
from extraction_operator.plan.facts import FINAL, Facts, ended_well
from extraction_operator.plan.making import Maker
from extraction_operator.plan.settings import Settings
from extraction_operator.plan.values import (
    Action,
    AddFinalizer,
    ChildJob,
    DeleteJob,
    Event,
    JobDecision,
    LookForWarnings,
    ObservedJob,
    RemoveFinalizer,
    Role,
    ScaleJob,
)
from extraction_operator.plan.waiting import explain

_LONGEST_INDEXES = 512
_CANT_START = "PodCannotStart"
_QUEUED = "Queued"
_COLLECTED = timedelta(seconds=60)
"""Within this time Kubernetes has collected what was owned by what is gone."""


def decide_job(seen: ObservedJob, settings: Settings) -> JobDecision:
    """Return what to do now.

    Parameters
    ----------
    seen
        The job as the store believes it is, with its children.

    Notes
    -----
    A worker Job is only created once the plan is stored in the status, the lead of attempt N > 1 only once N is: so a
    restarted operator finds its way, and two of them make the same children.
    """
    facts = Facts(seen, settings)
    if facts.deleting and not facts.protected:
        return unchanged(seen)
    if seen.namespace_terminating and facts.phase not in FINAL:
        return _let_go(seen, "The namespace is being deleted", protected=facts.protected)
    if facts.view_is_stale:
        return unchanged(seen, again_in=settings.busy_poll)
    return _Deciding(facts).decide()


def _let_go(seen: ObservedJob, why: str, *, protected: bool) -> JobDecision:
    """Return the decision to leave staging as it is.

    The children go, too: a worker Job keeps the finalizer of a failed pod until it has made another in its place, and
    in a namespace that is being deleted it can't, so that neither would ever go.
    """
    actions: list[Action] = [DeleteJob(job.name, job.uid) for job in seen.jobs if not job.deleting]
    if not protected:
        return unchanged(seen, actions)
    message = f"{why}: staging of {seen.job.sink_path} isn't cleaned."
    event = Event("StagingLeft", message, warning=True)
    return JobDecision(status=seen.job.status, actions=(*actions, RemoveFinalizer()), events=(event,))


class _Deciding:
    """One decision about one job."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.seen = facts.seen
        self.settings = facts.settings
        self.spec = facts.seen.job.spec
        self.status = facts.seen.job.status
        self.draft = Draft(facts.seen)

    def decide(self) -> JobDecision:
        if self.status.phase is None:
            self.draft.change(retries=self.spec.retry)
        if not self.facts.deleting:
            self.draft.change(observed_generation=self.seen.job.metadata.generation)
        self.draft.act(*(DeleteJob(job.name, job.uid) for job in self.facts.strays))
        if self.facts.phase in FINAL:
            self.final()
        elif (ending := find_ending(self.facts)) is not None:
            Ending(self.facts, self.draft, ending).go()
        elif self.facts.lead is None:
            self.pending()
        elif self.facts.never_began:
            self.draft.change(phase="Pending", attempt=self.facts.attempt)
            self.wait_in_queue(self.facts.lead)
        else:
            self.running()
        return self.draft.decision()

    # Final phases ----------------------------------------------------------------------------------------------------

    def final(self) -> None:
        if not self.facts.deleting and self.facts.phase == "Failed" and self.spec.retry > self.status.retries:
            self.retry()
            return
        if self.facts.protected:
            self.draft.act(RemoveFinalizer())
        if self.facts.deleting:
            return
        kept_until = None
        if self.facts.phase != "Succeeded" and self.status.completion_time is not None:
            kept_until = self.status.completion_time + timedelta(seconds=self.spec.ttl_seconds_after_finished)
        mine = [job for job in self.seen.jobs if not job.deleting and job.attempt == self.facts.attempt]
        if kept_until is None or kept_until <= self.seen.now:
            # The worker Job goes with the lead that owns it, a moment later; it is deleted where it stays, because
            # somebody has orphaned it.
            orphaned = (kept_until or self.status.completion_time or self.seen.now) + _COLLECTED
            going = [job for job in mine if job.role is not Role.WORK or job.queue or orphaned <= self.seen.now]
            self.draft.act(*(DeleteJob(job.name, job.uid) for job in going))
            if len(going) < len(mine):
                self.draft.again_at(orphaned)
        elif mine:
            self.draft.again_at(kept_until)

    def retry(self) -> None:
        message = f"Attempt {self.status.attempt + 1} was asked for (spec.retry is {self.spec.retry})."
        self.draft.change(
            phase="Pending", attempt=self.status.attempt + 1, retries=self.spec.retry, restarts=0,
            memory_kills=0, workers=0, consistency=None, next_attempt_time=None, start_time=None, completion_time=None,
            plan=None, progress=None, result=None,
        )  # fmt: skip
        self.draft.say(in_progress("Retrying", message))
        self.draft.event("Retrying", message)

    # Before the lead ---------------------------------------------------------------------------------------------

    def pending(self) -> None:
        self.draft.change(phase="Pending", attempt=self.facts.attempt)
        source = self.seen.source
        found = hindrance(self.seen.job, source, self.seen.now)
        if found is not None:
            if found.until is not None:
                self.draft.again_at(found.until)
            if found.reason:
                self.wait(found.reason, found.message)
        elif not self.seen.grant.admitted:
            self.wait("WaitingForBudget", self.seen.grant.reason)
            if self.seen.grant.again_at is not None:
                self.draft.again_at(self.seen.grant.again_at)
        elif not self.facts.protected:
            self.draft.act(AddFinalizer())
        elif source is not None:  # or there would be a hindrance
            self.draft.act(Maker(self.facts, source).lead())

    def wait(self, reason: str, message: str) -> None:
        self.draft.say(in_progress(reason, message))

    def wait_in_queue(self, job: ChildJob) -> None:
        self.wait(_QUEUED, f"Job {job.name} waits for quota in Kueue's queue {job.queue}.")

    # While the lead is there -------------------------------------------------------------------------------------

    def running(self) -> None:
        if self.status.start_time is None:
            self.draft.change(start_time=self.seen.now)
        started = self.status.start_time or self.seen.now
        self.draft.again_at(started + timedelta(seconds=self.spec.active_deadline_seconds))
        if self.seen.grant.again_at is not None:
            self.draft.again_at(self.seen.grant.again_at)
        if self.status.consistency is None:
            self.draft.change(consistency=self.spec.consistency)
        plan = self.facts.plan
        if plan is None:
            self.begin("Planning", "Started", f"Attempt {self.facts.attempt} takes its snapshot and plans.")
        elif self.status.plan is None:
            several = plan.bundles > 1
            self.draft.change(plan=plan, progress=ProgressStatus(summary=f"0/{plan.chunks}"))
            if several:
                self.draft.change(workers=1)
            pods = f"{plan.bundles} bundles of worker pods" if several else "the lead pod"
            self.begin("Running", "Planned", f"{plan.chunks} chunks, read by {pods}. {plan.reason}".rstrip())
        elif self.status.workers:
            self.work()
        else:
            self.begin("Running", "Planned", "The lead pod reads the chunks.")
        self.live()
        self.explain()
        for pod in (*self.facts.pods(Role.LEAD), *self.facts.pods(Role.WORK)):
            if pod.deleting_since is not None and not self.facts.is_lost(pod):
                self.draft.again_at(pod.deleting_since + timedelta(seconds=self.settings.lost_after + 1))

    def begin(self, phase: str, reason: str, message: str) -> None:
        """Enter a phase, unless it is under way."""
        if self.facts.phase != phase or self.status.attempt != self.facts.attempt:
            self.draft.change(phase=phase, attempt=self.facts.attempt, next_attempt_time=None)
            self.draft.event(reason, message)
            self.draft.say(in_progress(reason, message))
            if phase == "Planning":
                for found in conditions.security(self.seen.job):
                    self.draft.event(found.reason, found.message, warning=True)

    def work(self) -> None:
        plan, workers = self.status.plan, self.facts.workers
        if plan is None:
            raise AssertionError("a worker Job has a plan")
        if self.facts.phase == "Publishing" or ended_well(workers):
            self.publish(plan.bundles, workers)
            return
        if self.spec.suspend:
            if self.facts.phase != "Suspended":
                message = "spec.suspend is true: workers stop, finished chunks stay as long as the snapshot lives."
                self.draft.change(phase="Suspended")
                self.draft.say(in_progress("Suspended", message))
                self.draft.event("Suspended", message)
            if workers is not None and not workers.deleting and (workers.queue or not workers.suspended):
                self.draft.act(stop(workers))
            return
        if self.facts.phase != "Running":
            self.begin("Running", "Resumed", "Workers go on.")
        if workers is None:
            self.create_workers()
            return
        self.replace_lost_workers()
        if workers.queue:
            # How many pods and when is Kueue's to say.
            if workers is self.facts.queued:
                self.wait_in_queue(workers)
            self.progress(workers.completed_indexes)
            return
        wanted = self.facts.worker_pods(plan.bundles)
        scale = wanted if workers.parallelism != wanted and self.seen.grant.admitted else None
        resume = False if workers.suspended else None
        if (scale is not None or resume is not None) and not workers.deleting:
            self.draft.act(ScaleJob(workers.name, workers.uid, parallelism=scale, suspend=resume))
        self.progress(workers.completed_indexes)

    def publish(self, bundles: int, workers: ChildJob | None) -> None:
        """Every chunk was read, so nobody is missing if the worker Job goes now."""
        if self.facts.phase != "Publishing":
            # Most sets are published before anybody could read that they are being published: a write less for each.
            lasted = timedelta(seconds=self.settings.brief)
            told_at = workers.ended_at + lasted if workers is not None and workers.ended_at else self.seen.now
            if self.seen.now < told_at:
                self.draft.again_at(told_at)
                return
            self.draft.change(phase="Publishing")
            self.draft.say(in_progress("Publishing", "Every chunk is read; parts are checked and published."))
        self.progress(f"0-{bundles - 1}")

    def create_workers(self) -> None:
        plan, source = self.status.plan, self.seen.source
        if plan is None or self.facts.lead is None:
            raise AssertionError("workers have a plan and a lead")
        if self.facts.older_workers:
            return  # it is being deleted in this very decision
        if source is None:
            self.wait(NO_SOURCE, "The DataSource was deleted: no worker can be made.")
            return
        self.draft.act(Maker(self.facts, source).workers(plan))

    def replace_lost_workers(self) -> None:
        """Go on with another worker Job when pods of this one hang on a silent node: their indexes would, too."""
        workers = self.facts.workers
        pods = [pod for pod in self.facts.pods(Role.WORK) if workers is not None and pod.job_uid == workers.uid]
        lost = next((pod for pod in pods if pod.phase != "Failed" and self.facts.is_lost(pod)), None)
        if lost is not None:
            self.draft.change(workers=self.status.workers + 1)
            message = f"Pod {lost.name} hangs on node {lost.node}, which is silent: its bundle begins anew elsewhere."
            self.draft.event("WorkersReplaced", message, warning=True)

    def progress(self, completed: str) -> None:
        plan = self.status.plan
        if plan is None:
            return
        before = self.status.progress or ProgressStatus()
        done = indexes.chunks_in(indexes.parse(completed), bundles=plan.bundles, chunks=plan.chunks)
        if done < before.chunks:
            return  # of a worker Job that took another's place: it looks through what that had done
        progress = before.model_copy(
            update={
                "summary": f"{done}/{plan.chunks}",
                "chunks": done,
                "completed_bundles": indexes.shorten(completed, _LONGEST_INDEXES),
            }
        )
        self.draft.change(progress=progress)

    def live(self) -> None:
        """Take rows, bytes and the rate from what pods tell, while they read."""
        live, plan, progress = self.seen.live, self.status.plan, self.draft.drafted("progress")
        if live is None or plan is None or progress is None or self.draft.drafted("phase") != "Running":
            return
        changes: dict[str, object] = {"rows": live.rows, "bytes": live.bytes, "rows_per_second": round(live.rate)}
        if not self.status.workers:
            # The lead reads, and no Job counts its chunks.
            done = max(progress.chunks, min(live.chunks, plan.chunks))
            changes |= {"chunks": done, "summary": f"{done}/{plan.chunks}"}
        self.draft.change(progress=progress.model_copy(update=changes))

    def explain(self) -> None:
        """Say why a pod doesn't start, where one doesn't."""
        jobs = self.facts.running_jobs()
        pods = [pod for role in (Role.LEAD, Role.WORK) for pod in self.facts.pods(role)]
        patience = timedelta(seconds=self.settings.explain_after)
        found = explain(jobs, pods, self.seen.warnings, now=self.seen.now, patience=patience)
        if found.text:
            # The scheduler words it anew with every look; the first text stays until the pod starts.
            if self.draft.reason() != _CANT_START:
                self.draft.event(_CANT_START, found.text, warning=True)
                self.draft.say(in_progress(_CANT_START, found.text))
        elif found.ask:
            self.draft.act(LookForWarnings(found.ask))
        elif self.draft.reason() in {_CANT_START, NO_SOURCE, _QUEUED} and not found.waiting and not self.draft.said:
            self.draft.say(in_progress("Started", "The pods have started."))
        if found.waiting:
            self.draft.again_in(self.settings.explain_after)
