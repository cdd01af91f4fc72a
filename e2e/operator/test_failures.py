"""What fails tells people why, soon, and leaves nothing."""

import time
from dataclasses import replace

import pytest

from e2e.support.jobs import KIND, SOURCE, Job, condition, is_source_ready, ready_message, sessions
from e2e.support.servers import Postgres, Store


def test_a_wrong_password_fails_the_source_with_the_servers_words(small_job: Job) -> None:
    wrong = replace(small_job.extraction.postgres, reader_password="wrong-" + "password")
    job = replace(small_job, extraction=replace(small_job.extraction, postgres=wrong))
    began = time.monotonic()
    job.apply()
    source = job.namespace.wait_for(
        SOURCE, "shop", lambda found: any(
            entry["type"] == "Ready" and entry["reason"] == "AuthenticationFailed"
            for entry in found.get("status", {}).get("conditions", [])
        ), seconds=15,
    )  # fmt: skip
    assert time.monotonic() - began < 15
    told = condition(source["status"], "Ready")["message"]
    assert "reader" in told
    assert "wrong-password" not in str(source)
    # The job says so, too, once it has seen the check.
    job.namespace.wait_for(KIND, job.name, lambda found: "reader" in ready_message(found))


def test_a_password_that_went_wrong_after_the_check_fails_the_job(small_job: Job, postgres: Postgres) -> None:
    small_job.apply_source()
    small_job.namespace.wait_for(SOURCE, "shop", is_source_ready)
    wrong = replace(postgres, reader_password="another-" + "password")
    replace(small_job, extraction=replace(small_job.extraction, postgres=wrong)).extraction.apply_secrets(
        small_job.namespace
    )
    began = time.monotonic()
    small_job.apply_alone()
    failed = small_job.fail(seconds=15)
    assert time.monotonic() - began < 15
    assert failed["reason"] == "AuthenticationFailed"
    assert "reader" in failed["message"]


@pytest.mark.parametrize(
    ("table", "reason"), [("public.nowhere", "NotFound"), ("public.forbidden", "PermissionDenied")]
)
def test_what_cannot_be_read_fails_at_once_by_its_name(
    small_job: Job, postgres: Postgres, store: Store, bucket: str, table: str, reason: str
) -> None:
    with postgres.connect() as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS public.forbidden (id int)")
    job = replace(small_job, extraction=replace(small_job.extraction, table=table)).apply()
    failed = job.fail(seconds=30)
    assert failed["reason"] == reason
    assert table.partition(".")[2] in failed["message"]
    assert "Contents" not in store.client().list_objects_v2(Bucket=bucket)
    assert sessions(postgres, job.namespace.namespace) == []


def test_a_value_that_no_file_can_hold_names_chunk_and_column(
    job: Job, postgres: Postgres, table: str, store: Store, bucket: str
) -> None:
    with postgres.connect() as connection:
        connection.execute(f"UPDATE {table} SET created_at = 'infinity' WHERE id = 60000")
    failing = replace(job, extraction=replace(job.extraction, table=table)).apply()
    failed = failing.fail()
    assert failed["reason"] == "Unrepresentable"
    assert "created_at" in failed["message"]
    assert "hunk" in failed["message"]
    # The pod's log stays; what was staged doesn't.
    assert failing.jobs("work")
    assert "Contents" not in store.client().list_objects_v2(Bucket=bucket)
    assert "Uploads" not in store.client().list_multipart_uploads(Bucket=bucket)


def test_a_missing_secret_is_named_within_half_a_minute(small_job: Job) -> None:
    small_job.apply_source()
    small_job.namespace.wait_for(SOURCE, "shop", is_source_ready)
    small_job.namespace.kubectl("delete", "secret", "lake")
    small_job.apply_alone()
    waits = small_job.wait_for_reason("PodCannotStart", seconds=30)
    assert "lake" in waits["message"]
    small_job.extraction.apply_secrets(small_job.namespace)
    small_job.succeed()


def test_an_unschedulable_pod_is_told_within_half_a_minute(small_job: Job) -> None:
    job = small_job.apply(podTemplate={"nodeSelector": {"disk": "none-such"}})
    waits = job.wait_for_reason("PodCannotStart", seconds=30)
    assert "node" in waits["message"]


def test_a_quota_is_told_within_half_a_minute(small_job: Job) -> None:
    small_job.apply_source()
    small_job.namespace.wait_for(SOURCE, "shop", is_source_ready)
    small_job.namespace.apply(
        {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    )
    small_job.apply_alone()
    waits = small_job.wait_for_reason("PodCannotStart", seconds=30)
    assert "quota" in waits["message"]


def test_a_source_that_comes_back_is_found_ready(small_job: Job, postgres: Postgres) -> None:
    small_job.apply_source(connection=small_job.extraction.source["spec"]["connection"] | {"port": 1})
    small_job.namespace.wait_for(
        SOURCE, "shop", lambda found: any(
            entry["type"] == "Ready" and entry["status"] == "False" and entry["reason"] == "SourceUnavailable"
            for entry in found.get("status", {}).get("conditions", [])
        ),
    )  # fmt: skip
    small_job.apply_source()
    small_job.namespace.wait_for(SOURCE, "shop", is_source_ready)
