"""An ExtractionJob as people look at it. Tolerant: the cluster may be of another version than this program."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from extraction_operator.kubectl.exit_codes import CANCELLED, code_of

FINAL = ("Succeeded", "Failed", "Cancelled")


@dataclass(frozen=True)
class JobView:
    """What is shown of an ExtractionJob, and what a change of it depends on."""

    name: str
    uid: str
    version: str
    """``metadata.resourceVersion``."""
    deleting: bool
    suspend: bool
    cancel: bool
    retry: int
    """``spec.retry``."""
    phase: str
    """Pending before the operator's first look."""
    reason: str
    message: str
    """Both of the condition Ready."""
    attempt: int
    retries: int
    """The value of ``spec.retry`` that the attempt answers."""
    summary: str
    """E.g. ``12/40``: chunks that are done, of all."""
    done: int
    chunks: int
    """0 before there is a plan."""
    rows: int
    rows_per_second: int

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> "JobView":
        """Read an object as the API server writes it."""
        metadata, spec, status = raw["metadata"], raw.get("spec") or {}, raw.get("status") or {}
        progress, plan = status.get("progress") or {}, status.get("plan") or {}
        conditions = {found.get("type"): found for found in status.get("conditions") or ()}
        ready = conditions.get("Ready") or {}
        return cls(
            name=metadata["name"],
            uid=metadata.get("uid", ""),
            version=metadata.get("resourceVersion", ""),
            deleting=metadata.get("deletionTimestamp") is not None,
            suspend=bool(spec.get("suspend")),
            cancel=bool(spec.get("cancel")),
            retry=spec.get("retry") or 0,
            phase=status.get("phase") or "Pending",
            reason=ready.get("reason", ""),
            message=ready.get("message", ""),
            attempt=status.get("attempt") or 0,
            retries=status.get("retries") or 0,
            summary=progress.get("summary", ""),
            done=progress.get("chunks") or 0,
            chunks=plan.get("chunks") or 0,
            rows=progress.get("rows") or 0,
            rows_per_second=progress.get("rowsPerSecond") or 0,
        )

    @property
    def is_final(self) -> bool:
        """Whether it has ended; one that failed and is to be retried hasn't."""
        return self.phase in FINAL and not self.is_to_be_retried

    @property
    def is_to_be_retried(self) -> bool:
        """Whether a retry was asked for that the operator hasn't begun."""
        return self.phase == "Failed" and self.retry > self.retries

    def exit_code(self) -> int | None:
        """Return the exit code that says how it ended; None while it goes on."""
        if not self.is_final:
            return None
        return {"Succeeded": 0, "Cancelled": CANCELLED}.get(self.phase, code_of(self.reason))

    def line(self) -> str:
        """Return one line about it."""
        parts = []
        if self.summary:
            parts.append(f"{self.summary} chunks")
        if self.rows:
            parts.append(f"{self.rows:,} rows")
        if self.rows_per_second:
            parts.append(f"{self.rows_per_second:,} rows/s")
        text = self.phase + (f" ({', '.join(parts)})" if parts else "")
        said = ": ".join(part for part in (self.reason if self.reason != self.phase else "", self.message) if part)
        return f"{text}: {said}" if said else text
