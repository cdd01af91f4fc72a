"""What pods did counts once, whoever leads and whenever the operator starts."""

from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest

from extraction_contract.messages import (
    BundleMessage,
    CacheUse,
    CleanMessage,
    FailureMessage,
    PlanMessage,
    PublishMessage,
)
from extraction_contract.status import ConnectionCounts
from extraction_operator.accounts import Accounts, Ended, Totals
from extraction_operator.observe.metrics import Metrics
from extraction_operator.plan.values import Container, Pod, Role

NOW = datetime(2026, 11, 22, tzinfo=UTC)
DIGEST = "0" * 32
SUCCEEDED = Ended("Succeeded", "", "Parquet", 100, 1000, 12.5)


def bundle(**changes) -> BundleMessage:
    fields = {
        "bundle": 0, "chunks": 1, "rows": 10, "bytes": 100, "seconds": 1, "retries": 1, "sessions": 3, "checkouts": 5,
        "session_reuses": 3, "session_waits": 1, "sessions_active": 2, "memory": 1 << 28,
    }  # fmt: skip
    return BundleMessage(**(fields | changes))


def pod(uid: str, attempt: int = 1, exit_code: int | None = 0, **containers) -> Pod:
    found = tuple(
        Container(name, exit_code=exit_code, message=message if isinstance(message, str) else message.encode())
        for name, message in containers.items()
    )
    return Pod(uid, uid, "job", "job-uid", Role.WORK, attempt, 0, NOW, "Succeeded", containers=found)


@dataclass
class Counted:
    """Remembers what it is told."""

    ended: list[Ended] = field(default_factory=list)
    totals: list[Totals] = field(default_factory=list)

    def attempt_ended(self, ended: Ended) -> None:
        self.ended.append(ended)

    def pods_did(self, totals: Totals) -> None:
        self.totals.append(totals)

    @property
    def bytes(self) -> int:
        return sum(totals.source_bytes for totals in self.totals)


def leading() -> tuple[Counted, Accounts]:
    counted = Counted()
    accounts = Accounts(counted)
    accounts.is_leading = True
    return counted, accounts


def test_pods_are_counted_when_their_attempt_ends_and_once_however_often_they_are_seen():
    counted, accounts = leading()
    for _ in range(3):
        for uid in ("a", "b"):
            accounts.see("job", pod(uid, work=bundle()))
    assert counted.totals == []
    for _ in range(2):
        accounts.end("job", 1, SUCCEEDED)
        accounts.see("job", pod("a", work=bundle()))
    assert counted.ended == [SUCCEEDED]
    assert counted.bytes == 200


def test_what_a_pod_that_failed_did_with_connections_counts_and_what_it_read_doesnt():
    counted, accounts = leading()
    did = ConnectionCounts(opened=4, checkouts=9, reuses=5, waits=2, evicted=1, leaks=1)
    failure = FailureMessage(reason="SourceStalled", exit_code=21, message="It stalled.", retries=2, connections=did)
    for uid, code, said in (("a", 21, failure), ("b", 137, bundle()), ("c", None, bundle()), ("d", 0, bundle())):
        for _ in range(2):
            accounts.see("job", pod(uid, exit_code=code, work=said))
    # One that died before it needed a connection has none to tell of.
    accounts.see("job", pod("e", exit_code=1, work=FailureMessage(reason="InternalError", exit_code=1, message="Bug.")))
    accounts.end("job", 1, SUCCEEDED)
    [totals] = counted.totals
    assert (totals.source_bytes, totals.retries) == (100, 1 + 2)
    assert totals.pools == {"sessions": 7, "checkouts": 14, "reuses": 8, "waits": 3, "evicted": 1, "leaks": 1}


def test_an_operator_that_starts_in_the_middle_counts_what_is_still_there():
    _, first = leading()
    first.see("job", pod("a", work=bundle()))
    counted, second = leading()
    for uid in ("a", "b"):
        second.see("job", pod(uid, work=bundle()))
    second.end("job", 1, SUCCEEDED)
    assert counted.bytes == 200


