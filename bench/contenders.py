"""Who is compared: names, commands, and where each leaves its files."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

from bench.server import READER, Source

_MANIFESTS = Template(
    """\
apiVersion: extraction-operator.io/v1alpha1
kind: DataSource
metadata: {name: bench}
spec:
  type: PostgreSQL
  connection: {host: $host, port: $port, database: postgres, sslMode: disable}
  credentialsSecretRef: {name: reader}
---
apiVersion: extraction-operator.io/v1alpha1
kind: ExtractionJob
metadata: {name: records}
spec:
  dataSourceRef: {name: bench}
  table: $table
  verification: $verification$more
  sink:
    format: {type: Parquet, compression: zstd}
    volume: {claimName: lake}
"""
)


@dataclass(frozen=True)
class Place:
    """A contender's turn: the source, an empty folder of its own, the threads or connections it may use.

    ``port`` is where it connects to, if not to the server itself.
    """

    source: Source
    folder: Path
    threads: int
    port: int | None = None

    @property
    def environment(self) -> Mapping[str, str]:
        """What libpq needs."""
        return self.source.environment | ({"PGPORT": str(self.port)} if self.port is not None else {})


@dataclass(frozen=True)
class Contender:
    """One way to get a table out. ``command`` may prepare files in the turn's folder."""

    name: str
    title: str
    command: Callable[[Place], Sequence[str]]
    writes: bool = True
    """Whether Parquet files are left, which are checked."""
    ours: bool = False


def _peer(module: str, *more: str) -> Callable[[Place], Sequence[str]]:
    def command(place: Place) -> Sequence[str]:
        source = place.source
        return [
            sys.executable, "-m", f"bench.peers.{module}", "--table", source.table, "--key", source.key,
            "--folder", str(place.folder), "--threads", str(place.threads), "--binaries", str(source.binaries), *more,
        ]  # fmt: skip

    return command


def extraction_command(
    verification: str, *more: str, sample_percent: int | None = None
) -> Callable[[Place], Sequence[str]]:
    """Return what writes the manifests and gives the command of ``extraction run`` with further arguments.

    ``sample_percent`` is the share of chunks that the server proves.
    """
    sampled = f"\n  sourceProof: {{samplePercent: {sample_percent}}}" if sample_percent is not None else ""

    def command(place: Place) -> Sequence[str]:
        folder, server = place.folder, place.source.server
        job = folder / "job.yaml"
        job.write_text(
            _MANIFESTS.substitute(
                host=server.host,
                port=place.port or server.port,
                table=place.source.table,
                verification=verification,
                more=sampled,
            )
        )
        secret = folder / "secrets" / "reader"
        secret.mkdir(parents=True)
        (folder / "volumes" / "lake").mkdir(parents=True)
        (secret / "username").write_text(READER)
        (secret / "password").write_text(server.password)
        return [
            sys.executable, "-m", "bench.peers.extraction", "run", str(job), "--secrets-dir", str(secret.parent),
            "--volumes-dir", str(folder / "volumes"), "--threads", str(place.threads), "--output", "json", *more,
        ]  # fmt: skip

    return command


def _ours(verification: str) -> Contender:
    return Contender(
        f"ours-{verification.lower()}", f"extraction, {verification}", extraction_command(verification), ours=True
    )


CONTENDERS = {
    contender.name: contender
    for contender in (
        _ours("Written"),
        _ours("Decoded"),
        _ours("None"),
        _ours("Source"),
        Contender(
            "ours-source-sampled",
            "extraction, Source of 10 % of the chunks",
            extraction_command("Source", sample_percent=10),
            ours=True,
        ),
        Contender("duckdb", "DuckDB postgres scanner", _peer("duckdb_scanner")),
        Contender("duckdb-tuned", "DuckDB, unordered, zstd level 1", _peer("duckdb_scanner", "--tuned")),
        Contender("connectorx", "connectorx, Arrow, pyarrow", _peer("connectorx_arrow")),
        Contender("cursor", "psycopg server-side cursor, 10,000 rows", _peer("psycopg_cursor", "10000")),
        Contender("cursor-1000", "psycopg server-side cursor, 1,000 rows", _peer("psycopg_cursor", "1000")),
        Contender("raw-copy", "raw COPY, thrown away", _peer("raw_copy"), writes=False),
    )
}
DEFAULT = ("ours-written", "ours-decoded", "duckdb", "duckdb-tuned", "connectorx", "cursor", "raw-copy")
