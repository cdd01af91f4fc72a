"""Talking to Redis: bounded in time, told once, tried again after a while; the kinds of URLs."""

import socket
import time

import pytest

from extraction_contract.redis_url import RedisUrl, RedisUrlError
from extraction_worker.cache.breaker import Breaker
from extraction_worker.cache.connection import RedisAwayError, RedisConnection
from extraction_worker.demo.postgres import free_port
from support.redis_server import RedisServer
from support.tcp_relay import TlsRelay

PASSWORD = "canary-of-redis/p@ss:word"
QUOTED = "canary-of-redis%2Fp%40ss%3Aword"


def test_the_breaker_opens_after_failures_in_a_row_and_tries_once_after_a_pause():
    now = 0.0
    breaker = Breaker(failures=2, pause=10, clock=lambda: now)
    breaker.failed()
    breaker.succeeded()
    breaker.failed()
    assert not breaker.is_open
    breaker.failed()
    assert breaker.is_open
    now = 10.0
    assert not breaker.is_open
    breaker.failed()
    assert breaker.is_open
    now = 20.0
    breaker.succeeded()
    assert not breaker.is_open


def test_a_server_that_is_away_is_tried_twice_and_told_once():
    said = []
    connection = RedisConnection(RedisUrl("redis://127.0.0.1:1/0"), said.append)
    for _ in range(5):
        with pytest.raises(RedisAwayError):
            connection.call(lambda redis: redis.ping())
    with pytest.raises(RedisAwayError, match="not tried"):
        connection.call(lambda redis: redis.ping())
    assert said == ["Going on without Redis (ConnectionError)."]


def test_a_server_that_comes_back_is_used_again():
    now, said = 0.0, []
    with RedisServer() as server:
        connection = RedisConnection(RedisUrl(server.url), said.append, Breaker(1, 10, lambda: now))
        assert connection.call(lambda redis: redis.ping())
        server.kill()
        with pytest.raises(RedisAwayError):
            connection.call(lambda redis: redis.ping())
        server.start()
        with pytest.raises(RedisAwayError, match="not tried"):
            connection.call(lambda redis: redis.ping())
        now = 11.0
        assert connection.call(lambda redis: redis.ping())
        connection.close()
        connection.close()
    assert said == ["Going on without Redis (ConnectionError).", "Redis is back."]


def test_a_server_that_does_not_answer_costs_a_bounded_time():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = RedisUrl(f"redis://127.0.0.1:{silent.getsockname()[1]}/0", seconds=0.1)
        connection = RedisConnection(url)
        started = time.monotonic()
        for _ in range(20):
            with pytest.raises(RedisAwayError):
                connection.call(lambda redis: redis.ping())
        assert time.monotonic() - started < 5


def test_whatever_hangs_is_left_behind():
    connection = RedisConnection(RedisUrl("redis://127.0.0.1:1/0"), seconds=0.05)
    with pytest.raises(RedisAwayError, match="TimeoutError"):
        connection.call(lambda redis: time.sleep(1))


def test_a_password_and_a_user_are_used():
    with RedisServer("--requirepass", PASSWORD) as server:
        url = RedisUrl(f"redis://:{QUOTED}@127.0.0.1:{server.port}/0")
        assert RedisConnection(url).call(lambda redis: redis.ping())
        with pytest.raises(RedisAwayError, match="AuthenticationError"):
            RedisConnection(RedisUrl(server.url)).call(lambda redis: redis.ping())
        server.client(password=PASSWORD).execute_command("ACL SETUSER reader on >other ~extraction:* +@all")
        url = RedisUrl(f"redis://reader:other@127.0.0.1:{server.port}/0")
        assert RedisConnection(url).call(lambda redis: redis.set("extraction:1:x", "y"))


