"""Conditions as kstatus and ``kubectl wait`` read them."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from extraction_contract.meta import Condition
from extraction_contract.models import ExtractionJob

LONGEST = 600
"""Bytes of the message that people read, as JSON: of the condition Ready, and of an Event."""
_REPEATED = 300
"""Of the same message in other conditions: all of a status must fit into 4 KiB."""


@dataclass(frozen=True)
class State:
    """What one condition should say."""

    type: str
    holds: bool
    reason: str
    message: str = ""


def merge(
    old: Iterable[Condition], wanted: Iterable[State], *, generation: int, now: datetime
) -> tuple[Condition, ...]:
    """Return the wanted conditions; one that keeps its status keeps the time of its last transition."""
    before = {condition.type: condition for condition in old}
    merged = []
    for state in wanted:
        status: Literal["True", "False"] = "True" if state.holds else "False"
        known = before.get(state.type)
        since = known.last_transition_time if known is not None and known.status == status else now
        merged.append(
            Condition(
                type=state.type,
                status=status,
                observed_generation=generation,
                last_transition_time=since,
                reason=state.reason,
                message=shorten(state.message, LONGEST if state.type == "Ready" else _REPEATED),
            )
        )
    return tuple(merged)


def security(job: ExtractionJob) -> tuple[State, ...]:
    """Return the warning about a store to which rows and keys travel in the clear; nothing where they don't."""
    store = job.spec.sink.s3
    if store is None or not (store.endpoint or "").startswith("http:"):
        return ()
    message = "Files travel in the clear: sink.s3.endpoint is a URL of http."
    return (State("Secure", holds=False, reason="StoreWithoutTLS", message=message),)


def find(conditions: Iterable[Condition], kind: str) -> Condition | None:
    """Return the condition of a type."""
    return next((condition for condition in conditions if condition.type == kind), None)


def shorten(message: str, longest: int = LONGEST) -> str:
    """Return the message, cut where it takes more bytes as JSON."""
    kept, length = message, len(message)
    while (size := len(json.dumps(kept, ensure_ascii=False).encode()) - 2) > longest:
        # No character takes more than six bytes.
        length -= max(1, (size - longest) // 6)
        kept = f"{message[:length]}…"
    return kept


def in_progress(reason: str, message: str) -> tuple[State, ...]:
    """Return what says: being worked on; nothing to do for anybody."""
    return (
        State("Ready", holds=False, reason=reason, message=message),
        State("Reconciling", holds=True, reason=reason, message=message),
        State("Stalled", holds=False, reason=reason),
    )


def succeeded(message: str) -> tuple[State, ...]:
    """Return what says: done."""
    return (
        State("Ready", holds=True, reason="Succeeded", message=message),
        State("Reconciling", holds=False, reason="Succeeded"),
        State("Stalled", holds=False, reason="Succeeded"),
        State("Succeeded", holds=True, reason="Succeeded", message=message),
    )


def ended(reason: str, message: str, *, failed: bool) -> tuple[State, ...]:
    """Return what says: this ended without a result, and won't go on by itself."""
    states = (
        State("Ready", holds=False, reason=reason, message=message),
        State("Reconciling", holds=False, reason=reason),
        State("Stalled", holds=True, reason=reason, message=message),
    )
    return (*states, State("Failed", holds=True, reason=reason, message=message)) if failed else states
