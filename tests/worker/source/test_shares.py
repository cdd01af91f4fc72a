"""Shares of a job's rate: never more than the whole, and nobody waits for ever."""

import random
import threading
from contextlib import ExitStack, contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extraction_worker.errors import Interrupted
from extraction_worker.source.reader import ByteRate
from extraction_worker.source.session import ReadSession, connect
from extraction_worker.source.shares import UNITS, fair_units, take_share
from extraction_worker.source.slots import SlotBudget
from support.databases import settings_of, wait_until

RUN = SlotBudget("shop", 100, "run")
HELD = "SELECT COALESCE(sum(objid::int8), 0) FROM pg_locks WHERE classid::int8 = %s AND objid::int8 <= %s"


@contextmanager
def reading(database, budget=RUN, wait=None):
    """Have a session with its share of the rate in a transaction."""
    found = settings_of(database)

    def pause(seconds):
        threading.Event().wait(seconds / 10)

    with ReadSession(connect(found), found) as session:
        session._execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        yield take_share(session, budget, wait or pause)


def test_who_reads_alone_has_all_of_it_and_of_several_each_waits_for_its_part(database):
    def busy(_):
        raise Interrupted("nothing left")

    with reading(database) as share:
        assert share == 1.0
        with pytest.raises(Interrupted), reading(database, wait=busy):
            pass
        with reading(database, SlotBudget("shop", 100, "another run")) as other:
            assert other == 1.0
    # A closed session's locks go a moment after it.
    with reading(database) as share:
        assert share > 0


def test_who_waits_is_counted_by_those_that_read(database):
    waits, goes_on, got, done = threading.Event(), threading.Event(), [], threading.Event()

    def late():
        with reading(database, wait=lambda _: (waits.set(), goes_on.wait(60))) as share:
            got.append(share)
            done.wait(60)

    thread = threading.Thread(target=late, daemon=True)
    with reading(database) as share:
        assert share == 1.0
        thread.start()
        assert waits.wait(60)
    wait_until(lambda: database.execute(HELD, RUN.rate_key, UNITS) == [(0,)])
    with reading(database) as share:
        assert share == 0.5
        goes_on.set()
        done.set()
        thread.join(60)
    assert got == [0.5]


