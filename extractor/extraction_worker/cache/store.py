"""Values under keys, loaded by one process at a time.

A value that isn't there is loaded by whoever gets the lease (``SET NX``); others wait for it, for a moment, then load
it for themselves. The lease is fenced: who lost it meanwhile doesn't store. Keys of one entry share a hash tag, so
that all of it is in one slot of a cluster.
"""

import secrets
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Generic, TypeVar

import xxhash
from pydantic import ValidationError

from extraction_contract.messages import CacheUse
from extraction_worker.cache.connection import RedisAwayError, RedisConnection
from extraction_worker.model import Value

PREFIX = "extraction:1"
"""Of every key; its number is the version of how values are written."""
MAX_BYTES = 256 * 1024
"""Of a value as it is stored; a larger one isn't."""
_LEASE_MILLISECONDS = 5_000
_WAIT_SECONDS = 2.0
_POLL_SECONDS = 0.02
_LONGEST = 8 * MAX_BYTES

_V = TypeVar("_V", bound=Value)

_STORE = """
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
redis.call('DEL', KEYS[2])
return 1
"""
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


class Family(StrEnum):
    """What is remembered. The values are labels of metrics."""

    INTROSPECTION = "introspection"
    PAGES = "pages"
    STATISTICS = "statistics"
    RESULT = "result"


SECONDS = {Family.INTROSPECTION: 3600, Family.PAGES: 1800, Family.STATISTICS: 300, Family.RESULT: 900}
"""How long a value is kept."""


@dataclass
class _Counts:
    hits: int = 0
    misses: int = 0
    errors: int = 0


@dataclass(frozen=True)
class Timing:
    """How long things may take, in seconds."""

    lease: float = _LEASE_MILLISECONDS / 1000
    wait: float = _WAIT_SECONDS
    poll: float = _POLL_SECONDS


@dataclass(frozen=True)
class Entry(Generic[_V]):
    """One value: where it is and how it is judged."""

    family: Family
    parts: tuple[object, ...]
    """All that the value depends on and that is known before it is looked up."""
    kind: type[_V]
    is_current: Callable[[_V], bool] = lambda _: True
    """Compares what was found with the source."""


@dataclass
class Cache:
    """Remembers values of one DataSource. For one thread.

    Parameters
    ----------
    scope
        Names the DataSource: namespace, name, uid and generation.
    """

    connection: RedisConnection
    scope: str
    timing: Timing = Timing()
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _counts: dict[Family, _Counts] = field(default_factory=dict)

    def uses(self) -> tuple[CacheUse, ...]:
        """Return how often what was looked up."""
        return tuple(
            CacheUse(cache=family.value, hits=counts.hits, misses=counts.misses, errors=counts.errors)
            for family, counts in sorted(self._counts.items())
        )

    def key(self, entry: Entry[_V]) -> str:
        """Return the key of an entry."""
        digest = xxhash.xxh3_128_hexdigest("\n".join(map(str, entry.parts)).encode())
        return f"{PREFIX}:{entry.family}:{{{self.scope}:{digest}}}"

    def find(self, entry: Entry[_V]) -> _V | None:
        """Return the value, if it is there and current.

        Raises
        ------
        ExtractionError
            As ``is_current`` does.
        """
        counts = self._of(entry.family)
        try:
            data = self._get(self.key(entry))
        except RedisAwayError:
            counts.errors += 1
            return None
        found = self._judged(entry, data)
        if found is None:
            counts.misses += 1
        else:
            counts.hits += 1
        return found

    def put(self, entry: Entry[_V], value: _V) -> None:
        """Store a value, whoever else does."""
        packed = _pack(value)
        if packed is None:
            return
        milliseconds = SECONDS[entry.family] * 1000
        try:
            self.connection.call(lambda redis: redis.set(self.key(entry), packed, px=milliseconds))
        except RedisAwayError:
            self._of(entry.family).errors += 1

    def remembered(self, entry: Entry[_V], load: Callable[[], _V]) -> _V:
        """Return the value: as it was stored and is current, or else as ``load`` returns it.

        Raises
        ------
        ExtractionError
            As ``load`` and ``is_current`` do.
        """
        counts, key, token = self._of(entry.family), self.key(entry), secrets.token_hex(8)
        try:
            found, leased = self._await(entry, key, token)
        except RedisAwayError:
            counts.errors += 1
            return load()
        if found is not None:
            counts.hits += 1
            return found
        counts.misses += 1
        if not leased:
            return load()
        try:
            value = load()
        except BaseException:
            self._release(entry.family, key, token)
            raise
        self._store(entry.family, key, token, value)
        return value

    # Redis -----------------------------------------------------------------------------------------------------------

    def _await(self, entry: Entry[_V], key: str, token: str) -> tuple[_V | None, bool]:
        """Return the value, or whether we are the one who loads it; neither, when waiting for another took too long."""
        deadline = self.clock() + self.timing.wait
        data: bytes | None = None
        while True:
            before, data = data, self._get(key)
            # What isn't current doesn't become so: asking the source once is enough.
            found = self._judged(entry, data) if data != before else None
            if found is not None:
                return found, False
            if self._lease(key, token):
                # Stored and released just before.
                newest = self._get(key)
                found = self._judged(entry, newest) if newest != data else None
                if found is not None:
                    self._release(entry.family, key, token)
                return found, found is None
            if self.clock() >= deadline:
                return None, False
            self.sleep(self.timing.poll)

    def _get(self, key: str) -> bytes | None:
        return self.connection.call(lambda redis: _bytes(redis.get(key)))

    def _lease(self, key: str, token: str) -> bool:
        milliseconds = round(self.timing.lease * 1000)
        return bool(self.connection.call(lambda redis: redis.set(_lease_of(key), token, nx=True, px=milliseconds)))

    def _store(self, family: Family, key: str, token: str, value: Value) -> None:
        packed = _pack(value)
        if packed is None:
            self._release(family, key, token)
            return
        milliseconds = SECONDS[family] * 1000
        try:
            self.connection.call(lambda redis: redis.eval(_STORE, 2, key, _lease_of(key), token, packed, milliseconds))
        except RedisAwayError:
            self._of(family).errors += 1

    def _release(self, family: Family, key: str, token: str) -> None:
        try:
            self.connection.call(lambda redis: redis.eval(_RELEASE, 1, _lease_of(key), token))
        except RedisAwayError:
            self._of(family).errors += 1

    # Values ----------------------------------------------------------------------------------------------------------

    def _judged(self, entry: Entry[_V], data: bytes | None) -> _V | None:
        value = _unpack(entry.kind, data) if data is not None else None
        return value if value is not None and entry.is_current(value) else None

    def _of(self, family: Family) -> _Counts:
        return self._counts.setdefault(family, _Counts())


def _lease_of(key: str) -> str:
    return f"{key}:lease"


def _bytes(found: Any) -> bytes | None:
    return found if isinstance(found, bytes) else None


def _pack(value: Value) -> bytes | None:
    """Return the value as it is stored; None where it is too large."""
    packed = zlib.compress(value.to_json(), 1)
    return packed if len(packed) <= MAX_BYTES else None


def _unpack(kind: type[_V], data: bytes) -> _V | None:
    """Return the value; None where it was written by another version, or by somebody else."""
    try:
        unpacker = zlib.decompressobj()
        text = unpacker.decompress(data, _LONGEST)
        return None if unpacker.unconsumed_tail else kind.from_json(text)
    except (zlib.error, ValidationError, ValueError):
        return None
