"""Whether Parquet files hold every row once: their count, and the sum of the key. In a process of its own."""

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Written:
    """What a contender left in its folder."""

    files: int
    bytes: int
    rows: int
    key_sum: int


def check_files(folder: Path, key: str) -> Written:
    """Read what lies in ``folder`` and below; pyarrow is imported by another process, to keep this one small."""
    command = [sys.executable, "-m", "bench.check", str(folder), key]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    return Written(**json.loads(found.stdout))


def _read(folder: Path, key: str) -> Written:
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    rows = key_sum = size = 0
    files = sorted(folder.rglob("*.parquet"))
    for file in files:
        column = pq.read_table(file, columns=[key]).column(0)
        rows += len(column)
        key_sum += int(pc.sum(column).as_py() or 0)
        size += file.stat().st_size
    return Written(len(files), size, rows, key_sum)


if __name__ == "__main__":
    print(json.dumps(asdict(_read(Path(sys.argv[1]), sys.argv[2]))))
