"""Behind the real PgBouncer: session mode works, transaction mode is refused, nothing of ours leaks to others."""

import os
import pwd
import shutil
import subprocess
import tempfile
import threading
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from extraction_worker.demo.postgres import free_port
from extraction_worker.errors import UnsupportedSource
from extraction_worker.source.session import begin, connect
from extraction_worker.source.slots import Claim, SlotBudget
from support.databases import settings_of
from support.jobs import local_run, published

PGBOUNCER = shutil.which("pgbouncer", path=os.environ.get("PATH", "") + ":/usr/sbin")


class Pooler:
    """A PgBouncer in front of one database."""

    def __init__(self, database, folder: Path, mode: str, reset: str = "DISCARD ALL", idle: int = 1) -> None:
        assert PGBOUNCER is not None
        self.database, self.port, server = database, free_port(), database.server
        folder.mkdir()
        (folder / "users.txt").write_text(f'"{server.user}" "{server.password}"\n')
        (folder / "pgbouncer.ini").write_text(
            f"[databases]\n{database.name} = host={server.host} port={server.port}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {self.port}\nunix_socket_dir =\n"
            f"auth_type = scram-sha-256\nauth_file = {folder}/users.txt\npool_mode = {mode}\n"
            f"ignore_startup_parameters = extra_float_digits\nserver_idle_timeout = {idle}\n"
            f"server_reset_query = {reset}\n"
        )
        identity = {}
        if os.geteuid() == 0:  # PgBouncer refuses root
            entry = pwd.getpwnam("nobody")
            for path in (folder, folder / "users.txt", folder / "pgbouncer.ini"):
                os.chown(path, entry.pw_uid, entry.pw_gid)
            temporary = Path(tempfile.gettempdir())
            for parent in folder.parents:
                if parent.is_relative_to(temporary) and parent != temporary:
                    parent.chmod(0o755)
            identity = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        self.process = subprocess.Popen(
            [PGBOUNCER, folder / "pgbouncer.ini"], stderr=subprocess.PIPE, text=True, **identity
        )
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if "process up" in line:
                break
        else:
            raise RuntimeError("PgBouncer did not start")
        # It logs each connection; an unread pipe would block it.
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def settings(self, **changes):
        return settings_of(self.database, port=self.port, **changes)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)


@pytest.fixture
def pooler(database18, tmp_path):
    if PGBOUNCER is None:
        if os.environ.get("CI") == "true":
            pytest.fail("CI needs PgBouncer: apt-get install pgbouncer")
        pytest.skip("PgBouncer isn't installed (apt-get install pgbouncer)")
    poolers = []

    def make(mode, **options):
        poolers.append(Pooler(database18, tmp_path / mode, mode, **options))
        return poolers[-1]

    yield make
    for started in poolers:
        started.stop()


@pytest.mark.parametrize("mode", ["transaction", "statement"])
def test_a_pooler_that_assigns_by_transaction_is_refused(pooler, mode):
    with pytest.raises(UnsupportedSource, match=r"pool(er|ing)?"):
        connect(pooler(mode).settings())


def test_a_job_through_a_transaction_pooler_is_refused_and_leaves_no_setting_behind(pooler, database18, tmp_path):
    database18.execute("CREATE TABLE t AS SELECT i AS id FROM generate_series(1, 10) AS i")
    through = pooler("transaction")
    reach = {"host": "127.0.0.1", "port": through.port, "database": database18.name, "sslMode": "disable"}
    with pytest.raises(UnsupportedSource, match="transaction mode"):
        local_run(tmp_path, database18, source={"connection": reach}).run()
    settings = through.settings()
    defaults = {"row_security": "on", "search_path": '"$user", public', "transaction_read_only": "off"}
    with closing(psycopg.connect(settings.conninfo(), autocommit=True)) as other:
        for name, value in defaults.items():
            assert other.execute("SELECT current_setting(%s)", [name]).fetchone() == (value,)


def test_a_job_through_a_session_pooler_works(pooler, database18, tmp_path):
    database18.execute("CREATE TABLE t AS SELECT i AS id, md5(i::text) AS name FROM generate_series(1, 20000) AS i")
    through = pooler("session")
    reach = {"host": "127.0.0.1", "port": through.port, "database": database18.name, "sslMode": "disable"}
    spec = {"verification": "Source", "partitioning": {"targetBytes": "64Ki"}}
    manifest = local_run(tmp_path, database18, source={"connection": reach}, spec=spec).run()
    assert manifest.rows == 20000
    assert (published(tmp_path) / "_manifest.json").is_file()


def locks(database) -> int:
    [(count,)] = database.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
    return count


@pytest.mark.parametrize("state", ["idle", "in a transaction", "in a failed transaction"])
def test_slots_go_with_our_connection_even_where_the_pooler_resets_nothing(pooler, database18, state):
    through = pooler("session", reset="", idle=600)
    budget = SlotBudget("shop", 4, "run")
    settings = through.settings(slots=budget)
    holder = connect(settings, Claim.HOLD)
    backend = holder.execute("SELECT pg_backend_pid()").fetchone()
    assert backend != (holder.info.backend_pid,)
    assert locks(database18) == 3  # two slots and an offer
    if state != "idle":
        begin(holder, settings)
    if state == "in a failed transaction":
        with pytest.raises(psycopg.Error):
            holder.execute("SELECT 1 / 0")
    holder.close()
    assert locks(database18) == 0
    # The next client of the pooler gets our session as it was before us.
    clients = [psycopg.connect(settings.conninfo(), autocommit=True) for _ in range(2)]
    query = "SELECT pg_backend_pid(), current_setting('search_path'), current_setting('transaction_isolation')"
    found = {row[0]: row[1:] for client in clients for row in client.execute(query)}
    assert found[backend[0]] == ('"$user", public', "read committed")
    for client in clients:
        client.close()


def test_a_transaction_pooler_keeps_no_slot_of_ours(pooler, database18):
    through = pooler("transaction", reset="", idle=600)
    with pytest.raises(UnsupportedSource, match="transaction mode"):
        connect(through.settings(slots=SlotBudget("shop", 4)))
    assert locks(database18) == 0


def test_a_session_pooler_is_proven_once_by_each_process(pooler, database18):
    settings = pooler("session", idle=600).settings(slots=SlotBudget("shop", 1))
    connect(settings).close()
    assert settings.known_pooler.is_set()
    with closing(connect(settings)):
        ours = "datname = current_database() AND application_name = 'extraction'"
        [(sessions,)] = database18.execute(f"SELECT count(*) FROM pg_stat_activity WHERE {ours}")
        assert sessions <= 2  # the one of now, and the one that the proof left with the pooler
