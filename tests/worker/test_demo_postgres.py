"""The throw-away server of the demo, and of these tests."""

import socket
from collections.abc import Iterator

import psycopg
import pytest

from extraction_worker.demo import postgres
from extraction_worker.demo.postgres import postgres_server


@pytest.fixture(params=["127.0.0.1", "127.0.0.2"])
def taken(request: pytest.FixtureRequest) -> Iterator[int]:
    """A port that somebody listens on, on one of the addresses."""
    with socket.socket() as other:
        other.bind((request.param, 0))
        other.listen()
        yield other.getsockname()[1]


def test_a_port_that_somebody_took_meanwhile_is_chosen_anew_and_then_kept(taken: int, monkeypatch):
    chosen, choose = iter([taken, taken]), postgres.free_port
    monkeypatch.setattr(postgres, "free_port", lambda: next(chosen, None) or choose())
    with postgres_server(settings={"listen_addresses": "127.0.0.1,127.0.0.2"}) as server:
        port = server.port
        assert port != taken
        server.stop()
        server.start()
        assert server.port == port
        for address in ("127.0.0.1", "127.0.0.2"):
            with psycopg.connect(server.conninfo(), host=address) as connection:
                assert connection.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize("taken", ["127.0.0.1"], indirect=True)
def test_a_port_that_was_asked_for_and_is_taken_is_told(taken: int):
    with postgres_server() as server:
        server.stop()
        server.port = taken
        with pytest.raises(RuntimeError, match="did not start") as caught:
            server.start()
        assert "Address already in use" in str(caught.value)
