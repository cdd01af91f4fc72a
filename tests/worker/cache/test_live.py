"""Live progress: what pods write, how it is added up, and how people and the operator see it."""

import io
import threading
import time
from types import SimpleNamespace

import pytest
from rich.console import Console
from rich.progress import Progress as RichProgress

from extraction_contract.live import JOB_FIELD, LiveProgress, PodProgress, Promised, bundle_field, live_key
from extraction_contract.redis_url import RedisUrl
from extraction_operator.kubectl.live import Live, live_of
from extraction_operator.kubectl.show import Bar, Lines
from extraction_operator.kubectl.view import JobView
from extraction_worker.cache.connection import RedisConnection
from extraction_worker.cache.live import tell_plan, told
from support.databases import wait_until

PROMISED = Promised(chunks=8, bundles=2, rows=1000, bytes=10_000)


def progress(pod: str = "a", **changes) -> PodProgress:
    fields = {"pod": pod, "rows": 100, "bytes": 1000, "chunks": 1, "of": 4, "rate": 50.0, "at": 1000.0}
    return PodProgress(**(fields | changes))


def hash_of(*pods: PodProgress, promised: Promised | None = PROMISED) -> dict[bytes, bytes]:
    found = {bundle_field(index).encode(): pod.encode().encode() for index, pod in enumerate(pods)}
    return found | ({JOB_FIELD.encode(): promised.encode().encode()} if promised else {})


def test_pods_are_added_up():
    live = LiveProgress.of(hash_of(progress(), progress("b", rows=50, bytes=500, chunks=2, at=1001.0)))
    assert (live.rows, live.bytes, live.chunks, live.total) == (150, 1500, 3, 8)
    assert (live.percentage, live.rate, live.updated) == (37.5, 100.0, 1001.0)
    assert [bundle for bundle, _ in live.pods] == [0, 1]


def test_a_hundred_percent_are_all_chunks_and_nothing_less():
    assert LiveProgress.of(hash_of(progress(bytes=10**9))).percentage == 99.9
    assert LiveProgress.of(hash_of(progress(chunks=8, of=8))).percentage == 100.0
    assert LiveProgress.of(hash_of(promised=PROMISED)).percentage == 0.0
    assert LiveProgress.of(hash_of(progress(), promised=None)).total == 0


def test_pods_that_are_done_or_silent_have_no_rate():
    pods = (progress(chunks=4), progress("silent", at=900.0), progress("reads", rate=7.0))
    assert LiveProgress.of(hash_of(*pods)).rate == 7.0


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b'{"pod":1}', b'{"chunks":"x"}', b"\xff", b"[" * 100_000])
def test_what_somebody_else_wrote_is_ignored(text):
    assert LiveProgress.of({b"job": text, b"bundle:0": text, b"bundle:x": text, b"else": text}) is None
    assert LiveProgress.of({}) is None


def test_a_pod_tells_how_far_it_is_and_its_successor_takes_its_place(redis):
    connection, rows = RedisConnection(RedisUrl(redis.url)), 0

    def now() -> PodProgress:
        return progress(rows=rows)

    def read() -> LiveProgress | None:
        return LiveProgress.of(redis.client().hgetall(live_key("uid-1")))

    tell_plan(connection, "uid-1", PROMISED)
    with told(connection, "uid-1", 0, now, seconds=0.01):
        rows = 42
        wait_until(lambda: read().rows == 42)
        rows = 43
    assert read().rows == 43
    with told(connection, "uid-1", 0, lambda: progress("successor", rows=7), seconds=60):
        pass
    assert [(bundle, pod.pod, pod.rows) for bundle, pod in read().pods] == [(0, "successor", 7)]
    assert 3500 < redis.client().ttl(live_key("uid-1")) <= 3600


def test_each_write_is_one_round_trip(redis):
    with redis.client().monitor() as monitor:
        with told(RedisConnection(RedisUrl(redis.url)), "uid-1", 3, progress, seconds=60):
            pass
        redis.client().set("the", "end")
        commands = []
        for command in monitor.listen():
            commands.append(command["command"].split()[0])
            if commands[-1] == "SET":
                break
    assert [name for name in commands if name in {"HSET", "EXPIRE"}] == ["HSET", "EXPIRE"]


