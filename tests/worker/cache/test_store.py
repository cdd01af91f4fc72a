"""Values under keys: one loader, bounded waiting, fencing, versions."""

import threading
import time
import zlib

import pytest

from extraction_contract.messages import CacheUse
from extraction_contract.redis_url import RedisUrl
from extraction_worker.cache.breaker import Breaker
from extraction_worker.cache.connection import RedisConnection
from extraction_worker.cache.store import MAX_BYTES, SECONDS, Cache, Entry, Family, Timing
from extraction_worker.model import Value


class Fact(Value):
    text: str


ENTRY = Entry(Family.INTROSPECTION, ("shop", 42), Fact)


def cache_of(server, scope="default/db:uid:1", **changes) -> Cache:
    return Cache(RedisConnection(RedisUrl(server.url)), scope, **changes)


def never():
    raise AssertionError("it was loaded")


def test_a_value_is_loaded_once_and_then_remembered(redis):
    first, second = cache_of(redis), cache_of(redis)
    assert first.remembered(ENTRY, lambda: Fact(text="x")) == Fact(text="x")
    assert second.remembered(ENTRY, never) == Fact(text="x")
    assert first.uses() == (CacheUse(cache="introspection", misses=1),)
    assert second.uses() == (CacheUse(cache="introspection", hits=1),)
    [key] = redis.client().keys("*")
    assert key.decode() == first.key(ENTRY)
    assert 0 < redis.client().ttl(key) <= SECONDS[Family.INTROSPECTION] == 3600


@pytest.mark.parametrize(("family", "seconds"), [("pages", 1800), ("statistics", 300), ("result", 900)])
def test_each_family_has_its_time(redis, family, seconds):
    entry = Entry(Family(family), ("x",), Fact)
    cache = cache_of(redis)
    cache.put(entry, Fact(text="x"))
    assert seconds - 5 < redis.client().ttl(cache.key(entry)) <= seconds
    assert cache.find(entry) == Fact(text="x")


def test_another_uid_or_generation_has_another_key(redis):
    cache_of(redis).put(ENTRY, Fact(text="x"))
    for scope in ("default/db:uid:2", "default/db:other:1"):
        assert cache_of(redis, scope).find(ENTRY) is None


def test_what_is_not_current_is_loaded_anew_and_replaced(redis):
    cache_of(redis).put(ENTRY, Fact(text="old"))
    asked = []

    def is_current(found: Fact) -> bool:
        asked.append(found.text)
        return found.text == "new"

    entry = Entry(ENTRY.family, ENTRY.parts, Fact, is_current)
    cache = cache_of(redis)
    assert cache.remembered(entry, lambda: Fact(text="new")).text == "new"
    assert asked == ["old"]
    assert cache.find(entry).text == "new"
    assert cache.uses() == (CacheUse(cache="introspection", hits=1, misses=1),)


@pytest.mark.parametrize("stored", [b"", b"garbage", zlib.compress(b"{}"), zlib.compress(b'{"text": 1}'),
                                    zlib.compress(b'{"text":"' + b"x" * (10 * MAX_BYTES) + b'"}')])  # fmt: skip
def test_what_cannot_be_read_is_a_miss(redis, stored):
    cache = cache_of(redis)
    redis.client().set(cache.key(ENTRY), stored)
    assert cache.remembered(ENTRY, lambda: Fact(text="x")).text == "x"
    assert cache.find(ENTRY) == Fact(text="x")


def test_one_loads_while_the_others_wait(redis):
    loading, loads = threading.Event(), []
    results = []

    def load() -> Fact:
        loads.append(1)
        loading.set()
        # Long enough for each of the others to have asked.
        deadline = time.monotonic() + 10
        while waiting.count < 8 and time.monotonic() < deadline:
            time.sleep(0.001)
        return Fact(text="x")

    class Waiting:
        count = 0
        lock = threading.Lock()

        def sleep(self, seconds: float) -> None:
            with self.lock:
                self.count += 1
            time.sleep(seconds)

    waiting = Waiting()

    def take() -> None:
        cache = cache_of(redis, timing=Timing(wait=30), sleep=waiting.sleep)
        results.append((cache.remembered(ENTRY, load).text, cache.uses()[0]))

    first = threading.Thread(target=take)
    first.start()
    assert loading.wait(10)
    others = [threading.Thread(target=take) for _ in range(8)]
    for thread in others:
        thread.start()
    for thread in (first, *others):
        thread.join(30)
    assert loads == [1]
    assert [text for text, _ in results] == ["x"] * 9
    assert sum(use.hits for _, use in results) == 8