def test_a_job_that_had_ended_before_the_operator_started_is_not_counted_again():
    counted, accounts = leading()
    accounts.see("job", pod("a", work=bundle()))
    accounts.see("job", pod("b", attempt=2, work=bundle(bytes=7)))
    accounts.end("job", 2, SUCCEEDED)
    assert counted.bytes == 7


def test_words_that_come_after_the_end_are_counted_as_they_come():
    counted, accounts = leading()
    accounts.end("job", 1, SUCCEEDED)
    for _ in range(2):
        accounts.see("job", pod("late", work=bundle()))
    assert counted.bytes == 100


def test_a_standby_counts_nothing_and_goes_on_where_the_leader_ended():
    counted, accounts = leading()
    accounts.is_leading = False
    accounts.see("job", pod("a", work=bundle()))
    accounts.end("job", 1, Ended("Restarted"))
    accounts.see("job", pod("late", work=bundle()))
    accounts.see("job", pod("b", attempt=2, work=bundle()))
    accounts.is_leading = True
    accounts.see("job", pod("later", work=bundle()))
    assert counted.totals == []
    accounts.end("job", 2, SUCCEEDED)
    assert counted.bytes == 100


def test_a_job_that_is_gone_is_forgotten():
    _, accounts = leading()
    accounts.see("job", pod("a", work=bundle()))
    accounts.forget("job")
    accounts.forget("job")
    accounts.see("job", pod("b", work=bundle()))  # its pods go after it
    assert len(accounts) == 0


@pytest.mark.parametrize("message", ["", "not ours", CleanMessage()])
def test_other_words_change_nothing(message):
    counted, accounts = leading()
    accounts.see("job", pod("a", work=message))
    accounts.end("job", 1, SUCCEEDED)
    assert counted.totals == [Totals()]


def test_everything_that_pods_say_is_shown():
    metrics = Metrics()
    accounts = Accounts(metrics)
    accounts.is_leading = True
    planned = PlanMessage(
        digest=DIGEST, chunks=1, bundles=1, estimated_rows=1, estimated_bytes=1, strategy="none",
        caches=(CacheUse(cache="pages", hits=2, misses=1), CacheUse(cache="introspection", errors=1)),
    )  # fmt: skip
    published = PublishMessage(
        rows=100, bytes=1000, files=1, digest=DIGEST, manifest="file:///x", plan_digest=DIGEST,
        consistency="Snapshot", verification="Written", snapshot_seconds=30, work=bundle(sessions_leaked=1),
    )  # fmt: skip
    accounts.see("job", pod("lead", plan=planned, publish=published))
    accounts.end("job", 1, SUCCEEDED)
    accounts.end("other", 1, Ended("Failed", "SnapshotLost", "CSV", seconds=5))
    accounts.end("third", 1, Ended("Restarted"))
    lines = metrics.page().decode().splitlines()
    for expected in (
        'records_total{format="Parquet"} 100.0', 'bytes_total{format="Parquet"} 1000.0', "source_bytes_total 100.0",
        'attempts_total{outcome="Succeeded"} 1.0', 'attempts_total{outcome="Restarted"} 1.0',
        'failures_total{reason="SnapshotLost"} 1.0', 'duration_seconds_sum{outcome="Succeeded"} 12.5',
        "chunk_retries_total 1.0", "worker_memory_bytes_count 1.0", "snapshot_age_seconds_sum 30.0",
        "pool_sessions_total 3.0", "pool_checkouts_total 5.0", "pool_reuses_total 3.0", "pool_waits_total 1.0",
        "pool_evicted_total 0.0", "pool_leaks_total 1.0", "pool_active_sessions_sum 2.0",
        "pool_idle_sessions_sum 1.0", 'cache_lookups_total{cache="pages",result="hit"} 2.0',
        'cache_lookups_total{cache="introspection",result="error"} 1.0',
    ):  # fmt: skip
        assert f"extraction_{expected}" in lines
    assert not any('records_total{format="CSV"}' in line for line in lines)


def test_reasons_are_bounded():
    metrics = Metrics()
    for number in range(200):
        metrics.attempt_ended(Ended("Failed", f"Reason{number}"))
    page = metrics.page().decode()
    assert page.count("extraction_failures_total{") == 65
    assert 'extraction_failures_total{reason="Other"} 136.0' in page
