"""What keeps a job from beginning before its budget is asked; asked by who decides, and by who asks the budget."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from extraction_contract.models import DataSource, ExtractionJob
from extraction_operator.plan import conditions
from extraction_operator.plan.facts import FINAL
from extraction_operator.plan.values import ChildJob
from extraction_operator.plan.windows import open_window, opening

NO_SOURCE = "SourceNotFound"


@dataclass(frozen=True)
class Hindrance:
    """Why a job doesn't begin yet. ``until`` is when it may; without a reason that was said before."""

    reason: str = ""
    message: str = ""
    until: datetime | None = None


def hindrance(job: ExtractionJob, source: DataSource | None, now: datetime) -> Hindrance | None:
    """Return what a job waits for, other than its part of the budget; None when there is nothing."""
    later = job.status.next_attempt_time
    if source is None or source.metadata.deletion_timestamp is not None:
        return Hindrance(NO_SOURCE, f"There is no DataSource {job.spec.data_source_ref.name} in the namespace.")
    if (problem := _problem(source)) is not None:
        return Hindrance("SourceNotReady", f"DataSource {source.metadata.name} isn't ready: {problem}")
    if job.spec.suspend:
        return Hindrance("Suspended", "spec.suspend is true: the job hasn't begun.")
    if later is not None and later > now:
        return Hindrance(until=later)
    windows = source.spec.limits.windows
    if windows and open_window(windows, now) is None:
        opens = opening(windows, now)
        when = f"the next one opens on {opens:%Y-%m-%d at %H:%M %Z}" if opens is not None else "none will open"
        return Hindrance("OutsideWindow", f"No window of DataSource {source.metadata.name} is open: {when}.", opens)
    return None


def wants_budget(job: ExtractionJob, source: DataSource, children: Iterable[ChildJob], now: datetime) -> bool:
    """Whether a job has connections, or would begin if it got some."""
    children = tuple(children)
    if any(child.active or child.terminating for child in children):
        return True
    if job.status.phase in FINAL:
        return False
    if job.status.phase not in {None, "Pending"} or children:
        return True
    ends = job.metadata.deletion_timestamp is not None or job.spec.cancel
    return not ends and hindrance(job, source, now) is None


def _problem(source: DataSource) -> str | None:
    """Return why a source can't be read now; None when it can."""
    ready = conditions.find(source.status.conditions, "Ready")
    if ready is None or source.status.observed_generation < source.metadata.generation:
        return "it hasn't been checked yet."
    return None if ready.status == "True" else ready.message
