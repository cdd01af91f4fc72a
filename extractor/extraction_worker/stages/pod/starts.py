"""Markers of workers in staging: who began a bundle, and who finished it.

``starts/BUNDLE-PODUID.json`` is written before a bundle's first chunk and closed when the pod ends by itself without
having finished the bundle. One that stays open is of a pod that was killed, most likely for its memory: a Job's
template can't change, so the next pod halves its settings instead. A finished bundle is never begun again, so its
marker needs no end.

``ends/BUNDLE-PODUID.json`` is written when every chunk of the bundle has its result in staging. Without it, a publisher
that misses a result couldn't tell whether it is still to come.
"""

import re
from collections.abc import Iterator

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


def finish(sink: Sink, bundle: int, pod_uid: str) -> None:
    """Tell that every chunk of the bundle has its result in staging."""
    sink.put_state(f"ends/{bundle:05d}-{pod_uid}.json", Start(bundle=bundle, pod=pod_uid).to_json())


def finished(sink: Sink) -> Iterator[tuple[int, str]]:
    """Yield the bundles that are finished, each with a pod that did."""
    for name in sink.list_state("ends/"):
        if (found := _END.fullmatch(name)) is not None:
            yield int(found[1]), found[2]


_END = re.compile(r"ends/(\d+)-(.+)\.json")


def _name(bundle: int, pod_uid: str) -> str:
    return f"starts/{bundle:05d}-{pod_uid}.json"


def _is_open(data: bytes | None) -> bool:
    try:
        return not Start.from_json(data or b"").ended
    except ValueError:
        return False
