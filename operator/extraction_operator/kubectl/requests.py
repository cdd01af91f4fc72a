"""What people ask of a job, as the least change of it that says so. Pure: what is seen → a change, or a refusal."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from extraction_operator.kubectl.view import FINAL, JobView

MOST_RETRIES = 1000
"""Of ``spec.retry``, by its schema."""


class Refused(Exception):
    """It makes no sense now; the message says why, and what would."""


@dataclass(frozen=True)
class Request:
    """A change of ``spec``, and what comes of it. Without a change it is as wanted already."""

    change: dict[str, Any] | None
    says: str


Ask = Callable[[JobView], Request]
"""Raises :class:`Refused`."""


def cancel(job: JobView) -> Request:
    """End a job without a result."""
    _be_there(job)
    if job.cancel:
        return Request(None, "is cancelled." if job.phase == "Cancelled" else "is being cancelled.")
    if job.is_final:
        raise Refused(f"{job.name} is {job.phase}: there is nothing left to cancel.")
    says = "will be cancelled: its pods end, and its staging is cleaned up. This can't be taken back."
    return Request({"cancel": True}, says)


def suspend(job: JobView) -> Request:
    """Stop the workers of a job."""
    _go_on(job, "suspend")
    if job.suspend:
        return Request(None, "is suspended already.")
    says = "will be suspended. Finished chunks stay as long as its snapshot lives (spec.snapshot.maxAge)."
    return Request({"suspend": True}, says)


def resume(job: JobView) -> Request:
    """Let a suspended job go on."""
    _go_on(job, "resume")
    if not job.suspend:
        return Request(None, "isn't suspended.")
    return Request({"suspend": False}, "goes on.")


def retry(job: JobView) -> Request:
    """Begin another attempt of a failed job."""
    _be_there(job)
    if job.is_to_be_retried:
        return Request(None, f"will be retried already (spec.retry is {job.retry}).")
    if job.phase != "Failed":
        why = {
            "Succeeded": "its result is published. To extract again, create another ExtractionJob",
            "Cancelled": "that is final. To extract after all, create another ExtractionJob",
        }.get(job.phase, "only a job that Failed can be retried. Transient failures are repeated without being asked")
        raise Refused(f"{job.name} is {job.phase}: {why}.")
    if job.cancel:
        raise Refused(f"{job.name} was cancelled, which can't be taken back. Create another ExtractionJob.")
    if job.retry >= MOST_RETRIES:
        raise Refused(f"{job.name} was retried {job.retry} times, the most there may be. Create another ExtractionJob.")
    suspended = " It is suspended: `resume` lets it begin." if job.suspend else ""
    return Request(
        {"retry": max(job.retry, job.retries) + 1}, f"will be retried as attempt {job.attempt + 1}.{suspended}"
    )


def _be_there(job: JobView) -> None:
    if job.deleting:
        raise Refused(f"{job.name} is being deleted.")


def _go_on(job: JobView, what: str) -> None:
    """Pass a job that hasn't ended and isn't about to."""
    _be_there(job)
    if job.phase in FINAL and not job.is_to_be_retried:
        raise Refused(f"{job.name} is {job.phase}: there is nothing to {what}.")
    if job.cancel:
        raise Refused(f"{job.name} is being cancelled, which can't be taken back.")
