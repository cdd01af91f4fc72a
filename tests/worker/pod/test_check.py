"""What a check tells of a server and of a role."""

import json
from pathlib import Path

import pytest

from extraction_contract.messages import CheckMessage, FailureMessage
from extraction_contract.problems import ManifestError
from extraction_worker.errors import InvalidManifest, NotFound
from support.pods import Pods, end


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


def test_a_missing_secret_and_a_missing_source_are_told(database18, tmp_path):
    pods = Pods(tmp_path, database18)
    (pods.etc / "secrets" / "reader" / "password").unlink()
    with pytest.raises(ManifestError, match="password"):
        check(pods)
    path: Path = pods.etc / "manifests" / "job.json"
    path.write_text(json.dumps(None))
    with pytest.raises(InvalidManifest, match="0 DataSources"):
        check(pods)
