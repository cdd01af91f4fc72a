"""What of a spec is recorded: more people read the record than may read the objects, and it outlives them.

An allow-list, so that a new field isn't recorded before somebody has thought about it. Left out are names of Secrets,
pod templates (labels and annotations may hold anything) and SQL: the literals of a predicate are values of rows.
"""

from collections.abc import Mapping
from typing import Any

Tree = Mapping[str, "Tree | None"]
"""Names of fields; None takes the whole value, a tree those of its fields, or of each of its items."""

_FORMAT: Tree = {"type": None, "compression": None, "targetFileBytes": None}
JOB: Tree = {
    "dataSourceRef": {"name": None}, "table": None, "columns": None, "onUnrepresentable": None,
    "partitioning": {"strategy": None, "column": None, "targetBytes": None},
    "masks": {"column": None, "method": None}, "priority": None,
    "consistency": None, "snapshot": {"maxAge": None, "onLoss": None}, "parallelism": None,
    "sink": {
        "format": _FORMAT,
        "s3": {"bucket": None, "prefix": None, "endpoint": None, "region": None, "forcePathStyle": None},
        "volume": {"claimName": None, "path": None},
        "ifExists": None, "publishGuard": None,
    },
    "reuse": {"maxAge": None}, "verification": None, "sourceProof": {"samplePercent": None},
    "activeDeadlineSeconds": None, "ttlSecondsAfterFinished": None, "suspend": None, "cancel": None, "retry": None,
}  # fmt: skip
"""Of an ExtractionJob."""
SQL = frozenset({"query", "where"})
"""Of these only the length is recorded."""
SOURCE: Tree = {
    "type": None, "connection": {"host": None, "port": None, "database": None, "sslMode": None},
    "limits": {
        "maxConnections": None, "bytesPerSecond": None, "activeJobs": None, "statementTimeout": None,
        "lockTimeout": None, "yieldToDDLAfter": None,
        "windows": {"days": None, "start": None, "end": None, "timeZone": None, "maxConnections": None},
    },
    "budgetGroup": None,
    "pool": {"size": None, "minIdle": None, "acquireTimeout": None, "idleTimeout": None, "maxLifetime": None},
    "protection": {
        "slowAtReplicationLag": None, "yieldAtReplicationLag": None, "yieldAtSnapshotAge": None,
        "yieldToIndexBuildAfter": None, "slowAtFreeConnections": None,
    },
    "policy": {"rowSecurity": None},
}  # fmt: skip
"""Of a DataSource."""


def job_spec(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is recorded of the spec of an ExtractionJob."""
    return pick(spec, JOB) | {name: {"characters": len(spec[name])} for name in sorted(SQL) if spec.get(name)}


def source_spec(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is recorded of the spec of a DataSource."""
    return pick(spec, SOURCE)


def pick(value: Mapping[str, Any], tree: Tree) -> dict[str, Any]:
    """Return the fields of a tree that are set."""
    return {name: _pick_each(field, tree[name]) for name, field in value.items() if name in tree and field is not None}


def _pick_each(field: Any, tree: Tree | None) -> Any:
    if tree is None:
        return field
    return [pick(item, tree) for item in field] if isinstance(field, list) else pick(field, tree)
