"""The elector on a Lease that is kept here: who may lead, and for how long. The clock is a number."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from extraction_operator.cluster.errors import ApiError, UnreachableError
from extraction_operator.cluster.leader import Elector, LostLeaseError, Record
from extraction_operator.cluster.timing import Timing
from extraction_operator.plan.values import Key


class World:
    """Time, and the Lease. Time passes only while somebody sleeps or an attempt takes its time."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.record: Record | None = None
        self.version = 0
        self.failures: list[Exception | str] = []
        """What happens at the next writes: an error instead of it, or ``lost``: it is done and not answered."""
        self.takes = 0.0
        """Seconds that each read or write takes."""

    async def read(self) -> Record | None:
        self.now += self.takes
        return self.record

    async def write(self, record: Record) -> Record:
        self.now += self.takes
        failure = self.failures.pop(0) if self.failures else None
        if isinstance(failure, Exception):
            raise failure
        if record.version != (self.record.version if self.record else ""):
            raise ApiError(409, {"reason": "Conflict"}, "update lease")
        self.version += 1
        self.record = replace(record, version=str(self.version))
        if failure == "lost":
            raise UnreachableError("the answer was lost")
        return self.record


class Replica:
    """An elector in a world, and until when it may write."""

    def __init__(self, world: World, name: str) -> None:
        self.until = 0.0
        self.elector = Elector(world, name, self._renewed, clock=lambda: world.now, fraction=lambda: 1.0)

    def _renewed(self, begin: float) -> None:
        self.until = begin + Timing().deadline


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """A world whose time passes when somebody sleeps."""
    it = World()
    sleep = asyncio.sleep

    async def pass_time(seconds: float) -> None:
        it.now += seconds
        await sleep(0)

    monkeypatch.setattr("extraction_operator.cluster.leader.asyncio.sleep", pass_time)
    return it


def test_the_first_one_leads_and_the_second_doesnt(world: World):
    async def scenario() -> None:
        a, b = Replica(world, "a"), Replica(world, "b")
        assert await a.elector.try_acquire()
        assert not await b.elector.try_acquire()
        assert (world.record.holder, world.record.transitions, b.elector.holder) == ("a", 0, "a")
        assert a.until == 1006.0

    asyncio.run(scenario())


def test_another_leads_only_after_a_whole_duration_without_a_renewal_that_it_saw_itself(world: World):
    async def scenario() -> None:
        a, b = Replica(world, "a"), Replica(world, "b")
        await a.elector.try_acquire()
        world.now += 3600
        # However old the renewal says it is: clocks of two machines may differ.
        assert not await b.elector.try_acquire()
        world.now += 9.9
        assert not await b.elector.try_acquire()
        await a.elector.try_renew()
        world.now += 9.9
        assert not await b.elector.try_acquire()
        world.now += 10.0
        assert await b.elector.try_acquire()
        assert (world.record.holder, world.record.transitions) == ("b", 1)

    asyncio.run(scenario())


def test_a_killed_leader_is_followed_in_less_than_15_seconds(world: World):
    async def scenario() -> None:
        a, b = Replica(world, "a"), Replica(world, "b")
        await a.elector.try_acquire()
        world.takes = 0.1
        await b.elector.try_acquire()
        killed = world.now
        await a.elector.try_renew()
        await b.elector.acquire()
        assert 10 <= world.now - killed < 15
        assert a.until <= world.now

    asyncio.run(scenario())


def test_a_lease_that_was_released_is_taken_at_the_next_look(world: World):
    async def scenario() -> None:
        a, b = Replica(world, "a"), Replica(world, "b")
        await a.elector.try_acquire()
        await b.elector.try_acquire()
        released = world.now
        await a.elector.release()
        await b.elector.acquire()
        assert world.now - released <= Timing().retry
        assert world.record.holder == "b"

    asyncio.run(scenario())


def test_who_loses_the_race_for_a_free_lease_doesnt_lead(world: World):
    async def scenario() -> None:
        b = Replica(world, "b")
        world.failures = [ApiError(409, {"reason": "AlreadyExists"}, "create lease")]
        with pytest.raises(ApiError):
            await b.elector.try_acquire()
        assert b.until == 0

    asyncio.run(scenario())


def test_the_time_counts_from_the_begin_of_a_renewal(world: World):
    async def scenario() -> None:
        a = Replica(world, "a")
        world.takes = 1.5
        begin = world.now
        await a.elector.try_acquire()
        assert a.until == begin + 6

    asyncio.run(scenario())


def test_a_lease_that_was_taken_without_an_answer_is_taken_up_at_once(world: World):
    async def scenario() -> None:
        a, b = Replica(world, "a"), Replica(world, "b")
        world.failures = ["lost"]
        began = world.now
        await a.elector.acquire()
        assert world.now - began <= Timing().retry
        assert world.record.holder == "a"
        assert a.until > world.now
        assert not await b.elector.try_acquire()

    asyncio.run(scenario())


