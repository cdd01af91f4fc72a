"""Rows that wait to be written: the newest of each, as JSON, and not more bytes than a bound."""

from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from pydantic_core import from_json, to_json

from extraction_operator.record.rows import AnyRow, Marked
from extraction_record.tables import Table

_OVERHEAD = 400
"""Bytes of memory of an entry beside its JSON: its key and its places."""
_REMEMBERED = 150_000
"""Keys of which it is known at least what was offered last; about 120 bytes each, and up to twice as many are kept."""

Key = tuple[str, tuple[object, ...]]


class Entry(NamedTuple):
    """A row that waits."""

    table: Table
    body: bytes
    since: float
    """Since when a change of it waits; of one that changed while it was written, since that was done."""


class Batch:
    """Rows that are written together.

    Parameters
    ----------
    entries
        By their keys; nobody changes them any more.
    """

    def __init__(self, entries: Mapping[Key, Entry]) -> None:
        self.entries = entries
        self._texts: Mapping[str, str] | None = None

    def __len__(self) -> int:
        return len(self.entries)

    def texts(self) -> Mapping[str, str]:
        """Return the rows of each table, by its name, as JSON: a text for the statement that writes them.

        Ordered by key: two writers lock rows in the same order. Made once, also in another thread.
        """
        if self._texts is None:
            found: defaultdict[str, list[bytes]] = defaultdict(list)
            for key in sorted(self.entries):
                found[key[0]].append(self.entries[key].body)
            self._texts = {name: f"[{b','.join(bodies).decode()}]" for name, bodies in found.items()}
        return self._texts

    def counts(self) -> dict[str, int]:
        """Return the number of rows of each table."""
        return dict(Counter(name for name, _ in self.entries))

    def halves(self) -> tuple["Batch", "Batch"]:
        """Return two batches of half of the rows each."""
        items = tuple(self.entries.items())
        return Batch(dict(items[: len(items) // 2])), Batch(dict(items[len(items) // 2 :]))


class Spool:
    """Rows that wait, the oldest first.

    Parameters
    ----------
    bound
        Bytes of memory at most. Beyond it the oldest rows are dropped.
    dropped
        Told the tables of rows that were dropped.
    """

    def __init__(self, bound: int, dropped: Callable[[Sequence[str]], None], *, clock: Callable[[], float]) -> None:
        self._bound = bound
        self._dropped = dropped
        self._clock = clock
        self._entries: OrderedDict[Key, Entry] = OrderedDict()
        self._offered = _Offered()
        self.bytes = 0
        """Memory that is taken."""

    def __len__(self) -> int:
        return len(self._entries)

    def lag(self) -> float:
        """Return for how many seconds the oldest row has waited."""
        oldest = next(iter(self._entries.values()), None)
        return 0.0 if oldest is None else self._clock() - oldest.since

    def offer(self, row: AnyRow) -> None:
        """Have a row written, in place of an older one of the same key; one that says nothing new is left out."""
        key, version = (row.table.name, row.key), None
        if isinstance(row, Marked):
            if not self._offered.is_news(key, row.mark):
                return
            body = to_json(row.make())
        else:
            body, version = to_json(row.values), row.version
            if not self._offered.is_news(key, hash(body)):
                return
        waiting = self._entries.get(key)
        if version is not None:
            body = b'%b,"resource_version":%d}' % (body[:-1], version)
        elif waiting is not None and not row.table.newer:
            # What is known stays, as in the table.
            known = {name: value for name, value in from_json(waiting.body).items() if value is not None}
            body = to_json(from_json(body) | known)
        if waiting is not None:
            self.bytes += len(body) - len(waiting.body)
            self._entries[key] = Entry(row.table, body, waiting.since)
        else:
            self.bytes += len(body) + _OVERHEAD
            self._entries[key] = Entry(row.table, body, self._clock())
        self._keep_within_bound()

    def batch(self, rows: int, *, after: int = 0) -> Batch:
        """Return the oldest rows, but for so many. They stay until :meth:`written` says otherwise."""
        return Batch(dict(islice(self._entries.items(), after, after + rows)))

    def written(self, batch: Batch) -> None:
        """Take out what was written. What is newer by now waits behind all others: its turn has been."""
        for key, entry in batch.entries.items():
            waiting = self._entries.get(key)
            if waiting is entry:
                del self._entries[key]
                self.bytes -= len(entry.body) + _OVERHEAD
            elif waiting is not None:
                self._entries[key] = waiting._replace(since=self._clock())
                self._entries.move_to_end(key)

    def forget(self) -> None:
        """Take whatever is offered next as news."""
        self._offered.clear()

    def _keep_within_bound(self) -> None:
        dropped = []
        while self.bytes > self._bound and self._entries:
            key, entry = self._entries.popitem(last=False)
            self._offered.forget(key)
            self.bytes -= len(entry.body) + _OVERHEAD
            dropped.append(entry.table.name)
        if dropped:
            self._dropped(dropped)


class _Offered:
    """What was offered last of each key, as hashes: most versions of an object change nothing that is recorded.

    Two generations: what is asked for stays, and a walk over more keys than one holds forgets none that it needs.
    """

    def __init__(self) -> None:
        self._young: dict[int, int] = {}
        self._old: dict[int, int] = {}

    def is_news(self, key: Key, content: int) -> bool:
        """Return whether this wasn't what was offered last of the key; from now on it is."""
        place = hash(key)
        known = self._young.get(place)
        if known is None:
            known = self._old.get(place)
            if len(self._young) >= _REMEMBERED:
                self._old, self._young = self._young, {}
        elif known == content:
            return False
        self._young[place] = content
        return known != content

    def forget(self, key: Key) -> None:
        """Take whatever is offered next of a key as news."""
        self._young.pop(hash(key), None)
        self._old.pop(hash(key), None)

    def clear(self) -> None:
        """Take whatever is offered next as news."""
        self._young, self._old = {}, {}
