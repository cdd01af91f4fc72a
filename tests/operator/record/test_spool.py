"""The newest of each row waits, within a bound."""

import json

import pytest

from extraction_operator.record.rows import Marked, Row
from extraction_operator.record.spool import Spool
from extraction_record.tables import ATTEMPTS, JOB_SPECS, JOBS


class Clock:
    """Time that the test decides."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Told(Spool):
    """A spool, and what it dropped."""

    def __init__(self, bound: int = 1_000_000) -> None:
        self.clock = Clock()
        self.lost: list[str] = []
        super().__init__(bound, self.lost.extend, clock=self.clock)

    def rows(self) -> list[dict]:
        return [json.loads(entry.body) for entry in self.batch(1000).entries.values()]


def job(uid: str, version: int, phase: str = "Running") -> Row:
    return Row(JOBS, {"uid": uid, "created_at": "t", "phase": phase}, version)


def attempt(**known: object) -> Row:
    return Row(ATTEMPTS, {"job_uid": "a", "attempt": 1, "job_created_at": "t", **known})


def test_the_newest_of_a_key_waits_once():
    spool = Told()
    spool.offer(job("a", 1, "Planning"))
    spool.clock.now = 5.0
    spool.offer(job("a", 2, "Running"))
    spool.offer(job("b", 3))
    assert [(row["uid"], row["phase"], row["resource_version"]) for row in spool.rows()] == [
        ("a", "Running", 2),
        ("b", "Running", 3),
    ]
    # It is as old as its first change.
    spool.clock.now = 8.0
    assert spool.lag() == 8.0


def test_a_version_that_says_nothing_new_isnt_written():
    spool = Told()
    spool.offer(job("a", 1))
    spool.written(spool.batch(10))
    spool.offer(job("a", 2))
    assert len(spool) == 0
    spool.offer(job("a", 3, "Failed"))
    assert len(spool) == 1
    spool.written(spool.batch(10))
    spool.forget()
    spool.offer(job("a", 3, "Failed"))
    assert len(spool) == 1


def test_a_mark_says_that_something_is_new_and_the_rest_is_made_then_alone():
    spool, made = Told(), []

    def spec(uid: str, generation: int) -> Marked:
        def make() -> dict:
            made.append(uid)
            return {"job_uid": uid, "job_created_at": "t", "generation": generation, "spec": {"table": "t"}}

        return Marked(JOB_SPECS, (uid, "t"), generation, make)

    for uid, generation in (("a", 1), ("a", 1), ("b", 1), ("a", 2), ("a", 2)):
        spool.offer(spec(uid, generation))
    assert made == ["a", "b", "a"]
    assert [(row["job_uid"], row["generation"], row["spec"]) for row in spool.rows()] == [
        ("a", 2, {"table": "t"}), ("b", 1, {"table": "t"}),
    ]  # fmt: skip


def test_what_was_offered_is_known_of_very_many_rows_but_not_of_all(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("extraction_operator.record.spool._REMEMBERED", 10)
    spool = Told()

    def news(numbers: range) -> int:
        for number in numbers:
            spool.offer(job(str(number), 1))
        found = len(spool)
        spool.written(spool.batch(1000))
        return found

    assert news(range(10)) == 10
    # A walk over all of them, again and again, forgets none.
    for _ in range(5):
        assert news(range(10)) == 0
    assert news(range(10, 20)) == 10
    assert news(range(10, 20)) == 0
    assert news(range(20, 60)) == 40
    assert news(range(10)) == 10


def test_what_is_known_of_an_attempt_stays_and_is_filled_in():
    spool = Told()
    spool.offer(attempt(reason="OutOfMemory", node=None))
    spool.offer(attempt(reason="Failed", outcome="Failed", node="n"))
    (row,) = spool.rows()
    assert (row["reason"], row["outcome"], row["node"]) == ("OutOfMemory", "Failed", "n")


def test_what_changed_while_it_was_written_waits_on():
    spool = Told()
    for uid in "abc":
        spool.offer(job(uid, 1))
    batch, following = spool.batch(2), spool.batch(2, after=2)
    spool.offer(job("b", 2, "Failed"))
    spool.clock.now = 3.0
    spool.written(batch)
    # Behind what has waited meanwhile, which is gathered already.
    assert [(row["uid"], row["phase"]) for row in spool.rows()] == [("c", "Running"), ("b", "Failed")]
    spool.written(following)
    spool.clock.now = 5.0
    assert (len(spool), spool.lag()) == (1, 2.0)
    spool.written(spool.batch(2))
    assert (len(spool), spool.bytes, spool.lag()) == (0, 0, 0.0)


@pytest.mark.parametrize("count", [1, 7, 50])
def test_beyond_the_bound_the_oldest_go(count: int):
    one = Told()
    one.offer(job("0", 1))
    spool = Told(bound=one.bytes * 10)
    for number in range(count):
        spool.offer(job(str(number % 10) + str(number // 10), 1))
    kept = min(count, 9)  # keys of two characters are a little longer
    assert len(spool) == kept
    assert spool.lost == ["jobs"] * (count - kept)
    assert spool.bytes <= one.bytes * 10
    # What was dropped is news again.
    if count == 50:
        spool.offer(job("00", 1))
        assert spool.rows()[-1]["uid"] == "00"


def test_a_batch_is_ordered_and_can_be_halved():
    spool = Told()
    for uid in "cab":
        spool.offer(job(uid, 1))
        spool.offer(Row(JOB_SPECS, {"job_uid": uid, "job_created_at": "t", "generation": 1, "spec": {}}))
    batch = spool.batch(10)
    assert [row["uid"] for row in json.loads(batch.texts()["jobs"])] == ["a", "b", "c"]
    assert batch.texts() is batch.texts()
    assert len(spool.batch(10, after=4)) == 2
    assert batch.counts() == {"jobs": 3, "job_specs": 3}
    first, second = batch.halves()
    assert len(first) == len(second) == 3
    assert first.entries | second.entries == batch.entries
