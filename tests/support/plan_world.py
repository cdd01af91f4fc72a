"""One ExtractionJob and what is observed of it, for tests of the planner. Every decision is checked by the oracles."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from extraction_contract.messages import FailureMessage, Message, PlanMessage, PublishMessage
from extraction_contract.meta import Condition
from extraction_contract.models import DataSource, ExtractionJob
from extraction_contract.status import PlanStatus
from extraction_operator.plan.job import decide_job
from extraction_operator.plan.names import child_name
from extraction_operator.plan.settings import Settings
from extraction_operator.plan.values import (
    FINALIZER,
    Action,
    ChildJob,
    Container,
    CreateJob,
    Ending,
    Grant,
    JobDecision,
    ObservedJob,
    Pod,
    Role,
)  # fmt: skip
from support.api_rules import check_status, check_times, check_transition

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
UID = "1f0c9a3e-0000-4000-8000-000000000001"
DIGEST = "0123456789abcdef0123456789abcdef"
SETTINGS = Settings(image="registry/extraction:1")
GRANT = Grant(admitted=True, parallelism=3, pool=2)
SINK = {"s3": {"bucket": "lake", "credentialsSecretRef": {"name": "lake"}}}


def seconds(number: float) -> timedelta:
    """Return that many seconds."""
    return timedelta(seconds=number)


def make_job(*, status: Any = None, metadata: dict[str, Any] | None = None, **spec: Any) -> ExtractionJob:
    """Return an ExtractionJob; ``spec`` in camelCase is merged over the least that one needs."""
    declared: dict[str, Any] = {"dataSourceRef": {"name": "shop"}, "table": "public.orders", "sink": SINK} | spec
    if "query" in spec:
        del declared["table"]
    found = ExtractionJob.model_validate(
        {
            "metadata": {
                "name": "orders", "namespace": "team", "uid": UID, "generation": 1, "creationTimestamp": NOW,
                **(metadata or {}),
            },
            "spec": declared,
        },
        strict=False,
    )  # fmt: skip
    return found if status is None else found.model_copy(update={"status": status})


def make_source(*, ready: bool = True, why: str = "refused", **spec: Any) -> DataSource:
    """Return a DataSource that has been checked."""
    declared: dict[str, Any] = {
        "type": "PostgreSQL",
        "connection": {"host": "shop-db", "database": "shop"},
        "credentialsSecretRef": {"name": "shop-reader"},
    }
    found = DataSource.model_validate(
        {
            "metadata": {"name": "shop", "namespace": "team", "uid": "5" * 8, "generation": 1},
            "spec": declared | spec,
        },
        strict=False,
    )
    condition = Condition(
        type="Ready", status="True" if ready else "False", last_transition_time=NOW, reason="Checked", message=why
    )
    status = found.status.model_copy(update={"observed_generation": 1, "checks": 1, "conditions": (condition,)})
    return found.model_copy(update={"status": status})


def plan_message(bundles: int = 4, chunks: int = 10, reason: str = "") -> PlanMessage:
    """Return what *plan* says of a table."""
    return PlanMessage(
        digest=DIGEST, chunks=chunks, bundles=bundles, estimated_rows=10**6, estimated_bytes=10**9, strategy="ctid",
        reason=reason,
    )  # fmt: skip


PUBLISHED = PublishMessage(
    rows=1000, bytes=5000, files=3, digest=DIGEST, manifest="s3://lake/team/orders/_manifest.json", plan_digest=DIGEST,
    consistency="Snapshot", verification="Written",
)  # fmt: skip


def failure(reason: str = "SourceUnavailable", code: int = 40, *, text: str = "no.", **more: Any) -> FailureMessage:
    """Return the last words of a container; codes of 40 and more are of errors that may pass."""
    return FailureMessage(reason=reason, exit_code=code, transient=40 <= code < 50, message=text, **more)


def ended(name: str, said: Message | str, code: int | None = None, reason: str = "") -> Container:
    """Return a container that has ended."""
    if code is None:
        code = said.exit_code if isinstance(said, FailureMessage) else 0
    text = said if isinstance(said, str) else said.encode()
    return Container(name, exit_code=code, message=text, ended_reason=reason)


def running(name: str) -> Container:
    """Return a container that runs."""
    return Container(name, running=True)


@dataclass
class World:
    """What is observed of one job. Tests change it, and look at what is decided."""

    job: ExtractionJob = field(default_factory=make_job)
    source: DataSource | None = field(default_factory=make_source)
    now: datetime = NOW
    grant: Grant = GRANT
    jobs: list[ChildJob] = field(default_factory=list)
    pods: list[Pod] = field(default_factory=list)
    warnings: dict[str, str] = field(default_factory=dict)
    namespace_terminating: bool = False
    claim_modes: tuple[str, ...] = ()

    # Declared -----------------------------------------------------------------------------------------------------

    def spec(self, **fields: Any) -> None:
        """Change fields of the spec, by their Python names."""
        self.job = self.job.model_copy(
            update={
                "spec": self.job.spec.model_copy(update=fields),
                "metadata": self.job.metadata.model_copy(update={"generation": self.job.metadata.generation + 1}),
            }
        )

    def metadata(self, **fields: Any) -> None:
        """Change metadata."""
        self.job = self.job.model_copy(update={"metadata": self.job.metadata.model_copy(update=fields)})

    def status(self, **fields: Any) -> None:
        """Change the stored status."""
        self.job = self.job.model_copy(update={"status": self.job.status.model_copy(update=fields)})

    def delete(self) -> None:
        """Have somebody delete the job."""
        self.metadata(deletion_timestamp=self.now)

    # Children -----------------------------------------------------------------------------------------------------

    def add_job(self, role: Role, attempt: int = 1, number: int = 0, **fields: Any) -> ChildJob:
        """Add a child."""
        numbers = (attempt, number) if role is Role.WORK else (attempt,)
        name = child_name("orders", UID, role, *numbers)
        made = ChildJob(name, f"uid-of-{name}", role, attempt, number, created=self.now, **fields)
        self.jobs.append(made)
        return made

    def change_job(self, role: Role, **fields: Any) -> ChildJob:
        """Change the child of a role."""
        place, found = next((place, job) for place, job in enumerate(self.jobs) if job.role is role)
        self.jobs[place] = replace(found, **fields)
        return self.jobs[place]

    def add_pod(self, role: Role, *containers: Container, index: int | None = None, **fields: Any) -> Pod:
        """Add a pod of the first Job of a role."""
        job = next(job for job in self.jobs if job.role is role)
        fields = {"phase": "Running", "created": self.now, "node": "node-1"} | fields
        name = f"{job.name}-{len(self.pods)}"
        made = Pod(
            name=name, uid=f"uid-of-{name}", job=job.name, job_uid=job.uid, role=role, attempt=job.attempt,
            index=index, containers=containers, **fields,
        )  # fmt: skip
        self.pods.append(made)
        return made

    def change_pod(self, role: Role, **fields: Any) -> None:
        """Change the pod of a role."""
        place, found = next((place, pod) for place, pod in enumerate(self.pods) if pod.role is role)
        self.pods[place] = replace(found, **fields)

    # Deciding -----------------------------------------------------------------------------------------------------

    def seen(self) -> ObservedJob:
        """Return what is observed."""
        return ObservedJob(
            job=self.job, now=self.now, source=self.source, grant=self.grant, jobs=tuple(self.jobs),
            pods=tuple(self.pods), warnings=self.warnings, namespace_terminating=self.namespace_terminating,
            claim_modes=self.claim_modes,
        )  # fmt: skip

    def decide(self) -> JobDecision:
        """Decide; check that the API server takes the status, and that deciding is repeatable."""
        seen = self.seen()
        decision = decide_job(seen, SETTINGS)
        assert decide_job(seen, SETTINGS) == decision
        check_transition(self.job.status, decision.status)
        check_status(decision.status)
        check_times(self.job.status, decision.status, self.now)
        assert decision.again_at is None or decision.again_at > self.now
        return decision

    def step(self) -> JobDecision:
        """Decide, and store the status. Actions are up to the test."""
        decision = self.decide()
        self.job = self.job.model_copy(update={"status": decision.status})
        return decision

    def pass_time(self, number: float) -> None:
        """Let seconds pass."""
        self.now += seconds(number)

    # Stages -------------------------------------------------------------------------------------------------------

    @classmethod
    def pending(cls, **spec: Any) -> "World":
        """Return the world of a job that could begin."""
        return cls(job=make_job(metadata={"finalizers": (FINALIZER,)}, **spec))

    @classmethod
    def planning(cls, **spec: Any) -> "World":
        """Return the world of a job whose lead plans."""
        world = cls.pending(**spec)
        world.add_job(Role.LEAD, active=1)
        world.add_pod(Role.LEAD, running("hold"), running("plan"), phase="Pending")
        world.step()
        return world

    @classmethod
    def planned(cls, bundles: int = 4, **spec: Any) -> "World":
        """Return the world of a job whose plan is stored, and no worker Job made."""
        world = cls.planning(**spec)
        said = ended("plan", plan_message(bundles))
        world.change_pod(Role.LEAD, phase="Running", containers=(running("hold"), said, running("publish")))
        world.step()
        return world

    @classmethod
    def working(cls, bundles: int = 4, **spec: Any) -> "World":
        """Return the world of a job whose workers work."""
        world = cls.planned(bundles, **spec)
        world.add_job(Role.WORK, number=1, active=3, parallelism=3, completions=bundles)
        world.step()
        return world

    @classmethod
    def publishing(cls, **spec: Any) -> "World":
        """Return the world of a job whose workers are complete."""
        world = cls.working(**spec)
        world.change_job(Role.WORK, ending=Ending.COMPLETE, ended_at=world.now, active=0, completed_indexes="0-3")
        world.pass_time(SETTINGS.brief)
        world.step()
        return world

    @classmethod
    def failed(cls, **spec: Any) -> "World":
        """Return the world of a job that failed while it planned."""
        world = cls.planning(**spec)
        world.lead_says(failure("NotFound", 12, text="There is no table."), container="plan")
        world.step()
        assert world.job.status.phase == "Failed"
        return world

    @property
    def plan(self) -> PlanStatus | None:
        """The stored plan."""
        return self.job.status.plan

    def lead_says(self, said: Message | str, container: str = "publish", code: int | None = None, **pod: Any) -> None:
        """Have the lead's pod end with these words."""
        last = ended(container, said, code)
        before = next(pod for pod in self.pods if pod.role is Role.LEAD).containers
        kept = tuple(found for found in before if found.name not in {container, "hold"})
        good = last.exit_code == 0
        fields = {"phase": "Succeeded" if good else "Failed", "containers": (*kept, last)} | pod
        self.change_pod(Role.LEAD, **fields)
        self.change_job(
            Role.LEAD, active=0, ending=Ending.COMPLETE if good else Ending.FAILED, ended_at=self.now,
            ending_reason="" if good else "BackoffLimitExceeded",
        )  # fmt: skip

    def stop(self) -> None:
        """Do what the Job controller does with Jobs that are to be suspended."""
        for place, job in enumerate(self.jobs):
            if job.ending is None and job.role in {Role.LEAD, Role.WORK}:
                self.jobs[place] = replace(
                    job, suspended=True, suspended_since=job.suspended_since or self.now, active=0, terminating=0
                )
        gone = {job.uid for job in self.jobs if job.suspended}
        self.pods = [pod for pod in self.pods if pod.job_uid not in gone or pod.phase in {"Failed", "Succeeded"}]

    def clean_says(self, said: Message | str) -> None:
        """Have a clean-up end with these words."""
        self.add_job(Role.CLEAN, ending=Ending.COMPLETE, ended_at=self.now)
        self.add_pod(Role.CLEAN, ended("clean", said), phase="Succeeded")


def created(decision: JobDecision) -> list[str]:
    """Return the roles and numbers of created children, e.g. ``lead-1`` and ``work-1-1``."""
    found = [action.name for action in decision.actions if isinstance(action, CreateJob)]
    return [name.removeprefix(f"orders-{UID[:8]}-") for name in found]


def actions(decision: JobDecision, kind: type[Action]) -> list[Any]:
    """Return the actions of a kind."""
    return [action for action in decision.actions if isinstance(action, kind)]


def reasons(decision: JobDecision) -> list[str]:
    """Return the reasons of the Events."""
    return [event.reason for event in decision.events]


def ready(decision: JobDecision) -> tuple[str, str]:
    """Return reason and message of the condition Ready."""
    found = next(condition for condition in decision.status.conditions if condition.type == "Ready")
    return found.reason, found.message
