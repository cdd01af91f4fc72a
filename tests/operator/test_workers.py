"""Workers on a queue. What they do is steered by events; nothing sleeps."""

import asyncio
import logging

import pytest

from extraction_operator.queue import Backoff, KeyQueue
from extraction_operator.workers import Workers, describe


class Seen:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.results: list[bool] = []
        self.waits: list[float] = []

    def waited(self, seconds: float) -> None:
        self.waits.append(seconds)

    def worked(self, seconds: float, *, failed: bool) -> None:
        assert seconds >= 0
        self.results.append(failed)


def test_keys_are_worked_on_side_by_side_but_no_more_than_allowed():
    async def scenario() -> None:
        running, most, go = 0, 0, asyncio.Event()
        done: list[int] = []

        async def work(key: int) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            if running == 2:
                go.set()
            await go.wait()
            running -= 1
            done.append(key)
            if len(done) == 5:
                workers.stop()

        workers = Workers(KeyQueue[int](), work, Seen(), count=2)
        for key in range(5):
            workers.add(key)
        await workers.run()
        assert (most, sorted(done)) == (2, [0, 1, 2, 3, 4])

    asyncio.run(scenario())


def test_a_key_is_never_worked_on_twice_at_a_time_and_runs_again_when_it_was_added_meanwhile():
    async def scenario() -> None:
        runs, inside = 0, 0

        async def work(key: str) -> None:
            nonlocal runs, inside
            inside += 1
            assert inside == 1
            runs += 1
            if runs == 1:
                workers.add(key)
            else:
                workers.stop()
            await asyncio.sleep(0)
            inside -= 1

        workers = Workers(KeyQueue[str](), work, Seen())
        workers.add("a")
        await workers.run()
        assert runs == 2

    asyncio.run(scenario())


def test_what_fails_is_logged_and_tried_again(caplog: pytest.LogCaptureFixture):
    async def scenario() -> None:
        runs, seen = 0, Seen()

        async def work(key: str) -> None:
            nonlocal runs
            runs += 1
            if runs < 3:
                raise ValueError("not yet")
            workers.stop()

        workers = Workers(KeyQueue[str](Backoff(0.001), lambda: 1.0), work, seen)
        workers.add("a")
        await workers.run()
        assert seen.results == [True, True, False]

    with caplog.at_level(logging.WARNING):
        asyncio.run(scenario())
    assert [(record.key, record.error) for record in caplog.records] == [("a", "ValueError: not yet")] * 2


def test_a_key_that_is_added_wakes_a_worker_that_waits_for_a_later_one():
    async def scenario() -> None:
        async def work(key: str) -> None:
            assert key == "now"
            workers.stop()

        workers = Workers(KeyQueue[str](), work, Seen())
        workers.add("later", 3600.0)
        running = asyncio.create_task(workers.run())
        await asyncio.sleep(0)
        workers.add("now")
        await running

    asyncio.run(scenario())


def test_stopping_lets_what_is_worked_on_end():
    async def scenario() -> None:
        begun, go, ended = asyncio.Event(), asyncio.Event(), []

        async def work(key: str) -> None:
            begun.set()
            await go.wait()
            ended.append(key)

        workers = Workers(KeyQueue[str](), work, Seen())
        workers.add("a")
        running = asyncio.create_task(workers.run())
        await begun.wait()
        workers.stop()
        workers.add("b")
        go.set()
        await running
        assert ended == ["a"]

    asyncio.run(scenario())


def test_cancelling_cancels_what_is_worked_on():
    async def scenario() -> None:
        begun, cancelled = asyncio.Event(), asyncio.Event()

        async def work(_: str) -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise

        queue = KeyQueue[str]()
        workers = Workers(queue, work, Seen())
        workers.add("a")
        running = asyncio.create_task(workers.run())
        await begun.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await cancelled.wait()
        assert "a" not in queue

    asyncio.run(scenario())


def test_errors_without_a_text_are_described_by_their_type():
    assert describe(TimeoutError()) == "TimeoutError"
    assert describe(ValueError("x")) == "ValueError: x"
