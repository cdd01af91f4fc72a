"""What people ask: right answers, and the same number of statements whatever the number of jobs."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from click.testing import CliRunner, Result
from psycopg.rows import dict_row

from extraction_operator.cli import main as operator
from extraction_record.connection import Place
from extraction_record.history import Filter, History
from extraction_record.show import text
from extraction_worker.cli.commands import main as worker

NOW = datetime.now(UTC).replace(microsecond=0)
NOON = (NOW - timedelta(days=1)).replace(hour=12, minute=0, second=0)
AT_NOON = (NOW - NOON).total_seconds() / 3600
"""Hours ago: what ends soon after ends on the same day, and in the same hour."""


def add(
    recorded, name: str, *, phase: str = "Succeeded", ago: float = 1, seconds: int = 60, source: str = "shop",
    attempts: int = 1, bundles: int = 0, namespace: str = "default", schedule: str | None = None,
) -> str:  # fmt: skip
    """Add a job that was created some hours ago; return its uid."""
    created = NOW - timedelta(hours=ago)
    finished = created + timedelta(seconds=seconds) if phase in {"Succeeded", "Failed"} else None
    done = phase == "Succeeded"
    connection = recorded.connection
    (uid,) = connection.execute(
        "INSERT INTO extraction.jobs (uid, created_at, cluster, namespace, name, source, table_name, schedule_uid,"
        " generation, resource_version, phase, attempt, started_at, finished_at, sink, format, verification, rows,"
        " bytes, reason, message) VALUES (gen_random_uuid(), %s, 'main', %s, %s, %s, 'public.orders', md5(%s)::uuid,"
        " 1, 1, %s,"
        " %s, %s, %s, 's3://lake/x', 'Parquet', 'Written', %s, %s, %s, %s) RETURNING uid",
        (created, namespace, name, source, schedule, phase, attempts, created, finished, 1000 if done else None,
         5000 if done else None, None if done else "OutOfMemory", None if done else "It needs more."),
    ).fetchone()  # fmt: skip
    if schedule:
        connection.execute(
            "INSERT INTO extraction.schedules (uid, cluster, namespace, name, last_job_at)"
            " VALUES (md5(%s)::uuid, 'main', %s, %s, %s)", (schedule, namespace, schedule, created),
        )  # fmt: skip
    connection.execute(
        "INSERT INTO extraction.job_specs (job_uid, job_created_at, generation, spec) VALUES (%s, %s, 1, %s)",
        (uid, created, '{"table": "public.orders"}'),
    )
    connection.execute(
        "INSERT INTO extraction.attempts (job_uid, job_created_at, attempt, outcome, started_at, finished_at)"
        " SELECT %s, %s, i, 'Succeeded', %s, %s FROM generate_series(1, %s) AS i",
        (uid, created, created, finished, attempts),
    )
    connection.execute(
        "INSERT INTO extraction.bundles (job_uid, job_created_at, attempt, bundle, pod_uid, pod, outcome, rows,"
        " seconds) SELECT %s, %s, 1, i, gen_random_uuid(), 'pod-' || i, 'Succeeded', 10, 2"
        " FROM generate_series(1, %s) AS i",
        (uid, created, bundles),
    )
    return str(uid)


def add_failed_pods(recorded, uid: str, attempt: int, why: dict[str | None, int], *, exit_code: int | None = 1) -> None:
    """Add worker pods that failed for these reasons, so often each."""
    for reason, count in why.items():
        recorded.connection.execute(
            "INSERT INTO extraction.bundles (job_uid, job_created_at, attempt, bundle, pod_uid, pod, outcome,"
            " exit_code, reason, message) SELECT uid, created_at, %s, i, gen_random_uuid(), 'pod', 'Failed', %s, %s,"
            " 'Of a row.'"
            " FROM extraction.jobs, generate_series(1, %s) AS i WHERE uid = %s",
            (attempt, exit_code, reason, count, uid),
        )


class Counting(psycopg.Cursor):
    """Counts statements."""

    statements = 0

    def execute(self, *given, **more):
        """Count, and go on."""
        Counting.statements += 1
        return super().execute(*given, **more)


@pytest.fixture
def counted(recorded) -> Iterator[History]:
    """A reader whose statements are counted."""
    Counting.statements = 0
    with psycopg.connect(recorded.conninfo, row_factory=dict_row, cursor_factory=Counting) as connection:
        yield History(connection)


def test_the_number_of_statements_doesnt_grow(recorded, counted: History):
    uid = add(recorded, "small", attempts=1, bundles=1)

    def statements() -> list[int]:
        found = []
        week = Filter(since=NOW - timedelta(days=7))
        for ask in (
            lambda: counted.jobs(Filter(), 1000), lambda: counted.failures(week, 1000),
            lambda: counted.slowest(week, 1000), lambda: counted.stats(week),
            lambda: counted.show("small", "default"), lambda: counted.show(uid, "default"),
        ):  # fmt: skip
            before = Counting.statements
            ask()
            found.append(Counting.statements - before)
        return found

    assert statements() == [1, 1, 1, 1, 4, 4]
    for number in range(40):
        failed = add(recorded, f"job-{number}", phase="Failed" if number % 2 else "Succeeded", source=f"s-{number}")
        add_failed_pods(recorded, failed, 1, {"OutOfMemory": number})
    add(recorded, "small", attempts=5, bundles=50, ago=0.5)
    assert statements() == [1, 1, 1, 1, 4, 4]
    found = counted.show("small", "default")
    assert found is not None
    assert (len(found.attempts), len(found.bundles), found.spec) == (5, 50, {"table": "public.orders"})


def test_jobs_are_filtered_and_the_newest_come_first(recorded, counted: History):
    add(recorded, "old", ago=50)
    add(recorded, "new", ago=1)
    add(recorded, "running", phase="Running", ago=2)
    add(recorded, "other", source="crm", namespace="sales", ago=3)
    add(recorded, "made", schedule="nightly", ago=4)

    def names(**which: object) -> list[str]:
        return [row["name"] for row in counted.jobs(Filter(**which), 10)]  # type: ignore[arg-type]

    assert names() == ["new", "running", "other", "made", "old"]
    assert names(source="crm") == names(namespace="sales") == ["other"]
    assert names(running=True) == names(phase="Running") == ["running"]
    assert names(schedule="nightly") == ["made"]
    assert names(since=NOW - timedelta(hours=10), table="public.orders") == ["new", "running", "other", "made"]
    assert [row["name"] for row in counted.jobs(Filter(), 1)] == ["new"]


def ask(recorded, record18: Place, *words: str, command=worker) -> Result:
    """Run a command as people do."""
    place = ("--url", record18.url, "--credentials", str(record18.credentials))
    result = CliRunner().invoke(command, ["history", *words, *place])
    assert result.exit_code == 0, result.output
    return result


def test_history_is_text_and_json(recorded, record18: Place):
    add(recorded, "fine", seconds=60, ago=AT_NOON)
    add(recorded, "slow", seconds=600, ago=AT_NOON)
    uid = add(recorded, "bad", phase="Failed", bundles=1, ago=AT_NOON)
    listed = ask(recorded, record18, "list").output.splitlines()
    assert listed[0].split() == [
        "NAMESPACE",
        "NAME",
        "SOURCE",
        "TABLE",
        "PHASE",
        "STARTED_AT",
        "SECONDS",
        "ROWS",
        "ROWS/S",
    ]
    assert len(listed) == 4
    jobs = json.loads(ask(recorded, record18, "list", "--phase", "Failed", "--output", "json").output)
    assert [(job["name"], job["reason"], job["uid"]) for job in jobs] == [("bad", "OutOfMemory", uid)]
    assert "OutOfMemory" in ask(recorded, record18, "failures", "--since", "2d").output
    slowest = ask(recorded, record18, "slowest", "--limit", "1", command=operator).output.splitlines()
    assert slowest[1].split()[:2] == ["default", "slow"]
    (day,) = json.loads(ask(recorded, record18, "stats", "--output", "json").output)
    assert (day["jobs"], day["succeeded"], day["failed"], day["rows"], day["max_seconds"]) == (3, 2, 1, 2000, 600.0)
    assert "p50_seconds".upper() in ask(recorded, record18, "stats").output
    shown = ask(recorded, record18, "show", "bad").output
    assert uid in shown
    assert "Bundles:" in shown
    assert json.loads(ask(recorded, record18, "show", uid, "--output", "json").output)["bundles"][0]["rows"] == 10


def test_failed_pods_are_counted_by_reason_for_each_attempt(recorded, record18: Place):
    uid = add(recorded, "bad", phase="Failed", attempts=3, bundles=4)
    add_failed_pods(recorded, uid, 1, {"OutOfMemory": 2, "SourceUnavailable": 3})
    add_failed_pods(recorded, uid, 3, {None: 2}, exit_code=137)
    add_failed_pods(recorded, uid, 3, {None: 1}, exit_code=None)
    add(recorded, "fine")
    found = json.loads(ask(recorded, record18, "show", "bad", "--output", "json").output)
    assert [(attempt["failed_pods"], attempt["failed_because"]) for attempt in found["attempts"]] == [
        (5, {"OutOfMemory": 2, "SourceUnavailable": 3}), (None, None), (3, {"exit code 137": 2, "unknown": 1}),
    ]  # fmt: skip
    assert "3 × SourceUnavailable, 2 × OutOfMemory" in ask(recorded, record18, "show", "bad").output
    # Of the attempt that failed the job.
    (failed,) = json.loads(ask(recorded, record18, "failures", "--output", "json").output)
    assert (failed["name"], failed["failed_pods"], failed["failed_because"]) == (
        "bad", 3, {"exit code 137": 2, "unknown": 1},
    )  # fmt: skip
    titles, line = ask(recorded, record18, "failures").output.splitlines()
    assert "FAILED_PODS  BECAUSE" in titles
    assert "2 × exit code 137, 1 × unknown" in line


def test_reasons_beyond_the_most_frequent_are_counted_together(recorded, record18: Place):
    uid = add(recorded, "bad", phase="Failed")
    add_failed_pods(recorded, uid, 1, {f"Reason{number}": 1 + number for number in range(8)})
    (attempt,) = json.loads(ask(recorded, record18, "show", "bad", "--output", "json").output)["attempts"]
    assert attempt["failed_pods"] == 36
    assert attempt["failed_because"] == {
        "Reason7": 8, "Reason6": 7, "Reason5": 6, "Reason4": 5, "Reason3": 4, "others": 6,
    }  # fmt: skip


def test_an_empty_history_is_a_line_of_titles(recorded, record18: Place):
    assert len(ask(recorded, record18, "list").output.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("show", "nothing"), 1, "The record has no job default/nothing"),
        (("list", "--since", "soon"), 2, "isn't a number with s, m, h, d or w"),
        (("list", "--url", "postgresql://u:secret1@h/d"), 1, "has a password"),
        (("list", "--url", "postgresql://127.0.0.1:1/d?sslmode=disable"), 1, "The record: connection"),
    ],
)
def test_what_cant_be_answered_is_said_in_one_line(record18: Place, words: tuple[str, ...], code: int, said: str):
    place = ["--url", record18.url, "--credentials", str(record18.credentials)]
    result = CliRunner().invoke(worker, ["history", words[0], *place, *words[1:]])
    assert (result.exit_code, said in result.output) == (code, True), result.output
    assert "secret1" not in result.output


def test_the_record_is_kept_by_commands(empty, database):
    place = ["--url", empty.url, "--credentials", str(empty.credentials)]

    def run(*words: str) -> str:
        result = CliRunner().invoke(operator, ["record", words[0], *place, *words[1:]])
        assert result.exit_code == 0, result.output
        return result.output

    assert run("version") == "base (newest: 0003)\n"
    assert run("migrate", "--wait", "5s") == "The record is at version 0003.\n"
    assert run("partitions", "--ahead", "4") == "Made 4 partitions.\n"
    database.execute(
        "INSERT INTO extraction.jobs (uid, created_at, cluster, namespace, name, source, generation, resource_version,"
        " phase, attempt, finished_at, sink, format, verification) SELECT gen_random_uuid(), at::timestamptz, 'c', 'n',"
        " 'j', 's', 1, 1, 'Running', 1, ended::timestamptz, 'x', 'CSV', 'None'"
        " FROM (VALUES ('2020-01-05', '2020-01-06'), ('2020-02-05', NULL)) AS made (at, ended)"
    )
    said = run("prune", "--keep", "400d")
    assert "Dropped 4 partitions" in said
    assert "Kept jobs_2020_02: a job of it hasn't ended." in said
    assert run("migrate", "--down", "--revision", "base") == "The record is at version base.\n"


def test_views_for_bi_tools_show_rates_durations_and_errors(recorded):
    for number in range(100):
        add(recorded, f"job-{number}", seconds=number + 1, ago=AT_NOON)
    for number in range(25):
        add(recorded, f"bad-{number}", phase="Failed", seconds=1, ago=AT_NOON)
    add(recorded, "running", phase="Running", ago=AT_NOON)
    for view in ("hourly", "daily"):
        found = recorded.execute(
            f"SELECT sum(jobs), sum(rows), sum(bytes) FROM extraction.{view}"
            " WHERE source = 'shop' AND table_name = 'public.orders'"
        )
        assert found == [(125, 100_000, 500_000)]
    (row,) = recorded.execute(
        "SELECT jobs, succeeded, failed, error_rate, p50_seconds, p95_seconds, p99_seconds, rows_per_second"
        " FROM extraction.daily"
    )
    assert [round(float(str(value)), 3) for value in row] == [125, 100, 25, 0.2, 50.5, 95.05, 99.01, 19.802]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"), (True, "true"), (1234567, "1,234,567"), (1.25, "1.2"), ("x" * 100, "x" * 79 + "…"),
        (datetime(2026, 11, 1, 5, tzinfo=UTC), "2026-11-01 05:00:00Z"),
    ],
)  # fmt: skip
def test_values_are_shown_for_people(value: object, shown: str):
    assert text(value) == shown
