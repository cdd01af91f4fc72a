"""What to do about a DataSource: ``decide_source(observed, settings) → SourceDecision``. A pod looks at the server."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from extraction_contract.messages import CheckMessage
from extraction_contract.source import ServerStatus
from extraction_operator.plan import children, conditions, names
from extraction_operator.plan.claims import LEAST_FOR_A_JOB, CheckClaim, claim_of_check, pods_of
from extraction_operator.plan.conditions import State, in_progress
from extraction_operator.plan.failures import Failure, Kind, of_job, of_pod
from extraction_operator.plan.settings import Settings
from extraction_operator.plan.values import (
    FINALIZER,
    Action,
    AddFinalizer,
    ChildJob,
    CreateJob,
    DeleteJob,
    Ending,
    Event,
    LookForWarnings,
    ObservedSource,
    RemoveFinalizer,
    Role,
    SourceDecision,
)
from extraction_operator.plan.waiting import explain

_LONGEST_REQUEST = 256

BUSY = "SourceBusy"
"""The reason that a check gives when it found no connection free, of the budget or of the server."""


def decide_source(seen: ObservedSource, settings: Settings) -> SourceDecision:
    """Return what to do now: check the source when it is new, was changed, isn't ready, or when somebody asks."""
    deciding = _Deciding(seen, settings)
    deciding.decide()
    return deciding.decision()


def check_claim(seen: ObservedSource, settings: Settings) -> CheckClaim | None:
    """Return what the source's check wants of the budget, or has; None where none is due and none runs."""
    runs = any(pods_of(job) for job in seen.jobs)
    if not runs and not _Deciding(seen, settings).is_due():
        return None
    return claim_of_check(seen.source, seen.now, runs=runs)


