"""Conditions and the size of a status."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extraction_contract.messages import PublishMessage
from extraction_operator.plan.conditions import ended, in_progress, merge, shorten, succeeded
from extraction_operator.plan.values import Ending, Role
from support.api_rules import MOST_BYTES, stored
from support.plan_world import DIGEST, NOW, World, failure, plan_message, seconds
from support.plan_world import ended as container

TEXTS = ["x" * 1500, "é" * 700, "\U0001f600" * 400, '"\\' * 500, "\x01" * 200, "a\n" * 500, "<&>" * 400]


@given(st.text(max_size=400), st.integers(10, 300))
def test_a_message_is_cut_to_its_bytes_as_json(text, longest):
    cut = shorten(text, longest)
    assert len(json.dumps(cut, ensure_ascii=False).encode()) - 2 <= longest
    assert cut == text or (cut.endswith("…") and text.startswith(cut[:-1]))


def test_a_condition_keeps_the_time_of_its_last_transition():
    first = merge((), in_progress("One", "x"), generation=1, now=NOW)
    second = merge(first, in_progress("Two", "y"), generation=2, now=NOW + seconds(5))
    assert {c.last_transition_time for c in second} == {NOW}
    assert {c.reason for c in second} == {"Two"}
    third = merge(second, succeeded("done"), generation=2, now=NOW + seconds(9))
    times = {c.type: c.last_transition_time for c in third}
    later = NOW + seconds(9)
    assert times == {"Ready": later, "Reconciling": later, "Stalled": NOW, "Succeeded": later}


def test_what_was_cancelled_has_not_failed():
    states = {state.type: state.holds for state in ended("Cancelled", "x", failed=False)}
    assert states == {"Ready": False, "Reconciling": False, "Stalled": True}


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_a_status_of_ten_thousand_bundles_and_the_longest_messages_is_small(text):
    """Every status that a World decides is checked; here are the largest."""
    world = World.planning()
    reason = shorten(text, 500).replace("\x01", "")
    plan = plan_message(10_000, 10**9, reason=reason[:150])
    world.change_pod(Role.LEAD, containers=(container("plan", plan),))
    world.step()
    world.step()
    scattered = ",".join(map(str, range(0, 10_000, 2)))
    world.add_job(Role.WORK, number=1, active=3, parallelism=3, completions=10_000, completed_indexes=scattered)
    decision = world.step()
    assert decision.status.progress is not None
    assert decision.status.progress.chunks == 5 * 10**8
    world.change_job(Role.WORK, active=0, ending=Ending.FAILED, ending_reason="PodFailurePolicy", ended_at=world.now)
    world.add_pod(Role.WORK, container("work", failure("Unrepresentable", 19, text=text)), index=1, phase="Failed")
    world.step()
    world.stop()
    world.add_job(Role.CLEAN, ending=Ending.FAILED, ended_at=None)
    decision = world.step()
    assert decision.status.phase == "Failed"
    size = len(json.dumps(stored(decision.status), ensure_ascii=False, separators=(",", ":")).encode())
    assert 2000 < size <= MOST_BYTES
    assert all(len(event.message.encode()) <= 1024 for event in decision.events), "the limit of Events"


def test_the_longest_result_is_small():
    world = World.publishing()
    world.lead_says(
        PublishMessage(
            rows=2**60, bytes=2**62, files=10**6, digest=DIGEST, manifest="s3://" + "x" * 1019, plan_digest=DIGEST,
            consistency="PerPartition", verification="Decoded",
        )
    )  # fmt: skip
    assert world.step().status.phase == "Succeeded"
