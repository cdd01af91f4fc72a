"""The loop that is commonly written: a server-side cursor of psycopg, batches of rows, pyarrow's Parquet writer."""

import sys

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
from psycopg.adapt import AdaptersMap

from bench.peers.protocol import Task, clocked, parse_task

_TYPES = {
    "bool": pa.bool_(), "int2": pa.int16(), "int4": pa.int32(), "int8": pa.int64(), "float4": pa.float32(),
    "float8": pa.float64(), "date": pa.date32(), "timestamp": pa.timestamp("us"),
    "timestamptz": pa.timestamp("us", "UTC"), "bytea": pa.binary(), "numeric": pa.decimal128(38, 9),
}  # fmt: skip
"""Arrow types by name; strings for the rest."""


def _schema(columns: list[psycopg.Column], adapters: AdaptersMap) -> pa.Schema:
    fields = []
    for column in columns:
        known = adapters.types.get(column.type_code)
        kind = _TYPES.get(known.name if known is not None else "", pa.string())
        if column.precision is not None and known is not None and known.name == "numeric":
            kind = pa.decimal128(column.precision, column.scale or 0)
        fields.append((column.name, kind))
    return pa.schema(fields)


def extract(task: Task, rows_at_once: int) -> None:
    with psycopg.connect() as connection, connection.cursor("extract") as cursor:
        cursor.itersize = rows_at_once
        cursor.execute(f"SELECT * FROM {task.table}".encode())
        schema = _schema(cursor.description or [], connection.adapters)
        with pq.ParquetWriter(task.folder / "records.parquet", schema, compression="zstd") as writer:
            while rows := cursor.fetchmany(rows_at_once):
                columns = zip(*rows, strict=True)
                arrays = [pa.array(values, kind) for values, kind in zip(columns, schema.types, strict=True)]
                writer.write_batch(pa.record_batch(arrays, schema=schema))


if __name__ == "__main__":
    ROWS = int(sys.argv.pop())
    TASK = parse_task()
    clocked(lambda: extract(TASK, ROWS))
