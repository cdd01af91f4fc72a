"""What a check tells of a server and of a role."""

import json
import os
import pwd
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest

from extraction_contract.messages import CheckMessage, FailureMessage
from extraction_contract.problems import ManifestError
from extraction_worker.demo.postgres import free_port, postgres_server
from extraction_worker.errors import InvalidManifest, NotFound, SourceBusy
from extraction_worker.source.session import connect
from extraction_worker.source.slots import SlotBudget
from extraction_worker.stages.pod import check as command
from support.databases import settings_of, wait_until
from support.pods import Pods, end, events, run

PGBOUNCER = shutil.which("pgbouncer", path=os.environ.get("PATH", "") + ":/usr/sbin")


def check(pods: Pods, **variables):
    """Check the source alone: no job is mounted, and nothing of one is in the environment."""
    path = pods.etc / "manifests" / "job.json"
    path.write_text(path.read_text().partition("\n---\n")[0])
    return pods.run("check", **variables)


def test_a_superuser_can_write(database, tmp_path):
    told = check(Pods(tmp_path, database))
    assert isinstance(told, CheckMessage)
    version = database.execute("SHOW server_version_num")[0][0]
    assert told.server_version.split(".")[0] == str(int(version) // 10000)
    assert (told.pooler, told.replica, told.tls, told.can_write) == (False, False, "", True)
    assert told.latency_milliseconds > 0
    assert told.max_connections == int(database.execute("SHOW max_connections")[0][0])
    assert told.role_connection_limit == -1


@pytest.mark.parametrize(
    ("grant", "can_write"),
    [
        ("GRANT SELECT ON t TO {}", False),
        ("GRANT INSERT ON t TO {}", True),
        ("GRANT UPDATE (id) ON t TO {}", True),
        ("GRANT TRUNCATE ON t TO {}", True),
        ("GRANT CREATE ON SCHEMA public TO {}", True),
        ("GRANT CREATE ON DATABASE {database} TO {}", True),
        ("GRANT pg_write_all_data TO {}", True),
        ("ALTER TABLE t OWNER TO {}", True),
        ("ALTER ROLE {} CONNECTION LIMIT 7", False),
    ],
)
def test_a_role_that_could_write_is_told(database18, tmp_path, grant, can_write):
    database18.execute("CREATE TABLE t (id int8)")
    reader = database18.role(password="reader-password")
    database18.execute(grant.format(reader, database=database18.name))
    told = check(Pods(tmp_path, database18, user=reader, password="reader-password"))
    assert told.can_write is can_write
    assert told.role_connection_limit == (7 if "LIMIT" in grant else -1)
    database18.execute(f"ALTER TABLE t OWNER TO {database18.server.user}")


def test_what_is_wrong_is_told(database18, tmp_path):
    server = database18.server
    connection = {"host": server.host, "port": server.port, "database": "nowhere", "sslMode": "disable"}
    pods = Pods(tmp_path, database18, source={"connection": connection})
    with pytest.raises(NotFound):
        check(pods)
    assert end(pods.start("check")) == NotFound.exit_code
    told = pods.last_words("check")
    assert isinstance(told, FailureMessage)
    assert (told.reason, "nowhere" in told.message) == ("NotFound", True)


def all_taken(stack: ExitStack, database, tmp_path) -> Pods:
    """Have a job take every connection that the budget has; return pods of a source of that budget."""
    budget = SlotBudget(f"check-{database.name}", 2)
    holders = settings_of(database, slots=budget, application_name="extraction/default/orders/orders-work")
    for _ in range(budget.limit):
        stack.callback(connect(holders).close)
    source = {"budgetGroup": budget.group, "limits": {"maxConnections": budget.limit}}
    return Pods(tmp_path, database, source=source)


def test_a_check_waits_until_a_job_gives_a_connection_back(database, tmp_path):
    with ExitStack() as job, ThreadPoolExecutor(1) as executor:
        pods = all_taken(job, database, tmp_path)
        invocation = pods.invocation("check")
        checking = executor.submit(run, "check", invocation)
        wait_until(lambda: [event for event in events(invocation) if event["event"] == "waiting"])
        assert not checking.done()
        job.close()
        assert isinstance(checking.result(60), CheckMessage)


def test_a_check_that_found_no_connection_for_long_says_who_has_them_and_may_be_repeated(
    database, tmp_path, monkeypatch
):
    monkeypatch.setattr(command, "_PATIENCE_SECONDS", 0.0)
    with ExitStack() as job:
        pods = all_taken(job, database, tmp_path)
        with pytest.raises(SourceBusy, match=r"of 2 connections is used up: by extraction/default/orders.* ×2"):
            check(pods)
    assert isinstance(check(pods), CheckMessage)


def test_a_missing_secret_and_a_missing_source_are_told(database18, tmp_path):
    pods = Pods(tmp_path, database18)
    (pods.etc / "secrets" / "reader" / "password").unlink()
    with pytest.raises(ManifestError, match="password"):
        check(pods)
    path: Path = pods.etc / "manifests" / "job.json"
    path.write_text(json.dumps(None))
    with pytest.raises(InvalidManifest, match="0 DataSources"):
        check(pods)


def reached_by(port: int, database, **more):
    return {"host": "localhost", "port": port, "database": database, "sslMode": "disable"} | more


def test_tls_is_told_by_its_protocol(debian_15, database18, tmp_path):
    key, certificate = tmp_path / "server.key", tmp_path / "server.crt"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-keyout", key, "-out",
         certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    with postgres_server(debian_15) as server:
        server.stop()
        for file in (key, certificate):
            shutil.copy(file, server.data)
            (server.data / file.name).chmod(0o600)
            if identity := server._identity():
                shutil.chown(server.data / file.name, identity["user"])
        server.settings = {"ssl": "on"}
        server.start()
        connection = reached_by(server.port, "postgres", sslMode="require")
        pods = Pods(
            tmp_path / "pods", database18, source={"connection": connection}, user=server.user, password=server.password
        )
        assert check(pods).tls.startswith("TLSv1")


@pytest.mark.skipif(PGBOUNCER is None, reason="PgBouncer isn't installed (apt-get install pgbouncer)")
def test_a_pooler_is_told(database18, tmp_path):
    server, port = database18.server, free_port()
    folder = Path("/tmp") / f"pgbouncer-{port}"
    folder.mkdir()
    config = folder / "pgbouncer.ini"
    config.write_text(
        f"[databases]\n{database18.name} = host={server.host} port={server.port} user={server.user} "
        f"password={server.password}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n"
        "unix_socket_dir =\nauth_type = any\npool_mode = session\nignore_startup_parameters = extra_float_digits\n"
    )
    identity = {}
    if os.geteuid() == 0:  # PgBouncer refuses root
        nobody = pwd.getpwnam("nobody")
        os.chown(config, nobody.pw_uid, nobody.pw_gid)
        identity = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    process = subprocess.Popen([PGBOUNCER, config], stderr=subprocess.DEVNULL, **identity)
    try:
        connection = reached_by(port, database18.name, host="127.0.0.1")
        pods = Pods(tmp_path / "pods", database18, source={"connection": connection})
        conninfo = f"host=127.0.0.1 port={port} dbname={database18.name} user={server.user}"
        wait_until(lambda: answers(conninfo))
        told = check(pods)
        assert (told.pooler, told.tls) == (True, "")
    finally:
        process.terminate()
        process.wait(20)
        shutil.rmtree(folder)


def answers(conninfo: str) -> bool:
    try:
        psycopg.connect(conninfo).close()
    except psycopg.OperationalError:
        return False
    return True
