"""The newest versions of the objects of one kind, and tombstones of those that are gone."""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from extraction_operator.plan.values import Key

T = TypeVar("T")

_TOMBSTONES = 10_000


@dataclass(frozen=True)
class Change(Generic[T]):
    """What became of an object; None is absent."""

    key: Key
    owner: str
    before: T | None
    after: T | None


def is_newer(version: str, known: str) -> bool:
    """Whether a ``resourceVersion`` is newer than another of the same kind.

    They are compared as the API conventions allow since Kubernetes 1.35, and as etcd has always made them: as decimal
    numbers. Of versions that aren't, what comes later counts as newer.
    """
    if version.isdecimal() and known.isdecimal():
        return int(version) > int(known)
    return version != known


@dataclass(frozen=True, slots=True)
class _Entry(Generic[T]):
    version: str
    owner: str
    value: T


class Table(Generic[T]):
    """The objects of one kind.

    ``owner`` of an object is a uid: that of its parent for children, its own for parents.
    """

    def __init__(self) -> None:
        self._entries: dict[Key, _Entry[T]] = {}
        self._owned: dict[str, set[Key]] = {}
        self._gone: OrderedDict[Key, str] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Key]:
        return iter(tuple(self._entries))

    def get(self, key: Key) -> T | None:
        """Return an object."""
        entry = self._entries.get(key)
        return None if entry is None else entry.value

    def version(self, key: Key) -> str:
        """Return the version of an object that is there."""
        return self._entries[key].version

    def owner(self, key: Key) -> str:
        """Return the owner of an object that is there."""
        return self._entries[key].owner

    def owned(self, owner: str) -> Iterator[T]:
        """Return the objects of an owner, ordered by name."""
        return (self._entries[key].value for key in sorted(self._owned.get(owner, ())))

    def is_news(self, key: Key, version: str) -> bool:
        """Whether this version of an object is newer than what is known of it."""
        entry = self._entries.get(key)
        known = entry.version if entry is not None else self._gone.get(key)
        return known is None or is_newer(version, known)

    def put(self, key: Key, version: str, owner: str, value: T) -> Change[T]:
        """Store a version that is news."""
        before = self._drop(key)
        self._gone.pop(key, None)
        self._entries[key] = _Entry(version, owner, value)
        self._owned.setdefault(owner, set()).add(key)
        return Change(key, owner, before.value if before else None, value)

    def remove(self, key: Key, version: str) -> Change[T]:
        """Forget an object as of a version; older ones don't bring it back."""
        before = self._drop(key)
        self._gone[key] = version
        self._gone.move_to_end(key)
        if len(self._gone) > _TOMBSTONES:
            self._gone.popitem(last=False)
        return Change(key, before.owner if before else "", before.value if before else None, None)

    def older_than(self, version: str) -> Iterator[Key]:
        """Return the keys of objects that a LIST of this version must have shown."""
        return (key for key, entry in tuple(self._entries.items()) if not is_newer(entry.version, version))

    def _drop(self, key: Key) -> _Entry[T] | None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            owned = self._owned[entry.owner]
            owned.discard(key)
            if not owned:
                del self._owned[entry.owner]
        return entry
