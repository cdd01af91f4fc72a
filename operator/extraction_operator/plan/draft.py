"""A decision being made: the status that is drafted, and what is to be done."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from extraction_operator.plan import conditions
from extraction_operator.plan.conditions import State
from extraction_operator.plan.values import Action, Event, JobDecision, ObservedJob


@dataclass
class Draft:
    """Collects one decision. Actions are carried out by the shell, after a status that is urgent."""

    seen: ObservedJob
    _changes: dict[str, Any] = field(default_factory=dict)
    _states: tuple[State, ...] | None = None
    _actions: list[Action] = field(default_factory=list)
    _events: list[Event] = field(default_factory=list)
    _urgent: bool = False
    _again_at: datetime | None = None

    def change(self, **fields: Any) -> None:
        """Set fields of the status."""
        self._changes |= fields

    def drafted(self, field: str) -> Any:
        """Return a field of the status as it is drafted until now."""
        return self._changes.get(field, getattr(self.seen.job.status, field))

    @property
    def said(self) -> bool:
        """Whether this decision sets the conditions."""
        return self._states is not None

    def say(self, states: tuple[State, ...]) -> None:
        """Set all conditions."""
        self._states = states

    def event(self, reason: str, message: str, *, warning: bool = False) -> None:
        """Tell people; the status that shows the same is urgent, so that it isn't told twice."""
        self._events.append(Event(reason, conditions.shorten(message), warning))
        self._urgent = True

    def act(self, *actions: Action) -> None:
        """Do this, too."""
        self._actions.extend(actions)

    def urgent(self) -> None:
        """Write the status at once."""
        self._urgent = True

    def again_in(self, seconds: float) -> None:
        """Decide again after that time at the latest."""
        self.again_at(self.seen.now + timedelta(seconds=seconds))

    def again_at(self, moment: datetime) -> None:
        """Decide again then at the latest."""
        self._again_at = moment if self._again_at is None else min(self._again_at, moment)

    def reason(self) -> str:
        """Return the reason that the stored status gives for where it stands."""
        found = conditions.find(self.seen.job.status.conditions, "Ready")
        return found.reason if found is not None else ""

    def decision(self) -> JobDecision:
        """Return the whole."""
        job, now = self.seen.job, self.seen.now
        changes = dict(self._changes)
        if self._states is not None:
            changes["observed_generation"] = job.metadata.generation
            changes["conditions"] = conditions.merge(
                job.status.conditions, (*self._states, *conditions.security(job)),
                generation=job.metadata.generation, now=now,
            )  # fmt: skip
        status = job.status.model_copy(update=changes)
        unchanged = status == job.status
        return JobDecision(
            status=job.status if unchanged else status,
            actions=tuple(self._actions),
            events=tuple(self._events),
            urgent=self._urgent and not unchanged,
            again_at=self._again_at,
        )


def unchanged(seen: ObservedJob, actions: Iterable[Action] = (), again_in: float | None = None) -> JobDecision:
    """Return a decision that leaves the status as it is."""
    again_at = seen.now + timedelta(seconds=again_in) if again_in is not None else None
    return JobDecision(status=seen.job.status, actions=tuple(actions), again_at=again_at)
