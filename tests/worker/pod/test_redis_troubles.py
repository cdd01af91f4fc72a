"""A job's pod beside a Redis in trouble: the job ends as it would without, and loses little time."""

import pytest

from extraction_contract.live import LiveProgress, live_key
from support.pods import Pods
from support.redis_server import RedisServer
from support.tcp_relay import SlowRelay

# The source is asked what came out, and Redis is told of the result, too.
SPEC = {"partitioning": {"targetBytes": "64Ki"}, "verification": "Source", "reuse": {"maxAge": "10m"}}
ROWS = 12858


@pytest.fixture
def redis():
    """A Redis of the test's own."""
    with RedisServer() as found:
        yield found


@pytest.fixture
def pods(table, tmp_path, redis) -> Pods:
    """The lead of a job that it reads alone; Redis is mounted."""
    pods = Pods(tmp_path, table, spec=SPEC)
    redis.url_file(pods.etc / "redis")
    return pods


def empty(redis: RedisServer) -> None:
    """Make it forget everything."""
    redis.client().flushall()


def fill(redis: RedisServer) -> None:
    """Leave no room for anything: it refuses to write."""
    redis.client().config_set("maxmemory-policy", "noeviction")
    redis.client().config_set("maxmemory", "1")


@pytest.mark.parametrize("trouble", [RedisServer.kill, RedisServer.freeze, fill, empty])
def test_trouble_between_planning_and_reading_changes_nothing(pods, redis, trouble):
    with pods.held():
        pods.run("plan")
        assert redis.client().dbsize() > 0
        trouble(redis)
        assert pods.run("publish").rows == ROWS
    if trouble is empty:
        # Pods that read have told of themselves and of the plan again.
        live = LiveProgress.of(redis.client().hgetall(live_key("uid-1")))
        chunks = len(pods.published().chunks)
        assert (live.rows, live.chunks, live.total, live.percentage) == (ROWS, chunks, chunks, 100.0)


def test_a_redis_that_answers_late_changes_nothing(pods, redis):
    with SlowRelay(redis.port, seconds=0.05) as relay:
        redis.url_file(pods.etc / "redis", f"redis://127.0.0.1:{relay.port}/0")
        with pods.held():
            # Whether it is in time, the machine decides, too.
            assert {use.cache for use in pods.run("plan").caches} >= {"introspection", "result"}
            assert pods.run("publish").rows == ROWS
