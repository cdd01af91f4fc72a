"""What the operator says of its own pod, on an API server in this process."""

import asyncio
import math
from dataclasses import replace

import pytest

from extraction_operator.cluster.client import Api
from extraction_operator.cluster.errors import ApiError
from extraction_operator.cluster.events import Events
from extraction_operator.cluster.fence import Fence
from extraction_operator.cluster.kinds import EVENT, POD
from extraction_operator.cluster.own_pod import OwnPod, PodCondition
from extraction_operator.config import Config, RecordConfig
from extraction_operator.observe.metrics import Metrics
from extraction_operator.plan.settings import Settings
from extraction_operator.plan.values import Key
from extraction_operator.record.recorder import Recorder
from extraction_operator.stores import tell_of_stores
from extraction_record.connection import Place
from support.kube import Kube, refuse
from support.record import observed

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


class Looks:
    """A pod of the operator, and how often something was told of it, new or not."""

    def __init__(self, own: OwnPod) -> None:
        self._own = own
        self.count = 0

    async def tell(self, condition: PodCondition) -> None:
        """Tell, and count."""
        await self._own.tell(condition)
        self.count += 1


def patches(kube: Kube) -> int:
    return sum(call.method == "PATCH" for call in kube.writes())


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
    assert patches(kube) == 3
    # The kubelet's conditions are in the same list: it is merged by the type of each.
    assert {(call.path, call.content) for call in kube.writes() if call.method == "PATCH"} == {
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


REDIS = "redis://cache/0"


def test_what_never_changes_is_told_once_and_no_more_looked_at(tmp_path):
    file = tmp_path / "url"
    file.write_text(REDIS)
    config = Config(plan=Settings(image="extractor"), identity="me", redis_url_file=file, flush_seconds=0)

    async def scenario(kube: Kube, own: OwnPod) -> None:
        with kube.failing(refuse(403, "Forbidden")):
            task = asyncio.create_task(tell_of_stores(own, config, None))
            async with asyncio.timeout(20):
                # Refused twice: it is tried again.
                while patches(kube) < 2:
                    await asyncio.sleep(0)
        async with asyncio.timeout(20):
            await task

    kube = run(scenario)
    assert conditions(kube) == [("extraction-operator.io/StoresSecure", "False", "RedisNotSecure")]
    assert events_of(kube) == [("Warning", "RedisNotSecure", "uid-1", "v1")]


def test_without_stores_nothing_is_told():
    async def scenario(_: Kube, own: OwnPod) -> None:
        await tell_of_stores(own, Config(plan=Settings(image="extractor"), identity="me"), None)

    assert patches(run(scenario)) == 0


def test_a_record_is_told_of_when_it_turns_and_not_looked_at_in_between():
    record = RecordConfig(Place("postgresql://127.0.0.1:1/none"), "here", 50_000)
    config = Config(plan=Settings(image="extractor"), identity="me", record=record, flush_seconds=0)
    recorder = Recorder(replace(record, spool_bytes=20_000), (), Metrics())
    recorder._leads = True

    async def scenario(kube: Kube, own: OwnPod) -> None:
        looks = Looks(own)
        task = asyncio.create_task(tell_of_stores(looks, config, recorder))  # type: ignore[arg-type]
        async with asyncio.timeout(20):
            while looks.count < 2:
                await asyncio.sleep(0)
            for _ in range(100):
                await asyncio.sleep(0)
            # With a pause of nothing a loop would have looked a hundred times.
            assert looks.count == 2
            for number in range(100):
                recorder.job(observed(str(number)))
            while looks.count < 4:
                await asyncio.sleep(0)
        task.cancel()

    kube = run(scenario)
    assert conditions(kube) == [
        ("extraction-operator.io/StoresSecure", "True", "StoresSecure"),
        ("extraction-operator.io/RecordKeepsUp", "False", "RecordSpoolFull"),
    ]
    assert patches(kube) == 3
    assert events_of(kube) == [("Warning", "RecordSpoolFull", "uid-1", "v1")]
