"""Every session proves that it sees the holder's snapshot, after restarts and behind a name of several servers."""

import signal
from contextlib import ExitStack, closing, contextmanager, nullcontext
from itertools import cycle

import psycopg
import pytest

from conftest import Database
from extraction_worker.demo.postgres import postgres_server
from extraction_worker.errors import SnapshotLost
from extraction_worker.source.session import connect
from support.databases import settings_of
from support.pods import Pods, wait_for_error
from support.relay import relay_to

SPEC = {"partitioning": {"targetBytes": "64Ki"}}
ROWS = 5000


def fill(database) -> None:
    database.execute("CREATE TABLE t (id int8 PRIMARY KEY, name text)")
    database.execute(f"INSERT INTO t SELECT i, 'name ' || md5(i::text) FROM generate_series(1, {ROWS}) AS i")


@contextmanager
def held_like(database, snapshot_id: str):
    """Hold a snapshot that has this id: it counts a backend's transactions since the start of the server."""
    with ExitStack() as stack:
        for _ in range(20):
            connection = stack.enter_context(closing(psycopg.connect(database.conninfo)))
            for _ in range(200):
                connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                if connection.execute("SELECT pg_export_snapshot()").fetchone() == (snapshot_id,):
                    yield
                    return
                connection.rollback()
        raise AssertionError(f"no session got the snapshot id {snapshot_id}")


def test_a_worker_after_a_restart_of_the_source_takes_no_other_snapshot_of_the_same_id(tmp_path):
    with postgres_server() as server:
        database = Database(server)
        fill(database)
        pods = Pods(tmp_path, database, bundles=2, spec=SPEC)
        with pods.held() as files:
            pods.run("plan")
            pods.run("work", "first", **pods.worker(0))
            server.stop(signal.SIGQUIT)
            server.start()
            assert isinstance(wait_for_error(files), SnapshotLost)
            snapshot_id = pods.plan().identity.snapshot_id
            for other in (held_like(database, snapshot_id), nullcontext()):
                with other, pytest.raises(SnapshotLost, match="restarted"):
                    pods.run("work", "second", **pods.worker(1))
            with pytest.raises(SnapshotLost):
                pods.run("publish")
        assert pods.published() is None
        database.connection.close()


@contextmanager
def balanced(*ports: int):
    """Run a relay that leads to one server after the other."""
    with relay_to(ports[0]) as relay:
        relay.next_port = cycle(ports).__next__
        yield relay


@pytest.fixture
def two_servers(postgres18):
    """Two databases of one name on two servers: the first has the rows."""
    with postgres_server() as other:
        database = Database(postgres18)
        fill(database)
        with psycopg.connect(other.conninfo(), autocommit=True) as admin:
            admin.execute(f"ALTER ROLE postgres PASSWORD '{postgres18.password}'")
            admin.execute(f'CREATE DATABASE "{database.name}"')
        other.password = postgres18.password
        with psycopg.connect(other.conninfo(database.name), autocommit=True) as connection:
            connection.execute("CREATE TABLE t (id int8 PRIMARY KEY, name text)")
        yield database, other
        database.drop()


def test_behind_a_balanced_name_everybody_reaches_the_holders_server(two_servers, tmp_path):
    database, twin = two_servers
    with balanced(database.server.port, twin.port) as relay:
        place = {"connection": {"port": relay.port}}
        pods = Pods(tmp_path, database, bundles=2, spec=SPEC, source=place)
        with pods.held() as files:
            pods.run("plan")
            assert pods.plan().address == f"127.0.0.1:{database.server.port}"
            asked = relay.connections
            for index in range(2):
                pods.run("work", f"pod-{index}", **pods.worker(index))
            assert relay.connections == asked, "the address was asked, not the name"
            assert files.read_error() is None
            assert pods.run("publish").rows == ROWS


def test_a_worker_that_lands_on_another_server_behind_the_name_says_so(two_servers, tmp_path):
    """The holder's address can't be reached from where the worker runs."""
    database, twin = two_servers
    with balanced(database.server.port, twin.port, twin.port, twin.port, twin.port) as relay:
        pods = Pods(tmp_path, database, bundles=2, spec=SPEC, source={"connection": {"port": relay.port}})
        with pods.held():
            pods.run("plan")
            plan = pods.plan()
            pods.sink().put_state("plan.json", plan.model_copy(update={"address": "127.0.0.1:1"}).to_json())
            # It has no such snapshot; and should it have one of that id, the identity is another.
            with pytest.raises(SnapshotLost, match=r"system identifier.*one server"):
                pods.run("work", "w", **pods.worker(0))
        assert pods.results() == []


def test_an_address_that_cannot_be_reached_is_asked_once_and_the_name_leads_on(database18):
    settings = settings_of(database18, address="127.0.0.1:1")
    for _ in range(2):
        with closing(connect(settings)) as connection:
            assert connection.info.port == database18.server.port
        assert settings.unreachable.is_set()
