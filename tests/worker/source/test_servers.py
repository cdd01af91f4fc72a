"""What servers do to snapshots: restarts, standbys, TLS, encodings. Each test has servers of its own."""

import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

import psycopg
import pytest

from extraction_worker.demo.postgres import PostgresServer, embedded_binaries, postgres_server
from extraction_worker.errors import ExtractionError, SnapshotLost, SourceNotPinned, TLSFailed
from extraction_worker.source.danger import Judge, Lookout, Protection
from extraction_worker.source.identity import check_identity
from extraction_worker.source.lease import LeaseLimits, LockTarget, SnapshotLease
from extraction_worker.source.session import ReadSession, begin, connect, read_identity
from extraction_worker.source.settings import Credentials, SourceSettings
from support.databases import wait_until
from support.plans import make_plan
from support.tls_server import authority, pem, postgres_with_tls


def settings_for(server: PostgresServer, **changes) -> SourceSettings:
    fields = {
        "host": server.host, "port": server.port, "database": "postgres", "ssl_mode": "disable",
        "credentials": lambda: Credentials(server.user, server.password),
    }  # fmt: skip
    return SourceSettings(**(fields | changes))


CATALOG = LockTarget((), (), (1262,), ())
"""Watches pg_database."""


def test_a_snapshot_id_repeats_after_a_restart_and_is_not_taken_for_the_same():
    with postgres_server() as server:
        identities = []
        for _ in range(2):
            with closing(connect(settings_for(server))) as connection:
                begin(connection, settings_for(server))
                [snapshot_id] = connection.execute("SELECT pg_export_snapshot()").fetchone()
                identities.append(read_identity(connection, snapshot_id))
                server.stop(signal.SIGQUIT)
            server.start()
        first, second = identities
        with pytest.raises(SnapshotLost, match="restarted"):
            check_identity(first, second, snapshot=True)


def test_a_holder_whose_server_crashes_is_a_lost_snapshot():
    lost = threading.Event()
    reasons = []

    def on_lost(reason):
        reasons.append(reason)
        lost.set()

    with postgres_server() as server:
        lease = SnapshotLease(settings_for(server), lambda _: CATALOG, LeaseLimits(poll=0.05), on_lost)
        lease.acquire()
        server.stop(signal.SIGQUIT)
        assert lost.wait(20)
        assert isinstance(reasons[0], SnapshotLost)
        lease.release()


@contextmanager
def standby_of(primary: PostgresServer, **settings: str) -> Iterator[PostgresServer]:
    """Start a standby of a server; ``t`` has one row when it is taken."""
    standby = PostgresServer(
        embedded_binaries(), primary.folder.parent / "standby", {"hot_standby": "on"} | settings,
        password=primary.password,
    )  # fmt: skip
    standby.folder.mkdir()
    if identity := primary._identity():
        shutil.chown(standby.folder, identity["user"])
    with psycopg.connect(primary.conninfo(), autocommit=True) as admin:
        admin.execute("CREATE TABLE t AS SELECT 1 AS id")
    subprocess.run(
        [
            embedded_binaries() / "pg_basebackup", "-D", standby.data, "-R", "-X", "stream", "-c", "fast",
            "-d", primary.conninfo(),
        ],
        check=True, capture_output=True, **primary._identity(),
    )  # fmt: skip
    try:
        standby.start()
        yield standby
    finally:
        standby.stop()


REPLICATED = {"wal_level": "replica", "max_wal_senders": "3"}


def test_a_standby_is_not_taken_for_its_primary():
    with (
        postgres_server(settings=REPLICATED) as primary,
        standby_of(primary) as standby,
        closing(connect(settings_for(primary))) as holder,
    ):
        begin(holder, settings_for(primary))
        [snapshot_id] = holder.execute("SELECT pg_export_snapshot()").fetchone()
        plan = make_plan(identity=read_identity(holder, snapshot_id), locks=())
        # The same id on the standby, held by somebody else.
        with closing(connect(settings_for(standby))) as other:
            begin(other, settings_for(standby))
            [theirs] = other.execute("SELECT pg_export_snapshot()").fetchone()
            swapped = plan.identity.model_copy(update={"snapshot_id": theirs})
            settings = settings_for(standby)
            with (
                ReadSession(connect(settings), settings) as session,
                pytest.raises(SourceNotPinned, match="one server"),
            ):
                session.begin(plan.model_copy(update={"identity": swapped}))