def test_certificates_are_verified_unless_the_url_says_otherwise(redis, tmp_path):
    with TlsRelay(redis.port, tmp_path / "tls") as relay:
        (tmp_path / "with").mkdir()
        (tmp_path / "with" / "ca.crt").write_bytes(relay.authority)
        trusting = redis.url_file(tmp_path / "with", f"rediss://127.0.0.1:{relay.port}/0")
        assert RedisConnection(RedisUrl.read(trusting)).call(lambda redis: redis.ping())
        careful = redis.url_file(tmp_path / "without", f"rediss://127.0.0.1:{relay.port}/0")
        with pytest.raises(RedisAwayError):
            RedisConnection(RedisUrl.read(careful)).call(lambda redis: redis.ping())
        other_name = redis.url_file(tmp_path / "with", f"rediss://localhost:{relay.port}/0")
        with pytest.raises(RedisAwayError):
            RedisConnection(RedisUrl.read(other_name)).call(lambda redis: redis.ping())
        blind = redis.url_file(
            tmp_path / "without", f"rediss://127.0.0.1:{relay.port}/0?ssl_cert_reqs=none&ssl_check_hostname=false"
        )
        assert RedisConnection(RedisUrl.read(blind)).call(lambda redis: redis.ping())


@pytest.mark.parametrize(
    ("asked", "query"),
    [
        ("", ""),
        ("requirepass canary/asked\n", "?sentinel_password=canary%2Fasked"),
        ("user asker on >canary/asked +@all\n", "?sentinel_username=asker&sentinel_password=canary%2Fasked"),
    ],
)
def test_the_master_that_sentinels_name_is_found(asked, query):
    with RedisServer("--requirepass", "secret") as master:
        config = f"sentinel monitor shop 127.0.0.1 {master.port} 1\nsentinel auth-pass shop secret\n{asked}"
        with RedisServer(sentinel=config) as sentinel:
            url = f"redis+sentinel://:secret@127.0.0.1:1,127.0.0.1:{sentinel.port}/shop/0{query}"
            assert RedisConnection(RedisUrl(url)).call(lambda redis: redis.set("x", "y"))
        assert master.client(password="secret").get("x") == b"y"


def test_a_cluster_is_found_by_one_of_its_nodes():
    from extraction_worker.cache.store import Cache, Entry, Family
    from extraction_worker.model import Value

    class Fact(Value):
        text: str

    # Nodes talk to each other on a port that is greater by 10,000.
    port = next(port for port in iter(free_port, 0) if port < 55536)
    with RedisServer("--cluster-enabled", "yes", port=port) as node:
        node.client().execute_command("CLUSTER ADDSLOTS", *range(16384))
        deadline = time.monotonic() + 20
        while node.client().execute_command("CLUSTER INFO")["cluster_state"] != "ok":
            assert time.monotonic() < deadline
            time.sleep(0.01)
        cache = Cache(RedisConnection(RedisUrl(f"redis+cluster://127.0.0.1:{node.port}"), print), "s")
        entry = Entry(Family.PAGES, ("x",), Fact)
        assert cache.remembered(entry, lambda: Fact(text="x")).text == "x"
        assert cache.find(entry) == Fact(text="x")


def test_a_socket_is_a_server_too(tmp_path):
    with RedisServer("--unixsocket", str(tmp_path / "redis.sock")) as _:
        assert RedisConnection(RedisUrl(f"unix://{tmp_path}/redis.sock")).call(lambda redis: redis.ping())


@pytest.mark.parametrize(
    "text",
    [
        "", "127.0.0.1:6379", "http://x", "redis+sentinel://host:1", "redis+sentinel://host/shop?db=1",
        "redis+other://x/y",
    ],
)  # fmt: skip
def test_what_is_no_url_is_refused_without_being_shown(text):
    with pytest.raises(RedisUrlError, match="must b"):
        RedisUrl(text)


@pytest.mark.parametrize("text", [f"redis://:{QUOTED}@host:not-a-port/0", f"redis://:{QUOTED}@host?socket_timeout=x"])
def test_what_the_library_refuses_is_not_shown(text):
    with pytest.raises(RedisUrlError) as refused:
        RedisUrl(text).open()
    assert "canary" not in str(refused.value)
    assert "canary" not in repr(RedisUrl(text))


def test_a_file_that_cannot_be_used_is_no_reason_to_fail(tmp_path):
    said = []
    assert RedisConnection.of_file(None) is None
    assert RedisConnection.of_file(tmp_path / "missing", said.append) is None
    (tmp_path / "url").write_bytes(b"\xff\xfe")
    assert RedisConnection.of_file(tmp_path / "url", said.append) is None
    (tmp_path / "url").write_text("redis://127.0.0.1:1/0")
    assert RedisConnection.of_file(tmp_path / "url", said.append) is not None
    assert len(said) == 2
    assert all(line.startswith("Going on without Redis.") for line in said)
