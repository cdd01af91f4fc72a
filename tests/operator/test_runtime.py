"""The whole process on an API server in this process: from what is declared to what is written."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import yaml
from aiohttp import web
from click.testing import CliRunner

from extraction_contract.messages import CheckMessage
from extraction_operator import cli
from extraction_operator.cluster.kinds import CORE_EVENT, DATA_SOURCE, EVENT, EXTRACTION_JOB, JOB, LEASE, POD
from extraction_operator.cluster.timing import Timing
from extraction_operator.config import Config, Election
from extraction_operator.plan.settings import Settings
from extraction_operator.plan.values import FINALIZER, Key
from extraction_operator.runtime import Exit, Operator
from extraction_operator.store import Parent, Ref
from extraction_operator.workers import Workers
from support.kube import Handler, Kube, now, refuse
from support.objects import condition, data_source, extraction_job, labels, metadata

LEASE_KEY = Key("default", "extraction-operator")


class Switchless:
    """Stands for the kernel's switch, which would end the tests' own process."""

    def install(self) -> None:
        """Do nothing."""

    def arm(self, seconds: float) -> None:
        """Do nothing."""

    def disarm(self) -> None:
        """Do nothing."""


@asynccontextmanager
async def operator(kube: Kube, *, election: Election | None = None, **options: object) -> AsyncIterator[Operator]:
    """Run an operator; it ends in good order with the block, unless it has ended before."""
    config = Config(
        plan=Settings(image="extractor"), identity="me", metrics_host="127.0.0.1", metrics_port=0, election=election,
        **({"flush_seconds": 0.02} | options),  # type: ignore[arg-type]
    )  # fmt: skip
    it = Operator(config, kube.login)
    it._switch = Switchless()  # type: ignore[assignment]
    await it.open()
    stop = asyncio.Event()
    it.running = asyncio.create_task(it.run(stop))  # type: ignore[attr-defined]
    try:
        yield it
        stop.set()
        assert await it.running == Exit.STOPPED  # type: ignore[attr-defined]
    finally:
        stop.set()
        await asyncio.wait([it.running])  # type: ignore[attr-defined]
        await it.close()


async def until(happened: Callable[[], object]) -> None:
    """Wait until something has happened."""
    async with asyncio.timeout(20):
        while not happened():
            await asyncio.sleep(0.01)


def run(scenario: Callable[[Kube], Awaitable[None]]) -> None:
    async def inner() -> None:
        async with Kube().serve() as kube:
            await scenario(kube)

    asyncio.run(inner())


def phase_of(kube: Kube, name: str) -> str | None:
    """Return the phase of an ExtractionJob; None before it has a status."""
    return kube.get(EXTRACTION_JOB, "default", name).get("status", {}).get("phase")


def jobs(kube: Kube, role: str) -> list[dict]:
    """Return the Jobs of a role."""
    return [
        raw for (plural, _, _), raw in kube.objects.items()
        if plural == "jobs" and raw["metadata"]["labels"]["extraction-operator.io/role"] == role
    ]  # fmt: skip


async def succeed(kube: Kube, job: dict, message: str) -> None:
    """Do as the Job controller and a kubelet would: a pod ran, and said something."""
    name, uid = job["metadata"]["name"], job["metadata"]["uid"]
    ended = {"exitCode": 0, "reason": "Completed", "message": message}
    await kube.put(POD, {
        "metadata": {
            "name": f"{name}-x", "labels": job["spec"]["template"]["metadata"]["labels"],
            "ownerReferences": [{"kind": "Job", "name": name, "uid": uid, "controller": True}],
        },
        "status": {"phase": "Succeeded", "containerStatuses": [
            {"name": container["name"], "restartCount": 0, "state": {"terminated": ended}}
            for container in job["spec"]["template"]["spec"]["containers"]]},
    })  # fmt: skip
    at = now()
    conditions = [condition("SuccessCriteriaMet", at=at), condition("Complete", at=at)]
    await kube.put(JOB, job | {"status": {"succeeded": 1, "conditions": conditions}})


def test_a_source_is_checked_and_its_job_gets_a_lead():
    async def scenario(kube: Kube) -> None:
        async with operator(kube) as it:
            await until(lambda: it._health.is_ready)
            await kube.put(DATA_SOURCE, data_source())
            await kube.put(EXTRACTION_JOB, extraction_job())
            await until(lambda: jobs(kube, "check"))
            await succeed(
                kube, jobs(kube, "check")[0], CheckMessage(server_version="18.6", latency_milliseconds=1).encode()
            )
            await until(lambda: jobs(kube, "lead"))
            await until(lambda: phase_of(kube, "orders") == "Planning")
            await until(lambda: not jobs(kube, "check"))
            assert kube.get(DATA_SOURCE, "default", "shop")["status"]["server"]["version"] == "18.6"
            await until(lambda: {"Connected", "Started"} <= {
                raw["reason"] for (plural, _, _), raw in kube.objects.items() if plural == EVENT.plural})  # fmt: skip
            assert len(jobs(kube, "lead")) == 1
            assert "extraction_operator_job_seen_to_lead_seconds_count 1.0" in it._metrics.page().decode()
            # What it has written it sees a little later.
            await until(lambda: 'extraction_operator_jobs{phase="Planning"} 1.0' in it._metrics.page().decode())
            # A job that is gone gives its part of the budget back.
            assert it._budget.active(Key("default", "shop")) == 1
            await kube.put(EXTRACTION_JOB, {"metadata": {"name": "orders", "finalizers": []}})
            await kube.remove(EXTRACTION_JOB, "default", "orders")
            await until(lambda: it._budget.active(Key("default", "shop")) == 0)

    run(scenario)


def test_a_new_job_is_looked_at_before_others_and_needs_one_turn_until_it_plans(monkeypatch: pytest.MonkeyPatch):
    added: list[tuple[Ref, bool]] = []
    add = Workers.add

    def once(self: Workers[Ref], key: Ref, delay: float = 0.0, *, ahead: bool = False) -> None:
        """Leave out what an API server that answers late would have done by later turns."""
        if key.kind is not Parent.JOB or key not in {known for known, _ in added}:
            add(self, key, delay, ahead=ahead)
        added.append((key, ahead))

    monkeypatch.setattr(Workers, "add", once)

    async def slow(request: web.Request, handler: Handler) -> web.StreamResponse:
        """Take longer to answer than statuses wait."""
        if request.method != "GET":
            await asyncio.sleep(0.1)
        return await handler(request)

    async def scenario(kube: Kube) -> None:
        await kube.put(DATA_SOURCE, data_source(ready=True, finalizers=["extraction-operator.io/cleanup"]))
        async with operator(kube) as it:
            await until(lambda: it._health.is_ready)
            kube.fault = slow
            await kube.put(EXTRACTION_JOB, extraction_job())
            await until(lambda: kube.get(EXTRACTION_JOB, "default", "orders").get("status"))
            assert jobs(kube, "lead")
            assert kube.get(EXTRACTION_JOB, "default", "orders")["metadata"]["finalizers"]
            await until(lambda: len([key for key, _ in added if key.kind is Parent.JOB]) > 1)
        told = [call.body["status"]["phase"] for call in kube.writes() if call.path.endswith("orders/status")]
        assert told == ["Planning"]
        assert [ahead for key, ahead in added if key.kind is Parent.JOB][:2] == [True, False]

    run(scenario)


def test_a_job_is_decided_about_before_those_that_have_ended_are_listed():
    async def scenario(kube: Kube) -> None:
        await kube.put(DATA_SOURCE, data_source(ready=True, finalizers=["extraction-operator.io/cleanup"]))
        await kube.put(EXTRACTION_JOB, extraction_job())
        await kube.put(EXTRACTION_JOB, extraction_job("ended", phase="Succeeded", finalizers=[FINALIZER]))
        go_on = asyncio.Event()

        async def hold_up(request: web.Request, handler: Handler) -> web.StreamResponse:
            if request.path.endswith("/extractionjobs") and "fieldSelector" not in request.query:
                await go_on.wait()
            return await handler(request)

        with kube.failing(hold_up):
            async with operator(kube) as it:
                await until(lambda: jobs(kube, "lead"))
                assert not it._health.is_ready
                assert kube.get(EXTRACTION_JOB, "default", "ended")["metadata"]["finalizers"]
                go_on.set()
                await until(lambda: it._health.is_ready)
                await until(lambda: not kube.get(EXTRACTION_JOB, "default", "ended")["metadata"]["finalizers"])

    run(scenario)


def test_nothing_is_done_twice_after_a_restart_at_any_moment():
    async def scenario(kube: Kube) -> None:
        await kube.put(DATA_SOURCE, data_source(ready=True, finalizers=["extraction-operator.io/cleanup"]))
        await kube.put(EXTRACTION_JOB, extraction_job())
        for _ in range(3):
            async with operator(kube):
                await until(lambda: jobs(kube, "lead"))
                await until(lambda: kube.get(EXTRACTION_JOB, "default", "orders").get("status"))
        creations = [call for call in kube.writes() if call.method == "POST" and call.path.endswith("/jobs")]
        assert len(creations) == 1

    run(scenario)


def test_what_the_api_server_refuses_is_told_in_an_event_and_tried_again():
    async def scenario(kube: Kube) -> None:
        await kube.put(DATA_SOURCE, data_source(ready=True, finalizers=["extraction-operator.io/cleanup"]))
        await kube.put(EXTRACTION_JOB, extraction_job())

        def creates_a_job(request: web.Request) -> bool:
            return request.method == "POST" and request.path.endswith("/jobs")

        with kube.failing(refuse(403, "Forbidden", when=creates_a_job)):
            async with operator(kube) as it:
                await until(lambda: any(
                    raw.get("reason") == "ChildRefused" for (plural, _, _), raw in kube.objects.items()
                    if plural == EVENT.plural))  # fmt: skip
                await until(lambda: "status" in kube.get(EXTRACTION_JOB, "default", "orders"))
                assert kube.get(EXTRACTION_JOB, "default", "orders")["status"]["phase"] == "Pending"
                kube.fault = None
                await until(lambda: jobs(kube, "lead"))
                assert it._queue.retries > 0

    run(scenario)


def test_events_about_children_are_asked_for_when_a_decision_wants_them():
    async def scenario(kube: Kube) -> None:
        # A lead that has had no pod for long: only an Event says why.
        await kube.put(DATA_SOURCE, data_source(ready=True, finalizers=["extraction-operator.io/cleanup"]))
        job = await kube.put(
            EXTRACTION_JOB, extraction_job(phase="Planning", finalizers=["extraction-operator.io/cleanup"])
        )
        uid = job["metadata"]["uid"]
        await kube.put(JOB, {
            "metadata": metadata("orders-lead-1", 1, labels=labels(uid, "lead")), "spec": {}})  # fmt: skip
        await kube.put(CORE_EVENT, {
            "metadata": {"name": "quota"}, "involvedObject": {"name": "orders-lead-1"}, "type": "Warning",
            "message": "exceeded quota", "lastTimestamp": now()})  # fmt: skip
        async with operator(kube):
            await until(lambda: "exceeded quota" in str(kube.get(EXTRACTION_JOB, "default", "orders")["status"]))

    run(scenario)


def test_a_source_that_cant_get_its_pod_says_why():
    async def scenario(kube: Kube) -> None:
        source = await kube.put(DATA_SOURCE, data_source(finalizers=["extraction-operator.io/cleanup"]))
        uid = source["metadata"]["uid"]
        await kube.put(JOB, {
            "metadata": metadata("shop-check-1", 1, labels=labels(uid, "check")), "spec": {}})  # fmt: skip
        await kube.put(CORE_EVENT, {
            "metadata": {"name": "quota"}, "involvedObject": {"name": "shop-check-1"}, "type": "Warning",
            "message": "exceeded quota", "lastTimestamp": now()})  # fmt: skip
        async with operator(kube):
            await until(lambda: "exceeded quota" in str(kube.get(DATA_SOURCE, "default", "shop").get("status")))

    run(scenario)


def test_the_lease_passes_from_one_to_the_next_and_a_standby_is_ready():
    async def scenario(kube: Kube) -> None:
        # Long enough for a busy machine to renew it, short enough to wait until it expires.
        timing = Timing(4.0, 3.0, 0.5)
        async with operator(kube, election=Election(LEASE_KEY, "b", timing)) as second:
            await until(lambda: kube.has(LEASE, "default", "extraction-operator"))
            async with operator(kube, election=Election(LEASE_KEY, "c", timing)) as standby:
                await until(lambda: standby._health.is_ready)
                assert not standby._fence.is_open
                await kube.put(DATA_SOURCE, data_source())
                await until(lambda: jobs(kube, "check"))
                assert second._fence.is_open
                # Somebody takes the Lease away: who held it ends, and not as a success.
                lease = kube.get(LEASE, "default", "extraction-operator")
                await kube.put(LEASE, lease | {"spec": lease["spec"] | {"holderIdentity": "d"}})
                assert await second.running == Exit.LOST_LEASE
                assert not second._fence.is_open
                await until(lambda: standby._fence.is_open)
            assert kube.get(LEASE, "default", "extraction-operator")["spec"]["holderIdentity"] == ""
            second.running = asyncio.create_task(asyncio.sleep(0, Exit.STOPPED))

    run(scenario)


def test_an_api_server_that_is_away_at_the_start_is_waited_for():
    async def scenario(kube: Kube) -> None:
        with kube.failing(refuse(503, "ServiceUnavailable")):
            async with operator(kube, namespaces=("default",)) as it:
                await until(lambda: len(kube.calls) > 1)
                assert not it._health.is_ready
                kube.fault = None
                await until(lambda: it._health.is_ready)

    run(scenario)


def test_what_vanishes_without_an_event_is_found_by_the_next_comparison():
    async def scenario(kube: Kube) -> None:
        await kube.put(EXTRACTION_JOB, extraction_job())
        async with operator(kube, compare_seconds=0.1) as it:
            await until(lambda: it._health.is_ready)
            await kube.remove(EXTRACTION_JOB, "default", "orders", silently=True)
            await until(lambda: it._store.job(Key("default", "orders")) is None)
            await until(lambda: "store_drift_total 1.0" in it._metrics.page().decode())
            with kube.failing(refuse(500, "InternalError")):
                count = len(kube.calls)
                await until(lambda: len(kube.calls) > count + 1)

    run(scenario)


def test_an_event_that_cant_be_taken_in_is_counted_and_the_next_one_is():
    async def scenario(kube: Kube) -> None:
        async with operator(kube) as it:
            await until(lambda: it._health.is_ready)
            broken = extraction_job("broken")
            broken["spec"] = "not even a mapping"
            await kube.put(EXTRACTION_JOB, broken)
            await kube.put(EXTRACTION_JOB, extraction_job())
            await until(lambda: it._store.job(Key("default", "orders")))
            assert 'watch_errors_total{kind="ExtractionJob"} 1.0' in it._metrics.page().decode()

    run(scenario)


def test_without_a_watch_nothing_goes_on(monkeypatch: pytest.MonkeyPatch):
    async def broken(*_: object) -> None:
        raise RuntimeError("kopf has ended.")

    monkeypatch.setattr("extraction_operator.watch.stream.watch", broken)

    async def scenario(kube: Kube) -> None:
        async with operator(kube) as it:
            assert await it.running == Exit.FAILED
            it.running = asyncio.create_task(asyncio.sleep(0, Exit.STOPPED))

    run(scenario)


CLEANUP = ["extraction-operator.io/cleanup"]


def test_a_job_whose_namespace_goes_is_let_go():
    async def scenario(kube: Kube) -> None:
        kube.objects["namespaces", "", "default"] = {"status": {"phase": "Terminating"}}
        await kube.put(EXTRACTION_JOB, extraction_job(phase="Planning", finalizers=CLEANUP, deletionTimestamp=now()))
        async with operator(kube):
            await until(lambda: not kube.has(EXTRACTION_JOB, "default", "orders"))

    run(scenario)


def test_a_job_is_let_go_when_a_refusal_shows_that_its_namespace_goes():
    """Pods go first, and jobs only once these are gone: the job itself isn't being deleted yet."""

    async def scenario(kube: Kube) -> None:
        await kube.put(DATA_SOURCE, data_source(ready=True, finalizers=CLEANUP))
        await kube.put(EXTRACTION_JOB, extraction_job(finalizers=CLEANUP))

        def creates_a_job(request: web.Request) -> bool:
            return request.method == "POST" and request.path.endswith("/jobs")

        with kube.failing(refuse(403, "Forbidden", when=creates_a_job, causes=("NamespaceTerminating",))):
            async with operator(kube):
                await until(lambda: not kube.get(EXTRACTION_JOB, "default", "orders")["metadata"].get("finalizers"))

    run(scenario)