def test_sessions_that_come_and_go_share_never_more_than_the_whole_and_all_end(database):
    over, ended = [], []

    def job(seed):
        chance = random.Random(seed)
        for _ in range(5):
            with reading(database) as share:
                assert share > 0
                [(held,)] = database.execute(HELD, RUN.rate_key, UNITS)
                over.append(held)
                threading.Event().wait(chance.random() / 100)
        ended.append(seed)

    threads = [threading.Thread(target=job, args=(seed,), daemon=True) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert sorted(ended) == list(range(6))
    assert max(over) <= UNITS
    wait_until(lambda: database.execute(HELD, RUN.rate_key, UNITS) == [(0,)])


@settings(max_examples=100, deadline=None)
@given(sessions=st.integers(1, 40), seed=st.integers(0, 2**32))
def test_shares_even_out_as_chunks_end(sessions, seed):
    """After each has begun its third chunk, all have about as much, and nothing is left."""
    chance, units = random.Random(seed), [0] * sessions
    for _ in range(3):
        order = chance.sample(range(sessions), sessions)
        while order:
            waiting = []
            for place in order:
                units[place] = 0
                units[place] = fair_units(sum(units), sessions, units.count(0) - 1)
                waiting += [] if units[place] else [place]
            assert len(waiting) < len(order), "everybody waits"
            # Those that read end their chunks, and wait behind the others.
            order = waiting
        assert sum(units) <= UNITS
    assert min(units) >= UNITS // sessions


# Several pods, on a clock of the test's own ------------------------------------------------------------------------


class Sharer:
    """A thread of a pod that reads one chunk after the other, each with the share that it finds."""

    def __init__(self, bucket: ByteRate, begins: float) -> None:
        self.bucket, self.ready = bucket, begins
        self.there = False
        """Whether it reads, or waits for a share: others count it."""
        self.units = self.left = 0
        self.share = ExitStack()

    def go_on(self, now: float, everybody: list["Sharer"], chunk: int) -> int:
        """Do the next thing at this moment; return the bytes that it read, and be ready for another one later."""
        if not self.left:
            self.share.close()
            self.units, self.there = 0, True
            sessions = [other for other in everybody if other.there]
            waiting = sum(not other.units for other in sessions) - 1
            self.units = fair_units(sum(other.units for other in sessions), len(sessions), waiting)
            if not self.units:
                self.ready = now + 0.1
                return 0
            self.share.enter_context(self.bucket.sharing(self.units / UNITS))
            self.left = chunk
        waits: list[float] = []
        self.bucket._sleep = waits.append
        size = min(self.bucket.batch_bytes(2 << 20), self.left)
        self.bucket.take(size)
        self.ready = now + sum(waits)
        self.left -= size
        return size


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    pods=st.integers(2, 6), threads=st.integers(1, 3), rate=st.integers(1 << 20, 1 << 26), seed=st.integers(0, 2**32)
)
def test_pods_together_keep_the_rate_within_a_tenth_over_ten_seconds(pods, threads, rate, seed):
    chance, now = random.Random(seed), [0.0]
    readers: list[Sharer] = []
    for _ in range(pods):
        bucket = ByteRate(rate, readers=threads, clock=lambda: now[0])
        readers += [Sharer(bucket, chance.uniform(0, 2)) for _ in range(threads)]
    seconds = [0] * 40
    while (first := min(readers, key=lambda reader: reader.ready)).ready < len(seconds):
        now[0] = first.ready
        seconds[int(now[0])] += first.go_on(now[0], readers, chance.randint(rate // 2, 2 * rate))
    for start in range(2, len(seconds) - 10):
        assert sum(seconds[start : start + 10]) == pytest.approx(10 * rate, rel=0.1)


class Pod:
    """A pod of two threads that works a bundle of about so many chunks; when it has ended the next one follows."""

    START = 2.0
    """Seconds from the end of one to the first look of the next."""

    def __init__(self, rate: int, begins: float, now: list[float], chunks: int) -> None:
        self.rate, self.now, self.usual = rate, now, chunks
        self.begin(begins, chunks)

    def begin(self, at: float, chunks: int) -> None:
        bucket = ByteRate(self.rate, readers=2, clock=lambda: self.now[0])
        self.readers = [Sharer(bucket, at) for _ in range(2)]
        self.chunks = chunks

    def go_on(self, reader: Sharer, everybody: list[Sharer], chance: random.Random, chunk: int) -> int:
        """Let a reader do the next thing; return the bytes that it read."""
        waits = reader.there and not reader.units
        if not reader.left and not waits and not self.chunks:
            # Its transaction has ended, and the others of the pod go on.
            reader.share.close()
            self.readers.remove(reader)
            if not self.readers:
                self.begin(self.now[0] + self.START, chance.randint(self.usual // 2, self.usual))
            return 0
        if not reader.left and not waits:
            self.chunks -= 1
        return reader.go_on(self.now[0], everybody, int(chunk * chance.uniform(0.9, 1.1)))


@pytest.mark.parametrize(("pods", "chunk", "used"), [(3, 4 << 20, 0.9), (3, 64 << 20, 0.85), (10, 16 << 20, 0.9)])
def test_pods_that_come_and_go_never_read_more_than_a_tenth_above_the_rate_and_use_most_of_it(pods, chunk, used):
    """Each works for about a minute. The larger chunks are, the later others take what a pod has left."""
    rate, end = 8 << 20, 300
    chance, now, seconds = random.Random(7), [0.0], [0] * end
    chunks = max(3, 60 * rate // pods // chunk)
    all_pods = [Pod(rate, chance.uniform(0, 2), now, chunks) for _ in range(pods)]
    while True:
        running = [(pod, reader) for pod in all_pods for reader in pod.readers]
        pod, reader = min(running, key=lambda pair: pair[1].ready)
        if reader.ready >= end:
            break
        now[0] = reader.ready
        seconds[int(now[0])] += pod.go_on(reader, [reader for _, reader in running], chance, chunk)
    windows = [sum(seconds[start : start + 10]) / (10 * rate) for start in range(end - 10)]
    assert max(windows) <= 1.1
    assert sum(seconds) / (end * rate) >= used
