"""The holder: keeps the snapshot, tells why it can't, and never ends by itself."""

import signal
import socket
import threading
import time

import psycopg
import pytest

from extraction_contract.messages import FailureMessage
from extraction_worker.errors import (
    AuthenticationFailed,
    ExtractionError,
    InvalidManifest,
    NotFound,
    SnapshotLost,
    SourceInDanger,
    SourceUnavailable,
)
from extraction_worker.source.lease import LeaseLimits, SnapshotLease
from extraction_worker.stages.plan import lock_target, read_job
from extraction_worker.stages.pod import hold as hold_module
from extraction_worker.stages.pod import lead as lead_module
from extraction_worker.stages.pod.job import JobPod
from support.databases import settings_of, wait_until
from support.pods import LEAD, Pods, end, events, run, wait_for_error

HOLDER = "application_name LIKE 'extraction/%' AND state LIKE 'idle in transaction%'"


def holders(database):
    return database.execute(f"SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND {HOLDER}")


def terminate_holder(database):
    database.execute(
        f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = current_database() AND {HOLDER}"
    )


def test_it_holds_until_done_and_then_waits_for_the_signal(table, tmp_path):
    pods = Pods(tmp_path, table)
    with pods.held() as files:
        wait_until(lambda: files.read_snapshot() is not None)
        assert len(holders(table)) == 1
        with pytest.raises(psycopg.errors.LockNotAvailable):
            table.execute("SET lock_timeout = '50ms'; TRUNCATE t")
        files.write_done()
        wait_until(lambda: files.is_released)
        assert holders(table) == []
        table.execute("TRUNCATE t")
        assert files.read_error() is None


def test_a_signal_ends_the_transaction_and_the_process_within_a_second(table, tmp_path):
    pods = Pods(tmp_path, table)
    process = pods.start("hold")
    wait_until(lambda: pods.lead().read_snapshot() is not None)
    process.send_signal(signal.SIGTERM)
    asked = time.monotonic()
    assert end(process) == 0
    assert time.monotonic() - asked < 5  # one, and room for a busy machine
    wait_until(lambda: holders(table) == [])
    assert pods.log_of("hold", LEAD).read_text() == ""


def test_a_signal_ends_it_in_time_while_the_server_is_silent(table, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        connection = {"host": "127.0.0.1", "port": silent.getsockname()[1], "database": "x", "sslMode": "disable"}
        pods = Pods(tmp_path, table, source={"connection": connection})
        hold = pods.start("hold")
        with silent.accept()[0]:
            hold.send_signal(signal.SIGTERM)
            assert end(hold) == 0


def test_a_terminated_session_is_a_lost_snapshot(table, tmp_path):
    with Pods(tmp_path, table).held() as files:
        wait_until(lambda: files.read_snapshot() is not None)
        terminate_holder(table)
        assert isinstance(wait_for_error(files), SnapshotLost)


def test_it_gives_way_to_ddl_and_says_so(table, tmp_path):
    with Pods(tmp_path, table, source={"limits": {"yieldToDDLAfter": "1s"}}).held() as files:
        wait_until(lambda: files.read_snapshot() is not None)
        table.execute("ALTER TABLE t ADD COLUMN more int DEFAULT 7")
        error = wait_for_error(files)
        assert isinstance(error, SourceInDanger)
        assert "public.t" in str(error)


def test_restarted_it_takes_no_other_snapshot(table, tmp_path):
    pods = Pods(tmp_path, table)
    with pods.held() as files:
        wait_until(lambda: files.read_snapshot() is not None)
    first = files.read_snapshot()
    with pods.held():
        assert isinstance(wait_for_error(files), SnapshotLost)
        assert holders(table) == []
    assert files.read_snapshot() == first


def test_restarted_after_the_end_it_has_nothing_to_say(table, tmp_path):
    pods = Pods(tmp_path, table)
    with pods.held() as files:
        wait_until(lambda: files.read_snapshot() is not None)
        files.write_done()
        wait_until(lambda: files.is_released)
    with pods.held():
        pass
    assert files.read_error() is None


def test_a_loss_just_before_the_end_is_seen(table, tmp_path):
    """Between two looks of the holder somebody ends its session; then the last result arrives."""
    pod = JobPod.load(Pods(tmp_path, table).invocation("hold"))
    reading = read_job(pod.resolved.job, pod.resolved.source, None)
    settings = settings_of(table, application_name="extraction/test")
    lease = SnapshotLease(settings, lambda c: lock_target(c, reading), LeaseLimits(poll=3600), lambda _: None)
    lease.acquire()
    terminate_holder(table)
    with pytest.raises(SnapshotLost):
        lease.finish()
    with pytest.raises(SnapshotLost):
        lease.finish()


def test_a_lease_that_ended_cannot_be_finished(table):
    lease = SnapshotLease(settings_of(table), lambda _: None, LeaseLimits(), lambda _: None)
    with pytest.raises(SnapshotLost, match="released"):
        lease.finish()


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"password": "wrong"}, AuthenticationFailed),
        ({"spec": {"table": "public.nowhere"}}, NotFound),
    ],
)
def test_plan_ends_with_the_holders_error_and_leaves_nothing(table, tmp_path, changes, kind):
    if "password" in changes:
        changes = changes | {"user": table.role()}
    pods = Pods(tmp_path, table, **changes)
    with pods.held() as files:
        with pytest.raises(kind):
            pods.run("plan")
        assert isinstance(files.read_error(), kind)
    assert pods.files() == []