def test_the_next_job_begins_when_the_one_before_it_is_gone():
    async def scenario(kube: Kube) -> None:
        source = data_source(ready=True, finalizers=CLEANUP)
        source["spec"]["limits"] = {"activeJobs": 1}
        await kube.put(DATA_SOURCE, source)
        async with operator(kube):
            await kube.put(EXTRACTION_JOB, extraction_job("first"))
            await until(lambda: jobs(kube, "lead"))
            for name in ("second", "third"):
                await kube.put(EXTRACTION_JOB, extraction_job(name))
                await until(
                    lambda name=name: "WaitingForBudget" in str(kube.get(EXTRACTION_JOB, "default", name).get("status"))
                )
            assert len(jobs(kube, "lead")) == 1
            await kube.remove(JOB, "default", jobs(kube, "lead")[0]["metadata"]["name"])
            await kube.put(EXTRACTION_JOB, {"metadata": {"name": "first", "finalizers": []}})
            await kube.remove(EXTRACTION_JOB, "default", "first")
            await until(lambda: len(jobs(kube, "lead")) == 1)
            assert jobs(kube, "lead")[0]["metadata"]["name"].startswith("second-")

    run(scenario)


def test_a_check_waits_while_jobs_have_all_connections_and_begins_when_one_is_gone():
    async def scenario(kube: Kube) -> None:
        source = data_source(ready=True, finalizers=CLEANUP)
        source["spec"] |= {"limits": {"maxConnections": 2, "activeJobs": 1}, "pool": {"size": 1, "minIdle": 1}}
        await kube.put(DATA_SOURCE, source)
        async with operator(kube) as it:
            await kube.put(EXTRACTION_JOB, extraction_job("first"))
            await until(lambda: jobs(kube, "lead"))
            asked = {"metadata": {"name": "shop", "annotations": {"extraction-operator.io/check": "now"}}}
            await kube.put(DATA_SOURCE, kube.get(DATA_SOURCE, "default", "shop") | asked)
            await until(lambda: "WaitingForBudget" in str(kube.get(DATA_SOURCE, "default", "shop").get("status")))
            assert not jobs(kube, "check")
            # It comes before the next job.
            await kube.put(EXTRACTION_JOB, extraction_job("second"))
            await until(lambda: "WaitingForBudget" in str(kube.get(EXTRACTION_JOB, "default", "second").get("status")))
            await kube.remove(JOB, "default", jobs(kube, "lead")[0]["metadata"]["name"])
            await kube.put(EXTRACTION_JOB, {"metadata": {"name": "first", "finalizers": []}})
            await kube.remove(EXTRACTION_JOB, "default", "first")
            await until(lambda: jobs(kube, "check"))
            assert not jobs(kube, "lead")
            found = CheckMessage(server_version="18.6", latency_milliseconds=1)
            await succeed(kube, jobs(kube, "check")[0], found.encode())
            await until(lambda: jobs(kube, "lead"))
            assert it._budget.waiting_checks() == ()

    run(scenario)


