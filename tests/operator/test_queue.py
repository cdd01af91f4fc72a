"""Keys: once each, never twice at a time, later and later after failures. The clock is a number."""

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from extraction_operator.queue import Backoff, KeyQueue, Taken


def queue(fraction: float = 1.0, **backoff: float) -> KeyQueue[str]:
    return KeyQueue(Backoff(**backoff), lambda: fraction)


def test_a_key_added_often_is_taken_once():
    it = queue()
    for _ in range(3):
        it.add("a", now=1.0)
    assert it.take(2.0) == Taken("a", 1.0)
    assert it.take(2.0) is None


def test_keys_are_taken_in_the_order_in_which_they_are_due():
    it = queue()
    it.add("late", now=0.0, delay=5.0)
    it.add("second", now=1.0)
    it.add("first", now=0.5)
    assert [it.take(10.0).key for _ in range(3)] == ["first", "second", "late"]


def test_a_key_ahead_is_taken_before_others_until_it_was_worked_on():
    it = queue(base=1.0)
    it.add("old", now=0.0)
    it.add("new", now=1.0, ahead=True)
    it.add("new", now=2.0)
    assert it.take(2.0) == Taken("new", 1.0)
    # Not done yet: it may go ahead again.
    it.failed("new", 2.0)
    assert it.next_due() == 0.0
    assert it.take(3.0) == Taken("new", 0.0)
    it.add("new", now=3.0)
    it.done("new")
    assert [it.take(3.0).key for _ in range(2)] == ["old", "new"]
    assert it.take(3.0) is None


def test_a_key_that_waits_already_is_moved_ahead():
    it = queue()
    it.add("first", now=0.0)
    it.add("second", now=1.0)
    it.add("second", now=2.0, ahead=True)
    assert it.take(2.0) == Taken("second", 1.0)
    it.done("second")
    assert it.take(2.0) == Taken("first", 2.0)
    assert it.take(2.0) is None


def test_being_ahead_is_no_reason_to_be_early():
    it = queue()
    it.add("other", now=0.0)
    it.add("new", now=0.0, delay=5.0, ahead=True)
    assert it.take(1.0).key == "other"
    assert it.take(4.9) is None
    assert it.next_due() == 5.0
    it.forget("new")
    assert it.next_due() is None


def test_a_delayed_key_isnt_taken_before_its_time():
    it = queue()
    it.add("a", now=0.0, delay=5.0)
    assert it.take(4.9) is None
    assert it.next_due() == 5.0
    assert it.take(5.0) == Taken("a", 0.0)


def test_the_earliest_of_several_times_counts():
    it = queue()
    it.add("a", now=0.0, delay=5.0)
    it.add("a", now=0.0, delay=1.0)
    it.add("a", now=0.0, delay=3.0)
    assert it.next_due() == 1.0
    assert it.take(1.0) is not None
    it.done("a")
    assert it.next_due() is None


def test_a_key_added_while_it_is_worked_on_runs_again_afterwards_and_not_before():
    it = queue()
    it.add("a", now=0.0)
    it.take(0.0)
    it.add("a", now=1.0)
    assert it.take(2.0) is None
    assert it.next_due() is None
    it.done("a")
    assert it.take(2.0) == Taken("a", 1.0)


def test_failures_in_a_row_double_the_delay_up_to_the_limit():
    it = queue(base=0.1, limit=1.0)
    delays = []
    for _ in range(6):
        it.add("a", now=0.0)
        it.take(0.0)
        delays.append(it.failed("a", now=0.0))
        it.forget("b")
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    assert it.retries == 6


def test_success_resets_the_delay():
    it = queue(base=0.1)
    for _ in range(4):
        it.add("a", now=0.0)
        it.take(0.0)
        it.failed("a", now=0.0)
    it.take(10.0)
    it.done("a")
    it.add("a", now=20.0)
    it.take(20.0)
    assert it.failed("a", now=20.0) == 0.1


def test_what_is_added_while_a_key_fails_waits_for_its_back_off():
    it = queue(base=1.0)
    it.add("a", now=0.0)
    it.take(0.0)
    it.add("a", now=0.0)
    it.failed("a", now=0.0)
    assert it.take(0.9) is None
    assert it.take(1.0) is not None


def test_news_about_a_key_ends_its_back_off():
    it = queue(base=60.0)
    it.add("a", now=0.0)
    it.take(0.0)
    it.failed("a", now=0.0)
    it.add("a", now=1.0)
    assert it.take(1.0) is not None


@given(failures=st.integers(1, 2000), fraction=st.floats(0, 1, exclude_max=True))
def test_a_delay_is_never_longer_than_the_limit(failures: int, fraction: float):
    assert 0 <= Backoff(0.1, 60).delay(failures, fraction) <= 60


def test_a_forgotten_key_isnt_taken():
    it = queue()
    it.add("a", now=0.0)
    it.forget("a")
    assert it.take(1.0) is None
    assert "a" not in it


def test_it_tells_how_it_is():
    it = queue()
    it.add("a", now=0.0)
    it.add("b", now=0.0, delay=10.0)
    it.add("c", now=1.0)
    assert (it.depth(2.0), it.waiting(), it.oldest(2.0), it.longest_work(2.0)) == (2, 3, 2.0, 0.0)
    it.take(2.0)
    it.add("a", now=3.0)
    assert (it.depth(5.0), it.waiting(), it.oldest(5.0), it.longest_work(5.0)) == (1, 3, 4.0, 3.0)
    assert "a" in it


class Machine(RuleBasedStateMachine):
    """Whatever happens: no key is worked on twice at a time, and none that is wanted is lost."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.queue: KeyQueue[int] = KeyQueue(Backoff(1.0, 8.0), lambda: 0.5)
        self.working: set[int] = set()
        self.wanted: set[int] = set()

    @rule(key=st.integers(0, 3), delay=st.floats(0, 10))
    def add(self, key: int, delay: float) -> None:
        self.queue.add(key, self.now, delay)
        self.wanted.add(key)

    @rule(seconds=st.floats(0, 5))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def take(self) -> None:
        taken = self.queue.take(self.now)
        if taken is not None:
            assert taken.key not in self.working
            assert taken.waited >= 0
            self.working.add(taken.key)
            self.wanted.discard(taken.key)

    @precondition(lambda self: self.working)
    @rule(data=st.data(), fails=st.booleans())
    def end(self, data: st.DataObject, fails: bool) -> None:
        key = data.draw(st.sampled_from(sorted(self.working)))
        self.working.discard(key)
        if fails:
            self.queue.failed(key, self.now)
            self.wanted.add(key)
        else:
            self.queue.done(key)

    @invariant()
    def nothing_is_lost(self) -> None:
        assert self.queue.waiting() == len(self.wanted)
        idle = self.wanted - self.working
        assert (self.queue.next_due() is not None) == bool(idle)

    def teardown(self) -> None:
        for key in tuple(self.working):
            self.queue.done(key)
        taken = set()
        while (found := self.queue.take(self.now + 100)) is not None:
            taken.add(found.key)
        assert taken == self.wanted


TestMachine = Machine.TestCase
