"""The operator reads live progress: all jobs at once, and never worse than without."""

import asyncio
from types import SimpleNamespace

from extraction_contract.live import PodProgress, bundle_field, live_key
from extraction_operator.live import LiveReader
from extraction_operator.plan.values import Key
from extraction_operator.store import Parent, Ref

ORDERS, ITEMS = Ref(Parent.JOB, Key("shop", "orders")), Ref(Parent.JOB, Key("shop", "items"))


def tell(redis, run: str, rows: int) -> None:
    pod = PodProgress(pod="a", rows=rows, bytes=1, chunks=1, of=2, rate=1.0, at=1.0)
    redis.client().hset(live_key(run), bundle_field(0), pod.encode())


def reader(file) -> tuple[LiveReader, list[bool]]:
    reads: list[bool] = []

    def read_live(*, failed: bool) -> None:
        reads.append(failed)

    return LiveReader(file, SimpleNamespace(read_live=read_live)), reads


def test_only_news_is_a_reason_to_decide(redis, tmp_path):
    live, reads = reader(redis.url_file(tmp_path))
    jobs, changed = {ORDERS: "o-1", ITEMS: "i-2"}, []

    def look() -> list[Ref]:
        changed.clear()
        asyncio.run(live.look(jobs, lambda ref, _: changed.append(ref)))
        return changed

    tell(redis, "o-1", 5)
    assert look() == [ORDERS]
    assert live.of("o", 1).rows == 5
    assert live.of("i", 2) is None
    assert look() == []
    tell(redis, "i-2", 7)
    assert look() == [ITEMS]
    assert reads == [False] * 3
    jobs.clear()
    assert look() == []
    assert live.of("o", 1) is None


def test_without_redis_what_was_known_stays(redis, tmp_path):
    file = redis.url_file(tmp_path)
    live, reads = reader(file)
    tell(redis, "o-1", 5)
    asyncio.run(live.look({ORDERS: "o-1", ITEMS: "i-1"}, lambda *_: None))
    file.write_text("redis://127.0.0.1:1/0")
    asyncio.run(live.look({ORDERS: "o-1"}, lambda *_: None))
    assert live.of("o", 1).rows == 5
    file.write_text("garbage")
    asyncio.run(live.look({ITEMS: "i-1"}, lambda *_: None))
    assert live.of("o", 1) is None
    assert reads == [False, True, True]


def test_nothing_is_read_without_a_url_and_again_and_again_with_one(redis, tmp_path):
    none, reads = reader(None)
    asyncio.run(none.run(lambda: {ORDERS: "o-1"}, lambda *_: None, 0.001))
    asyncio.run(none.look({ORDERS: "o-1"}, lambda *_: None))
    assert reads == []
    live, reads = reader(redis.url_file(tmp_path))

    async def scenario() -> None:
        task = asyncio.create_task(live.run(lambda: {ORDERS: "o-1"}, lambda *_: None, 0.001))
        async with asyncio.timeout(20):
            while len(reads) < 3:
                await asyncio.sleep(0.001)
        task.cancel()

    asyncio.run(scenario())
