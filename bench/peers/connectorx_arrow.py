"""connectorx to Arrow to one Parquet file, split by the key; the whole result is in memory before it is written."""

import os
from urllib.parse import quote

import connectorx
import pyarrow.parquet as pq

from bench.peers.protocol import Task, clocked, parse_task


def extract(task: Task) -> None:
    environment = os.environ
    url = (
        f"postgresql://{quote(environment['PGUSER'])}:{quote(environment['PGPASSWORD'])}@{environment['PGHOST']}:"
        f"{environment['PGPORT']}/{environment['PGDATABASE']}?sslmode=disable"
    )
    table = connectorx.read_sql(
        url,
        f"SELECT * FROM {task.table}",
        return_type="arrow",
        partition_on=task.key,
        partition_num=task.threads,
    )
    pq.write_table(table, task.folder / "records.parquet", compression="zstd")


if __name__ == "__main__":
    TASK = parse_task()
    clocked(lambda: extract(TASK))
