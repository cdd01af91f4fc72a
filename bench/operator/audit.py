"""The audit log of a plane: which program wrote what, and when it was answered."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from e2e.support.lines import audit_lines

from bench.operator.plane import Plane

ELECTION = "leases"


@dataclass(frozen=True)
class Write:
    """A write that the API server has answered."""

    agent: str
    """The program, without its version."""
    verb: str
    resource: str
    """With its subresource, e.g. ``extractionjobs/status``."""
    namespace: str
    name: str
    code: int
    answered: float
    """Seconds of the wall clock."""


def writes(plane: Plane) -> list[Write]:
    """Return all writes so far."""
    found = []
    for line in audit_lines(plane.folder):
        entry = json.loads(line)
        target = entry.get("objectRef") or {}
        resource = "/".join(filter(None, (target.get("resource", ""), target.get("subresource", ""))))
        found.append(
            Write(
                entry.get("userAgent", "").partition("/")[0], entry["verb"], resource,
                target.get("namespace", ""), target.get("name", ""),
                (entry.get("responseStatus") or {}).get("code", 0),
                datetime.fromisoformat(entry["stageTimestamp"]).timestamp(),
            )
        )  # fmt: skip
    return found


def per_object(found: Iterable[Write], objects: int) -> dict[str, dict[str, float]]:
    """Return the writes for each of so many objects, by program and by verb and resource. Leases don't count."""
    counts: dict[str, Counter[str]] = {}
    for write in found:
        if write.resource != ELECTION:
            refused = "" if write.code < 400 else f" ({write.code})"
            counts.setdefault(write.agent, Counter())[f"{write.verb} {write.resource}{refused}"] += 1
    return {
        agent: {what: round(count / objects, 3) for what, count in counter.most_common()}
        for agent, counter in sorted(counts.items())
    }