def test_a_changed_parallelism_reaches_the_worker_job():
    async def scenario(kube: Kube) -> None:
        await kube.put(DATA_SOURCE, data_source(ready=True, finalizers=CLEANUP))
        raw = extraction_job(phase="Running", finalizers=CLEANUP)
        raw["spec"]["parallelism"] = 2
        plan = {
            "digest": "0" * 32,
            "chunks": 8,
            "bundles": 8,
            "estimatedRows": 1,
            "estimatedBytes": 1,
            "strategy": "ctid",
        }
        raw["status"] |= {"workers": 1, "plan": plan, "consistency": "Snapshot", "startTime": now()}
        uid = (await kube.put(EXTRACTION_JOB, raw))["metadata"]["uid"]
        for role, number in (("lead", 0), ("work", 1)):
            await kube.put(JOB, {
                "metadata": {"name": f"orders-{role}", "labels": labels(uid, role, number=number)},
                "spec": {"parallelism": 1, "completions": 8}, "status": {"active": 1},
            })  # fmt: skip
        async with operator(kube):
            await until(lambda: kube.get(JOB, "default", "orders-work")["spec"]["parallelism"] == 2)

    run(scenario)


def test_a_source_that_cant_be_read_stops_nothing_else():
    async def scenario(kube: Kube) -> None:
        broken = data_source("broken")
        broken["spec"]["invented"] = 1
        await kube.put(DATA_SOURCE, broken)
        await kube.put(DATA_SOURCE, data_source())
        async with operator(kube) as it:
            await until(lambda: jobs(kube, "check"))
            assert 'unreadable_objects_total{kind="DataSource"} 1.0' in it._metrics.page().decode()
            await kube.remove(DATA_SOURCE, "default", "broken")

    run(scenario)


