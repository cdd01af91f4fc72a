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
    with told(connection, "uid-1", 0, PROMISED, now, seconds=0.01):
        rows = 42
        wait_until(lambda: read().rows == 42)
        rows = 43
    assert read().rows == 43
    with told(connection, "uid-1", 0, PROMISED, lambda: progress("successor", rows=7), seconds=60):
        pass
    assert [(bundle, pod.pod, pod.rows) for bundle, pod in read().pods] == [(0, "successor", 7)]
    assert 3500 < redis.client().ttl(live_key("uid-1")) <= 3600


def test_a_redis_that_is_emptied_has_it_again_with_the_next_write(redis):
    connection = RedisConnection(RedisUrl(redis.url))
    tell_plan(connection, "uid-1", PROMISED)
    assert LiveProgress.of(redis.client().hgetall(live_key("uid-1"))).total == 8
    redis.client().flushall()
    with told(connection, "uid-1", 1, PROMISED, progress, seconds=60):
        pass
    live = LiveProgress.of(redis.client().hgetall(live_key("uid-1")))
    assert (live.total, live.chunks, live.percentage) == (8, 1, 12.5)


def test_each_write_is_one_round_trip(redis):
    with redis.client().monitor() as monitor:
        with told(RedisConnection(RedisUrl(redis.url)), "uid-1", 3, PROMISED, progress, seconds=60):
            pass
        redis.client().set("the", "end")
        commands = []
        for command in monitor.listen():
            commands.append(command["command"].split()[0])
            if commands[-1] == "SET":
                break
    assert [name for name in commands if name in {"HSET", "EXPIRE"}] == ["HSET", "EXPIRE"]


def test_a_pod_writes_once_a_beat_and_not_more_often(redis):
    written = 0

    def now() -> PodProgress:
        nonlocal written
        written += 1
        return progress()

    begin = time.monotonic()
    with told(RedisConnection(RedisUrl(redis.url)), "uid-1", 0, PROMISED, now, seconds=0.02):
        wait_until(lambda: written >= 20)
        count, seconds = written, time.monotonic() - begin
    # A machine that is busy makes it fewer.
    assert count <= seconds / 0.02 + 1


def test_without_redis_nobody_waits_and_nothing_fails():
    tell_plan(None, "uid-1", PROMISED)
    away = RedisConnection(RedisUrl("redis://127.0.0.1:1/0"))
    tell_plan(away, "uid-1", PROMISED)
    for connection in (None, away):
        with told(connection, "uid-1", 0, PROMISED, progress, seconds=0.001):
            pass
    with pytest.raises(ValueError, match="ours"), told(away, "uid-1", 0, PROMISED, progress, seconds=0.001):
        raise ValueError("ours")


# For people ------------------------------------------------------------------------------------------------------


def view(phase: str = "Running", **status) -> JobView:
    status = {"phase": phase, "attempt": 1} | status
    return JobView.of({"metadata": {"name": "orders", "uid": "uid"}, "status": status})


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


def test_watch_goes_on_with_the_status_when_redis_is_away_and_says_so_once(redis):
    stream = io.StringIO()
    with RichProgress("{task.description}", console=Console(file=stream, width=200)) as bars:
        bar = Bar(bars)
        live = Live(RedisUrl(redis.url), bar)
        redis.client().hset(live_key("uid-1"), mapping=hash_of(progress("pod-a")))
        live.see(view())
        bar.show(view())
        live.look()
        assert [task.description for task in bars.tasks] == ["orders Running", "  pod-a"]
        live._url = RedisUrl("redis://127.0.0.1:1/0")
        bar.show(view(progress={"rows": 1234}))
        live.look()
        live.look()
        assert [(task.description, task.fields["rows"]) for task in bars.tasks] == [("orders Running", "1,234 rows")]
        bar.show(view(progress={"rows": 5678}))
        assert bars.tasks[0].fields["rows"] == "5,678 rows"
        live._url = RedisUrl(redis.url)
        live.look()
        assert [task.description for task in bars.tasks] == ["orders Running", "  pod-a"]
    assert stream.getvalue().count("Redis can't be read (ConnectionError): showing the status alone.") == 1


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
        bar.show_live(live)  # read before
        assert [task.description for task in bars.tasks] == ["orders Publishing"]
    lines.end_live()
    assert len(stream.getvalue().splitlines()) == 1


def test_what_a_job_says_while_its_pods_read_is_shown():
    stream = io.StringIO()
    with RichProgress("{task.description}", console=Console(file=stream, width=200)) as bars:
        bar = Bar(bars)
        bar.end_live()  # before anything was seen
        bar.show(view())
        bar.show_live(LiveProgress.of(hash_of(progress())))
        waits = {"type": "Ready", "reason": "PodUnschedulable", "message": "0/3 nodes are available."}
        for _ in range(2):
            bar.show(view(conditions=[waits]))
    assert stream.getvalue().count("PodUnschedulable: 0/3 nodes are available.") == 1
