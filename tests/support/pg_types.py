"""A PostgreSQL database whose tables are described from the catalog and read the way a worker reads them."""

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psycopg
import pyarrow as pa
from psycopg import sql

from extraction_worker.demo.postgres import PostgresServer
from extraction_worker.model import Column, ColumnPlan, PgType
from extraction_worker.source.copy.stream import read_copy
from extraction_worker.source.types import OnUnrepresentable, plan_columns, select_list
from extraction_worker.stream.convert import BatchConverter

SESSION = {
    "TimeZone": "UTC", "DateStyle": "ISO", "IntervalStyle": "iso_8601", "bytea_output": "hex",
    "extra_float_digits": "3", "search_path": "",
}  # fmt: skip
BATCH_BYTES = 2 << 20


class TypesDatabase:
    """A database that is shared by the tests of a module; each makes tables of its own."""

    def __init__(self, conninfo: str) -> None:
        self.conninfo = conninfo
        self.truth = psycopg.connect(conninfo, autocommit=True)
        for name, value in SESSION.items():
            self.truth.execute(sql.SQL("SET {} = {}").format(sql.Identifier(name), value))

    def execute(self, statement: str) -> list[tuple[object, ...]]:
        """Run one statement; return its rows, if it has any."""
        cursor = self.truth.execute(statement)
        return cursor.fetchall() if cursor.description else []

    def name(self, kind: str) -> str:
        """Return a new qualified name of a table or type."""
        return f"public.{kind}_{uuid.uuid4().hex[:8]}"

    def table(self, columns: str, rows: Sequence[str] = ()) -> str:
        """Make a table of these columns and rows, each the inside of a VALUES row; return its qualified name."""
        name = self.name("t")
        self.execute(f"CREATE TABLE {name} ({columns})")
        if rows:
            self.execute(f"INSERT INTO {name} VALUES " + ", ".join(f"({row})" for row in rows))
        return name

    def columns(self, table: str) -> tuple[Column, ...]:
        """Describe a table's columns as introspection does."""
        rows = self.execute(
            "SELECT attname, atttypid::int8, atttypmod, attnotnull FROM pg_catalog.pg_attribute"
            f" WHERE attrelid = '{table}'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
        )
        return tuple(
            Column(name=str(name), type=self.pg_type(oid, typmod), nullable=not not_null)  # type: ignore[arg-type]
            for name, oid, typmod, not_null in rows
        )

    def pg_type(self, oid: int, typmod: int = -1) -> PgType:
        """Describe a type with its element and base."""
        ((namespace, name, kind, element, base, base_typmod, formatted),) = self.execute(
            "SELECT typnamespace::regnamespace::text, typname, typtype::text, typelem::int8, typbasetype::int8,"
            f" typtypmod, pg_catalog.format_type(oid, {typmod}) FROM pg_catalog.pg_type WHERE oid = {oid}"
        )
        return PgType.model_validate(
            {
                "oid": oid, "namespace": namespace, "name": name, "kind": kind, "typmod": typmod,
                "formatted": formatted,
                "element": self.pg_type(element) if element else None,  # type: ignore[arg-type]
                "base": self.pg_type(base, base_typmod) if base else None,  # type: ignore[arg-type]
            }
        )  # fmt: skip

    def batches(self, select: str, *, batch_bytes: int = BATCH_BYTES) -> Iterator[pa.RecordBatch]:
        """Read a SELECT by COPY, to its end: a test that stops in the middle must not keep the connection busy."""
        return iter(list(read_copy(self.truth, select, batch_bytes=batch_bytes, tick=lambda: None)))

    def extract(
        self, relation: str, columns: Sequence[ColumnPlan], on_unrepresentable: OnUnrepresentable = "Fail", **how: int
    ) -> tuple[pa.Table, BatchConverter]:
        """Read what stands behind FROM and convert it, in the order in which it is stored."""
        converter = BatchConverter(columns, on_unrepresentable)
        batches = self.batches(f"SELECT {select_list(columns)} FROM {relation}", **how)
        table = pa.Table.from_batches([converter.convert(batch) for batch in batches], converter.schema)
        table.validate(full=True)
        return table, converter

    def extract_table(
        self, table: str, on_unrepresentable: OnUnrepresentable = "Fail", **how: int
    ) -> tuple[pa.Table, BatchConverter]:
        """Plan and read a table, with the plan going through JSON."""
        plans = plan_columns(self.columns(table), on_unrepresentable)
        read_back = [ColumnPlan.from_json(plan.to_json()) for plan in plans]
        return self.extract(table, read_back, on_unrepresentable, **how)

    def close(self) -> None:
        """Close the connection."""
        self.truth.close()


@contextmanager
def types_database(server: PostgresServer) -> Iterator[TypesDatabase]:
    """Yield a new database on a server; drop it at the end."""
    name = f"types_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server.conninfo(), autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))
    database = TypesDatabase(server.conninfo(name))
    try:
        yield database
    finally:
        database.close()
        with psycopg.connect(server.conninfo(), autocommit=True) as admin:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
