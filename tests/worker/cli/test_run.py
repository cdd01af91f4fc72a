"""The command line: what is printed where, exit codes, signals, secrets."""

import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from extraction_contract.load import load_files
from extraction_contract.resolve import resolve
from extraction_worker.cli import main
from extraction_worker.cli.run import run_in_thread
from extraction_worker.errors import ExtractionError, Interrupted
from extraction_worker.report.exit_codes import all_errors
from extraction_worker.report.progress import Progress
from extraction_worker.stages.local import LocalRun
from extraction_worker.stages.settings import LocalOptions
from extraction_worker.stages.work import ChunkWorker
from support.jobs import everything, published, write_job

PASSWORD = "canary-7c1f0"


@pytest.fixture
def database(database18):
    database18.execute("CREATE TABLE t (id int8 PRIMARY KEY, name text)")
    database18.execute("INSERT INTO t SELECT i, md5(i::text) FROM generate_series(1, 20000) AS i")
    database18.reader = database18.role(password=PASSWORD)
    database18.execute(f"GRANT SELECT ON t TO {database18.reader}")
    return database18


@pytest.fixture
def files(database, tmp_path):
    return [str(file) for file in write_job(tmp_path, database, user=database.reader, password=PASSWORD)]


def invoke(tmp_path, *arguments):
    result = CliRunner().invoke(main, [*arguments], catch_exceptions=False)
    assert PASSWORD not in result.stdout + result.stderr
    return result


def run(tmp_path, files, *arguments):
    return invoke(tmp_path, "run", *files, "--volumes-dir", str(tmp_path / "volumes"), *arguments)


def test_a_run_prints_what_was_published_and_its_progress_apart(files, tmp_path):
    result = run(tmp_path, files)
    assert result.exit_code == 0
    assert "Published 20,000 rows in 1 files" in result.stdout
    assert published(tmp_path).as_uri() in result.stdout
    assert "Succeeded: 20,000 rows" in result.stderr
    assert (published(tmp_path) / "_manifest.json").is_file()


def test_a_run_prints_json_for_machines(files, tmp_path):
    result = run(tmp_path, files, "--output", "json", "--threads", "2", "--memory", "256Mi")
    document = json.loads(result.stdout)
    manifest = json.loads((published(tmp_path) / "_manifest.json").read_text())
    assert (document["rows"], document["digest"]) == (20000, manifest["digest"])
    assert document["consistency"] == "Snapshot"


def test_secrets_come_from_a_folder_too(files, tmp_path, database):
    folder = tmp_path / "secrets" / "reader"
    folder.mkdir(parents=True)
    (folder / "username").write_text(database.reader + "\n")
    (folder / "password").write_text(PASSWORD + "\n")
    result = run(tmp_path, files[:1], "--secrets-dir", str(folder.parent))
    assert result.exit_code == 0, result.stderr


def test_no_secret_is_in_anything_that_is_written(files, tmp_path):
    assert run(tmp_path, files).exit_code == 0
    written = [path.read_bytes() for path in (tmp_path / "volumes").rglob("*") if path.is_file()]
    assert len(written) == 2
    assert not any(PASSWORD.encode() in content for content in written)


def test_a_plan_is_shown_and_nothing_is_written(files, tmp_path):
    result = invoke(tmp_path, "plan", *files)
    assert result.exit_code == 0
    assert "strategy      none: one chunk" in result.stdout
    assert "id    bigint → int64" in result.stdout
    document = json.loads(invoke(tmp_path, "plan", *files, "--output", "json").stdout)
    assert document["chunks"] == 1
    assert abs(document["estimatedRows"] - 20000) < 10000
    assert everything(tmp_path) == []


def test_ranges_of_keys_are_row_data_and_not_shown(database, tmp_path):
    database.execute("ANALYZE t")
    spec = {"partitioning": {"strategy": "Range", "column": "name", "targetBytes": "64Ki"}, "columns": ["name"]}
    files = [str(file) for file in write_job(tmp_path, database, spec=spec)]
    values = {name for (name,) in database.execute("SELECT name FROM t")}
    for arguments in ((), ("--output", "json")):
        shown = invoke(tmp_path, "plan", *files, *arguments).stdout
        assert "range" in shown
        assert not any(word.strip("\"',") in values for word in shown.split())


