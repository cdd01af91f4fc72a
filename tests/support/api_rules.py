"""What the API server and other tools make of a status, as oracles: its rules in CEL, its size, kstatus."""

import json
from datetime import datetime
from typing import Any

import cel

from extraction_contract.source import DataSourceStatus
from extraction_contract.status import ExtractionJobStatus

_RULES = [(rule.message, cel.compile(rule.cel)) for rule in ExtractionJobStatus.RULES]
MOST_BYTES = 4096


class Refused(Exception):
    """The API server refuses a status."""


def stored(status: ExtractionJobStatus | DataSourceStatus) -> dict[str, Any]:
    """Return a status as it is stored: what is unset isn't there."""
    return json.loads(status.model_dump_json(by_alias=True, exclude_none=True))


def check_transition(old: ExtractionJobStatus, new: ExtractionJobStatus) -> None:
    """Raise Refused unless the rules on transitions allow this one."""
    values = {"oldSelf": stored(old), "self": stored(new)}
    for message, program in _RULES:
        if program.execute(values) is not True:
            raise Refused(message)


def check_status(status: ExtractionJobStatus | DataSourceStatus) -> None:
    """Check that a status is valid as it is stored (``model_copy`` validates nothing), and that it is small."""
    text = status.model_dump_json(by_alias=True, exclude_none=True)
    assert type(status).model_validate_json(text) == status
    assert len(text.encode()) <= MOST_BYTES


def kstatus(status: ExtractionJobStatus | DataSourceStatus, *, generation: int, deleting: bool = False) -> str:
    """Return what kstatus' rules for resources that it doesn't know say.

    https://github.com/kubernetes-sigs/cli-utils/blob/master/pkg/kstatus/status/README.md
    """
    if deleting:
        return "Terminating"
    if status.observed_generation != generation:
        return "InProgress"
    found = {condition.type: condition for condition in status.conditions}
    for kind, answer in (("Reconciling", "InProgress"), ("Stalled", "Failed")):
        if kind in found and found[kind].status == "True":
            return answer
    ready = found.get("Ready")
    return "Current" if ready is None or ready.status == "True" else "InProgress"


def check_times(old: ExtractionJobStatus | DataSourceStatus, new: Any, now: datetime) -> None:
    """Check that a condition's time moves exactly when its status does."""
    before = {condition.type: condition for condition in old.conditions}
    for condition in new.conditions:
        known = before.get(condition.type)
        same = known is not None and known.status == condition.status
        assert condition.last_transition_time == (known.last_transition_time if known and same else now)
