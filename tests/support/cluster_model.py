"""A model of what stands around the planner: garbage collector, Job controller, kubelets, pods.

Each of them takes its steps when a test says so, in any order. Pods do what docs/operator.md says, and end as told.
"""

from collections.abc import Callable
from dataclasses import replace

from extraction_contract.messages import (
    TERMINAL_EXIT_CODES,
    CleanMessage,
    FailureMessage,
    Message,
    NotAMessage,
    PlanMessage,
    decode,
)  # fmt: skip
from extraction_operator.plan.values import ChildJob, Container, Ending, Pod, Role
from support.api_model import ApiServer
from support.plan_world import PUBLISHED, seconds

GRACE = 30


class Cluster(ApiServer):
    """The world of one ExtractionJob."""

    # Controllers ------------------------------------------------------------------------------------------------------

    def collect(self) -> None:
        """Do what the garbage collector does: dependents go with their owner, Jobs after their pods."""
        uids = {child.uid for child in self.children.values()}
        leads = {child.attempt for child in self.children.values() if child.role is Role.LEAD}
        for child in list(self.children.values()):
            by_lead = child.uid in self.owned_by_lead
            orphan = child.attempt not in leads if by_lead else self.job is None and child.role is not Role.CLEAN
            if orphan and not child.deleting:
                self.delete(child.name)
            if child.deleting:
                mine = [pod for pod in self.pods.values() if pod.job_uid == child.uid]
                for pod in mine:
                    self.delete_pod(pod.name)
                if not mine:
                    self.drop("children", child.name)
        for pod in list(self.pods.values()):
            if pod.job_uid not in uids:
                self.delete_pod(pod.name)

    def delete_pod(self, name: str, disrupted: str = "") -> None:
        """Ask for a pod to go; one that has ended goes at once."""
        pod = self.pods.get(name)
        if pod is None:
            return
        if pod.phase in {"Succeeded", "Failed"} and not disrupted:
            self.drop("pods", name)
        elif pod.deleting_since is None:
            since = self.now + seconds(GRACE)
            self.put("pods", name, replace(pod, deleting_since=since, disrupted=disrupted or pod.disrupted))

    def sync(self, name: str) -> None:
        """Do what the Job controller does about one Job, with all pods in view."""
        job = self.children.get(name)
        if job is None or job.deleting:
            return
        new = self._judge(job)
        if new.ending is not None or new.suspended:
            for pod in self._active(new):
                self.delete_pod(pod.name)
        if new.ending is None:
            new = replace(new, suspended_since=(new.suspended_since or self.now) if new.suspended else None)
            if not new.suspended:
                self._start_pods(new)
        active = self._active(new)
        terminating = [pod for pod in self._mine(new) if pod.deleting_since is not None and not _over(pod)]
        # The sidecar's pod counts until it is over, whatever was said.
        new = replace(new, active=len(active), terminating=len(terminating))
        if new != job:
            self.put("children", name, new)

    def _mine(self, job: ChildJob) -> list[Pod]:
        return [pod for pod in self.pods.values() if pod.job_uid == job.uid]

    def _active(self, job: ChildJob) -> list[Pod]:
        return [pod for pod in self._mine(job) if pod.deleting_since is None and not _over(pod)]

    def _judge(self, job: ChildJob) -> ChildJob:
        """Return the Job with its ending, if it has one."""
        if job.ending is not None:
            return job
        failed = [pod for pod in self._mine(job) if pod.phase == "Failed"]
        good = {pod.index or 0 for pod in self._mine(job) if pod.phase == "Succeeded"}
        if job.role is not Role.WORK:
            # Terminating pods count as failed (TerminatingOrFailed), but not those that a suspension deleted.
            gone = [pod for pod in self._mine(job) if pod.deleting_since is not None and not _over(pod)]
            if good:
                return replace(job, ending=Ending.COMPLETE, ended_at=self.now)
            if failed or (gone and not job.suspended and job.suspended_since is None):
                return replace(job, ending=Ending.FAILED, ended_at=self.now, ending_reason="BackoffLimitExceeded")
            return job
        done = _parse(job.completed_indexes) | good
        job = replace(job, completed_indexes=",".join(map(str, sorted(done))), succeeded=len(done))
        counts = self.counted.setdefault(job.uid, {})
        for pod in failed:
            if any(container.exit_code in TERMINAL_EXIT_CODES for container in pod.containers):
                return replace(job, ending=Ending.FAILED, ended_at=self.now, ending_reason="PodFailurePolicy")
            if not pod.disrupted:
                counts[pod.uid] = pod.index or 0
        worst = [index for index in range(job.completions) if list(counts.values()).count(index) > 3]
        if worst:
            indexes = ",".join(map(str, worst))
            return replace(
                job, ending=Ending.FAILED, ended_at=self.now, ending_reason="MaxFailedIndexesExceeded",
                failed_indexes=indexes,
            )  # fmt: skip
        if len(done) == job.completions:
            return replace(job, ending=Ending.COMPLETE, ended_at=self.now)
        return job

    def _start_pods(self, job: ChildJob) -> None:
        live = {pod.index for pod in self._mine(job) if not _over(pod)}
        if job.role is not Role.WORK:
            if not live and job.parallelism:
                self.start_pod(job, None)
            return
        if job.uid in self.resting:
            return
        todo = [index for index in range(job.completions) if index not in live | _parse(job.completed_indexes)]
        for index in todo[: max(0, job.parallelism - len(self._active(job)))]:
            self.start_pod(job, index)

    def start_pod(self, job: ChildJob, index: int | None) -> None:
        """Create a pod of a Job."""
        number = next(self._numbers)
        name = f"{job.name}-{number}"
        pod = Pod(
            name=name, uid=f"uid-{number}", job=job.name, job_uid=job.uid, role=job.role, attempt=job.attempt,
            index=index, created=self.now, phase="Pending", node=f"node-{number % 3}",
        )  # fmt: skip
        self.put("pods", name, pod)

    # Kubelets and pods ------------------------------------------------------------------------------------------------

    def run_pod(self, name: str, outcome: str = "good") -> None:
        """Let a pod take its next step, which ends as told."""
        pod = self.pods.get(name)
        if pod is None or pod.node in self.silent or _over(pod):
            return
        if pod.deleting_since is not None:
            self._terminate(pod, outcome)
        elif any(found.exit_code not in {None, 0} for found in pod.containers):
            self.put("pods", name, replace(pod, phase="Failed"))
        elif pod.role is Role.LEAD and not pod.containers:
            self.put("pods", name, replace(pod, containers=(Container("hold", running=True),)))
        else:
            self.check_somebody_cleans_after(pod)
            step: Callable[[Pod, str], None] = {
                Role.LEAD: self._run_lead, Role.WORK: self._run_work, Role.CLEAN: self._run_clean,
            }[pod.role]  # fmt: skip
            step(pod, outcome)

    def _terminate(self, pod: Pod, outcome: str) -> None:
        """End a pod on request: nothing more is said, or that it was interrupted; then it is gone."""
        if outcome == "good" or any(found.message for found in pod.containers if found.exit_code):
            self.drop("pods", pod.name)
            return
        said = "" if outcome == "silent" else FailureMessage(reason="Interrupted", exit_code=130, message="x").encode()
        last = Container("publish" if pod.role is Role.LEAD else pod.role.value, exit_code=130, message=said)
        kept = tuple(found for found in pod.containers if found.exit_code == 0)
        self.put("pods", pod.name, replace(pod, phase="Failed", containers=(*kept, last)))

    def _end(self, pod: Pod, container: str, outcome: str, said: Message, *, last: bool = True) -> None:
        """End a container."""
        text, code = said.encode(), said.exit_code if isinstance(said, FailureMessage) else 0
        if outcome == "silent":
            text, code = "", 137
        elif outcome == "cut":
            text = text[: len(text) // 2]
        ended = Container(container, exit_code=code, message=text)
        kept = tuple(found for found in pod.containers if found.name != container)
        phase = "Succeeded" if last and code == 0 else "Failed" if code and pod.role is not Role.LEAD else "Running"
        self.put("pods", pod.name, replace(pod, phase=phase, containers=(*kept, ended)))

    def _run_lead(self, pod: Pod, outcome: str) -> None:
        attempt, planned = pod.attempt, pod.container("plan")
        if planned is None:
            if outcome in FAILURES:
                self.staging.plans.pop(attempt, None)
                self._end(pod, "plan", outcome, FAILURES[outcome], last=False)
                return
            bundles = 1 if outcome == "small" else 3
            plan = PlanMessage(
                digest=f"{attempt:031x}{bundles}", chunks=7, bundles=bundles, estimated_rows=1, estimated_bytes=1,
                strategy="ctid",
            )  # fmt: skip
            # What was published takes nothing into its staging any more.
            plan = plan if attempt in self.staging.published else self.staging.plans.setdefault(attempt, plan)
            self._end(pod, "plan", outcome, plan, last=False)
            return
        if outcome in FAILURES:
            self._end(pod, "publish", outcome, FAILURES[outcome])
            return
        try:
            plan = decode(planned.message)
        except NotAMessage:
            plan = self.staging.plans.get(attempt)
        if attempt not in self.staging.published:
            if attempt not in self.staging.plans or not isinstance(plan, PlanMessage):
                self._end(pod, "publish", "good", FAILURES["terminal"])
                return
            if plan.bundles > 1 and len(self.staging.results.get(attempt, ())) < plan.bundles:
                return  # it waits
            if self.staging.published:
                self._end(pod, "publish", "good", FailureMessage(reason="SinkExists", exit_code=26, message="x"))
                return
            self.staging.published[attempt] = PUBLISHED.model_copy(update={"plan_digest": plan.digest, "rows": attempt})
            self.staging.discard(attempt)
        self._end(pod, "publish", outcome, self.staging.published[attempt])

    def _run_work(self, pod: Pod, outcome: str) -> None:
        attempt = pod.attempt
        if outcome in FAILURES:
            self._end(pod, "work", outcome, FAILURES[outcome])
            return
        if attempt not in self.staging.published:
            if attempt not in self.staging.plans:
                self._end(pod, "work", "good", FAILURES["terminal"])
                return
            self.staging.results.setdefault(attempt, set()).add(pod.index or 0)
        self._end(pod, "work", outcome, CleanMessage())

    def _run_clean(self, pod: Pod, outcome: str) -> None:
        attempt = pod.attempt
        assert not self.live_pods(attempt), "somebody is at work while staging is cleaned"
        if outcome in FAILURES:
            self._end(pod, "clean", outcome, FAILURES[outcome])
            return
        published = self.staging.published.get(attempt)
        self.staging.discard(attempt)
        self._end(pod, "clean", outcome, published or CleanMessage())


FAILURES = {
    "terminal": FailureMessage(reason="NotFound", exit_code=12, message="gone"),
    "transient": FailureMessage(reason="SourceUnavailable", exit_code=40, transient=True, message="down"),
    "snapshot": FailureMessage(reason="SnapshotLost", exit_code=22, message="lost"),
}
OUTCOMES = ("good", "small", "silent", "cut", *FAILURES)


def _over(pod: Pod) -> bool:
    return pod.phase in {"Succeeded", "Failed"}


def _parse(indexes: str) -> set[int]:
    return {int(index) for index in indexes.split(",") if index}
