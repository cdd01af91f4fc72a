"""Markers of workers in staging, by which a bundle whose pod was killed for its memory is begun with less of it.

``starts/BUNDLE-PODUID.json`` is written before a bundle's first chunk and closed when the pod ends by itself without
having finished the bundle. One that stays open is of a pod that was killed, most likely for its memory: a Job's
template can't change, so the next pod halves its settings instead. A finished bundle is never begun again, so its
marker needs no end.
"""

from extraction_worker.model import Value
from extraction_worker.sink.abc import Sink


class Start(Value):
    """A pod that began a bundle."""

    bundle: int
    pod: str
    ended: str = ""
    """Why, in one word, where it ended by itself."""


def begin(sink: Sink, bundle: int, pod_uid: str) -> int:
    """Write this pod's marker; return how many earlier pods began the bundle and were killed."""
    mine = _name(bundle, pod_uid)
    others = [name for name in sink.list_state(f"starts/{bundle:05d}-") if name != mine]
    sink.put_state(mine, Start(bundle=bundle, pod=pod_uid).to_json())
    return sum(_is_open(sink.get_state(name)) for name in others)


def end(sink: Sink, bundle: int, pod_uid: str, reason: str) -> None:
    """Close this pod's marker."""
    sink.put_state(_name(bundle, pod_uid), Start(bundle=bundle, pod=pod_uid, ended=reason).to_json())


def _name(bundle: int, pod_uid: str) -> str:
    return f"starts/{bundle:05d}-{pod_uid}.json"


def _is_open(data: bytes | None) -> bool:
    try:
        return not Start.from_json(data or b"").ended
    except ValueError:
        return False
