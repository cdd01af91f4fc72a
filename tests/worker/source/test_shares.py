"""Shares of a job's rate: never more than the whole, hardly less of it, and nobody waits for ever."""

import random
import threading
from collections import deque
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extraction_worker.errors import Interrupted, SourceUnavailable
from extraction_worker.source.rate import ByteRate
from extraction_worker.source.session import ReadSession, connect
from extraction_worker.source.shares import UNITS, LockBoard, Part, RateShare, units_for, weight_of
from extraction_worker.source.slots import SlotBudget
from support.databases import settings_of, wait_until
from support.virtual_time import VirtualTime

RUN = SlotBudget("shop", 100, "run")
CODES = "SELECT objid::int8 FROM pg_locks WHERE locktype = 'advisory' AND classid::int8 = %s"
RATE = 8 << 20


def told(database, budget=RUN) -> list[Part]:
    return [Part.of(code) for (code,) in database.execute(CODES, budget.rate_key)]


class Process:
    """What a pod has: its part of the rate, and a clock that a test turns; :meth:`keep` is the keeper's thread."""

    def __init__(self, database, *, weight=1, lanes=1, budget=RUN) -> None:
        self.now = 0.0
        self.rate = ByteRate(RATE, readers=lanes, clock=lambda: self.now, sleep=self.pass_time)
        found = settings_of(database)
        self.idle = deque(ReadSession(connect(found), found) for _ in range(lanes))
        self.share = RateShare(LockBoard(budget), self.rate, weight, self.sessions, lanes, clock=lambda: self.now)

    @contextmanager
    def sessions(self):
        session = self.idle.popleft()
        try:
            yield session
        finally:
            self.idle.append(session)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    def read(self, seconds: float) -> None:
        """Read all that is its part for so long."""
        self.rate.take(int(RATE * self.rate.share * seconds))
        if not self.rate.share:
            self.pass_time(seconds)

    def keep(self, seconds: float = 0.0, *, reads: bool = True) -> float:
        """Be the keeper for so long, while others read all they may; return the share of the process then."""
        end = self.now + seconds

        def wait(pause):
            if self.now >= end:
                raise Interrupted("so far")
            if reads:
                self.read(pause)
            else:
                self.pass_time(pause)

        self.share.keep(wait)
        return self.rate.share

    def close(self) -> None:
        for session in self.idle:
            session.close()


@pytest.fixture
def process(database):
    """Makes processes, and closes their sessions."""
    with ExitStack() as stack:

        def make(**changes) -> Process:
            found = Process(database, **changes)
            stack.callback(found.close)
            return found

        yield make


def refuse(_):
    raise Interrupted("it would wait")


# What is decided ----------------------------------------------------------------------------------------------------


@given(st.integers(1, 15), st.integers(0, UNITS), st.booleans())
def test_a_lock_says_what_a_part_is(weight, units, wants):
    part = Part(weight, units, wants)
    assert Part.of(part.code) == part
    assert 0 < part.code < (1 << 31) - 1