def test_a_wrong_password_reaches_the_operator_soon(table, tmp_path):
    pods = Pods(tmp_path, table, user=table.role(), password="wrong")
    hold, plan = pods.start("hold"), pods.start("plan")
    assert end(plan) == AuthenticationFailed.exit_code
    told = pods.last_words("plan")
    assert isinstance(told, FailureMessage)
    assert (told.reason, told.exit_code, told.transient) == ("AuthenticationFailed", 14, False)
    assert hold.poll() is None
    hold.send_signal(signal.SIGTERM)
    assert end(hold) == 0
    assert pods.last_words("hold") == told


def test_what_may_pass_is_repeated(table, tmp_path):
    table.execute("BEGIN")
    table.execute("LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
    pods = Pods(tmp_path, table, source={"limits": {"lockTimeout": "100ms"}})
    with pods.held() as files:
        wait_until(lambda: any(event["event"] == "retry" for event in events(pods.holder)))
        table.execute("ROLLBACK")
        wait_until(lambda: files.read_snapshot() is not None)
        assert files.read_error() is None


def test_what_doesnt_pass_is_told_as_what_may(table, tmp_path, monkeypatch):
    monkeypatch.setattr(hold_module, "_ACQUIRE_SECONDS", 0)
    connection = {"host": "127.0.0.1", "port": 1, "database": "x", "sslMode": "disable"}
    with Pods(tmp_path, table, source={"connection": connection}).held() as files:
        assert isinstance(wait_for_error(files), SourceUnavailable)


def test_a_bad_pod_is_told_and_waited_in(table, tmp_path):
    pods = Pods(tmp_path, table)
    (pods.etc / "manifests" / "job.json").unlink()
    with pods.held() as files:
        assert isinstance(wait_for_error(files), InvalidManifest)


def test_a_bug_is_told_without_the_values_that_its_text_may_have(table, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("a value of a row")

    monkeypatch.setattr(hold_module, "read_job", fail)
    with Pods(tmp_path, table).held() as files:
        error = wait_for_error(files)
    assert type(error) is ExtractionError
    assert "Unexpected RuntimeError at test_hold.py:" in str(error)
    assert "value of a row" not in str(error)


def test_the_first_reason_stays(tmp_path):
    files = lead_module.LeadFiles(tmp_path)
    for reason in ("SourceInDanger", "SnapshotLost"):
        files.write_error(FailureMessage(reason=reason, exit_code=24, message=reason))
    assert isinstance(files.read_error(), SourceInDanger)
    (tmp_path / "error.json").write_text("{")
    assert isinstance(files.read_error(), SnapshotLost)


def test_a_holder_that_cannot_tell_waits_all_the_same(table, tmp_path):
    pods = Pods(tmp_path, table, spec={"table": "public.nowhere"})
    invocation = pods.invocation("hold")
    folder = pods.run_dir(LEAD)
    folder.rmdir()
    folder.write_text("no folder")
    thread = threading.Thread(target=run, args=("hold", invocation), daemon=True)
    thread.start()
    wait_until(lambda: any(event["event"] == "untold" for event in events(invocation)))
    assert thread.is_alive()
    invocation.stop.request("the test")
    thread.join(20)
    assert not thread.is_alive()