def test_validate_names_every_object_and_every_problem(files, tmp_path):
    assert invoke(tmp_path, "validate", *files).stdout.splitlines() == [
        "DataSource default/db is valid",
        "ExtractionJob default/job is valid",
        "Secret default/reader is valid",
    ]
    (tmp_path / "job.yaml").write_text((tmp_path / "job.yaml").read_text().replace("table:", "tabel:"))
    result = invoke(tmp_path, "validate", *files)
    assert result.exit_code == 10
    assert "job.yaml, document 2, spec.tabel" in result.stderr


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ({"table": "public.nowhere"}, 12, "nowhere"),
        ({"columns": ["nme"]}, 12, "Did you mean name"),
        ({"where": "id > 1; DROP TABLE t"}, 11, "spec.where"),
        ({"where": "no_such_column > 1"}, 12, "no_such_column"),
        ({"where": "pg_sleep(1) IS NULL"}, 11, "pg_sleep"),
        ({"query": "DELETE FROM public.t RETURNING *"}, 11, "spec.query"),
        ({"query": "SELECT 1 AS a, 2 AS a"}, 11, "more than one column is named a"),
        ({"query": "SELECT 1 +"}, 11, "spec.query"),
        ({"partitioning": {"strategy": "Range", "column": "nme"}}, 12, "nme"),
        ({"suspend": True}, 10, "spec.suspend"),
        ({"cancel": True}, 10, "spec.cancel"),
        ({"dataSourceRef": {"name": "other"}}, 10, "no DataSource default/other"),
    ],
)
def test_bad_jobs_get_a_clear_error_and_publish_nothing(database, tmp_path, change, code, message):
    files = [str(file) for file in write_job(tmp_path, database, spec=change)]
    result = run(tmp_path, files)
    assert (result.exit_code, message in result.stderr) == (code, True), result.stderr
    assert [file for file in everything(tmp_path) if "part-" in file or "_manifest" in file] == []


@pytest.mark.parametrize(
    ("connection", "code", "message"),
    [
        ({"port": 1}, 40, "127.0.0.1:1"),
        ({"host": "no-such-host.invalid"}, 40, "connection.host"),
        ({"database": "nowhere"}, 12, "nowhere"),
        ({"sslMode": "verify-full"}, 18, "sslMode"),
    ],
)
def test_bad_sources_get_a_clear_error(database, tmp_path, connection, code, message):
    server = database.server
    reach = {"host": server.host, "port": server.port, "database": database.name, "sslMode": "disable"}
    files = [str(file) for file in write_job(tmp_path, database, source={"connection": reach | connection})]
    result = run(tmp_path, files)
    assert (result.exit_code, message in result.stderr) == (code, True), result.stderr


def test_a_wrong_password_is_told_and_not_shown(database, tmp_path):
    files = [str(file) for file in write_job(tmp_path, database, user=database.reader, password=PASSWORD + "-wrong")]
    result = run(tmp_path, files)
    assert result.exit_code == 14
    assert database.reader in result.stderr


def test_missing_privileges_and_row_security_are_told(database, tmp_path):
    files = [str(file) for file in write_job(tmp_path, database, user=database.reader, password=PASSWORD)]
    database.execute("ALTER TABLE t ENABLE ROW LEVEL SECURITY")
    result = run(tmp_path, files)
    assert (result.exit_code, "hide rows" in result.stderr) == (16, True), result.stderr
    database.execute(f"REVOKE SELECT ON t FROM {database.reader}")
    result = run(tmp_path, files)
    assert (result.exit_code, "GRANT SELECT" in result.stderr) == (15, True), result.stderr


def test_errors_are_json_for_machines(files, tmp_path):
    text = (tmp_path / "job.yaml").read_text().replace("public.t", "public.nowhere")
    (tmp_path / "job.yaml").write_text(text)
    result = run(tmp_path, files, "--output", "json")
    assert result.exit_code == 12
    document = json.loads(result.stderr.splitlines()[-1])
    assert (document["reason"], document["exitCode"]) == ("NotFound", 12)


