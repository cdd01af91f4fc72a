"""The sessions of a job's pods: whose they are, how often they are used again, and how they end."""

import signal
import time

import pytest

from extraction_contract.load import load_files
from extraction_worker.stages.settings import application_name
from support.databases import wait_until
from support.pods import Pods, end

POD = "job-1f0c9a3e-{}-abcde"
# A trigger notes who connects: nobody can miss a session that is short.
NOTE_LOGINS = """
CREATE TABLE logins (name text);
CREATE FUNCTION note_login() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN INSERT INTO public.logins VALUES (pg_catalog.current_setting('application_name')); END $$;
CREATE EVENT TRIGGER note_login ON login EXECUTE FUNCTION note_login()
"""


def test_every_session_names_its_job_and_its_pod(table, tmp_path):
    for statement in NOTE_LOGINS.split(";\nCREATE"):
        table.execute(statement if statement.strip().startswith("CREATE") else f"CREATE{statement}")
    lead, work, small, check = (POD.format(role) for role in ("lead-1", "work-1-1-0", "lead-2", "check-1"))
    pods = Pods(tmp_path / "one", table, bundles=1, spec={"partitioning": {"targetBytes": "64Ki"}})

    def names() -> set[str]:
        found = {name for (name,) in table.execute("SELECT name FROM logins") if name.startswith("extraction")}
        table.execute("TRUNCATE logins")
        return found

    with pods.held(lead):
        wait_until(lambda: pods.lead(lead).read_snapshot() is not None)
        assert names() == {f"extraction/default/job/{lead}"}, "hold"
        pods.run("plan", lead)
        assert names() == {f"extraction/default/job/{lead}"}, "plan"
        pods.run("work", work, **pods.worker(0))
        assert names() == {f"extraction/default/job/{work}"}, "work"
        pods.run("publish", lead)
    other = Pods(tmp_path / "two", table, run_id="uid-2")
    with other.held(small):
        other.run("plan", small, EXTRACTION_BUNDLES="")
        names()
        other.run("publish", small, EXTRACTION_BUNDLES="")
        assert names() == {f"extraction/default/job/{small}"}, "publish"
    path = other.etc / "manifests" / "job.json"
    path.write_text(path.read_text().partition("\n---\n")[0])
    other.run("check", check)
    assert names() == {f"extraction/default/db/{check}"}, "check"


@pytest.mark.parametrize(
    ("job", "pod", "shown"),
    [
        ("orders", "", "extraction/default/orders"),
        ("orders", "orders-1f0c9a3e-work-1-1-0-abcde", "extraction/default/orders/orders-1f0c9a3e-work-1-1-0-abcde"),
        ("invoices-2026", "invoices-2026-1f0c9a3e-work-1-1-0-abcde",
         "extraction/default/invoices-2026/1f0c9a3e-work-1-1-0-abcde"),
        ("invoices-of-all-times", "invoices-of-all-times-1f0c9a3e-work-1-1-0-abcde",
         "extraction/default/invoices-of-all-times/work-1-1-0-abcde"),
        ("x" * 52, f"{'x' * 40}-1f0c9a3e-lead-1-abcde", f"extraction/default/{'x' * 44}"),
    ],
)  # fmt: skip
def test_what_the_server_has_no_room_for_is_left_out_at_the_front_of_the_pods_name(tmp_path, job, pod, shown):
    document = {
        "apiVersion": "extraction-operator.io/v1alpha1", "kind": "ExtractionJob", "metadata": {"name": job},
        "spec": {"dataSourceRef": {"name": "db"}, "table": "public.t", "sink": {"volume": {"claimName": "lake"}}},
    }  # fmt: skip
    (tmp_path / "job.yaml").write_text(repr(document))
    found = load_files([tmp_path / "job.yaml"]).job()
    assert application_name(found, pod) == shown
    assert len(shown) <= 63


def test_what_pools_did_is_summed_for_the_job_and_sessions_are_used_again(database18, tmp_path):
    database18.execute("CREATE TABLE t (id int8, name text)")
    database18.execute("INSERT INTO t SELECT i, repeat('x', 1000) FROM generate_series(1, 8000) AS i")
    database18.execute("ANALYZE t")
    pods = Pods(tmp_path, database18, bundles=4, spec={"partitioning": {"targetBytes": "64Ki"}})
    with pods.held():
        planned = pods.run("plan")
        assert planned.chunks >= 100
        bundles = [pods.run("work", f"pod-{index}", **pods.worker(index)) for index in range(4)]
        told = pods.run("publish").connections
    assert told.checkouts == sum(bundle.checkouts for bundle in bundles) == planned.chunks
    assert told.opened == sum(bundle.sessions for bundle in bundles) <= 8
    assert told.reuses == sum(bundle.session_reuses for bundle in bundles)
    assert told.waits == sum(bundle.session_waits for bundle in bundles)
    assert (told.evicted, told.leaks) == (0, 0)
    assert told.reuses / told.checkouts > 0.9
    assert all(1 <= bundle.sessions_active <= 2 for bundle in bundles)


@pytest.mark.parametrize("command", ["work", "publish"])
def test_a_pod_that_is_to_end_says_goodbye_to_the_server_in_time(table, tmp_path, command):
    slow = {"limits": {"maxConnections": 10, "bytesPerSecond": "64Ki"}}
    pods = Pods(tmp_path, table, bundles=1, spec={"partitioning": {"targetBytes": "64Ki"}}, source=slow)
    ours = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'extraction/default/job/%'"
    with pods.held() as files:
        pods.run("plan")
        process = pods.start(command, **pods.worker(0)) if command == "work" else pods.start(command)
        wait_until(pods.results, 60)
        process.send_signal(signal.SIGTERM)
        asked = time.monotonic()
        assert end(process) == 130
        assert time.monotonic() - asked < 10  # two, and room for a busy machine
        wait_until(lambda: table.execute(ours) == [(1,)])  # the holder's
        assert files.read_error() is None
    lost = "SELECT sessions_abandoned, sessions_fatal FROM pg_stat_database WHERE datname = current_database()"
    assert table.execute(lost) == [(0, 0)]
