"""What is written to the API server, and what its answers mean: on one in this process."""

import asyncio
import gc
import json
import math
import ssl
import subprocess
import sys
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from extraction_contract.models import ExtractionJobStatus
from extraction_operator.cluster import client
from extraction_operator.cluster.children import Children
from extraction_operator.cluster.client import Api
from extraction_operator.cluster.errors import (
    ApiError,
    ForeignObjectError,
    LoginError,
    NotLeaderError,
    UnreachableError,
)
from extraction_operator.cluster.events import About, Events, Limits
from extraction_operator.cluster.fence import Fence
from extraction_operator.cluster.kinds import (
    CLAIM,
    CORE_EVENT,
    DATA_SOURCE,
    EVENT,
    EXTRACTION_JOB,
    JOB,
    LEASE,
    NAMESPACE,
    Kind,
)
from extraction_operator.cluster.leader import ApiLeases, Elector
from extraction_operator.cluster.login import USER_AGENT, log_in
from extraction_operator.cluster.lookups import Lookups
from extraction_operator.cluster.service_account import ServiceAccount
from extraction_operator.cluster.status import Draft, Statuses
from extraction_operator.cluster.warnings import Warnings
from extraction_operator.listing import Listing
from extraction_operator.plan.values import FINALIZER, CreateJob, DeleteJob, Event, Key, Role, ScaleJob
from extraction_operator.store import Store
from support.kube import Handler, Kube, Refusal, lose_the_answer, refuse, swallow
from support.objects import child, data_source, extraction_job, labels

ORDERS = Key("default", "orders")


class Counted:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, str]] = []
        self.dropped = 0

    def called(self, verb: str, kind: str, code: str, seconds: float) -> None:
        assert seconds >= 0
        self.calls.append((verb, kind, code))

    def event_dropped(self) -> None:
        self.dropped += 1


class World:
    """An API server, a client behind an open fence, a store."""

    def __init__(self, kube: Kube) -> None:
        self.kube = kube
        self.seen = Counted()
        self.fence = Fence()
        self.fence.open_until(math.inf)
        self.api = Api(kube.login, self.fence, self.seen)
        self.store = Store(
            on_job=lambda _: None, on_source=lambda _: None, on_child=lambda _: None, on_broken=lambda *_: None
        )
        self.children = Children(self.api, self.store.apply, self.store.ended)
        self.written: list[Draft] = []
        self.failed: list[Draft] = []
        self.statuses = Statuses(self.api, self.store.apply, written=self.written.append, failed=self.failed.append)


@asynccontextmanager
async def open_world() -> AsyncIterator[World]:
    async with Kube().serve() as kube:
        world = World(kube)
        try:
            yield world
        finally:
            await world.api.close()


def run(scenario: Callable[[World], Awaitable[None]]) -> None:
    """Run a scenario in a world of its own."""

    async def inner() -> None:
        async with open_world() as world:
            await scenario(world)

    asyncio.run(inner())


CREATE = CreateJob("orders-lead-1", Role.LEAD, {k: v for k, v in child().items() if k != "status"})

# The client ------------------------------------------------------------------------------------------------------


def test_answers_are_asked_for_uncompressed():
    async def scenario(world: World) -> None:
        encodings = []

        async def note(request, handler):
            encodings.append(request.headers["Accept-Encoding"])
            return await handler(request)

        world.kube.fault = note
        await world.kube.put(EXTRACTION_JOB, extraction_job())
        await world.api.get(EXTRACTION_JOB, "default", "orders")
        async for _ in world.api.pages(EXTRACTION_JOB, None):
            pass
        assert encodings == ["identity"] * 2

    run(scenario)


def test_every_call_says_who_we_are_and_is_counted():
    async def scenario(world: World) -> None:
        await world.kube.put(EXTRACTION_JOB, extraction_job())
        await world.api.get(EXTRACTION_JOB, "default", "orders")
        await world.api.create(JOB, "default", child())
        assert {call.agent for call in world.kube.calls} == {USER_AGENT}
        assert USER_AGENT.startswith("extraction-operator/")
        assert world.seen.calls == [("get", "extractionjobs", "200"), ("create", "jobs", "201")]

    run(scenario)


def test_a_refusal_says_what_was_called_and_why():
    async def scenario(world: World) -> None:
        with (
            world.kube.failing(refuse(403, "Forbidden", causes=("NamespaceTerminating",))),
            pytest.raises(ApiError) as caught,
        ):
            await world.api.create(JOB, "default", child())
        assert (caught.value.status, caught.value.reason) == (403, "Forbidden")
        assert caught.value.causes == ("NamespaceTerminating",)
        assert "/namespaces/default/jobs" in str(caught.value)
        assert not caught.value.is_invalid

    run(scenario)