# The command line ------------------------------------------------------------------------------------------------


def kubeconfig(kube: Kube, folder: Path) -> Path:
    file = folder / "kubeconfig"
    file.write_text(yaml.safe_dump({
        "apiVersion": "v1", "kind": "Config", "current-context": "it",
        "clusters": [{"name": "it", "cluster": {"server": f"http://127.0.0.1:{kube.port}"}}],
        "users": [{"name": "it", "user": {"token": "t"}}],
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
    }))  # fmt: skip
    return file


def test_the_process_ends_within_5_seconds_of_a_sigterm_with_everything_written(tmp_path: Path):
    async def scenario(kube: Kube) -> None:
        process = await asyncio.create_subprocess_exec(
            Path(sys.executable).with_name("extraction-operator"), "run", "--image=x", "--lease-namespace=default",
            "--metrics-host=127.0.0.1", "--metrics-port=0", f"--kubeconfig={kubeconfig(kube, tmp_path)}",
            stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        await until(lambda: kube.has(LEASE, "default", "extraction-operator"))
        await kube.put(EXTRACTION_JOB, extraction_job())
        await until(lambda: any("watch" in call.query and "extractionjobs" in call.path for call in kube.calls))
        await until(lambda: kube.get(EXTRACTION_JOB, "default", "orders").get("status"))
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(5):
            assert await process.wait() == 0
        assert kube.get(LEASE, "default", "extraction-operator")["spec"]["holderIdentity"] == ""

    run(scenario)


def test_options_become_the_configuration(monkeypatch: pytest.MonkeyPatch):
    found: list[Config] = []

    async def remember(config: Config) -> int:
        found.append(config)
        return 3

    monkeypatch.setattr("extraction_operator.runtime.run", remember)
    monkeypatch.setattr(cli, "configure", lambda level: None)
    invoke = CliRunner().invoke
    environment = {"EXTRACTION_OPERATOR_RUN_IMAGE": "extractor:1", "HOSTNAME": "pod-1"}
    result = invoke(
        cli.main, ["run", "--namespace", "a", "--namespace", "b", "--lease-namespace", "system"], env=environment
    )
    assert result.exit_code == 3, result.output
    assert found[0].namespaces == ("a", "b")
    assert found[0].plan.image == "extractor:1"
    assert found[0].election is not None
    assert found[0].election.lease == Key("system", "extraction-operator")
    assert found[0].election.identity.startswith("pod-1_")
    assert invoke(cli.main, ["run", "--no-leader-elect"], env=environment).exit_code == 3
    assert found[1].election is None
    refused = invoke(cli.main, ["run"], env=environment)
    assert refused.exit_code == 2
    assert "--lease-namespace" in refused.output
    assert invoke(cli.main, ["--version"]).exit_code == 0


@pytest.mark.parametrize("words", [["run", "--image=extractor:1", "--no-leader-elect"], ["release-finalizers"]])
def test_who_has_no_way_to_the_api_server_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]):
    monkeypatch.setattr(cli, "configure", lambda level: None)
    file = tmp_path / "kubeconfig"
    file.write_text("{apiVersion: v1, kind: Config}")
    done = CliRunner().invoke(cli.main, [*words, "--kubeconfig", str(file)])
    assert done.exit_code == 1
    assert "There is no way to the API server: " in done.output
    assert "current-context" in done.output


def test_the_namespace_of_the_pod_is_that_of_the_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "namespace"
    file.write_text("system\n")
    monkeypatch.setattr(cli, "_NAMESPACE_FILE", file)
    assert cli._own_namespace() == "system"


def test_help_answers_without_loading_what_it_doesnt_need():
    code = "import sys; from extraction_operator.cli import main; assert 'kopf' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
