"""What is passed on of a server's words: what helps, and nothing that a row or a chunk's bound may be in."""

import socket
import threading

import psycopg
import pytest

from extraction_worker.errors import InvalidQuery, NotFound, SourceUnavailable, UnsupportedSource
from extraction_worker.source.copy.stream import read_copy
from extraction_worker.source.failures import translate
from extraction_worker.source.session import connect
from extraction_worker.source.settings import Credentials, SourceSettings
from support.databases import settings_of

BOUND = "SELECT nothing FROM pg_catalog.pg_class WHERE relname >= 'canary'"


def refused(database, statement: str) -> psycopg.Error:
    with pytest.raises(psycopg.Error) as caught:
        database.execute(statement)
    return caught.value


def test_a_statement_is_quoted_to_who_wrote_it(database18):
    assert "LINE 1: SELECT nothing" in str(translate(refused(database18, BOUND), "Planning"))


def test_a_statement_with_bounds_is_not_quoted(database18):
    error = translate(refused(database18, BOUND), "Reading chunk 1", quoting=False)
    assert isinstance(error, NotFound)
    assert 'column "nothing" does not exist' in str(error)
    assert "canary" not in str(error)
    assert "LINE" not in str(error)


def test_nor_is_one_that_failed_while_rows_were_read(database18):
    with connect(settings_of(database18)) as connection, pytest.raises(psycopg.Error) as caught:
        list(read_copy(connection, BOUND, batch_bytes=50, tick=lambda: None))
    error = translate(caught.value, "Reading chunk 1")
    assert 'column "nothing" does not exist' in str(error)
    assert "canary" not in str(error)


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        ("DO $$ BEGIN RAISE EXCEPTION 'canary'; END $$", UnsupportedSource),
        ("DO $$ BEGIN RAISE EXCEPTION 'canary' USING ERRCODE = 'ZZ001'; END $$", UnsupportedSource),
        ("CREATE TEMPORARY TABLE c (v text CHECK (v = '')); INSERT INTO c VALUES ('canary')", UnsupportedSource),
        ("SELECT 'canary'::int", InvalidQuery),
    ],
)
def test_words_that_may_hold_a_value_are_not_passed_on(database18, statement, kind):
    for quoting in (True, False):
        error = translate(refused(database18, statement), "Reading chunk 1", quoting=quoting)
        assert isinstance(error, kind)
        assert "canary" not in str(error)
        assert "SQLSTATE" in str(error)


@pytest.mark.parametrize("read", [0, 1])
def test_a_server_that_ends_while_it_shakes_hands_is_no_failure_of_tls(read):
    """What isn't read when a socket is closed makes that a reset, otherwise it is an end."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            client, _ = server.accept()
            with client:
                client.recv(8)
                client.sendall(b"S")
                client.recv(read or 65536)

        threading.Thread(target=serve, daemon=True).start()
        host, port = server.getsockname()
        settings = SourceSettings(host, port, "db", lambda: Credentials("reader", "canary"), ssl_mode="require")
        with pytest.raises(SourceUnavailable):
            connect(settings)
