"""What the server computes over a table and what we compute over its batches agree, until a value differs."""

from collections.abc import Iterator

import psycopg
import pyarrow as pa
import pytest

from extraction_worker.demo.postgres import PostgresServer
from extraction_worker.errors import VerificationFailed
from extraction_worker.source.types import OnUnrepresentable, plan_columns
from extraction_worker.verify.server import ServerProof
from support.pg_types import TypesDatabase, types_database
from support.type_cases import CASES, SETUP, Case


@pytest.fixture(scope="module")
def types(server: PostgresServer) -> Iterator[TypesDatabase]:
    with types_database(server) as value:
        for statement in SETUP:
            value.execute(statement)
        yield value


@pytest.fixture
def case(request: pytest.FixtureRequest, types: TypesDatabase) -> Case:
    value: Case = request.param
    if value.since > types.truth.info.server_version // 10000:
        pytest.skip(f"since PostgreSQL {value.since}")
    if value.requires == "xml":
        try:
            types.execute("SELECT '<a/>'::xml")
        except psycopg.errors.FeatureNotSupported:
            pytest.skip("the server was built without libxml")
    elif value.requires:
        if not types.execute(f"SELECT FROM pg_catalog.pg_available_extensions WHERE name = '{value.requires}'"):
            pytest.skip(f"the server has no extension {value.requires}")
        types.execute(f"CREATE EXTENSION IF NOT EXISTS {value.requires} SCHEMA public")
    return value


every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.id, indirect=True)


class Reading:
    """A table as it was read, and the proof of it."""

    def __init__(self, types: TypesDatabase, table: str, policy: OnUnrepresentable = "Fail") -> None:
        self.types = types
        self.table = table
        plans = plan_columns(types.columns(table), policy)
        self.proof = ServerProof(plans, policy)
        arrived, converter = types.extract(table, plans, policy)
        self.arrived = arrived
        self.replaced = sum(replacement.count for replacement in converter.replaced)
        for batch in arrived.to_batches(max_chunksize=3):
            self.proof.update(batch)

    def compare(self) -> dict[str, dict[str, str]]:
        """Compare with the table as it is now."""
        (row,) = self.types.execute(f"SELECT {self.proof.select_list()} FROM {self.table}")
        self.proof.compare(row, chunk=7)
        return self.proof.evidence()


@pytest.mark.parametrize("policy", ["Fail", "String", "Null"])
@every_case
def test_every_type_agrees(types: TypesDatabase, case: Case, policy: OnUnrepresentable) -> None:
    domain, of_array = types.name("d"), types.name("d")
    types.execute(f"CREATE DOMAIN {domain} AS {case.type}")
    types.execute(f"CREATE DOMAIN {of_array} AS {case.type}[]")
    full = f"ARRAY[{', '.join([*case.values, 'NULL'])}]::{case.type}[]"
    arrays = [full, "'{}'", f"ARRAY[NULL]::{case.type}[]", f"ARRAY[{case.values[0]}]"]
    rows = [f"{value}, {value}, {array}, {array}" for value in case.values for array in arrays]
    columns = f"v {case.type}, d {domain}, a {case.type}[], b {of_array}"
    table = types.table(columns, [*rows, "NULL, NULL, NULL, NULL"])

    evidence = Reading(types, table, policy).compare()

    assert [numbers["count"] for numbers in evidence.values()] == [str(len(rows))] * 4
    assert evidence["v"] == evidence["d"]
    assert evidence["a"] == evidence["b"]
    assert "hash" in evidence["a"]