def test_without_redis_nobody_waits_and_nothing_fails():
    tell_plan(None, "uid-1", PROMISED)
    away = RedisConnection(RedisUrl("redis://127.0.0.1:1/0"))
    tell_plan(away, "uid-1", PROMISED)
    for connection in (None, away):
        with told(connection, "uid-1", 0, progress, seconds=0.001):
            pass
    with pytest.raises(ValueError, match="ours"), told(away, "uid-1", 0, progress, seconds=0.001):
        raise ValueError("ours")


# For people ------------------------------------------------------------------------------------------------------


def view(phase: str = "Running") -> JobView:
    return JobView.of({"metadata": {"name": "orders", "uid": "uid"}, "status": {"phase": phase, "attempt": 1}})


def test_watch_shows_what_pods_tell_and_falls_back_to_the_status(redis, tmp_path):
    shown = SimpleNamespace(live=[], said=[])
    shown.show_live, shown.say = shown.live.append, shown.said.append
    redis.client().hset(live_key("uid-1"), mapping=hash_of(progress()))
    with live_of(redis.url_file(tmp_path), shown) as live:
        live._seconds = 0.01
        live.look()
        assert shown.live == []  # no job was seen yet
        live.see(view())
        live.look()
        assert shown.live[-1].rows == 100
        live.see(view("Publishing"))
    with live_of(None, shown) as live:
        assert live is None
    with live_of(tmp_path / "missing", shown) as live:
        assert live is None
    assert "Going on without Redis" in shown.said[-1]


def test_watch_says_once_that_redis_is_away():
    said = []
    live = Live(RedisUrl("redis://127.0.0.1:1/0"), SimpleNamespace(say=said.append, show_live=None))
    live.see(view())
    live.look()
    live.look()
    assert said == ["Redis can't be read (ConnectionError): showing the status alone."]


def test_watch_reads_by_itself(redis):
    seen = threading.Event()
    shown = SimpleNamespace(say=print, show_live=lambda _: seen.set())
    redis.client().hset(live_key("uid-1"), mapping=hash_of(progress()))
    live = Live(RedisUrl(redis.url), shown, seconds=0.01)
    with live.running():
        live.see(view())
        assert seen.wait(20)


def test_lines_and_bars_show_the_job_and_its_pods():
    stream = io.StringIO()
    lines = Lines(stream)
    live = LiveProgress.of(hash_of(progress("pod-a"), progress("pod-b", chunks=4)))
    lines.show_live(live)
    lines.show_live(live)
    assert stream.getvalue() == "62.5 %, 5/8 chunks, 200 rows, 50 rows/s\n"
    with RichProgress("{task.description}", "{task.fields[rows]}", console=Console(file=io.StringIO())) as bars:
        bar = Bar(bars)
        bar.show(view())
        bar.show_live(live)
        bar.show(view())
        assert [task.description for task in bars.tasks] == ["orders Running", "  pod-a"]
        assert "200 rows" in bars.tasks[0].fields["rows"]
        bar.show_live(LiveProgress.of(hash_of(progress("pod-a", chunks=4), progress("pod-c"))))
        assert [task.description for task in bars.tasks] == ["orders Running", "  pod-c"]
        bar.show(view("Publishing"))
        assert [task.description for task in bars.tasks] == ["orders Publishing"]


def test_a_hundred_jobs_are_less_than_a_second_old(redis):
    """Each of a hundred pods writes as it does in a cluster; a reader looks at all of them for some seconds."""
    with_pods = [RedisConnection(RedisUrl(redis.url)) for _ in range(100)]
    ended = threading.Event()

    def work(index: int, connection: RedisConnection) -> None:
        with told(connection, f"uid-{index}", 0, lambda: progress(at=time.time())):
            ended.wait(30)

    threads = [threading.Thread(target=work, args=item, daemon=True) for item in enumerate(with_pods)]
    for thread in threads:
        thread.start()
    client = redis.client()
    wait_until(lambda: len(client.keys("extraction:1:live:*")) == 100)
    writes = client.info("commandstats")["cmdstat_hset"]["calls"]
    began, looks = time.monotonic(), 0
    while time.monotonic() - began < 2:
        client.hgetall(live_key(f"uid-{looks % 100}"))
        looks += 1
    seconds = time.monotonic() - began
    done = client.info("commandstats")["cmdstat_hset"]["calls"] - writes
    ended.set()
    for thread in threads:
        thread.join(10)
    # No timing of ours is judged on a busy machine: no pod writes more than it should.
    assert 0 < done <= 100 * (seconds / 0.9 + 1)
