"""Metrics, health and logs."""

import asyncio
import io
import json
import logging
from collections.abc import Iterator

import aiohttp
import pytest

from extraction_operator.observe.http import Health, Patience, application, serve
from extraction_operator.observe.logs import configure
from extraction_operator.observe.metrics import Metrics


@pytest.fixture
def root() -> Iterator[None]:
    """The root logger as it was."""
    logger = logging.getLogger()
    handlers, level = tuple(logger.handlers), logger.level
    yield
    for handler in tuple(logger.handlers):
        logger.removeHandler(handler)
    for handler in handlers:
        logger.addHandler(handler)
    logger.setLevel(level)
    for name in ("kopf", "aiohttp.access"):
        logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize(("level", "kopf"), [("info", logging.WARNING), ("debug", logging.NOTSET)])
def test_an_event_is_one_line_of_json(level: str, kopf: int):
    stream = io.StringIO()
    configure(level, stream)
    log = logging.getLogger("some.module")
    log.info("It %s.", "happened", extra={"key": "a/b", "count": 3})
    try:
        raise ValueError("no")
    except ValueError:
        log.exception("Two\nlines.")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert (first["message"], first["level"], first["logger"]) == ("It happened.", "info", "some.module")
    assert (first["key"], first["count"]) == ("a/b", 3)
    assert "ValueError: no" in second["traceback"]
    assert logging.getLogger("kopf").level == kopf


def test_what_is_told_is_shown():
    metrics = Metrics()
    metrics.waited(0.2)
    metrics.worked(0.1, failed=False)
    metrics.worked(0.1, failed=True)
    metrics.called("create", "jobs", "201", 0.01)
    metrics.called("get", "jobs", "200", 0.01)
    metrics.leads(leader=True)
    metrics.came_into("Running")
    metrics.lead_created(0.04)
    metrics.event_dropped()
    metrics.unreadable("Job")
    metrics.watched("Pod")
    metrics.watch_failed("Pod")
    metrics.drifted(2)
    metrics.gauge_of("extraction_operator_queue_depth", lambda: 7)
    metrics.flushed(3, 0.5)
    metrics.read_live(failed=False)
    metrics.phases_of(lambda: ["Running", "Running", "Failed"])
    lines = metrics.page().decode().splitlines()
    for expected in (
        "queue_wait_seconds_count 1.0",
        'reconcile_seconds_count{result="success"} 1.0',
        'reconcile_seconds_count{result="error"} 1.0',
        "queue_retries_total 1.0",
        'api_call_seconds_count{code="200",resource="jobs",verb="get"} 1.0',
        'writes_total{code="201",resource="jobs",verb="create"} 1.0',
        "leader 1.0",
        'job_transitions_total{phase="Running"} 1.0',
        "job_seen_to_lead_seconds_count 1.0",
        "events_dropped_total 1.0",
        'unreadable_objects_total{kind="Job"} 1.0',
        'watch_events_total{kind="Pod"} 1.0',
        'watch_errors_total{kind="Pod"} 1.0',
        "store_drift_total 2.0",
        "queue_depth 7.0",
        "status_flush_size_sum 3.0",
        "status_flush_lag_seconds_sum 0.5",
        'live_reads_total{result="success"} 1.0',
        'jobs{phase="Running"} 2.0',
        'jobs{phase="Failed"} 1.0',
    ):
        assert f"extraction_operator_{expected}" in lines
    assert not [line for line in lines if "writes_total" in line and 'verb="get"' in line]


def test_a_process_is_alive_while_it_works_and_turns():
    now, working = 0.0, 0.0
    health = Health(lambda: working, patience=Patience(work=10, beat=5), clock=lambda: now)
    assert health.problem() == ""
    now = 6.0
    assert "heartbeat" in health.problem()
    health.beat()
    assert health.problem() == ""
    assert health.beat_age() == 0
    working = 11.0
    assert "worked on for 11 s" in health.problem()


def test_health_and_metrics_are_served():
    async def scenario() -> None:
        working = 0.0
        health = Health(lambda: working)
        runner, port = await serve(application(Metrics(), health), "127.0.0.1", 0)
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:

            async def get(path: str) -> tuple[int, str]:
                async with session.get(path) as answer:
                    return answer.status, await answer.text()

            assert await get("/healthz") == (200, "ok")
            assert (await get("/readyz"))[0] == 503
            health.is_ready = True
            assert await get("/readyz") == (200, "ok")
            working = 1e9
            assert (await get("/healthz"))[0] == 503
            status, text = await get("/metrics")
            assert status == 200
            assert "extraction_operator_leader 0.0" in text
        await runner.cleanup()

    asyncio.run(scenario())
