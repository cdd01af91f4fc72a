"""Local jobs beside a Redis in trouble: they end correctly, and publish what they would publish without one."""

from collections.abc import Callable

import pytest

from extraction_worker.report.progress import Phase, Progress
from extraction_worker.stages.local import LocalRun
from extraction_worker.stages.settings import LocalOptions
from support.jobs import published, resolve_job, write_job
from support.redis_server import RedisServer

ROWS = 5000


class Meddler(Progress):
    """Does something to Redis when the job begins to read."""

    def __init__(self, meddle: Callable[[], object]) -> None:
        super().__init__()
        self.meddle = meddle

    def phase(self, phase: Phase) -> None:
        super().phase(phase)
        if phase is Phase.RUNNING:
            self.meddle()


@pytest.fixture
def job(database18, tmp_path):
    """Run a job of this name with a Redis; return its rows and the digests of its columns."""
    table = database18
    table.execute("CREATE TABLE t (id int, word text, n int)")
    table.execute(f"INSERT INTO t SELECT i, md5(i::text), 1 FROM generate_series(1, {ROWS}) AS i")

    def run(name: str, redis: RedisServer, progress: Progress):
        folder = tmp_path / name
        # Redis is asked for a result before it reads, and told of one afterwards.
        files = write_job(folder, table, spec={"partitioning": {"targetBytes": "64Ki"}, "reuse": {}})
        options = LocalOptions(folder / "volumes", 2, redis_url_file=redis.url_file(folder))
        manifest = LocalRun(resolve_job(files), options, progress).run()
        assert (published(folder) / "_manifest.json").exists()
        return manifest.rows, sorted(part.xxh3_128 for part in manifest.parts)

    return run


def test_a_redis_that_is_emptied_in_the_middle_changes_nothing(job):
    with RedisServer() as redis:
        want = job("before", redis, Progress())
        assert want[0] == ROWS
        assert redis.client().keys("extraction:1:result:*")
        redis.client().delete(*redis.client().keys("extraction:1:result:*"))
        assert job("emptied", redis, Meddler(lambda: redis.client().flushall())) == want
        assert [key.split(b":")[2] for key in redis.client().keys("*")] == [b"result"]


def test_a_redis_that_is_full_changes_nothing(job):
    with RedisServer("--maxmemory", "1", "--maxmemory-policy", "noeviction") as redis:
        assert job("full", redis, Progress())[0] == ROWS
        assert redis.client().dbsize() == 0


@pytest.mark.parametrize("trouble", ["kill", "freeze"])
def test_a_redis_that_dies_or_hangs_in_the_middle_changes_nothing(job, trouble):
    with RedisServer() as redis:
        assert job("troubled", redis, Meddler(getattr(redis, trouble)))[0] == ROWS
        if trouble == "freeze":
            redis.thaw()