def test_a_standby_that_is_behind_is_seen_from_both_sides_within_one_transaction():
    with (
        postgres_server(settings=REPLICATED) as primary,
        standby_of(primary, recovery_min_apply_delay="2s") as standby,
        psycopg.connect(primary.conninfo(), autocommit=True) as application,
        closing(connect(settings_for(primary))) as here,
        closing(connect(settings_for(standby))) as there,
    ):
        lookout = Lookout(pytest.fail)
        for connection in (here, there):
            begin(connection, settings_for(primary))

        def lag_from(connection) -> float:
            application.execute("INSERT INTO t VALUES (2)")
            return lookout.look(connection, holds=False).lag or 0.0

        wait_until(lambda: lag_from(here) >= 1)
        assert lookout.look(here, holds=False).replica == "walreceiver"
        wait_until(lambda: lag_from(there) >= 1)
        behind = lookout.look(there, holds=False)
        assert (
            Judge(Protection(slow_at_replication_lag=1)).reason_to_slow(behind).startswith("Replica of the source is")
        )


# TLS --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tls_server(debian_15):
    """A server whose certificate is for ``localhost``, and its authority's PEM; the embedded one has no TLS."""
    with postgres_with_tls(debian_15) as found:
        yield found


def test_verify_full_accepts_the_named_server_and_encrypts(tls_server):
    server, ca = tls_server
    settings = settings_for(server, host="localhost", ssl_mode="verify-full", ca_certificate=ca)
    with closing(connect(settings)) as connection:
        [encrypted] = connection.execute("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").fetchone()
        assert encrypted
    with ReadSession(connect(settings), settings) as session:
        assert session.row("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()") == (True,)


def test_verify_full_refuses_another_name_or_another_authority(tls_server):
    server, ca = tls_server
    with pytest.raises(TLSFailed, match="caSecretRef"):
        connect(settings_for(server, host="127.0.0.1", ssl_mode="verify-full", ca_certificate=ca))
    _, other = authority("another authority")
    for mode in ("verify-full", "verify-ca"):
        with pytest.raises(TLSFailed):
            connect(settings_for(server, host="localhost", ssl_mode=mode, ca_certificate=pem(other)))
    with pytest.raises(TLSFailed):
        connect(settings_for(server, host="localhost", ssl_mode="verify-full"))  # the system's authorities


def test_the_address_of_the_holders_server_is_asked_and_the_name_verified(tls_server):
    server, ca = tls_server
    changes = {"ssl_mode": "verify-full", "ca_certificate": ca, "address": f"127.0.0.1:{server.port}"}
    # By its name alone it couldn't be found: nobody listens there.
    settings = settings_for(server, host="localhost", **changes | {"port": 1})
    with closing(connect(settings)) as connection:
        assert connection.info.hostaddr == "127.0.0.1"
        assert connection.execute("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").fetchone() == (True,)
    assert not settings.unreachable.is_set()
    with pytest.raises(TLSFailed):
        connect(settings_for(server, host="127.0.0.1", **changes))


def test_verify_ca_accepts_another_name(tls_server):
    server, ca = tls_server
    with closing(connect(settings_for(server, host="127.0.0.1", ssl_mode="verify-ca", ca_certificate=ca))):
        pass


def test_a_certificate_that_is_none_is_refused(tls_server):
    server, _ = tls_server
    with pytest.raises(ExtractionError, match=r"certificate|PEM|root"):
        connect(settings_for(server, host="localhost", ssl_mode="verify-full", ca_certificate=b"no certificate"))