def test_an_unknown_amount_of_memory_is_refused(files, tmp_path):
    result = run(tmp_path, files, "--memory", "a lot")
    assert (result.exit_code, "quantity" in result.stderr) == (10, True)


def test_an_unexpected_error_says_how_to_see_more(files, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("boom password=hunter2")

    monkeypatch.setattr("extraction_worker.cli.run.load_files", fail)
    result = run(tmp_path, files)
    assert result.exit_code == 1
    assert "Unexpected RuntimeError: boom password=***" in result.stderr
    assert "EXTRACTION_DEBUG" in result.stderr
    monkeypatch.setenv("EXTRACTION_DEBUG", "1")
    assert "Traceback" in run(tmp_path, files).stderr


def test_documented_exit_codes_are_those_of_errors():
    assert ExtractionError.exit_code == 1
    assert {10, 11, 12, 14, 15, 16, 18, 40} <= {kind.exit_code for kind in all_errors()}


# In a process of its own -------------------------------------------------------------------------------------------


@pytest.fixture
def slow(database, tmp_path):
    """A job that takes minutes: its rate is held down."""
    source = {"limits": {"bytesPerSecond": "64Ki"}}
    spec = {"partitioning": {"targetBytes": "64Ki"}}
    return [str(file) for file in write_job(tmp_path, database, source=source, spec=spec)]


def start(tmp_path, files, **options):
    command = [sys.executable, "-m", "extraction_worker.cli", "run", *files, "--volumes-dir", str(tmp_path / "volumes")]
    return subprocess.Popen(command, **options)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_a_run_within_two_seconds_and_leaves_nothing(slow, tmp_path, number, database):
    process = start(tmp_path, slow, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("Running"):
            break
    process.send_signal(number)
    stopped = time.monotonic()
    error = process.stderr.read()
    assert process.wait(20) == 130
    assert time.monotonic() - stopped < 5  # two, and room for a busy machine
    assert "nothing was published" in error
    assert [file for file in everything(tmp_path) if "part-" in file] == []
    assert not published(tmp_path).exists()


def test_a_run_that_ends_after_a_signal_ends_by_itself_and_at_once(files, monkeypatch):
    original = ChunkWorker.extract

    def extract(self, chunk):
        os.kill(os.getpid(), signal.SIGTERM)
        assert self.stopped.wait(20)
        return original(self, chunk)

    monkeypatch.setattr(ChunkWorker, "extract", extract)
    manifests = load_files(files)
    local = LocalRun(resolve(manifests.job(), manifests), LocalOptions(Path(files[0]).parent / "volumes"), Progress())
    with pytest.raises(Interrupted, match="SIGTERM"):
        run_in_thread(local, Progress())
    assert not any(isinstance(thread, threading.Timer) for thread in threading.enumerate() if wait_for_end(thread))


def wait_for_end(thread) -> bool:
    """Give a cancelled timer's thread the moment that it needs to end; whether it is alive then."""
    if isinstance(thread, threading.Timer):
        thread.join(1)
    return thread.is_alive()


def test_a_terminal_gets_a_bar(files, tmp_path):
    ours, theirs = pty.openpty()
    process = start(
        tmp_path, files, stderr=theirs, stdout=subprocess.PIPE, env=os.environ | {"TERM": "xterm", "COLUMNS": "120"}
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            data = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        if not data:
            break
        shown += data
    output, _ = process.communicate(timeout=60)
    os.close(ours)
    assert process.returncode == 0
    assert b"Published 20,000 rows" in output
    assert "━" in shown.decode()
    assert "20,000 rows" in shown.decode()


def test_help_needs_no_driver():
    code = (
        "import sys; from click.testing import CliRunner; from extraction_worker.cli import main; "
        "r = CliRunner().invoke(main, ['--help']); assert r.exit_code == 0; "
        "heavy = {'pyarrow', 'psycopg', 'boto3', 'botocore', 'pydantic', 'sqlalchemy', 'numpy', 'rich'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
