"""Termination messages: whole or refused, never misread."""

import contextlib
import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extraction_contract.messages import (
    MAX_BYTES,
    BundleMessage,
    CheckMessage,
    CleanMessage,
    FailureMessage,
    NotAMessage,
    PlanMessage,
    PublishMessage,
    decode,
)
from extraction_contract.status import ConnectionCounts

DIGEST = "0123456789abcdef0123456789abcdef"
PLAN = PlanMessage(
    digest=DIGEST,
    chunks=40,
    bundles=4,
    estimated_rows=10**12,
    estimated_bytes=10**15,
    strategy="ctid",
    reason="x" * 900,
)
MESSAGES = [
    PLAN,
    BundleMessage(bundle=3, chunks=10, reused=2, rows=10**12, bytes=10**15, seconds=1.25),
    PublishMessage(
        rows=1, bytes=2, files=3, digest=DIGEST, manifest="s3://lake/" + "é" * 100, plan_digest=DIGEST,
        consistency="Snapshot", verification="Written",
    ),
    CleanMessage(),
    CheckMessage(server_version="18.6", latency_milliseconds=0.4, role_connection_limit=-1),
    FailureMessage(
        reason="NotFound", exit_code=12, message='public."odd\\"name" isn\'t there.\n', chunk=0, retries=2,
        connections=ConnectionCounts(opened=2, checkouts=10**12),
    ),
]  # fmt: skip


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.kind)
def test_what_is_encoded_is_decoded(message):
    text = message.encode()
    assert len(text.encode()) <= MAX_BYTES
    assert decode(text) == message


@given(st.sampled_from(MESSAGES), st.data())
def test_a_message_that_was_cut_or_altered_is_refused(message, data):
    text = message.encode()
    place = data.draw(st.integers(0, len(text) - 1))
    with pytest.raises(NotAMessage):
        decode(text[:place])
    other = data.draw(st.characters(min_codepoint=32, max_codepoint=126).filter(lambda c: c != text[place]))
    altered = text[:place] + other + text[place + 1 :]
    with contextlib.suppress(NotAMessage):
        assert decode(altered) == message  # e.g. an escape that means the same


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.kind)
def test_fields_of_a_later_version_are_left_out(message):
    head = json.loads(message.encode())
    body = json.dumps(json.loads(head["body"]) | {"laterField": {"is": "there"}})
    later = head | {"body": body, "crc32": f"{zlib.crc32(body.encode()):08x}"}
    assert decode(json.dumps(later)) == message


@given(st.text(max_size=1500))
def test_a_failure_is_cut_to_fit(text):
    found = decode(FailureMessage(reason="SinkFull", exit_code=27, message=text).encode())
    assert isinstance(found, FailureMessage)
    assert found.message == text or (found.message.endswith("…") and text.startswith(found.message[:-1]))


def test_only_failures_are_cut():
    with pytest.raises(ValueError, match="2000 is the most"):
        PLAN.model_copy(update={"reason": "\x7f" * 1000}).encode()


@pytest.mark.parametrize(
    "text", ["", "Killed", "[]", "{}", '{"v":2,"kind":"clean","crc32":"a3830348","body":"{}"}', "[" * 9999]
)
def test_what_isnt_ours_is_no_failure(text):
    assert FailureMessage.of(text) is None


def test_a_message_of_another_kind_is_no_failure():
    assert FailureMessage.of(CleanMessage().encode()) is None


def test_a_plan_becomes_a_status():
    assert PLAN.status().model_dump() == PLAN.model_dump(exclude={"caches"})
