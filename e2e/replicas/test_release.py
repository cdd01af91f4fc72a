"""Letting go of all objects before the operator is uninstalled, on a real API server."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner
from e2e.support.api_server import ApiServer, Object

from extraction_operator.cli import main
from extraction_operator.cluster.client import Api
from extraction_operator.cluster.errors import ApiError
from extraction_operator.cluster.fence import Fence
from extraction_operator.cluster.kinds import EXTRACTION_JOB
from extraction_operator.cluster.leader import ApiLeases, Record
from extraction_operator.cluster.login import log_in
from extraction_operator.observe.metrics import Metrics
from extraction_operator.plan.values import FINALIZER, Key
from extraction_operator.release import release_finalizers, stop_operator, wait_for_no_leader

ROOT = "/apis/extraction-operator.io/v1alpha1"


@pytest.fixture
def server(api: ApiServer) -> ApiServer:
    return api


@asynccontextmanager
async def opened(server: ApiServer) -> AsyncIterator[Api]:
    fence = Fence()
    fence.open_until(math.inf)
    api = Api(await log_in(server.kubeconfig()), fence, Metrics())
    try:
        yield api
    finally:
        await api.close()


def path(namespace: str, plural: str, name: str = "") -> str:
    return f"{ROOT}/namespaces/{namespace}/{plural}" + (f"/{name}" if name else "")


def create(server: ApiServer, namespace: str, name: str, *finalizers: str) -> Object:
    """Create an ExtractionJob and a DataSource of one name."""
    metadata = {"name": name, "finalizers": list(finalizers)}
    kinds = {
        "datasources": {
            "kind": "DataSource", "spec": {
                "type": "PostgreSQL", "connection": {"host": "db", "database": "shop"},
                "credentialsSecretRef": {"name": "reader"},
            },
        },
        "extractionjobs": {
            "kind": "ExtractionJob", "spec": {
                "dataSourceRef": {"name": name}, "table": "public.orders",
                "sink": {"format": {"type": "Parquet"}, "volume": {"claimName": "lake"}},
            },
        },
    }  # fmt: skip
    for plural, body in kinds.items():
        made = server.call("POST", path(namespace, plural), body | {
            "apiVersion": "extraction-operator.io/v1alpha1", "metadata": metadata
        })  # fmt: skip
    return made


def finalizers(server: ApiServer, namespace: str, plural: str, name: str) -> list[str]:
    found: list[str] = server.call("GET", path(namespace, plural, name))["metadata"].get("finalizers", [])
    return found


def test_every_object_of_ours_can_be_deleted_afterwards_and_other_finalizers_stay(server: ApiServer) -> None:
    namespace = server.namespace()
    create(server, namespace, "orders", FINALIZER, "example.com/theirs")
    create(server, namespace, "plain", "example.com/theirs")
    create(server, namespace, "going", FINALIZER)
    server.call("DELETE", path(namespace, "extractionjobs", "going"))
    done = CliRunner().invoke(
        main, ["release-finalizers", "--kubeconfig", str(server.kubeconfig()), "--namespace", namespace]
    )
    assert done.exit_code == 0, done.output
    for plural in ("extractionjobs", "datasources"):
        assert finalizers(server, namespace, plural, "orders") == ["example.com/theirs"]
        assert finalizers(server, namespace, plural, "plain") == ["example.com/theirs"]
    assert server.request("GET", path(namespace, "extractionjobs", "going"))[0] == 404


def test_only_the_watched_namespaces_are_touched(server: ApiServer) -> None:
    ours, theirs = server.namespace(), server.namespace()
    create(server, ours, "orders", FINALIZER)
    create(server, theirs, "orders", FINALIZER)

    async def act() -> int:
        async with opened(server) as api:
            return await release_finalizers(api, [ours])

    assert asyncio.run(act()) == 2
    assert finalizers(server, ours, "datasources", "orders") == []
    assert finalizers(server, theirs, "datasources", "orders") == [FINALIZER]


def test_all_pages_are_gone_through(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extraction_operator.cluster.client.PAGE", 2)
    namespace = server.namespace()
    for number in range(5):
        create(server, namespace, f"orders-{number}", FINALIZER)

    async def act() -> tuple[int, int]:
        async with opened(server) as api:
            return await release_finalizers(api, [namespace]), await release_finalizers(api, [namespace])

    assert asyncio.run(act()) == (10, 0)


def test_an_object_that_is_changed_meanwhile_is_read_again(server: ApiServer) -> None:
    namespace = server.namespace()
    create(server, namespace, "orders", FINALIZER)

    class Meddling(Api):
        """Somebody else adds a finalizer between our LIST and our write, once."""

        meddled = False

        async def merge(self, kind, namespace, name, patch, subresource=""):  # type: ignore[no-untyped-def]
            if not self.meddled:
                self.meddled = True
                server.merge(
                    path(namespace, kind.plural, name), {"metadata": {"finalizers": [FINALIZER, "example.com/late"]}}
                )
            return await super().merge(kind, namespace, name, patch, subresource)

    async def act() -> int:
        fence = Fence()
        fence.open_until(math.inf)
        api = Meddling(await log_in(server.kubeconfig()), fence, Metrics())
        try:
            return await release_finalizers(api, [namespace])
        finally:
            await api.close()

    assert asyncio.run(act()) == 2
    assert finalizers(server, namespace, "extractionjobs", "orders") == ["example.com/late"]


def test_the_deployment_is_stopped_and_one_that_is_gone_is_no_error(server: ApiServer) -> None:
    namespace = server.namespace()
    pod = {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "main", "image": "x"}]}}
    spec = {"replicas": 2, "selector": {"matchLabels": {"app": "x"}}, "template": pod}
    deployments = f"/apis/apps/v1/namespaces/{namespace}/deployments"
    server.call("POST", deployments, {"metadata": {"name": "operator"}, "spec": spec})
    options = ["--kubeconfig", str(server.kubeconfig()), "--namespace", namespace, "--own-namespace", namespace]
    for name in ("operator", "gone"):
        done = CliRunner().invoke(main, ["release-finalizers", *options, "--deployment", name, "--lease-name", "none"])
        assert done.exit_code == 0, done.output
    assert server.call("GET", f"{deployments}/operator")["spec"]["replicas"] == 0


def test_a_deployment_that_may_not_be_stopped_ends_it(server: ApiServer, tmp_path: Path) -> None:
    nobody = replace(server, token="wrong", tokens={"admin": "wrong"}, folder=tmp_path)
    (tmp_path / "server.crt").write_bytes(server.certificate.read_bytes())

    async def act() -> None:
        async with opened(nobody) as api:
            await stop_operator(api, Key("default", "operator"))

    with pytest.raises(ApiError, match="401"):
        asyncio.run(act())


def test_a_name_without_a_namespace_is_asked_for(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["release-finalizers", "--deployment", "operator"])
    assert done.exit_code == 2
    assert "--own-namespace" in done.output


def test_it_waits_until_the_leader_lets_go(server: ApiServer) -> None:
    key = Key(server.namespace(), "operator")
    now = datetime.now(UTC)

    async def act() -> bool:
        async with opened(server) as api:
            leases = ApiLeases(api, key)
            await wait_for_no_leader(leases, poll=0.01)
            held = await leases.write(Record("somebody", 600, now, now, 0))
            waiting = asyncio.ensure_future(wait_for_no_leader(leases, poll=0.01))
            # A renewal is no release.
            held = await leases.write(replace(held, renewed=datetime.now(UTC)))
            early = waiting.done()
            await leases.write(replace(held, holder="", duration=1))
            await asyncio.wait_for(waiting, 10)
            return early

    assert asyncio.run(act()) is False


def test_a_leader_that_died_is_waited_for_as_long_as_its_lease_lasts(server: ApiServer) -> None:
    key = Key(server.namespace(), "operator")
    now = datetime.now(UTC)
    time = iter([0.0, 5.0, 9.9, 10.0])

    async def act() -> None:
        async with opened(server) as api:
            leases = ApiLeases(api, key)
            await leases.write(Record("somebody", 10, now, now, 0))
            await wait_for_no_leader(leases, poll=0.01, clock=lambda: next(time))

    asyncio.run(act())
    assert list(time) == []


def test_a_cluster_without_our_kinds_has_nothing_to_release(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extraction_operator.release.DATA_SOURCE", replace(EXTRACTION_JOB, plural="nothings"))
    monkeypatch.setattr("extraction_operator.release.EXTRACTION_JOB", replace(EXTRACTION_JOB, plural="nothings"))

    async def act() -> int:
        async with opened(server) as api:
            return await release_finalizers(api)

    assert asyncio.run(act()) == 0