@dataclass
class _Deciding:
    seen: ObservedSource
    settings: Settings
    changes: dict[str, Any] = field(default_factory=dict)
    actions: list[Action] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    states: tuple[State, ...] | None = None
    again_at: datetime | None = None

    def decide(self) -> None:
        source, status, now = self.seen.source, self.seen.source.status, self.seen.now
        self.count()
        protected = FINALIZER in source.metadata.finalizers
        if source.metadata.deletion_timestamp is not None:
            # Jobs that are to be cleaned up need the source's declaration for it.
            if protected and not self.seen.active_jobs:
                self.actions.append(RemoveFinalizer())
            return
        self.sweep()
        due = self.due()
        if (check := self.current) is not None:
            self.look(check)
        elif due <= now:
            if not protected:
                self.actions.append(AddFinalizer())
                return
            if not (grant := self.seen.grant).admitted:
                self.waits("WaitingForBudget", grant.reason, source.metadata.generation)
                self.again_at = grant.again_at
                return
            manifest = children.check_job(source, self.settings, number=status.checks + 1, request=self.request)
            self.actions.append(CreateJob(manifest["metadata"]["name"], Role.CHECK, manifest))
            if status.observed_generation != source.metadata.generation:
                self.states = in_progress("Checking", "A pod connects to the server.")
        elif due < datetime.max.replace(tzinfo=now.tzinfo):
            self.again_at = due

    @property
    def current(self) -> ChildJob | None:
        """The check that hasn't been judged."""
        return next((job for job in self.seen.jobs if job.attempt == self.seen.source.status.checks + 1), None)

    def is_due(self) -> bool:
        """Whether a check would be made now."""
        deleting = self.seen.source.metadata.deletion_timestamp is not None
        return not deleting and self.current is None and self.due() <= self.seen.now

    @property
    def request(self) -> str:
        """The annotation that asks for a check."""
        return self.seen.source.metadata.annotations.get(names.CHECK, "")[:_LONGEST_REQUEST]

    def count(self) -> None:
        """Show the budget."""
        self.changes |= {
            "active_jobs": self.seen.active_jobs,
            "waiting_jobs": self.seen.waiting_jobs,
            "reserved_connections": self.seen.reserved_connections,
        }

    def sweep(self) -> None:
        """Delete checks that are over; the last one that failed stays for its log."""
        status = self.seen.source.status
        for job in self.seen.jobs:
            kept = job.attempt == status.checks and status.failed_checks > 0
            if job.attempt <= status.checks and not kept and not job.deleting:
                self.actions.append(DeleteJob(job.name, job.uid))

    def due(self) -> datetime:
        """Return when the next check is due."""
        source, status = self.seen.source, self.seen.source.status
        now = self.seen.now
        if status.observed_generation != source.metadata.generation or status.check_request != self.request:
            return now
        if status.failed_checks == 0:
            return datetime.max.replace(tzinfo=now.tzinfo)
        settings = self.settings
        wait = min(settings.check_backoff * 2 ** min(status.failed_checks - 1, 30), settings.check_backoff_limit)
        return (status.checked_at or now) + timedelta(seconds=wait)

    def look(self, check: ChildJob) -> None:
        """Read what the check found, if it has."""
        pods = [pod for pod in self.seen.pods if pod.job_uid == check.uid]
        found = next((message for pod in pods if (message := pod.said("check", CheckMessage)) is not None), None)
        failure = next((failure for pod in pods if (failure := of_pod(pod)) is not None), None)
        now = self.seen.now
        if found is not None:
            self.ready(check, found)
        elif failure is not None and failure.reason == BUSY:
            self.wait_for_turn(check, failure.message)
        elif failure is not None:
            self.not_ready(check, failure)
        elif check.ending is not None:
            if check.ended_at is not None and now < check.ended_at + timedelta(seconds=self.settings.last_words):
                self.again_at = now + timedelta(seconds=self.settings.busy_poll)
            elif check.ending is Ending.COMPLETE:
                self.not_ready(check, Failure(Kind.TRANSIENT, "PodFailed", f"Job {check.name} ended without a word."))
            else:
                self.not_ready(check, self.explained(check) or of_job(check))
        else:
            if (explained := self.explained(check)) is not None:
                self.states = in_progress(explained.reason, explained.message)
            self.again_at = now + timedelta(seconds=self.settings.explain_after)

    def explained(self, check: ChildJob) -> Failure | None:
        """Return why the check's pod doesn't start, where it doesn't."""
        patience = timedelta(seconds=self.settings.explain_after)
        found = explain([check], self.seen.pods, self.seen.warnings, now=self.seen.now, patience=patience)
        if found.ask:
            self.actions.append(LookForWarnings(found.ask))
        if found.text:
            return Failure(Kind.TRANSIENT, "PodCannotStart", found.text)
        before = conditions.find(self.seen.source.status.conditions, "Ready")
        if check.ending is not None and before is not None and before.reason == "PodCannotStart":
            return Failure(Kind.TRANSIENT, before.reason, before.message)
        return None

    def ended(self, check: ChildJob, *, failed: int) -> None:
        """Note that a check is over."""
        self.changes |= {
            "observed_generation": check.generation, "checked_at": self.seen.now, "checks": check.attempt,
            "check_request": check.request, "failed_checks": failed,
        }  # fmt: skip

    def ready(self, check: ChildJob, found: CheckMessage) -> None:
        self.ended(check, failed=0)
        self.changes["server"] = ServerStatus(
            version=found.server_version,
            latency_milliseconds=-int(-found.latency_milliseconds // 1),
            tls=found.tls,
            pooler=found.pooler,
            replica=found.replica,
            max_connections=found.max_connections,
            role_connection_limit=found.role_connection_limit,
            can_write=found.can_write,
        )
        limit = self.seen.source.spec.limits.max_connections
        if 0 <= found.role_connection_limit < LEAST_FOR_A_JOB:
            message = (
                f"The role may have {found.role_connection_limit} connections only, and a job needs {LEAST_FOR_A_JOB}: "
                "one holds its snapshot, another one reads. ALTER ROLE … CONNECTION LIMIT gives it more."
            )
            self.not_ready(check, Failure(Kind.TERMINAL, "TooFewConnections", message))
            return
        facts = [
            f"PostgreSQL {found.server_version}",
            found.tls or "no TLS",
            "a replica" if found.replica else "",
            "behind a pooler" if found.pooler else "",
            f"the role may have {found.role_connection_limit} connections only, limits.maxConnections is {limit}"
            if 0 <= found.role_connection_limit < limit
            else "",
        ]
        message = ", ".join(filter(None, facts)) + "."
        writes = "The role could write to this database; give jobs one that can't."
        self.states = (
            State("Ready", holds=True, reason="Connected", message=message),
            State("Reconciling", holds=False, reason="Connected"),
            State("Stalled", holds=False, reason="Connected"),
            State("ReadOnly", holds=False, reason="RoleCanWrite", message=writes)
            if found.can_write
            else State("ReadOnly", holds=True, reason="RoleReadsOnly"),
            self.security(found),
        )
        self.tell("Ready", "True", Event("Connected", message))
        if found.can_write:
            self.tell("ReadOnly", "False", Event("RoleCanWrite", writes, warning=True))
        secure = self.security(found)
        if not secure.holds:
            self.tell("Secure", "False", Event(secure.reason, secure.message, warning=True))

    def security(self, found: CheckMessage) -> State:
        """Return whether passwords and rows travel to a server that proved its name, and unreadable to others."""
        mode = self.seen.source.spec.connection.ssl_mode
        if not found.tls:
            message = f"Passwords and rows travel in the clear: connection.sslMode is {mode}."
            return State("Secure", holds=False, reason="NoTLS", message=message)
        if mode == "verify-full":
            return State("Secure", holds=True, reason="ServerVerified")
        what = "the name in the server's certificate" if mode == "verify-ca" else "the server's certificate"
        message = f"Nobody checks {what}: connection.sslMode is {mode}, verify-full would."
        return State("Secure", holds=False, reason="ServerNotVerified", message=message)

    def wait_for_turn(self, check: ChildJob, why: str) -> None:
        """Check again soon: others have all connections, which says nothing against the source.

        One that was ready stays so, and its jobs begin. One that isn't known as it is declared now isn't ready yet.
        """
        # The server has answered, so earlier failures don't make the pause longer, nor do several busy moments.
        self.ended(check, failed=1)
        self.waits(BUSY, why, check.generation)
        self.tell("Reconciling", "True", Event(BUSY, conditions.shorten(why)))

    def waits(self, reason: str, why: str, generation: int | None) -> None:
        """Tell that a check of a generation waits for a connection."""
        status = self.seen.source.status
        waiting = {
            "Reconciling": State("Reconciling", holds=True, reason=reason, message=why),
            "Stalled": State("Stalled", holds=False, reason=reason),
        }
        ready = conditions.find(status.conditions, "Ready")
        if ready is not None and ready.status == "True" and status.observed_generation == generation:
            others = tuple(
                State(known.type, holds=known.status == "True", reason=known.reason, message=known.message)
                for known in status.conditions
                if known.type not in waiting
            )
            self.states = (*others, *waiting.values())
        else:
            self.states = (State("Ready", holds=False, reason=reason, message=why), *waiting.values())

    def not_ready(self, check: ChildJob, failure: Failure) -> None:
        self.ended(check, failed=self.seen.source.status.failed_checks + 1)
        terminal = failure.kind is Kind.TERMINAL
        self.states = (
            State("Ready", holds=False, reason=failure.reason, message=failure.message),
            State("Reconciling", holds=not terminal, reason=failure.reason, message="It is checked again."),
            State("Stalled", holds=terminal, reason=failure.reason, message=failure.message if terminal else ""),
        )
        self.tell("Ready", "False", Event(failure.reason, conditions.shorten(failure.message), warning=True))

    def tell(self, kind: str, status: str, event: Event) -> None:
        """Tell people when a condition changes, and not with every check."""
        before = conditions.find(self.seen.source.status.conditions, kind)
        if before is None or (before.status, before.reason) != (status, event.reason):
            self.events.append(event)

    def decision(self) -> SourceDecision:
        source, now = self.seen.source, self.seen.now
        changes = dict(self.changes)
        if self.states is not None:
            generation = changes.get("observed_generation", source.metadata.generation)
            changes["conditions"] = conditions.merge(
                source.status.conditions, self.states, generation=max(0, generation), now=now
            )
        status = source.status.model_copy(update=changes)
        checked = status.checks != source.status.checks
        return SourceDecision(
            status=source.status if status == source.status else status,
            actions=tuple(self.actions),
            events=tuple(self.events),
            urgent=checked,
            again_at=self.again_at,
        )
