"""What a mask costs: ``python -m bench.masks``; see docs/performance.md.

Batches as they come from the reader, in memory. Each method's time for one column is compared, within one run, with
what it takes to write as many rows of ten columns as Parquet with zstd: CPU seconds of this thread, the least of some
rounds, so that a busy machine changes ratios little.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.compare import RESULTS
from bench.machine import this_machine
from extraction_worker.model import Column, MaskPlan, PgType
from extraction_worker.source.types import plan_columns, target_schema
from extraction_worker.stream.mask_keys import key_id
from extraction_worker.stream.masks import Masks

_KEY = b"0123456789abcdef0123456789abcdef"
_ROWS = 16_384
"""Of a batch: about 8 MiB of the bench's data set."""
_DISTINCT = {"all values differ": 1.0, "one in ten differs": 0.1, "one in a thousand differs": 0.001}


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.masks", description="CPU seconds of masks.")
    parser.add_argument("--rows", type=int, default=1_000_000, help="(default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--name", default="masks.local", help="of the file in bench/results (default: %(default)s)")
    return parser.parse_args()


def _pg(name: str) -> PgType:
    return PgType(oid=1, namespace="pg_catalog", name=name, kind="b", formatted=name)


def _texts(rows: int, share: float) -> pa.Array:
    numbers = np.random.default_rng(1).integers(0, max(1, int(_ROWS * share)), rows)
    numbers = np.arange(rows) if share == 1.0 else numbers
    return pa.array([f"user{number}@example.com" for number in numbers])


def _cost(column: Column, values: pa.Array, mask: MaskPlan, rounds: int) -> float:
    columns = plan_columns((column,), "Fail", {column.name: mask})
    masks, schema = Masks(columns, {column.name: _KEY}), target_schema(columns)
    batches = pa.Table.from_arrays([values], schema=schema).to_batches(max_chunksize=_ROWS)
    return _least(lambda: [masks.apply(batch) for batch in batches], rounds)


def _written(rows: int, rounds: int) -> float:
    """Return the seconds that Parquet takes for ten columns of about 500 bytes a row, the data set of the others."""
    generator = np.random.default_rng(2)
    table = pa.table(
        {
            **{f"n{index}": generator.integers(0, 2**40, rows) for index in range(4)},
            **{f"f{index}": generator.random(rows) for index in range(2)},
            **{f"t{index}": pa.array([f"{number:0100x}" for number in range(rows)]) for index in range(4)},
        }
    )
    return _least(
        lambda: pq.write_table(table, pa.BufferOutputStream(), compression="zstd", use_dictionary=False), min(rounds, 2)
    )


def _least(call: Callable[[], object], rounds: int) -> float:
    found = []
    for _ in range(rounds):
        began = time.thread_time()
        call()
        found.append(time.thread_time() - began)
    return min(found)


def main() -> int:
    options = _parse()
    scale = 1_000_000 / options.rows
    text, moment = (
        Column(name="c", type=_pg("text"), nullable=True),
        Column(name="c", type=_pg("timestamptz"), nullable=True),
    )
    whole = _written(options.rows, options.rounds) * scale
    results: list[dict[str, object]] = []
    print(f"Writing 1M rows of ten columns without masks: {whole:.2f} CPU s\n")
    print("| mask | values | CPU s per 1M | of writing the rows |\n|---|---|--:|--:|")

    def add(method: str, values: str, seconds: float) -> None:
        results.append({"mask": method, "values": values, "seconds": seconds * scale, "ratio": seconds * scale / whole})
        print(f"| {method} | {values} | {seconds * scale:.3f} | {seconds * scale / whole:.3f} |", flush=True)

    hashed = MaskPlan(method="Hash", key_id=key_id(_KEY))
    for label, share in _DISTINCT.items():
        add("Hash", label, _cost(text, _texts(options.rows, share), hashed, options.rounds))
    all_differ = _texts(options.rows, 1.0)
    partial = MaskPlan(method="Partial", keep_first=1, keep_last=4, replacement="***")
    add("Partial", "all values differ", _cost(text, all_differ, partial, options.rounds))
    moments = pa.array(np.arange(options.rows) * 7_919_000_000, pa.timestamp("us", tz="UTC"))
    for to in ("Month", "Hour"):
        add(
            f"Truncate to {to}",
            "timestamps",
            _cost(moment, moments, MaskPlan(method="Truncate", to=to), options.rounds),
        )
    add("Constant", "any", _cost(text, all_differ, MaskPlan(method="Constant", value="x"), options.rounds))
    add("Nullify", "any", _cost(text, all_differ, MaskPlan(method="Nullify"), options.rounds))
    RESULTS.mkdir(exist_ok=True)
    document = {"machine": asdict(this_machine()), "rows": options.rows, "writing": whole, "masks": results}
    (RESULTS / f"{options.name}.json").write_text(json.dumps(document, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
