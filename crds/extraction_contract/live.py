"""Live progress of a job in Redis: what pods write, and how readers add it up.

One hash for each attempt. The field ``job`` has what the plan promises, each field ``bundle:INDEX`` what the pod has
done that works this bundle: a pod that takes another's place takes its field, so nothing counts twice, and no two
pods write the same. All of it expires an hour after the last write. Counts and names of pods, nothing else.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

JOB_FIELD = "job"
_BUNDLE = "bundle:"
EXPIRES_SECONDS = 3600
WRITE_SECONDS = 0.9
"""Between two writes of a pod: what is read is less than a second old."""


def live_key(run_id: str) -> str:
    """Return the key of an attempt's hash; ``run_id`` is ``UID-ATTEMPT``."""
    return f"extraction:1:live:{{{run_id}}}"


def bundle_field(bundle: int) -> str:
    """Return the field of the pod that works a bundle."""
    return f"{_BUNDLE}{bundle}"


class _Json:
    """A dataclass of numbers and texts as compact JSON; readers ignore what they don't know."""

    def encode(self) -> str:
        """Return it as JSON."""
        return json.dumps(asdict(self), separators=(",", ":"))  # type: ignore[call-overload]

    @classmethod
    def decode(cls, text: str | bytes) -> Self | None:
        """Return what :meth:`encode` wrote; None when it isn't that."""
        try:
            found = json.loads(text)
            known = {field.name: field.type for field in fields(cls)}  # type: ignore[arg-type]
            kinds: dict[Any, Any] = {int: int, float: int | float, str: str}
            if not all(isinstance(found[name], kinds[kind]) for name, kind in known.items()):
                return None
            return cls(**{name: found[name] for name in known})
        except (ValueError, TypeError, KeyError, RecursionError):
            return None


@dataclass(frozen=True)
class Promised(_Json):
    """What the plan promises."""

    chunks: int
    bundles: int
    rows: int
    """Estimated."""
    bytes: int
    """Estimated; as the source sends them."""


@dataclass(frozen=True)
class PodProgress(_Json):
    """How far a pod is with its bundle."""

    pod: str
    rows: int
    bytes: int
    chunks: int
    """Done."""
    of: int
    """Chunks of the bundle."""
    rate: float
    """Rows a second since the pod began to read."""
    at: float
    """When it was written, seconds since 1970 by the pod's clock."""


@dataclass(frozen=True)
class LiveProgress:
    """An attempt: the sums, and its pods by bundle."""

    rows: int
    bytes: int
    chunks: int
    total: int
    """Chunks; 0 where it isn't known."""
    percentage: float
    """By bytes, as estimated, and 100 only when every chunk is done."""
    rate: float
    """Rows a second, of the pods that wrote within the last seconds."""
    updated: float
    """The last write, seconds since 1970."""
    pods: tuple[tuple[int, PodProgress], ...] = ()

    @classmethod
    def of(cls, hash_fields: Mapping[Any, Any]) -> Self | None:
        """Add up a hash as Redis returns it; None where nothing in it can be read."""
        promised: Promised | None = None
        pods: list[tuple[int, PodProgress]] = []
        for raw_name, text in hash_fields.items():
            name = raw_name.decode(errors="replace") if isinstance(raw_name, bytes) else str(raw_name)
            if name == JOB_FIELD:
                promised = Promised.decode(text)
            elif name.startswith(_BUNDLE) and name.removeprefix(_BUNDLE).isdecimal():
                found = PodProgress.decode(text)
                if found is not None:
                    pods.append((int(name.removeprefix(_BUNDLE)), found))
        if promised is None and not pods:
            return None
        return cls._sum(promised, sorted(pods, key=lambda item: item[0]))

    @classmethod
    def _sum(cls, promised: Promised | None, pods: list[tuple[int, PodProgress]]) -> Self:
        done = _total(pod.chunks for _, pod in pods)
        size = _total(pod.bytes for _, pod in pods)
        total = promised.chunks if promised is not None else 0
        updated = max((pod.at for _, pod in pods), default=0.0)
        return cls(
            rows=_total(pod.rows for _, pod in pods),
            bytes=size,
            chunks=done,
            total=total,
            percentage=_percentage(done, total, size, promised.bytes if promised is not None else 0),
            rate=sum(pod.rate for _, pod in pods if pod.at > updated - _SILENT_SECONDS and pod.chunks < pod.of),
            updated=updated,
            pods=tuple(pods),
        )


_SILENT_SECONDS = 5.0


def _total(numbers: Iterable[int]) -> int:
    return max(0, sum(numbers))


def _percentage(done: int, total: int, size: int, promised: int) -> float:
    if total and done >= total:
        return 100.0
    by_chunks = done / total if total else 0.0
    return round(min(99.9, 100 * max(by_chunks, size / promised if promised else 0.0)), 1)