def test_who_waits_too_long_loads_for_itself_and_stores_nothing(redis):
    cache = cache_of(redis, timing=Timing(wait=0.05, poll=0.01))
    redis.client().set(cache.key(ENTRY) + ":lease", "somebody else")
    assert cache.remembered(ENTRY, lambda: Fact(text="mine")).text == "mine"
    assert redis.client().get(cache.key(ENTRY)) is None
    assert redis.client().get(cache.key(ENTRY) + ":lease") == b"somebody else"


def test_a_loader_that_lost_its_lease_stores_nothing(redis):
    cache = cache_of(redis)

    def load() -> Fact:
        # It was so slow that its lease ran out, and another one loads meanwhile.
        redis.client().set(cache.key(ENTRY) + ":lease", "the next one")
        return Fact(text="late")

    assert cache.remembered(ENTRY, load).text == "late"
    assert redis.client().get(cache.key(ENTRY)) is None
    assert redis.client().get(cache.key(ENTRY) + ":lease") == b"the next one"


def test_a_loader_that_fails_lets_the_next_one_load_at_once(redis):
    cache = cache_of(redis, timing=Timing(wait=30))

    def fail() -> Fact:
        raise ValueError("no such column")

    with pytest.raises(ValueError, match="no such column"):
        cache.remembered(ENTRY, fail)
    assert redis.client().keys("*") == []
    assert cache.remembered(ENTRY, lambda: Fact(text="x")).text == "x"


def test_a_lease_ends_by_itself(redis):
    cache = cache_of(redis, timing=Timing(lease=0.02, wait=30))
    redis.client().set(cache.key(ENTRY) + ":lease", "a pod that was killed", px=20)
    assert cache.remembered(ENTRY, lambda: Fact(text="x")).text == "x"


def test_what_was_stored_while_the_lease_was_asked_for_is_taken(redis):
    other = cache_of(redis)

    class Late(RedisConnection):
        calls = 0

        def call(self, work):
            self.calls += 1
            if self.calls == 2:  # between the look and the lease
                other.put(ENTRY, Fact(text="theirs"))
            return super().call(work)

    cache = Cache(Late(RedisUrl(redis.url)), "default/db:uid:1")
    assert cache.remembered(ENTRY, never).text == "theirs"
    assert redis.client().keys("*:lease") == []


def test_a_large_value_is_not_stored(redis):
    # Random digits: they can't be compressed below the limit.
    import random

    digits = random.Random(1).randbytes(MAX_BYTES).hex()
    cache = cache_of(redis)
    assert cache.remembered(ENTRY, lambda: Fact(text=digits)).text == digits
    cache.put(ENTRY, Fact(text=digits))
    assert redis.client().keys("*") == []


def test_without_redis_everything_is_loaded_and_counted(redis):
    away = Cache(RedisConnection(RedisUrl("redis://127.0.0.1:1/0"), breaker=Breaker(failures=100)), "s")
    assert away.remembered(ENTRY, lambda: Fact(text="x")).text == "x"
    assert away.find(ENTRY) is None
    away.put(ENTRY, Fact(text="x"))
    assert away.uses() == (CacheUse(cache="introspection", errors=3),)


def test_redis_that_goes_while_a_value_is_loaded_costs_nothing(redis):
    connection = RedisConnection(RedisUrl(redis.url), breaker=Breaker(failures=100))
    cache = Cache(connection, "s")

    def load() -> Fact:
        connection._url = RedisUrl("redis://127.0.0.1:1/0")
        connection.close()
        return Fact(text="x")

    assert cache.remembered(ENTRY, load).text == "x"
    assert cache.uses() == (CacheUse(cache="introspection", misses=1, errors=1),)

    def fail() -> Fact:
        load()
        raise ValueError("no")

    connection._url = RedisUrl(redis.url)
    connection.close()
    redis.client().flushall()
    with pytest.raises(ValueError, match="no"):
        cache.remembered(ENTRY, fail)
