"""Names and secrets that would be something else in SQL, in a connection string or in a shell: each means itself."""

import pyarrow.parquet as pq
import pytest
from psycopg import sql

from extraction_worker.errors import AuthenticationFailed
from extraction_worker.source.catalog import resolve_relation
from extraction_worker.source.session import connect
from support.databases import settings_of
from support.hostile_inputs import NAMES, PASSWORDS, USERNAMES
from support.jobs import local_run, published
from support.planning import planning


@pytest.fixture(scope="module")
def canary(shared18):
    """A table that none of the names may touch."""
    shared18.execute("CREATE TABLE canary (id int)")
    shared18.execute("INSERT INTO canary VALUES (1)")
    yield shared18
    assert shared18.execute("SELECT count(*) FROM canary") == [(1,)]


def fits(name: str) -> bool:
    return len(name.encode()) <= 63


def test_every_name_of_a_column_is_that_column(canary, tmp_path):
    """Under ``Source``, so that the names are in aggregates, too; every other column is masked."""
    names = [name for name in NAMES if fits(name) and name != "ctid"]
    columns = sql.SQL(", ").join(sql.SQL("{} text").format(sql.Identifier(name)) for name in names)
    canary.connection.execute(sql.SQL("CREATE TABLE t ({})").format(columns))
    values = sql.SQL(", ").join(sql.Literal(f"value of {index}") for index in range(len(names)))
    canary.connection.execute(sql.SQL("INSERT INTO t VALUES ({})").format(values))
    masks = [{"column": name, "method": "Constant", "value": name} for name in names[::2]]
    spec = {"columns": names[::-1], "masks": masks, "verification": "Source"}
    local_run(tmp_path, canary, spec=spec).run()
    [row] = pq.read_table(published(tmp_path)).to_pylist()
    assert row == {name: f"value of {index}" if index % 2 else name for index, name in enumerate(names)}


def test_every_name_of_a_table_is_that_table(canary, tmp_path):
    declared = {}
    for index, name in enumerate(name for name in NAMES if fits(name)):
        schema, table = sql.Identifier(f"s {name}"[:15]), sql.Identifier(name)
        canary.connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(schema))
        canary.connection.execute(sql.SQL("CREATE TABLE {}.{} (id int)").format(schema, table))
        canary.connection.execute(sql.SQL("INSERT INTO {}.{} VALUES ({})").format(schema, table, sql.Literal(index)))
        declared[f"{schema.as_string()}.{table.as_string()}"] = index
    with planning(canary) as connection:
        for table, index in declared.items():
            relation = resolve_relation(connection, table)
            assert connection.execute(f"SELECT id FROM {relation.name}".encode()).fetchall() == [(index,)]
    worst = next(iter(declared))
    assert local_run(tmp_path, canary, spec={"table": worst}).run().rows == 1
    assert pq.read_table(published(tmp_path)).to_pylist() == [{"id": 0}]


def test_every_password_is_the_role_s_and_every_name_its_own(canary):
    for username in (None, *USERNAMES):
        for password in PASSWORDS if username is None else PASSWORDS[:1]:
            role = username or "hostile"
            quoted = sql.Identifier(role)
            canary.connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(quoted))
            canary.connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(quoted, sql.Literal(password)))
            try:
                with connect(settings_of(canary, role, password)) as connection:
                    found = connection.execute("SELECT current_user, current_database(), inet_server_port()").fetchone()
                assert found == (role, canary.name, canary.server.port)
            finally:
                canary.connection.execute(sql.SQL("DROP ROLE {}").format(quoted))


@pytest.mark.parametrize("secret", ["a\0b", "\0", "a\0 host=evil", "a\n*:*:*:*:evil", "a\r", "\na", "a\r\nb"])
def test_a_secret_that_is_several_to_libpq_is_refused_and_not_shown(canary, secret):
    for user, password in ((secret, "x"), (canary.server.user, secret)):
        with pytest.raises(AuthenticationFailed, match="line break or a NUL") as refused:
            connect(settings_of(canary, user, password)).close()
        assert secret.strip() == "" or secret not in str(refused.value)
        assert "evil" not in str(refused.value)
