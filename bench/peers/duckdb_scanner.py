"""DuckDB's postgres scanner to one Parquet file; ``--tuned`` takes the settings that made it fastest here.

The wheel ``duckdb-extension-postgres-scanner`` carries the signed extension as a file, so nothing is downloaded.
"""

import importlib.util
import sys
from pathlib import Path

from bench.peers.protocol import Task, clocked, parse_task


def extension() -> Path:
    """Return the file of the extension for the DuckDB that is installed."""
    import duckdb

    spec = importlib.util.find_spec("duckdb_extension_postgres_scanner")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("pip install duckdb-extension-postgres-scanner")
    folder = Path(spec.submodule_search_locations[0]) / "extensions" / f"v{duckdb.__version__}"
    if not folder.is_dir():
        raise RuntimeError(f"duckdb-extension-postgres-scanner isn't of duckdb's version {duckdb.__version__}")
    return folder / "postgres_scanner.duckdb_extension"


def extract(task: Task, *, tuned: bool) -> None:
    import duckdb

    with duckdb.connect(config={"threads": task.threads}) as connection:
        connection.execute(f"LOAD '{extension()}'")
        if tuned:
            connection.execute("SET preserve_insertion_order = false")
        connection.execute("ATTACH '' AS source (TYPE postgres, READ_ONLY)")
        level = ", COMPRESSION_LEVEL 1" if tuned else ""
        connection.execute(
            f"COPY (SELECT * FROM source.{task.table}) TO '{task.folder / 'records.parquet'}' "
            f"(FORMAT parquet, COMPRESSION zstd{level})"
        )


if __name__ == "__main__":
    TUNED = "--tuned" in sys.argv
    if TUNED:
        sys.argv.remove("--tuned")
    TASK = parse_task()
    import duckdb  # noqa: F401 - imports are counted apart

    clocked(lambda: extract(TASK, tuned=TUNED))
