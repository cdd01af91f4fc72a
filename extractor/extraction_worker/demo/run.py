"""``extraction demo``: a server, a data set, one run of a manifest, and a query of the files by somebody else."""

import shutil
import sys
import time
from pathlib import Path
from string import Template

import psycopg
from psycopg import sql

from extraction_contract.load import load_files
from extraction_contract.resolve import resolve
from extraction_worker.cli.run import run_in_thread
from extraction_worker.demo.dataset import load_records
from extraction_worker.demo.postgres import PostgresServer, postgres_server
from extraction_worker.errors import ExtractionError
from extraction_worker.report.progress import Progress
from extraction_worker.report.show import print_manifest
from extraction_worker.stages.local import LocalRun
from extraction_worker.stages.settings import LocalOptions
from extraction_worker.verify.manifest import open_set, verify_set

_MANIFESTS = Template(
    """\
apiVersion: extraction-operator.io/v1alpha1
kind: DataSource
metadata:
  name: demo
spec:
  type: PostgreSQL
  connection:
    host: $host
    port: $port
    database: postgres
    sslMode: disable  # a server of our own, on loopback
  credentialsSecretRef:
    name: demo-reader
---
apiVersion: extraction-operator.io/v1alpha1
kind: ExtractionJob
metadata:
  name: records
spec:
  dataSourceRef:
    name: demo
  table: public.records
  sink:
    format:
      type: Parquet
      compression: zstd
    volume:
      claimName: lake
    ifExists: Replace
"""
)
_READER = "demo_reader"


def run_demo(rows: int, folder: Path) -> int:
    """Run the demo below ``folder``; return the exit code. The server is stopped and removed at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    _say("Starting a PostgreSQL of our own …")
    try:
        with postgres_server() as server:
            _load(server, rows)
            return _extract(server, rows, folder)
    except ExtractionError as error:
        print(f"{error.reason}: {error}", file=sys.stderr)
        return error.exit_code


def _load(server: PostgresServer, rows: int) -> None:
    started = time.monotonic()
    with psycopg.connect(server.conninfo(), autocommit=True) as connection:
        load_records(connection, rows, lambda count: _say(f"  {count:,} of {rows:,} rows"))
        connection.execute(
            sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(_READER), sql.Literal(server.password))
        )
        connection.execute(sql.SQL("GRANT SELECT ON records TO {}").format(sql.Identifier(_READER)))
    _say(f"Loaded {rows:,} rows in {time.monotonic() - started:.1f} s.")


def _extract(server: PostgresServer, rows: int, folder: Path) -> int:
    job = folder / "job.yaml"
    job.write_text(_MANIFESTS.substitute(host=server.host, port=server.port))
    secret = folder / "secrets" / "demo-reader"
    volume = folder / "volumes" / "lake"
    volume.mkdir(parents=True, exist_ok=True)
    secret.mkdir(parents=True, exist_ok=True)
    try:
        (secret / "username").write_text(_READER)
        (secret / "password").touch(mode=0o600)
        (secret / "password").write_text(server.password)
        _say(f"\n$ extraction run {job} --secrets-dir {secret.parent} --volumes-dir {volume.parent}")
        manifests = load_files([job])
        progress = Progress()
        resolved = resolve(manifests.job(), manifests, secret.parent)
        local = LocalRun(resolved, LocalOptions(volume.parent), progress)
        manifest = run_in_thread(local, progress)
        now = progress.now()
    finally:
        shutil.rmtree(secret.parent)
    print_manifest(manifest, local.uri, now, "text")
    files = volume / "default" / "records"
    _say(f"\n$ extraction verify {files}")
    report = verify_set(open_set(str(files))).require_whole()
    print(f"Verified {report.rows:,} rows: every byte, count and checksum is as published.")
    return _query(files, rows)


def _query(files: Path, rows: int) -> int:
    import duckdb

    query = (
        "SELECT count(*) AS rows, count(DISTINCT id) AS ids, min(id) AS first, max(id) AS last, "
        f"sum(amount) AS amount FROM '{files}/*.parquet'"
    )
    _say(f'\n$ duckdb -c "{query}"')
    found = duckdb.sql(query)
    print(found)
    counted = found.fetchone()
    if counted is None or counted[:2] != (rows, rows):
        print(f"Expected {rows:,} rows.", file=sys.stderr)
        return 1
    return 0


def _say(text: str) -> None:
    print(text, flush=True)
