"""The rate of a process: kept over any longer time, whoever reads, and whatever part of it the process has."""

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extraction_worker.source.rate import ByteRate
from support.virtual_time import VirtualTime


class Clock:
    """A clock that goes on while somebody sleeps by it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.sleeps: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds


@pytest.fixture
def clock():
    return Clock()


def bucket_of(rate, clock, **options) -> ByteRate:
    return ByteRate(rate, clock=clock, sleep=clock.sleep, **options)


@pytest.mark.parametrize(("rate", "seconds"), [(1000, 10), (2000, 5)])
def test_a_rate_is_kept_from_the_first_byte_on(clock, rate, seconds):
    bucket = bucket_of(rate, clock)
    for _ in range(100):
        bucket.take(100)
    assert clock.now == pytest.approx(seconds)
    assert bucket.taken == pytest.approx(seconds)


def test_what_wasnt_read_of_the_last_half_second_is_read_later_and_no_more(clock):
    bucket = bucket_of(1000, clock)
    clock.now = 1000.0
    bucket.take(5000)
    assert clock.now == pytest.approx(1004.5)


def test_who_took_first_goes_on_first():
    """With real threads; the clock stands still, so nobody is woken by what the others have paid."""
    clock, order, asleep = Clock(), [], []
    bucket = ByteRate(1000, clock=clock, sleep=lambda seconds: asleep.append(seconds) or threading.Event().wait(0.001))
    threads = []
    for number in range(3):
        before = bucket.taken

        def take(number=number):
            bucket.take(1000)
            order.append(number)

        threads.append(threading.Thread(target=take, daemon=True))
        threads[-1].start()
        while bucket.taken == before:
            threading.Event().wait(0.001)
    for number, thread in enumerate(threads):
        assert order == list(range(number))
        clock.now += 1
        thread.join(20)
        assert not thread.is_alive()


@settings(max_examples=20, deadline=None)
@given(rate=st.integers(1 << 20, 1 << 26), readers=st.integers(1, 8))
def test_over_ten_seconds_a_rate_is_kept_within_a_tenth_and_over_one_there_is_no_burst(rate, readers):
    time, seconds = VirtualTime(10), [0] * 11
    bucket = ByteRate(rate, readers=readers, clock=time.clock, sleep=time.sleep)
    size = bucket.batch_bytes(2 << 20)

    def read():
        while True:
            seconds[int(time.now)] += size
            bucket.take(size)

    for _ in range(readers):
        time.start(read)
    time.run()
    assert sum(seconds) == pytest.approx(10 * rate, rel=0.1)
    assert max(seconds) <= 1.6 * rate


@pytest.mark.parametrize("share", [1.0, 0.5, 0.1])
def test_a_share_of_the_rate_is_what_is_read_and_batches_are_as_small(clock, share):
    rate = 1 << 24
    bucket = bucket_of(rate, clock, readers=4)
    bucket.share = share
    size, read = bucket.batch_bytes(2 << 20), 0
    assert size * 4 <= rate * share * ByteRate.BURST
    while clock.now < 10:
        bucket.take(size)
        read += size
    assert read == pytest.approx(10 * rate * share, rel=0.1)
    assert bucket.taken == pytest.approx(10 * share, rel=0.1)


def test_a_share_that_changes_counts_from_then_on(clock):
    bucket = bucket_of(1000, clock)
    bucket.share = 0.5
    clock.now = 10.0
    bucket.share = 1.0
    # Credit of half a second of what the share was.
    bucket.take(1250)
    assert clock.now == pytest.approx(11.0)
    bucket.share = 0.1
    bucket.take(100)
    assert clock.now == pytest.approx(12.0)


def test_who_sleeps_notices_another_share_soon(clock):
    bucket = bucket_of(1000, clock)
    bucket.share = 0.001

    def sleep(seconds):
        clock.sleep(seconds)
        bucket.share = 1.0

    bucket._sleep = sleep
    bucket.take(1000)
    assert clock.now == pytest.approx(0.25 + 1.0, abs=0.01)


def test_with_no_share_nobody_reads_until_there_is_one(clock):
    bucket = bucket_of(1000, clock)
    bucket.share = 0.0

    def sleep(seconds):
        clock.sleep(seconds)
        if clock.now >= 5:
            bucket.share = 1.0

    bucket._sleep = sleep
    bucket.take(500)
    assert clock.now == pytest.approx(5.5)


def test_it_is_known_for_how_long_nobody_had_to_wait(clock):
    bucket = bucket_of(1000, clock)
    clock.now = 3.0
    bucket.take(100)
    assert bucket.unhindered == 3.0
    bucket.take(1000)
    assert bucket.unhindered == 0.0
    clock.now += 2.0
    bucket.share = 0.5
    assert bucket.unhindered == pytest.approx(2.0)
    # More than before: whether that is used up is seen later.
    bucket.share = 0.75
    assert bucket.unhindered == 0.0


@pytest.mark.parametrize(
    ("rate", "readers", "size"),
    [(None, 1, None), (1 << 40, 1, 2 << 20), (8 << 20, 1, 1 << 20), (8 << 20, 8, 128 << 10), (64 << 10, 4, 64 << 10)],
)
def test_a_connection_buffers_half_a_batch_but_enough_to_travel(rate, readers, size):
    assert ByteRate(rate, readers=readers).buffer_bytes() == size


def test_batches_are_small_against_the_rate_and_never_larger_than_asked():
    assert ByteRate(None).batch_bytes(2 << 20) == 2 << 20
    assert ByteRate(8 << 20, readers=4).batch_bytes(2 << 20) == 512 << 10
    assert ByteRate(64 << 10, readers=4).batch_bytes(2 << 20) == 16 << 10
    assert ByteRate(64 << 10).batch_bytes(1) == 1  # row by row


def test_half_speed_rests_as_long_as_a_batch_took_and_a_second_at_the_most(clock):
    bucket = bucket_of(None, clock)
    bucket.take(1, 0.5)
    rests = []
    for halved, seconds in ((True, 0.5), (True, 30.0), (False, 0.5)):
        bucket.halve(halved)
        before = clock.now
        bucket.take(1, seconds)
        rests.append(clock.now - before)
    assert rests == pytest.approx([0.5, 1.0, 0.0])


def test_a_stop_wakes_who_waits_for_the_rate():
    bucket = ByteRate(1)
    thread = threading.Thread(target=bucket.take, args=(1 << 20,), daemon=True)
    thread.start()
    bucket.stop()
    thread.join(20)
    assert not thread.is_alive()


def test_without_a_rate_nothing_sleeps():
    def sleep(_):
        raise AssertionError

    ByteRate(None, sleep=sleep).take(1 << 60)
