"""The whole operator with a record: what the API server tells ends up in PostgreSQL."""

import asyncio
import re
from types import SimpleNamespace

import psycopg
import pytest
from click.testing import CliRunner

from extraction_operator import cli, runtime
from extraction_operator.cluster.kinds import EXTRACTION_JOB, POD
from extraction_operator.config import Config, RecordConfig
from extraction_operator.plan.settings import Settings
from extraction_operator.plan.values import Key
from extraction_operator.runtime import Exit, Operator
from extraction_record.connection import Place
from support.kube import Kube
from support.record import job


def noop(*_: object) -> None:
    """Stand for the kernel's switch, which would end the tests' own process."""


async def recorded_jobs(conninfo: str) -> list[tuple[object, ...]]:
    async with await psycopg.AsyncConnection.connect(conninfo) as connection:
        found = await connection.execute("SELECT uid::text, phase, cluster FROM extraction.jobs")
        return await found.fetchall()


def test_the_operator_records_what_it_watches(recorded, record18: Place):
    async def scenario() -> None:
        async with Kube().serve() as kube:
            await kube.put(EXTRACTION_JOB, job("orders"))
            await kube.put(POD, {"metadata": {"name": "operator-1"}, "status": {"phase": "Running"}})
            config = Config(
                plan=Settings(image="extractor"), identity="me", metrics_host="127.0.0.1", metrics_port=0,
                flush_seconds=0.02, record=RecordConfig(record18, "here"), pod=Key("default", "operator-1"),
            )  # fmt: skip
            operator, stop = Operator(config, kube.login), asyncio.Event()
            operator._switch = SimpleNamespace(install=noop, arm=noop, disarm=noop)  # type: ignore[assignment]
            await operator.open()
            running = asyncio.create_task(operator.run(stop))
            try:
                async with asyncio.timeout(60):
                    while not (found := await recorded_jobs(recorded.conninfo)):
                        await asyncio.sleep(0.02)
                    while len(conditions := kube.get(POD, "default", "operator-1")["status"].get("conditions", [])) < 2:
                        await asyncio.sleep(0.02)
                page = operator._metrics.page().decode()
                stop.set()
                assert await running == Exit.STOPPED
            finally:
                stop.set()
                await asyncio.wait([running])
                await operator.close()
            ((_, phase, cluster),) = found
            assert (phase, cluster) == ("Pending", "here")
            # The record of tests is reached without TLS, which its URL asks for.
            assert {(entry["type"], entry["status"], entry["reason"]) for entry in conditions} == {
                ("extraction-operator.io/RecordKeepsUp", "True", "RecordKeepsUp"),
                ("extraction-operator.io/StoresSecure", "False", "RecordNotSecure"),
            }
            assert 'extraction_operator_record_rows_total{table="jobs"}' in page
            assert "extraction_operator_record_up 1.0" in page
            assert 'extraction_operator_record_flush_seconds_count{result="success"}' in page
            written = re.findall(r'extraction_operator_record_rows_total{table="\w+"} (\S+)', page)
            assert f"extraction_operator_record_flush_size_sum {sum(map(float, written))}" in page

    asyncio.run(scenario())


@pytest.mark.parametrize("spool", [64, 5])
def test_options_say_where_the_record_is(monkeypatch: pytest.MonkeyPatch, spool: int):
    seen: list[Config] = []

    async def run(config: Config) -> int:
        seen.append(config)
        return 0

    monkeypatch.setattr(runtime, "run", run)
    monkeypatch.setattr(cli, "configure", lambda level: None)
    words = ["run", "--image", "x", "--no-leader-elect"]
    record = ["--record-url", "postgresql://db/record", "--record-credentials", "/etc/x", "--record-cluster", "eu"]
    more = [] if spool == 64 else ["--record-spool-mebibytes", "5"]
    assert CliRunner().invoke(cli.main, [*words, *record, *more]).exit_code == 0
    assert CliRunner().invoke(cli.main, words).exit_code == 0
    first, second = seen
    assert first.record is not None
    assert (first.record.place.url, str(first.record.place.credentials)) == ("postgresql://db/record", "/etc/x")
    assert (first.record.cluster, first.record.spool_bytes) == ("eu", spool * 1024 * 1024)
    assert second.record is None