def test_pods_that_begin_together_have_parts_that_differ():
    weights = [weight_of(bundle) for bundle in range(40)]
    assert all(8 <= weight <= 15 for weight in weights)
    for first in range(33):
        assert len(set(weights[first : first + 8])) == 8


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 15), st.booleans(), st.integers(0, UNITS // 4)), min_size=1, max_size=12),
    st.integers(0, 2**32),
)
def test_parts_never_add_up_to_more_than_the_whole_and_nothing_that_somebody_wants_is_left(processes, seed):
    """Each looks in turn, in any order; those that want more end with the same for each of their weights."""
    parts = [Part(weight, 0, True) for weight, _, _ in processes]
    chance = random.Random(seed)
    for number in range(6):
        for place in chance.sample(range(len(parts)), len(parts)):
            weight, wants, used = processes[place]
            others = parts[:place] + parts[place + 1 :]
            mine = Part(weight, parts[place].units, wants or not parts[place].units)
            parts[place] = Part(weight, units_for(mine, others, used), mine.wants)
            assert sum(part.units for part in parts) <= UNITS, number
    wanting = [part for part in parts if part.wants]
    if wanting:
        assert sum(part.units for part in parts) >= UNITS - 2 * len(parts)
        each = [part.units / part.weight for part in wanting]
        assert max(each) - min(each) <= len(parts)
    for part, (_, wants, used) in zip(parts, processes, strict=True):
        if not wants and wanting:
            assert part.units <= max(used * 3 // 2, UNITS // (8 * len(parts)))


def test_who_has_nothing_waits_for_half_of_what_is_due_and_who_has_some_takes_any_more():
    other = Part(1, UNITS * 4 // 5)
    assert units_for(Part(1), [other], 0) == 0
    assert units_for(Part(1, 10), [other], 0) == UNITS // 5
    assert units_for(Part(1), [Part(1, UNITS * 3 // 4)], 0) == UNITS // 4


def test_who_uses_less_than_is_his_keeps_it_until_somebody_wants_more():
    mine = Part(1, UNITS // 2, wants=False)
    assert units_for(mine, [Part(1, UNITS // 2, wants=False)], used=1000) == UNITS // 2
    assert units_for(mine, [Part(1, UNITS // 2)], used=UNITS // 10) == UNITS * 3 // 20
    assert units_for(mine, [Part(1, UNITS // 2)], used=0) == UNITS // 16


# At the source ------------------------------------------------------------------------------------------------------


def test_who_reads_alone_has_all_of_it_and_nothing_is_left_with_its_session(database, process):
    one, another = process(), process(budget=SlotBudget("shop", 100, "another run"))
    assert one.keep() == another.keep() == 1.0
    with one.share.session(refuse) as session:
        # The part outlives the transactions of chunks.
        session._execute("BEGIN")
        session.end()
    assert told(database) == [Part(1, UNITS)]
    one.close()
    wait_until(lambda: not told(database))


def test_who_comes_later_waits_until_others_have_looked_and_then_all_have_what_is_theirs(database, process):
    first, second = process(weight=1, lanes=2), process(weight=3, lanes=2)
    assert first.keep() == 1.0
    second.keep()
    with pytest.raises(Interrupted), second.share.session(refuse):
        pass
    assert first.keep(1) == 0.25
    assert second.keep(1) == 0.75
    with second.share.session(refuse):
        assert sorted(part.units for part in told(database)) == [UNITS // 4, UNITS * 3 // 4]
    first.close()
    wait_until(lambda: len(told(database)) == 1)
    assert second.keep(1) == 1.0


def test_while_the_part_is_used_up_one_session_keeps_and_the_others_read(process):
    busy = process(lanes=3)
    seen = []

    def wait(pause):
        with ExitStack() as reading:
            for _ in range(2):
                reading.enter_context(busy.share.session(refuse))
            with pytest.raises(Interrupted), busy.share.session(refuse):
                pass
        busy.read(pause)
        seen.append(busy.now)
        if busy.now > 3:
            raise Interrupted("so far")

    busy.share.keep(wait)
    assert len(seen) > 20


def test_who_does_not_use_its_part_up_reads_with_all_sessions_and_looks_now_and_then(process):
    slow = process(lanes=2)
    slow.keep()
    waiting = slow.share._waits()
    with waiting, slow.share.session(refuse):
        slow.keep(2, reads=False)
        assert not slow.share._keeps
        with slow.share.session(refuse):
            slow.keep(2, reads=False)
            looked = slow.share._looked
            slow.keep(20, reads=False)
            assert slow.share._looked == looked, "there is no session for it"
    slow.keep(2, reads=False)
    assert slow.share._looked > looked


def test_who_uses_little_gives_the_rest_to_who_wants_it_and_gets_it_back(process):
    slow, busy = process(lanes=2), process(lanes=2)
    slow.keep()
    busy.keep()
    assert slow.keep(1) == 0.5
    assert busy.keep(1) == 0.5
    assert slow.keep(30, reads=False) == 1 / 16
    assert busy.keep(1) == 15 / 16
    slow.keep(10)
    busy.keep(1)
    assert slow.keep(1) == busy.keep(1) == 0.5


def test_when_the_keepers_session_is_gone_another_one_takes_its_place(database, process):
    one = process(lanes=2)
    one.keep()
    one.share._keeper.close()
    wait_until(lambda: not told(database))
    one.idle = deque(session for session in one.idle if not session.is_closed)
    assert one.keep(1) == 1.0
    assert told(database) == [Part(1, UNITS)]


def test_another_session_than_the_one_with_the_lock_does_not_keep(database, process):
    one = process(lanes=2)
    one.keep()
    keeper = one.share._keeper
    while one.idle[0] is keeper:
        one.idle.rotate()
    looked = one.share._looked
    one.keep()
    assert (one.share._keeper, one.share._looked) == (keeper, looked)
    assert told(database) == [Part(1, UNITS)]


@pytest.mark.parametrize("error", [SourceUnavailable("gone"), RuntimeError("a bug")])
def test_why_there_is_no_part_is_told_to_those_that_read_and_it_is_tried_again(process, error):
    one = process()
    sessions = one.idle

    class Broken(deque):
        def popleft(self):
            raise error

    one.idle = Broken(sessions)
    one.keep()
    with pytest.raises(type(error), match=str(error)), one.share.session(refuse):
        pass
    one.idle = sessions
    assert one.keep(2) == 1.0
    with one.share.session(refuse):
        pass


def test_its_own_thread_keeps_until_it_is_stopped(database):
    found = settings_of(database)
    ended = []

    @contextmanager
    def sessions():
        # A pool closes a session whose user raised something.
        yield session
        ended.append("well")

    with ReadSession(connect(found), found) as session:
        share = RateShare(LockBoard(RUN), ByteRate(RATE), 1, sessions, 2)
        share.start()
        wait_until(lambda: told(database) == [Part(1, UNITS)])
        assert not ended
        share.stop()
        assert not share._thread.is_alive()
        assert ended == ["well"]


def test_one_at_a_time_changes_its_part(database):
    board, found = LockBoard(RUN), settings_of(database)
    with ReadSession(connect(found), found) as one, ReadSession(connect(found), found) as other:
        for session in (one, other):
            board.show(session, Part(1))

        def meanwhile(others):
            assert others == [Part(1)]
            assert board.change(other, Part(1), lambda _: Part(1, 7)) is None
            return Part(1, 5)

        assert board.change(one, Part(1), meanwhile) == Part(1, 5)
        assert board.change(other, Part(1), lambda others: Part(1, others[0].units + 1)) == Part(1, 6)
        assert board.change(other, Part(1, 6), lambda _: Part(1, 6)) == Part(1, 6)
        assert sorted(part.units for part in told(database)) == [5, 6]


def test_processes_that_come_and_go_have_never_more_than_the_whole_and_all_end(database):
    """In real time. A session that changes its part sees all parts, and nobody changes his meanwhile."""
    board, sums, ended = LockBoard(RUN), [], []

    def job(seed):
        chance = random.Random(seed)
        found = settings_of(database)
        for _ in range(4):
            with ReadSession(connect(found), found) as session:
                part = Part(weight_of(seed))
                board.show(session, part)

                def decide(others, mine=part):
                    units = units_for(mine, others, 0)
                    sums.append(units + sum(other.units for other in others))
                    return Part(mine.weight, units)

                while not part.units:
                    part = board.change(session, part, partial(decide, mine=part)) or part
                    threading.Event().wait(chance.random() / 200)
                for _ in range(3):
                    part = board.change(session, part, partial(decide, mine=part)) or part
        ended.append(seed)

    threads = [threading.Thread(target=job, args=(seed,), daemon=True) for seed in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert sorted(ended) == list(range(5))
    assert 0 < max(sums) <= UNITS
    wait_until(lambda: not told(database))


# Several pods, on a clock of the test's own ---------------------------------------------------------------------------


@dataclass(eq=False)
class Session:
    """Stands for one that only the board of the test's own sees."""

    is_closed: bool = False


@dataclass
class MemoryBoard:
    """A board without a source, for threads of which one runs at a time."""

    parts: dict[Session, Part] = field(default_factory=dict)

    def others(self, session: Session) -> list[Part]:
        return [part for other, part in self.parts.items() if other is not session]

    def show(self, session: Session, part: Part) -> None:
        self.parts[session] = part

    def change(self, session: Session, part: Part, decide) -> Part:
        assert self.parts[session] == part
        self.parts[session] = decide(self.others(session))
        assert sum(other.units for other in self.parts.values()) <= UNITS
        return self.parts[session]


@dataclass
class Job:
    """Bundles that so many pods at a time work, and the bytes that they read by the tenth of a second.

    Parameters
    ----------
    chunk
        Bytes; each differs from that by up to a tenth.
    start
        Seconds from the end of a pod to the first look of the next.
    slow
        A pod whose threads read no more than so many bytes a second each.
    """

    pods: int
    threads: int
    chunk: int
    bundles: int
    chunks: int
    seconds: float
    rate: int = RATE
    start: float = 2.0
    slow: dict[int, int] = field(default_factory=dict)
    seed: int = 7

    def __post_init__(self) -> None:
        self.time = VirtualTime(self.seconds)
        self.board = MemoryBoard()
        self.chance = random.Random(self.seed)
        self.ticks = [0] * (int(self.seconds * 10) + 1)
        self.left = deque(range(self.bundles))
        self.short = self.seconds
        """When there was nothing left for a pod to begin with."""

    def run(self) -> list[float]:
        """Return what was read in every ten seconds, of what was allowed, while there was something for each pod."""
        for _ in range(self.pods):
            self.time.start(self.begin, at=self.chance.uniform(0, 0.5))
        self.time.run()
        self.end = self.time.now
        first = next(tick for tick, size in enumerate(self.ticks) if size) + 10
        last = int(min(self.short, self.end) * 10) - 100
        return [sum(self.ticks[tick : tick + 100]) / (10 * self.rate) for tick in range(first, last)]

    def begin(self) -> None:
        """Work one bundle."""
        if not self.left:
            self.short = min(self.short, self.time.now)
            return
        bundle = self.left.popleft()
        rate = ByteRate(self.rate, readers=self.threads, clock=self.time.clock, sleep=self.time.sleep)
        idle, todo, working = deque(Session() for _ in range(self.threads)), deque(range(self.chunks)), [self.threads]

        @contextmanager
        def sessions():
            session = idle.popleft()
            try:
                yield session
            finally:
                idle.append(session)

        share = RateShare(self.board, rate, weight_of(bundle), sessions, self.threads, clock=self.time.clock)

        def wait(seconds: float) -> None:
            self.time.sleep(seconds)
            if not working[0]:
                raise Interrupted("It is done.")

        def keep() -> None:
            share.keep(wait)
            for session in idle:
                self.board.parts.pop(session, None)

        def work() -> None:
            while todo:
                todo.popleft()
                with share.session(self.time.sleep):
                    # All that comes before the first row, and the end of the file.
                    self.time.sleep(self.chance.uniform(0.02, 0.1))
                    self.read(rate, self.slow.get(bundle))
                self.time.sleep(self.chance.uniform(0.05, 0.4))
            working[0] -= 1
            if not working[0]:
                self.time.start(self.begin, at=self.time.now + self.start * self.chance.uniform(0.8, 1.2))

        self.time.start(keep, at=self.time.now)
        for _ in range(self.threads):
            self.time.start(work, at=self.time.now)

    def read(self, rate: ByteRate, most: int | None) -> None:
        """Read a chunk."""
        left = int(self.chunk * self.chance.uniform(0.9, 1.1))
        batch = rate.batch_bytes(2 << 20)
        while left > 0:
            size = min(batch, left)
            left -= size
            if most is not None:
                self.time.sleep(size / most)
            self.ticks[int(self.time.now * 10)] += size
            rate.take(size)


@pytest.mark.parametrize("chunk", [2 << 20, 16 << 20, 64 << 20])
@pytest.mark.parametrize(("pods", "threads"), [(2, 2), (3, 2), (6, 3)])
def test_pods_that_come_and_go_keep_the_rate_within_a_tenth_in_every_ten_seconds(pods, threads, chunk):
    """Each works for about a minute, and the next begins two seconds after it."""
    chunks = max(3, 60 * RATE // pods // chunk)
    job = Job(pods, threads, chunk, bundles=3 * pods, chunks=chunks, seconds=150)
    windows = job.run()
    assert len(windows) > 500
    assert min(windows) >= 0.9
    assert max(windows) <= 1.1


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    pods=st.integers(2, 6), threads=st.integers(2, 3), rate=st.integers(1 << 20, 1 << 26), seed=st.integers(0, 2**32)
)
def test_pods_together_keep_the_rate_within_a_tenth_over_ten_seconds(pods, threads, rate, seed):
    job = Job(pods, threads, chunk=rate, bundles=pods, chunks=1000, seconds=40, rate=rate, seed=seed)
    windows = job.run()
    assert len(windows) > 200
    assert min(windows) >= 0.9
    assert max(windows) <= 1.1


def test_what_a_slow_pod_leaves_is_read_by_the_others():
    job = Job(3, 2, chunk=4 << 20, bundles=3, chunks=1000, seconds=60, slow={0: RATE // 40})
    windows = job.run()
    assert min(windows[100:]) >= 0.9
    assert max(windows) <= 1.1


def test_pods_that_read_with_one_session_use_most_of_the_rate_and_never_a_tenth_more():
    """None of them can look while it reads, so what one leaves is taken with the next chunks."""
    job = Job(3, 1, chunk=4 << 20, bundles=9, chunks=40, seconds=150)
    windows = job.run()
    assert max(windows) <= 1.1
    assert min(windows) >= 0.75
    assert sum(windows) / len(windows) >= 0.9