def test_an_answer_that_isnt_json_is_an_error_with_its_text():
    async def scenario(world: World) -> None:
        async def proxy(request: web.Request, handler: object) -> web.StreamResponse:
            return web.Response(status=502, text="Bad Gateway") if "jobs" in request.path else web.json_response([1])

        with world.kube.failing(proxy):
            with pytest.raises(ApiError, match="Bad Gateway"):
                await world.api.get(JOB, "default", "a")
            assert await world.api.get(LEASE, "default", "a") == {"message": "not an object"}

    run(scenario)


def test_a_black_hole_ends_a_call_in_time(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(client, "READ_SECONDS", 0.1)
    monkeypatch.setattr(client, "WRITE_SECONDS", 0.1)

    async def scenario(world: World) -> None:
        with world.kube.failing(swallow):
            with pytest.raises(UnreachableError, match="no answer within"):
                await world.api.get(JOB, "default", "a")
            with pytest.raises(UnreachableError):
                await world.api.create(JOB, "default", child())
        assert [code for _, _, code in world.seen.calls] == ["Timeout", "Timeout"]

    run(scenario)


def test_writes_tell_the_server_how_long_they_may_take():
    async def scenario(world: World) -> None:
        await world.api.create(JOB, "default", child())
        assert world.kube.writes()[0].query == {"timeout": "1750ms"}

    run(scenario)


def test_nobody_listening_is_unreachable():
    async def scenario(world: World) -> None:
        world.api._server = "http://127.0.0.1:1"
        with pytest.raises(UnreachableError):
            await world.api.get(JOB, "default", "a")

    run(scenario)


def test_nothing_is_written_behind_a_closed_fence_not_even_begun():
    async def scenario(world: World) -> None:
        world.fence.close()
        for write in (
            world.api.create(JOB, "default", child()),
            world.api.merge(JOB, "default", "a", {}),
            world.api.delete(JOB, "default", "a", {}),
        ):
            with pytest.raises(NotLeaderError):
                await write
        assert world.kube.calls == []

    run(scenario)


def test_a_fence_that_closes_during_a_write_stops_it_at_the_socket():
    async def scenario(world: World) -> None:
        checks = iter([True, False, False, False])

        class Closing(Fence):
            @property
            def is_open(self) -> bool:
                return next(checks, False)

        closing = Closing()
        api = Api(world.kube.login, closing, world.seen)
        with pytest.raises(NotLeaderError):
            await api.create(JOB, "default", child())
        await api.close()
        assert world.kube.calls == []

    run(scenario)


def test_the_lease_is_written_without_the_fence():
    async def scenario(world: World) -> None:
        world.fence.close()
        leases = ApiLeases(world.api, Key("system", "operator"))
        assert await leases.read() is None
        renewed: list[float] = []
        elector = Elector(leases, "a", renewed.append)
        assert await elector.try_acquire()
        assert await elector.try_renew()
        assert not await Elector(leases, "b", renewed.append).try_acquire()
        assert world.kube.get(LEASE, "system", "operator")["spec"]["holderIdentity"] == "a"
        assert len(renewed) == 2
        with world.kube.failing(refuse(500, "InternalError")), pytest.raises(ApiError):
            await leases.read()

    run(scenario)


def test_pages_come_one_after_the_other_and_only_of_ours(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(client, "PAGE", 2)

    async def scenario(world: World) -> None:
        for number in range(5):
            await world.kube.put(JOB, child(f"job-{number}"))
        foreign = child("foreign")
        foreign["metadata"]["labels"] = {}
        await world.kube.put(JOB, foreign)
        pages = [[raw["metadata"]["name"] for raw in page.items] async for page in world.api.pages(JOB, None)]
        assert pages == [["job-0", "job-1"], ["job-2", "job-3"], ["job-4"]]

    run(scenario)


def test_the_next_page_is_asked_for_while_one_is_worked_on_and_no_other(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(client, "PAGE", 2)

    async def scenario(world: World) -> None:
        for number in range(5):
            await world.kube.put(JOB, child(f"job-{number}"))
        asked = []
        async with asyncio.timeout(20):
            async for _ in world.api.pages(JOB, None):
                while len(world.kube.calls) < min(len(asked) + 2, 3):
                    await asyncio.sleep(0.01)
                asked.append(len(world.kube.calls))
        assert asked == [2, 3, 3]

    run(scenario)


@pytest.mark.parametrize("answered", [False, True])
def test_a_page_that_nobody_wants_any_more_is_let_go(
    answered: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(client, "PAGE", 2)

    async def scenario(world: World) -> None:
        for number in range(3):
            await world.kube.put(JOB, child(f"job-{number}"))
        pages = world.api.pages(JOB, None)
        await anext(pages)
        with world.kube.failing(refuse(500, "InternalError")):
            while answered and world.seen.calls[-1] != ("list", "jobs", "500"):
                await asyncio.sleep(0.01)
            await pages.aclose()
        gc.collect()

    run(scenario)
    assert "never retrieved" not in caplog.text


def test_a_kubeconfig_and_its_token_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    async def scenario(world: World) -> None:
        headers = []

        async def remember(request: web.Request, handler: object) -> web.StreamResponse:
            headers.append(request.headers.get("Authorization"))
            return web.json_response({})

        world.kube.fault = remember
        for user in ({"token": "t0ken"}, {"username": "me", "password": "pw"}, {}):
            file = tmp_path / "kubeconfig"
            file.write_text(json.dumps({
                "apiVersion": "v1", "kind": "Config", "current-context": "it",
                "clusters": [{"name": "it", "cluster": {
                    "server": f"http://127.0.0.1:{world.kube.port}/", "insecure-skip-tls-verify": True}}],
                "users": [{"name": "it", "user": user}],
                "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
            }))  # fmt: skip
            login = await log_in(file)
            assert login.server == f"http://127.0.0.1:{world.kube.port}"
            api = Api(login, world.fence, world.seen)
            await api.get(JOB, "default", "a")
            await api.close()
        assert headers == ["Bearer t0ken", "Basic bWU6cHc=", None]

    run(scenario)


@pytest.fixture
def account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the kubelet mounts into a pod, and tells it."""
    (tmp_path / "token").write_text("of-the-pod\n")
    authorities = Path(ssl.get_default_verify_paths().cafile or "/etc/ssl/certs/ca-certificates.crt")
    (tmp_path / "ca.crt").write_text(authorities.read_text())
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    return tmp_path


@pytest.mark.parametrize(
    ("host", "server"), [("10.96.0.1", "https://10.96.0.1:443"), ("fd00:96::1", "https://[fd00:96::1]:443")]
)
def test_a_pod_is_its_service_account(account: Path, monkeypatch: pytest.MonkeyPatch, host: str, server: str):
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)

    async def scenario() -> None:
        login = await log_in(account=account)
        assert login.server == server
        assert login.tls.verify_mode is ssl.CERT_REQUIRED
        assert await login.authorization() == "Bearer of-the-pod"

    asyncio.run(scenario())


def test_a_token_that_was_renewed_is_used_within_a_minute(account: Path):
    now = 0.0
    found = ServiceAccount(account, lambda: now)
    assert found.authorization() == "Bearer of-the-pod"
    (account / "token").write_text("the-next")
    now = 60.0
    assert found.authorization() == "Bearer the-next"
    (account / "token").unlink()
    now = 120.0
    assert found.authorization() == "Bearer the-next"


@pytest.mark.parametrize("empty", ["token", "ca.crt", "KUBERNETES_SERVICE_PORT"])
def test_what_a_pod_was_not_given_is_named(account: Path, monkeypatch: pytest.MonkeyPatch, empty: str):
    if empty.isupper():
        monkeypatch.setenv(empty, "")
    else:
        (account / empty).write_text("")
    with pytest.raises(LoginError, match=empty):
        asyncio.run(log_in(account=account))


def test_a_kubeconfig_without_a_context_is_no_login(tmp_path: Path):
    file = tmp_path / "kubeconfig"
    file.write_text("{apiVersion: v1, kind: Config}")
    with pytest.raises(LoginError, match="current-context"):
        asyncio.run(log_in(file))


def test_a_pod_logs_in_without_the_client_that_it_does_not_need(account: Path):
    code = (
        "import asyncio, sys; from pathlib import Path; from extraction_operator.cluster.login import log_in;"
        "import extraction_operator.runtime, extraction_operator.watch.stream;"
        "asyncio.run(log_in(account=Path(sys.argv[1]))); assert 'kubernetes' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, account], check=True)


# Children --------------------------------------------------------------------------------------------------------


def test_a_child_is_created_and_stored():
    async def scenario(world: World) -> None:
        await world.children.create("default", "uid-of-orders", CREATE)
        assert [found.name for found in world.store.children("uid-of-orders")] == ["orders-lead-1"]

    run(scenario)


def test_a_child_whose_answer_was_lost_is_found_by_the_next_attempt():
    async def scenario(world: World) -> None:
        with world.kube.failing(lose_the_answer), pytest.raises(UnreachableError):
            await world.children.create("default", "uid-of-orders", CREATE)
        await world.children.create("default", "uid-of-orders", CREATE)
        assert len(world.store.children("uid-of-orders")) == 1

    run(scenario)


def test_a_foreign_job_of_the_same_name_is_an_error_that_names_it():
    async def scenario(world: World) -> None:
        await world.kube.put(JOB, child(owner="somebody-else"))
        with pytest.raises(ForeignObjectError, match="default/orders-lead-1"):
            await world.children.create("default", "uid-of-orders", CREATE)

    run(scenario)


@pytest.mark.parametrize(("code", "reason"), [(422, "Invalid"), (409, "Conflict"), (500, "InternalError")])
def test_other_refusals_of_a_child_are_raised(code: int, reason: str):
    async def scenario(world: World) -> None:
        with world.kube.failing(refuse(code, reason)), pytest.raises(ApiError) as caught:
            await world.children.create("default", "uid-of-orders", CREATE)
        assert caught.value.is_invalid is (code == 422)

    run(scenario)


def test_a_child_is_deleted_with_its_pods_if_it_is_the_one_that_was_meant():
    async def scenario(world: World) -> None:
        made = await world.kube.put(JOB, child())
        await world.children.delete("default", DeleteJob("orders-lead-1", "another-uid"))
        assert world.kube.has(JOB, "default", "orders-lead-1")
        for _ in range(2):
            await world.children.delete("default", DeleteJob("orders-lead-1", made["metadata"]["uid"]))
        assert not world.kube.has(JOB, "default", "orders-lead-1")
        assert world.kube.writes()[0].body["propagationPolicy"] == "Foreground"

    run(scenario)


def test_a_child_that_was_deleted_isnt_known_any_more_before_the_watch_tells():
    async def scenario(world: World) -> None:
        made = await world.kube.put(JOB, child())
        world.store.apply(JOB, made)
        delete = DeleteJob("orders-lead-1", made["metadata"]["uid"])
        await world.children.delete("default", delete)
        assert not world.store.children("uid-of-orders")
        world.store.apply(JOB, made)
        assert not world.store.children("uid-of-orders"), "an old event brought it back"

    run(scenario)


def test_a_child_that_couldnt_be_deleted_is_still_known():
    async def scenario(world: World) -> None:
        world.store.apply(JOB, await world.kube.put(JOB, child()))
        with world.kube.failing(refuse(500, "InternalError")), pytest.raises(ApiError):
            await world.children.delete("default", DeleteJob("orders-lead-1", "x"))
        assert len(world.store.children("uid-of-orders")) == 1

    run(scenario)


def test_a_child_that_is_held_by_a_finalizer_is_stored_as_on_its_way_out():
    async def scenario(world: World) -> None:
        made = await world.kube.put(JOB, child(finalizers=["a/b"]))
        await world.children.delete("default", DeleteJob("orders-lead-1", made["metadata"]["uid"]))
        assert world.store.children("uid-of-orders")[0].deleting

    run(scenario)


def test_a_child_is_scaled_by_what_changes_alone():
    async def scenario(world: World) -> None:
        made = await world.kube.put(JOB, child())
        uid = made["metadata"]["uid"]
        await world.children.scale("default", ScaleJob("orders-lead-1", uid, parallelism=3))
        await world.children.scale("default", ScaleJob("orders-lead-1", uid, suspend=True))
        assert [call.body for call in world.kube.writes()] == [
            {"metadata": {"uid": uid}, "spec": {"parallelism": 3}},
            {"metadata": {"uid": uid}, "spec": {"suspend": True}},
        ]
        found = world.store.children("uid-of-orders")[0]
        assert (found.parallelism, found.suspended) == (3, True)
        await world.children.scale("default", ScaleJob("orders-lead-1", "another-uid", parallelism=9))
        await world.children.scale("default", ScaleJob("gone", uid, parallelism=9))
        assert world.kube.get(JOB, "default", "orders-lead-1")["spec"]["parallelism"] == 3
        with world.kube.failing(refuse(500, "InternalError")), pytest.raises(ApiError):
            await world.children.scale("default", ScaleJob("orders-lead-1", uid, parallelism=9))

    run(scenario)


def test_finalizers_of_others_stay():
    async def scenario(world: World) -> None:
        made = await world.kube.put(EXTRACTION_JOB, extraction_job(finalizers=["others/first"]))

        async def change(finalizers: tuple[str, ...], version: str, *, present: bool) -> None:
            await world.children.set_finalizer(
                EXTRACTION_JOB, ORDERS, uid=made["metadata"]["uid"], version=version, finalizers=finalizers,
                present=present,
            )  # fmt: skip

        await change(("others/first",), made["metadata"]["resourceVersion"], present=True)
        found = world.store.job(ORDERS).metadata
        assert found.finalizers == ("others/first", FINALIZER)
        await change(found.finalizers, found.resource_version, present=True)
        assert len(world.kube.writes()) == 1
        with pytest.raises(ApiError) as caught:
            await change(found.finalizers, made["metadata"]["resourceVersion"], present=False)
        assert caught.value.is_conflict
        await change(found.finalizers, found.resource_version, present=False)
        assert world.store.job(ORDERS).metadata.finalizers == ("others/first",)
        await world.kube.remove(EXTRACTION_JOB, "default", "orders")
        await change((), "1", present=True)

    run(scenario)


# Statuses --------------------------------------------------------------------------------------------------------

RUNNING = ExtractionJobStatus(phase="Running", attempt=1)
PUBLISHING = ExtractionJobStatus(phase="Publishing", attempt=1)


def draft(raw: dict, status: ExtractionJobStatus, *events: str) -> Draft:
    said = tuple(Event(reason, reason) for reason in events)
    return Draft(EXTRACTION_JOB, ORDERS, raw["metadata"]["uid"], status, said)


def test_only_the_newest_status_of_an_object_is_written():
    async def scenario(world: World) -> None:
        made = await world.kube.put(EXTRACTION_JOB, extraction_job())
        stored = ExtractionJobStatus()
        world.statuses.offer(draft(made, RUNNING, "Planned"), stored)
        world.statuses.offer(draft(made, PUBLISHING, "Publishing", "Planned"), stored)
        assert len(world.statuses) == 1
        await world.statuses.flush()
        await world.statuses.flush()
        assert [call.path.rsplit("/", 1)[1] for call in world.kube.writes()] == ["status"]
        assert world.store.job(ORDERS).status == PUBLISHING
        assert [event.reason for event in world.written[0].events] == ["Planned", "Publishing"]

    run(scenario)


def test_a_status_that_is_stored_already_isnt_written_but_its_events_are_true():
    async def scenario(world: World) -> None:
        made = await world.kube.put(EXTRACTION_JOB, extraction_job())
        world.statuses.offer(draft(made, RUNNING, "A"), RUNNING)
        await world.statuses.write(draft(made, RUNNING, "B"), RUNNING)
        await world.statuses.flush()
        assert world.kube.writes() == []
        assert [event.reason for written in world.written for event in written.events] == ["A", "B"]

    run(scenario)


def test_nothing_is_kept_of_a_status_once_it_is_stored():
    async def scenario(world: World) -> None:
        made = await world.kube.put(EXTRACTION_JOB, extraction_job())
        stored, written = RUNNING.model_copy(), PUBLISHING.model_copy()
        kept = [weakref.ref(stored), weakref.ref(written)]
        world.statuses.offer(draft(made, stored), stored)
        world.statuses.offer(draft(made, written), stored)
        await world.statuses.flush()
        assert len(world.written) == 2
        world.written.clear()
        del stored, written
        gc.collect()
        assert [known() for known in kept] == [None, None]

    run(scenario)


def test_what_a_status_doesnt_say_is_removed():
    async def scenario(world: World) -> None:
        raw = extraction_job(phase="Failed")
        raw["status"] |= {"completionTime": "2026-11-22T06:00:00Z", "progress": {"summary": "1/2", "rows": 3}}
        made = await world.kube.put(EXTRACTION_JOB, raw)
        await world.statuses.write(draft(made, ExtractionJobStatus(phase="Pending", attempt=2)), RUNNING)
        status = world.kube.get(EXTRACTION_JOB, "default", "orders")["status"]
        assert "completionTime" not in status
        assert "progress" not in status
        assert world.store.job(ORDERS).status == ExtractionJobStatus(phase="Pending", attempt=2)

    run(scenario)


def test_an_urgent_status_takes_the_place_of_one_that_waits():
    async def scenario(world: World) -> None:
        made = await world.kube.put(EXTRACTION_JOB, extraction_job())
        world.statuses.offer(draft(made, RUNNING, "Planned"), ExtractionJobStatus())
        await world.statuses.write(draft(made, PUBLISHING), ExtractionJobStatus())
        assert len(world.statuses) == 0
        assert [event.reason for event in world.written[0].events] == ["Planned"]

    run(scenario)


def test_a_batch_under_way_doesnt_put_an_older_status_over_an_urgent_one():
    async def scenario(world: World) -> None:
        made = await world.kube.put(EXTRACTION_JOB, extraction_job())
        arrived, go_on = asyncio.Event(), asyncio.Event()

        async def hold_back(request: web.Request, handler: Handler) -> web.StreamResponse:
            arrived.set()
            await go_on.wait()
            return await handler(request)

        other = await world.kube.put(EXTRACTION_JOB, extraction_job("other"))
        elsewhere = Draft(EXTRACTION_JOB, Key("default", "other"), other["metadata"]["uid"], RUNNING)
        statuses = Statuses(
            world.api, world.store.apply, written=world.written.append, failed=world.failed.append, parallel=1
        )
        with world.kube.failing(hold_back):
            statuses.offer(elsewhere, ExtractionJobStatus())
            statuses.offer(draft(made, RUNNING), ExtractionJobStatus())
            batch = asyncio.create_task(statuses.flush())
            await arrived.wait()
            # The batch has taken both, and waits for the first one's answer.
            urgent = asyncio.create_task(statuses.write(draft(made, PUBLISHING), ExtractionJobStatus()))
            await asyncio.sleep(0)
            go_on.set()
            await asyncio.gather(batch, urgent)
        written = [call.body["status"]["phase"] for call in world.kube.writes() if "/orders/" in call.path]
        assert written == ["Publishing"]

    run(scenario)


def test_the_status_of_an_object_isnt_given_to_another_of_its_name():
    async def scenario(world: World) -> None:
        old = await world.kube.put(EXTRACTION_JOB, extraction_job())
        await world.kube.remove(EXTRACTION_JOB, "default", "orders")
        await world.statuses.write(draft(old, RUNNING), ExtractionJobStatus())
        new = await world.kube.put(EXTRACTION_JOB, extraction_job(uid="another"))
        world.statuses.offer(draft(old, RUNNING, "Old"), ExtractionJobStatus())
        await world.statuses.flush()
        assert "status" not in world.kube.get(EXTRACTION_JOB, "default", "orders")
        world.statuses.offer(draft(old, RUNNING, "Old"), ExtractionJobStatus())
        world.statuses.offer(draft(new, RUNNING, "New"), ExtractionJobStatus())
        await world.statuses.flush()
        assert [[event.reason for event in written.events] for written in world.written] == [["New"]]

    run(scenario)


def test_a_status_that_cant_be_written_is_decided_anew():
    async def scenario(world: World) -> None:
        made = await world.kube.put(EXTRACTION_JOB, extraction_job())
        with world.kube.failing(refuse(422, "Invalid")):
            world.statuses.offer(draft(made, RUNNING), ExtractionJobStatus())
            await world.statuses.flush()
            with pytest.raises(ApiError):
                await world.statuses.write(draft(made, RUNNING), ExtractionJobStatus())
        assert len(world.failed) == 1
        assert len(world.statuses) == 0

    run(scenario)


def test_statuses_are_written_in_batches_until_the_end():
    async def scenario(world: World) -> None:
        made = await world.kube.put(EXTRACTION_JOB, extraction_job())
        flushing = asyncio.create_task(world.statuses.run(0.01))
        world.statuses.offer(draft(made, RUNNING), ExtractionJobStatus())
        while not world.written:
            await asyncio.sleep(0)
        world.statuses.offer(draft(made, PUBLISHING), RUNNING)
        world.statuses.forget(EXTRACTION_JOB, ORDERS)
        assert len(world.statuses) == 0
        flushing.cancel()

    run(scenario)


# Events and warnings ---------------------------------------------------------------------------------------------

ABOUT = About(EXTRACTION_JOB, ORDERS, "uid-of-orders")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_repeats_of_an_event_are_counted_in_one_object():
    async def scenario(world: World) -> None:
        clock = Clock()
        events = Events(world.api, world.seen, instance="me", clock=clock)
        for _ in range(3):
            events.add(ABOUT, Event("PodCannotStart", "no image", warning=True))
        events.add(ABOUT, Event("Started", "ok"))
        await events.flush()
        found = {raw["reason"]: raw for (plural, _, _), raw in world.kube.objects.items() if plural == "events"}
        assert found["PodCannotStart"]["series"]["count"] == 3
        assert found["PodCannotStart"]["type"] == "Warning"
        assert found["PodCannotStart"]["regarding"]["uid"] == "uid-of-orders"
        assert (found["Started"]["type"], found["Started"]["note"]) == ("Normal", "ok")
        clock.now += 3600
        events.add(ABOUT, Event("Started", "ok"))
        await events.flush()
        assert len(world.kube.objects) == 3

    run(scenario)


def test_an_event_that_kubernetes_has_forgotten_is_written_anew():
    async def scenario(world: World) -> None:
        events = Events(world.api, world.seen, instance="me", limits=Limits(known=1))
        events.add(ABOUT, Event("Started", "ok"))
        await events.flush()
        world.kube.objects.clear()
        events.add(ABOUT, Event("Started", "ok"))
        events.add(ABOUT, Event("Planned", "ok"))
        events.add(ABOUT, Event("Started", "ok"))
        await events.flush()
        assert len(world.kube.objects) == 3
        with world.kube.failing(refuse(500, "InternalError")):
            events.add(ABOUT, Event("Started", "ok"))
            await events.flush()
        assert world.seen.dropped == 1

    run(scenario)


def test_too_many_events_are_dropped_and_counted():
    async def scenario(world: World) -> None:
        clock = Clock()
        limits = Limits(per_second=1.0, burst=2.0, waiting=3)
        events = Events(world.api, world.seen, instance="me", limits=limits, clock=clock)
        for number in range(5):
            events.add(ABOUT, Event(f"Number{number}", "x" * 2000))
        assert world.seen.dropped == 2
        await events.flush()
        assert len(world.kube.objects) == 2
        clock.now += 1
        await events.flush()
        assert len(world.kube.objects) == 3
        assert all(len(raw["note"].encode()) <= 1024 for raw in world.kube.objects.values())

    run(scenario)


def test_events_are_written_in_the_background():
    async def scenario(world: World) -> None:
        events = Events(world.api, world.seen, instance="me", limits=Limits(per_second=100.0, burst=1.0))
        writing = asyncio.create_task(events.run())
        for number in range(3):
            events.add(ABOUT, Event(f"Number{number}", ""))
        while len(world.kube.objects) < 3:
            await asyncio.sleep(0)
        writing.cancel()

    run(scenario)


def warning(name: str, about: str, message: str, at: str, kind: str = "Warning") -> dict:
    return {
        "metadata": {"name": name}, "involvedObject": {"name": about}, "type": kind, "message": message,
        "lastTimestamp": at,
    }  # fmt: skip


def test_the_latest_warning_about_each_child_is_found_and_kept_for_a_while():
    async def scenario(world: World) -> None:
        clock = Clock()
        warnings = Warnings(world.api, clock=clock)
        await world.kube.put(CORE_EVENT, warning("b", "pod-1", "new", "2126-11-22T06:05:00Z"))
        await world.kube.put(CORE_EVENT, warning("a", "pod-1", "old", "2126-11-22T06:00:00Z"))
        await world.kube.put(CORE_EVENT, warning("c", "pod-1", "fine", "2126-11-22T06:09:00Z", "Normal"))
        await world.kube.put(CORE_EVENT, warning("d", "pod-2", "other", "2126-11-22T06:09:00Z"))
        assert await warnings.about("default", ["pod-1", "job-1"]) == {"pod-1": "new"}
        count = len(world.kube.calls)
        await warnings.about("default", ["pod-1", "job-1"])
        assert len(world.kube.calls) == count
        clock.now += 5
        await warnings.about("default", ["pod-1"])
        assert len(world.kube.calls) == count + 1

    run(scenario)


def test_namespaces_and_claims_are_looked_up_where_we_may():
    async def scenario(world: World) -> None:
        lookups = Lookups(world.api)
        world.kube.objects["namespaces", "", "leaving"] = {"status": {"phase": "Terminating"}}
        world.kube.objects["namespaces", "", "staying"] = {"status": {"phase": "Active"}}
        await world.kube.put(CLAIM, {"metadata": {"name": "lake"}, "spec": {"accessModes": ["ReadWriteOnce"]}})
        assert await lookups.is_terminating("leaving")
        assert not await lookups.is_terminating("staying")
        assert await lookups.claim_modes("default", "lake") == ("ReadWriteOnce",)
        assert await lookups.claim_modes("default", "none") == ()
        count = len(world.kube.calls)
        assert await lookups.is_terminating("leaving")
        assert len(world.kube.calls) == count
        with world.kube.failing(refuse(403, "Forbidden")):
            assert not await lookups.is_terminating("forbidden")
        with world.kube.failing(refuse(500, "InternalError")), pytest.raises(ApiError):
            await lookups.is_terminating("broken")

    run(scenario)


# The LIST --------------------------------------------------------------------------------------------------------


def test_a_comparison_finds_what_no_watch_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(client, "PAGE", 30)

    async def scenario(world: World) -> None:
        listing = Listing(world.api, world.store, ())
        for number in range(70):
            await world.kube.put(JOB, child(f"job-{number}"))
        await world.kube.put(EXTRACTION_JOB, extraction_job())
        await world.kube.put(DATA_SOURCE, data_source())
        assert await listing.compare() == 72
        assert await listing.compare() == 0
        await world.kube.remove(EXTRACTION_JOB, "default", "orders", silently=True)
        assert await listing.compare() == 1
        assert world.store.job(ORDERS) is None

    run(scenario)


def test_the_first_page_of_the_next_kind_is_under_way_and_parents_are_told_of_first(
    monkeypatch: pytest.MonkeyPatch,
):
    async def scenario(world: World) -> None:
        taken_in = []
        apply = world.store.apply

        def remember(kind: Kind, raw: dict[str, object]) -> bool:
            taken_in.append(kind.plural)
            return apply(kind, raw)

        monkeypatch.setattr(world.store, "apply", remember)
        for kind, raw in ((EXTRACTION_JOB, extraction_job()), (DATA_SOURCE, data_source()), (JOB, child("a"))):
            await world.kube.put(kind, raw)
        asked, all_asked = [], asyncio.Event()

        async def wait(request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]):
            asked.append(request.path.rpartition("/")[2])
            if len(asked) == 2:
                all_asked.set()
            await all_asked.wait()
            return await handler(request)

        with world.kube.failing(wait):
            async with asyncio.timeout(20):
                assert await Listing(world.api, world.store, ()).compare() == 3
        assert sorted(asked[:2]) == ["datasources", "extractionjobs"]
        assert sorted(asked) == ["datasources", "extractionjobs", "jobs", "pods"]
        assert taken_in == ["extractionjobs", "datasources", "jobs"]

    run(scenario)


def test_what_is_open_is_compared_without_the_jobs_that_have_ended():
    async def scenario(world: World) -> None:
        listing = Listing(world.api, world.store, ())
        for name, phase in (("new", None), ("running", "Running"), ("over", "Succeeded"), ("failed", "Failed")):
            await world.kube.put(EXTRACTION_JOB, extraction_job(name, phase=phase))
        await world.kube.put(DATA_SOURCE, data_source())
        await world.kube.put(JOB, child("a"))
        assert await listing.compare_open() == 4
        assert sorted(ref.key.name for ref in world.store.refs()) == ["new", "running", "shop"]
        # Of those that were open, one has ended and one is gone, and no watch has told.
        await world.kube.put(EXTRACTION_JOB, extraction_job("running", phase="Succeeded"))
        await world.kube.remove(EXTRACTION_JOB, "default", "new", silently=True)
        assert await listing.compare_open() == 2
        assert world.store.brief(Key("default", "running")).phase == "Succeeded"
        assert world.store.brief(Key("default", "new")) is None
        assert await listing.compare() == 2
        assert await listing.compare_open() == 0
        assert [ref.key.name for ref in world.store.refs()] == ["failed", "over", "running", "shop"]

    run(scenario)


def test_where_jobs_cant_be_selected_by_their_phase_all_are_compared(caplog: pytest.LogCaptureFixture):
    async def scenario(world: World) -> None:
        await world.kube.put(EXTRACTION_JOB, extraction_job(phase="Succeeded"))
        old = refuse(400, "BadRequest", when=lambda request: "fieldSelector" in request.query)
        with world.kube.failing(old):
            assert await Listing(world.api, world.store, ()).compare_open() == 1
        with world.kube.failing(refuse(500, "InternalError")), pytest.raises(ApiError):
            await Listing(world.api, world.store, ()).compare_open()

    run(scenario)
    assert "older version" in caplog.text


@pytest.mark.parametrize("enabled", [True, False])
def test_a_comparison_that_fails_leaves_nothing_under_way_and_the_collector_as_it_was(
    enabled: bool, caplog: pytest.LogCaptureFixture
):
    async def scenario(world: World) -> None:
        listing = Listing(world.api, world.store, ())
        before = asyncio.all_tasks()
        (gc.enable if enabled else gc.disable)()
        try:
            with world.kube.failing(refuse(500, "InternalError")), pytest.raises(ApiError):
                await listing.compare()
            assert gc.isenabled() == enabled
        finally:
            gc.enable()
        assert not {task for task in asyncio.all_tasks() - before if "_read_first" in repr(task)}
        gc.collect()

    run(scenario)
    assert "never retrieved" not in caplog.text


def test_a_list_that_expires_is_begun_again_once():
    async def scenario(world: World) -> None:
        await world.kube.put(EXTRACTION_JOB, extraction_job())
        left = [1]

        async def expire(request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]):
            if "extractionjobs" in request.path and left[0] > 0:
                left[0] -= 1
                raise Refusal(410, "Expired")
            return await handler(request)

        listing = Listing(world.api, world.store, ["default"])
        with world.kube.failing(expire):
            assert await listing.compare() == 1
            left[0] = 2
            with pytest.raises(ApiError):
                await listing.compare()
        with world.kube.failing(refuse(500, "InternalError")), pytest.raises(ApiError):
            await listing.compare()

    run(scenario)


def test_paths_are_those_of_the_api_server():
    assert JOB.path("a", "b", "status") == "/apis/batch/v1/namespaces/a/jobs/b/status"
    assert NAMESPACE.path(None, "a") == "/api/v1/namespaces/a"
    assert EVENT.path() == "/apis/events.k8s.io/v1/events"
    assert str(Kind("g", "v1", "things", "Thing")) == "Thing"
    assert labels("u", "work", number=2)["extraction-operator.io/number"] == "2"
