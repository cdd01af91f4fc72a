"""What the operator says of its own pod, on an API server in this process."""

import asyncio
import math

import pytest

from extraction_operator.cluster.client import Api
from extraction_operator.cluster.errors import ApiError
from extraction_operator.cluster.events import Events
from extraction_operator.cluster.fence import Fence
from extraction_operator.cluster.kinds import EVENT, POD
from extraction_operator.cluster.own_pod import OwnPod, PodCondition
from extraction_operator.observe.metrics import Metrics
from extraction_operator.plan.values import Key
from support.kube import Kube, refuse

UP = PodCondition("RecordKeepsUp", True, "RecordKeepsUp", "Fine.")
FULL = PodCondition("RecordKeepsUp", False, "RecordSpoolFull", "Too long.")
AGAIN = PodCondition("RecordKeepsUp", True, "RecordWrittenAgain", "Some are missing.")


def run(scenario) -> Kube:
    """Run a scenario with a pod of the operator; return the API server as it is afterwards."""

    async def inner() -> Kube:
        async with Kube().serve() as kube:
            await kube.put(POD, {"metadata": {"name": "operator-1", "uid": "uid-1"}, "status": {"phase": "Running"}})
            fence, metrics = Fence(), Metrics()
            fence.open_until(math.inf)
            api = Api(kube.login, fence, metrics)
            events = Events(api, metrics, instance="operator-1_x")
            try:
                await scenario(kube, OwnPod(api, events, Key("default", "operator-1")))
                await events.flush()
            finally:
                await api.close()
            return kube

    return asyncio.run(inner())


def conditions(kube: Kube) -> list[tuple[str, str, str]]:
    found = kube.get(POD, "default", "operator-1")["status"]["conditions"]
    return [(entry["type"], entry["status"], entry["reason"]) for entry in found]


def events_of(kube: Kube) -> list[tuple[str, str, str, str]]:
    found = [raw for (plural, *_), raw in sorted(kube.objects.items()) if plural == EVENT.plural]
    return sorted(
        (raw["type"], raw["reason"], raw["regarding"]["uid"], raw["regarding"]["apiVersion"]) for raw in found
    )


def test_a_condition_is_written_when_it_changes_and_an_event_when_it_turns():
    async def scenario(kube: Kube, own: OwnPod) -> None:
        for condition in (UP, UP, FULL, FULL, AGAIN):
            await own.tell(condition)
            assert conditions(kube) == [
                ("extraction-operator.io/RecordKeepsUp", str(condition.status), condition.reason)
            ]

    kube = run(scenario)
    patches = [call for call in kube.writes() if call.method == "PATCH"]
    assert len(patches) == 3
    # The kubelet's conditions are in the same list: it is merged by the type of each.
    assert {(call.path, call.content) for call in patches} == {
        ("/api/v1/namespaces/default/pods/operator-1/status", "application/strategic-merge-patch+json")
    }
    assert events_of(kube) == [
        ("Normal", "RecordWrittenAgain", "uid-1", "v1"), ("Warning", "RecordSpoolFull", "uid-1", "v1"),
    ]  # fmt: skip


def test_what_begins_badly_is_an_event_and_what_could_not_be_written_is_tried_again():
    async def scenario(kube: Kube, own: OwnPod) -> None:
        with kube.failing(refuse(403, "Forbidden")), pytest.raises(ApiError):
            await own.tell(FULL)
        await own.tell(FULL)

    kube = run(scenario)
    assert conditions(kube) == [("extraction-operator.io/RecordKeepsUp", "False", "RecordSpoolFull")]
    assert events_of(kube) == [("Warning", "RecordSpoolFull", "uid-1", "v1")]