def test_a_renewal_whose_answer_was_lost_is_recognised_as_ours(world: World):
    async def scenario() -> None:
        a = Replica(world, "a")
        await a.elector.try_acquire()
        world.failures = ["lost"]
        with pytest.raises(UnreachableError):
            await a.elector.try_renew()
        assert await a.elector.try_renew()
        assert world.record.holder == "a"

    asyncio.run(scenario())


@pytest.mark.parametrize("taken", [Record("b", 10, None, None, 1, "77"), None])
def test_a_leader_whose_lease_is_somebody_elses_or_gone_ends_at_once(world: World, taken: Record | None):
    async def scenario() -> None:
        a = Replica(world, "a")
        await a.elector.try_acquire()
        world.record = taken
        with pytest.raises(LostLeaseError):
            await a.elector.hold()
        assert world.now < 1003

    asyncio.run(scenario())


def test_a_refusal_that_isnt_a_conflict_is_a_missed_renewal(world: World):
    async def scenario() -> None:
        a = Replica(world, "a")
        await a.elector.try_acquire()
        world.failures = [ApiError(500, {}, "update lease")]
        with pytest.raises(ApiError):
            await a.elector.try_renew()

    asyncio.run(scenario())


def test_a_leader_that_cant_renew_gives_up_when_it_may_not_write_any_more(world: World):
    async def scenario() -> None:
        a = Replica(world, "a")
        await a.elector.try_acquire()
        # Whatever goes wrong, even a bug of ours.
        world.failures = [UnreachableError("away"), ValueError("a bug"), *[UnreachableError("away")] * 50]
        with pytest.raises(LostLeaseError):
            await a.elector.hold()
        assert world.now == pytest.approx(a.until)
        # After the first failure it tried again sooner.
        assert len(world.failures) < 46

    asyncio.run(scenario())


def test_a_leader_that_renews_goes_on_leading(world: World):
    async def scenario() -> None:
        a = Replica(world, "a")
        await a.elector.try_acquire()
        world.failures = [UnreachableError("for a moment")]
        holding = asyncio.create_task(a.elector.hold())
        while world.now < 1100:
            await asyncio.sleep(0)
        assert not holding.done()
        assert a.until > world.now
        holding.cancel()

    asyncio.run(scenario())


def test_an_attempt_that_isnt_answered_ends_by_itself():
    class Hole:
        async def read(self) -> Record | None:
            await asyncio.Event().wait()
            raise AssertionError

        async def write(self, record: Record) -> Record:
            raise AssertionError

    async def scenario() -> None:
        elector = Elector(Hole(), "a", lambda _: None, timing=Timing(1.0, 0.5, 0.05))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await elector.acquire()

    asyncio.run(scenario())


def test_who_doesnt_hold_the_lease_can_neither_renew_nor_release_it(world: World):
    async def scenario() -> None:
        a = Replica(world, "a")
        await a.elector.release()
        assert world.record is None
        with pytest.raises(LostLeaseError):
            await a.elector.try_renew()
        assert a.elector.holder == ""

    asyncio.run(scenario())


def test_a_lease_whose_renewal_was_not_waited_for_is_released(world: World):
    async def scenario() -> None:
        a, b = Replica(world, "a"), Replica(world, "b")
        await a.elector.try_acquire()
        world.failures = ["lost"]
        with pytest.raises(UnreachableError):
            await a.elector.try_renew()
        await a.elector.release()
        assert world.record.holder == ""
        assert await b.elector.try_acquire()

    asyncio.run(scenario())


def test_a_lease_that_is_lost_already_is_not_released(world: World):
    async def scenario() -> None:
        a, b = Replica(world, "a"), Replica(world, "b")
        await a.elector.try_acquire()
        await b.elector.try_acquire()
        world.now += 10
        assert await b.elector.try_acquire()
        await a.elector.release()
        assert world.record.holder == "b"

    asyncio.run(scenario())


def test_a_release_that_fails_is_no_error(world: World):
    async def scenario() -> None:
        a = Replica(world, "a")
        await a.elector.try_acquire()
        world.failures = [UnreachableError("away")]
        await a.elector.release()
        assert world.record.holder == "a"

    asyncio.run(scenario())


def test_a_record_survives_the_way_to_the_api_server_and_back():
    moment = datetime(2026, 11, 22, 6, 0, 0, 123456, tzinfo=UTC)
    record = Record("a", 10, moment, moment, 3, "55")
    raw = record.manifest(Key("system", "operator"))
    assert raw["spec"]["renewTime"] == "2026-11-22T06:00:00.123456Z"
    assert Record.parse(raw) == record
    empty = Record.parse({"metadata": {"resourceVersion": "1"}})
    assert (empty.holder, empty.renewed, empty.manifest(Key("a", "b"))["spec"]["renewTime"]) == ("", None, None)
    assert "resourceVersion" not in replace(record, version="").manifest(Key("a", "b"))["metadata"]
