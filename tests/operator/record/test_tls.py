"""The record over TLS: written, migrated and read where the server is proven to be the named one, and not elsewhere."""

import asyncio
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner

from extraction_operator.config import RecordConfig
from extraction_operator.record.recorder import Recorder
from extraction_record.commands import record
from extraction_record.connection import Place
from extraction_record.history import Filter, History
from extraction_record.migrate import upgrade
from support.record import observed
from support.tls_server import authority, pem, postgres_with_tls


@pytest.fixture(scope="module")
def tls_server(debian_15):
    with postgres_with_tls(debian_15) as found:
        yield found


@pytest.fixture
def place(tls_server, tmp_path: Path):
    """Where the record is, by a host and with the authorities of a file; verified as it is by default."""
    server, ca = tls_server
    (tmp_path / "credentials").mkdir()
    (tmp_path / "credentials" / "username").write_text(server.user)
    (tmp_path / "credentials" / "password").write_text(server.password)
    (tmp_path / "ca.crt").write_bytes(ca)
    _, other = authority("another authority")
    (tmp_path / "other.crt").write_bytes(pem(other))

    def at(host: str, ca: str) -> Place:
        roots = f"?sslrootcert={tmp_path / ca}" if ca else ""
        return Place(f"postgresql://{host}:{server.port}/postgres{roots}", tmp_path / "credentials")

    return at


class Told:
    """What was counted."""

    flushed = failed = 0

    def record_flushed(self, rows, seconds) -> None:
        self.flushed += 1

    def record_failed(self, seconds) -> None:
        self.failed += 1

    def record_lost(self, tables, reason) -> None:
        raise AssertionError(reason)


def write(where: Place) -> tuple[Told, Recorder, list[tuple[str, bool]]]:
    """Have a job recorded; return what was counted, and the sessions that wrote, each with whether it was encrypted."""
    told = Told()
    sessions: list[tuple[str, bool]] = []

    async def scenario() -> Recorder:
        recorder = Recorder(RecordConfig(where, "here"), (), told)
        recorder.job(observed())
        await recorder.flush()
        connection = recorder._writer._connection
        if connection is not None:
            found = await connection.execute("SELECT application_name, ssl FROM pg_stat_ssl JOIN pg_stat_activity"
                                             " USING (pid) WHERE pid = pg_backend_pid()")  # fmt: skip
            sessions.extend(await found.fetchall())
        await recorder.close()
        return recorder

    return told, asyncio.run(scenario()), sessions


def test_the_named_server_is_written_and_read_encrypted(place):
    where = place("localhost", "ca.crt")
    assert where.parameters()["sslmode"] == "verify-full"
    upgrade(where)
    told, recorder, sessions = write(where)
    assert (told.flushed, told.failed, len(recorder.spool)) == (1, 0, 0)
    assert sessions == [("extraction-record", True)]
    with History.open(where) as history:
        assert [job["name"] for job in history.jobs(Filter(), 10)] == ["orders"]


@pytest.mark.parametrize(
    ("host", "ca"), [("127.0.0.1", "ca.crt"), ("localhost", "other.crt"), ("localhost", "")],
    ids=["another name", "another authority", "the system's authorities"],
)  # fmt: skip
def test_any_other_server_is_refused_and_what_is_to_be_written_waits(place, tls_server, host: str, ca: str):
    where = place(host, ca)
    with pytest.raises(psycopg.OperationalError, match=r"certificate|root"):
        psycopg.connect(**where.parameters())
    told, recorder, sessions = write(where)
    assert (told.flushed, told.failed, sessions) == (0, 1, [])
    assert len(recorder.spool) > 0
    done = CliRunner().invoke(record, ["version", "--url", where.url, "--credentials", str(where.credentials)])
    assert done.exit_code == 1
    assert "certificate" in done.output
    server, _ = tls_server
    assert server.password not in done.output
