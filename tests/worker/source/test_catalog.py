"""Introspection: names, what lies under them, columns, and who may read them."""

import psycopg
import pytest
from psycopg import sql

from extraction_worker.errors import (
    InvalidManifest,
    InvalidPartitioning,
    InvalidQuery,
    NotFound,
    PermissionDenied,
    RowSecurity,
    UnsupportedSource,
)
from extraction_worker.model import RelationKind
from extraction_worker.source.catalog import describe_query, list_columns, resolve_relation, server_facts
from extraction_worker.source.chunks import SplitOptions
from extraction_worker.source.keys import default_key, key_facts, query_key
from extraction_worker.source.split import split_relation
from support.planning import planning

PASSWORD = "reader-password"


def resolve(database, name, user=None):
    with planning(database, user, PASSWORD if user else None) as connection:
        return resolve_relation(connection, name)


def columns(database, name, wanted=None, user=None):
    with planning(database, user, PASSWORD if user else None) as connection:
        return list_columns(connection, resolve_relation(connection, name), wanted)


def described(database, query, user=None):
    with planning(database, user, PASSWORD if user else None) as connection:
        return describe_query(connection, f"({query}\n) AS q")


def facts(database, name, column):
    with planning(database) as connection:
        return key_facts(connection, resolve_relation(connection, name), column)


def oid_of(database, name) -> int:
    [(oid,)] = database.execute("SELECT %s::regclass::oid::int8", name)
    return oid


class TestNames:
    @pytest.mark.parametrize(
        ("name", "quoted"),
        [("public.orders", "public.orders"), ("PUBLIC.Orders", "public.orders"),
         (' "public" . "orders"', "public.orders"),
         ('"Mixed"."Case Table"', '"Mixed"."Case Table"'), ('public."a.b""c"', 'public."a.b""c"'),
         ("public.größe", 'public."größe"'), ('public."order"', 'public."order"')],
    )  # fmt: skip
    def test_are_folded_and_quoted_as_in_sql(self, database18, name, quoted):
        database18.execute('CREATE SCHEMA "Mixed"')
        for table in ("orders", '"Mixed"."Case Table"', '"a.b""c"', "größe", '"order"'):
            database18.execute(f"CREATE TABLE {table} (i int)")
        assert resolve(database18, name).name == quoted

    @pytest.mark.parametrize("name", ["orders", "a.b.c", 'public."orders', "public.", "", "public.orders; SELECT 1"])
    def test_that_are_not_schema_and_table_are_refused(self, database18, name):
        with pytest.raises(InvalidManifest, match=r"SCHEMA\.TABLE"):
            resolve(database18, name)

    def test_that_are_missing_come_with_what_is_near(self, database18):
        database18.execute('CREATE SCHEMA sales CREATE TABLE orders (i int); CREATE TABLE public."Orders" (i int)')
        with pytest.raises(NotFound, match=r'Table "public"."orders".*Did you mean public."Orders" or sales.orders\?'):
            resolve(database18, "public.orders")
        with pytest.raises(NotFound, match=r'Table "sales"."order" doesn.t exist. Did you mean sales.orders\?'):
            resolve(database18, "sales.order")
        with pytest.raises(NotFound, match=r'Schema "sale" doesn.t exist. Did you mean .*sales.orders'):
            resolve(database18, "sale.orders")
        with pytest.raises(NotFound, match=r"exist\.$"):
            resolve(database18, "sales.xyz")

    def test_of_what_holds_no_rows_are_refused(self, database18):
        database18.execute("CREATE TABLE t (i int PRIMARY KEY); CREATE SEQUENCE s; CREATE TYPE c AS (i int)")
        for name, kind in [("s", "a sequence"), ("t_pkey", "an index"), ("c", "a composite type")]:
            with pytest.raises(InvalidManifest, match=f"public.{name} is {kind}"):
                resolve(database18, f"public.{name}")

    def test_of_temporary_tables_are_refused(self, database18):
        database18.execute("CREATE TEMPORARY TABLE t (i int)")
        [(schema,)] = database18.execute("SELECT nspname FROM pg_namespace WHERE oid = pg_my_temp_schema()")
        with pytest.raises(UnsupportedSource, match="temporary"):
            resolve(database18, f"{schema}.t")


class TestRelations:
    def test_each_kind_is_told_with_its_leaves_and_locks(self, database):
        database.execute(
            "CREATE TABLE t (i int); CREATE MATERIALIZED VIEW m AS SELECT * FROM t; CREATE VIEW v AS SELECT * FROM t;"
            "CREATE VIEW w AS SELECT m.i FROM m JOIN v USING (i); CREATE EXTENSION file_fdw;"
            "CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;"
            "CREATE FOREIGN TABLE f (i int) SERVER files OPTIONS (filename '/dev/null')"
        )
        found = {name: resolve(database, f"public.{name}") for name in "tmvwf"}
        oid = {name: oid_of(database, f"public.{name}") for name in "tmvwf"}
        assert [found[name].kind for name in "tmvf"] == [
            RelationKind.TABLE, RelationKind.MATERIALIZED_VIEW, RelationKind.VIEW, RelationKind.FOREIGN,
        ]  # fmt: skip
        assert [leaf.heap for name in "tmvf" for leaf in found[name].leaves] == [True, True, False]
        assert [leaf.relfilenode > 0 for name in "tmvf" for leaf in found[name].leaves] == [True, True, False]
        locks = {name: (found[name].lockable, found[name].readable) for name in "tmvwf"}
        assert locks == {
            "t": (("public.t",), ()), "m": ((), ("public.m",)), "v": (("public.v",), ()),
            "w": (("public.w",), ("public.w",)), "f": ((), ("public.f",)),
        }  # fmt: skip
        assert set(found["v"].oids) == {oid["v"], oid["t"]}
        assert set(found["w"].oids) == {oid["w"], oid["m"], oid["v"], oid["t"]}
        assert set(found["w"].stored) == {oid["m"], oid["t"]}
        for name in "tvw":
            with planning(database) as connection:
                connection.execute(f"LOCK TABLE {found[name].lockable[0]} IN ACCESS SHARE MODE".encode())

    def test_a_partitioned_table_has_its_leaves_and_a_leaf_its_parents(self, database):
        database.execute(
            "CREATE TABLE p (i int, j int) PARTITION BY LIST (i);"
            "CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1) PARTITION BY LIST (j);"
            "CREATE TABLE p11 PARTITION OF p1 FOR VALUES IN (1); CREATE TABLE p2 PARTITION OF p FOR VALUES IN (2);"
            "INSERT INTO p SELECT 2, i FROM generate_series(1, 3000) AS i"
        )
        parent, leaf = resolve(database, "public.p"), resolve(database, "public.p11")
        assert parent.kind is RelationKind.PARTITIONED
        assert {found.name: found.pages > 0 for found in parent.leaves} == {"public.p11": False, "public.p2": True}
        assert (parent.lockable, parent.readable) == (("public.p",), ())
        assert [found.name for found in leaf.leaves] == ["public.p11"]
        assert set(leaf.lockable) == {"public.p", "public.p1", "public.p11"}
        assert set(leaf.oids) == {oid_of(database, name) for name in ("p", "p1", "p11")}
        assert leaf.stored == (oid_of(database, "p11"),)

    def test_children_of_plain_inheritance_are_leaves_each_once(self, database):
        database.execute(
            "CREATE TABLE a (i int); CREATE TABLE b () INHERITS (a); CREATE TABLE c () INHERITS (a);"
            "CREATE TABLE d () INHERITS (b, c)"
        )
        relation = resolve(database, "public.a")
        assert relation.kind is RelationKind.TABLE
        assert [leaf.name for leaf in relation.leaves] == [f"public.{name}" for name in "abcd"]

    def test_pages_are_those_of_now_and_toast_is_told(self, database):
        database.execute("CREATE TABLE t (i int, big text); ALTER TABLE t ALTER big SET STORAGE EXTERNAL")
        assert [(leaf.pages, leaf.toast_pages) for leaf in resolve(database, "public.t").leaves] == [(0, 0)]
        database.execute("INSERT INTO t SELECT i, repeat('x', 10000) FROM generate_series(1, 100) AS i")
        [leaf] = resolve(database, "public.t").leaves
        assert leaf.pages == 1
        assert leaf.toast_pages > 100


class TestPrivileges:
    def test_a_role_without_any_is_told_which_grant_is_missing(self, database):
        database.execute("CREATE SCHEMA hidden CREATE TABLE t (i int); CREATE TABLE t (i int)")
        role = database.role()
        with pytest.raises(PermissionDenied, match=f"GRANT USAGE ON SCHEMA hidden TO {role}"):
            resolve(database, "hidden.t", role)
        with pytest.raises(PermissionDenied, match=f"GRANT SELECT ON public.t TO {role}"):
            resolve(database, "public.t", role)

    def test_grants_on_columns_are_enough_for_these_columns(self, database):
        database.execute("CREATE TABLE t (a int, b int, c int)")
        role = database.role(grant="GRANT SELECT (a, c) ON t")
        relation = resolve(database, "public.t", role)
        assert (relation.table_privilege, relation.ctid_readable) == (False, False)
        # LOCK TABLE would be refused.
        assert (relation.lockable, relation.readable) == ((), ("public.t",))
        assert [column.name for column in columns(database, "public.t", ("c", "a"), role)] == ["c", "a"]
        with pytest.raises(PermissionDenied, match=r"may not read b of public\.t"):
            columns(database, "public.t", None, role)

    def test_parents_that_the_role_may_not_read_are_not_locked(self, database):
        database.execute(
            "CREATE TABLE p (i int) PARTITION BY LIST (i); CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1)"
        )
        role = database.role(grant="GRANT SELECT ON p1")
        assert resolve(database, "public.p1", role).lockable == ("public.p1",)

    def test_row_security_in_the_way_is_an_error_and_its_owner_is_not(self, database):
        database.execute(
            "CREATE TABLE t (i int); ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE VIEW v AS SELECT * FROM t"
        )
        role = database.role(grant="GRANT SELECT ON t, v")
        with pytest.raises(RowSecurity, match=r"public\.t"):
            resolve(database, "public.t", role)
        assert resolve(database, "public.t").pages == 0

    def test_row_security_under_a_view_is_told_when_it_is_planned(self, database):
        owner = database.role("owner")
        database.execute(
            f"CREATE TABLE t (i int); ALTER TABLE t ENABLE ROW LEVEL SECURITY; GRANT SELECT ON t TO {owner}"
        )
        database.execute(f"CREATE VIEW v AS SELECT * FROM t; ALTER VIEW v OWNER TO {owner}")
        with planning(database, database.role(grant="GRANT SELECT ON v"), PASSWORD) as connection:
            view = resolve_relation(connection, "public.v")
            found = list_columns(connection, view)
            with pytest.raises(RowSecurity):
                split_relation(connection, view, found, SplitOptions())

    def test_only_the_policies_of_the_parent_count_for_rows_read_through_it(self, database):
        database.execute(
            "CREATE TABLE p (i int) PARTITION BY LIST (i); CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1);"
            "ALTER TABLE p1 ENABLE ROW LEVEL SECURITY"
        )
        assert resolve(database, "public.p", database.role(grant="GRANT SELECT ON p")).kind is RelationKind.PARTITIONED


class TestColumns:
    def test_all_come_in_their_order_without_those_that_were_dropped(self, database):
        database.execute(
            'CREATE TABLE t (id int NOT NULL, gone int, "Über Größe" text,'
            " twice int GENERATED ALWAYS AS (id * 2) STORED);"
            "ALTER TABLE t DROP gone"
        )
        found = columns(database, "public.t")
        assert [(column.name, column.nullable, column.generated) for column in found] == [
            ("id", False, False), ("Über Größe", True, False), ("twice", True, True),
        ]  # fmt: skip

    def test_virtual_generated_columns_are_columns(self, database18):
        database18.execute("CREATE TABLE t (id int, twice int GENERATED ALWAYS AS (id * 2) VIRTUAL)")
        assert [column.generated for column in columns(database18, "public.t")] == [False, True]

    def test_types_are_resolved_through_domains_and_arrays_with_their_typmods(self, database):
        database.execute(
            "CREATE TYPE mood AS ENUM ('sad'); CREATE TYPE pair AS (a int, b text);"
            "CREATE DOMAIN price AS numeric(12,2); CREATE DOMAIN net AS price; CREATE DOMAIN prices AS price[];"
            "CREATE TABLE t (a numeric(10,3)[], b net, c prices, d mood[], e pair, f int4range, g varchar(5),"
            " h int2vector, i point)"
        )
        found = {column.name: column.type for column in columns(database, "public.t")}
        assert found["a"].formatted == "numeric(10,3)[]"
        assert found["a"].element.formatted == "numeric(10,3)"
        assert [found["b"].kind, found["b"].base.formatted, found["b"].base.base.formatted] == [
            "d", "public.price", "numeric(12,2)",
        ]  # fmt: skip
        assert found["b"].typmod == -1
        prices = found["c"].base
        assert [prices.name, prices.element.name, prices.element.base.formatted] == ["_price", "price", "numeric(12,2)"]
        assert [found["d"].element.kind, found["d"].element.namespace] == ["e", "public"]
        assert [found[name].kind for name in "ef"] == ["c", "r"]
        assert found["g"].typmod == 9
        # They have elements in the catalog, and aren't arrays.
        assert [found[name].element for name in "hi"] == [None, None]

    def test_that_are_not_there_or_there_twice_are_refused(self, database18):
        database18.execute("CREATE TABLE t (id int, amount int); CREATE TABLE nothing ()")
        with pytest.raises(NotFound, match=r"public\.t has no column amuont\. Did you mean amount\?"):
            columns(database18, "public.t", ("id", "amuont"))
        with pytest.raises(NotFound, match="no column ctid"):
            columns(database18, "public.t", ("ctid",))
        with pytest.raises(InvalidManifest, match="id is there more than once"):
            columns(database18, "public.t", ("id", "amount", "id"))
        with pytest.raises(InvalidManifest, match="no columns"):
            columns(database18, "public.nothing")

    def test_a_child_that_allows_null_makes_the_column_nullable(self, database):
        database.execute("CREATE TABLE a (i int); CREATE TABLE b () INHERITS (a); INSERT INTO b VALUES (NULL)")
        # NOT NULL of the parent alone, as each version can say it.
        new = database.connection.info.server_version >= 180000
        only = "TABLE a ADD CONSTRAINT n NOT NULL i NO INHERIT" if new else "TABLE ONLY a ALTER i SET NOT NULL"
        database.execute(f"ALTER {only}")
        assert declared_not_null(database, "a")
        assert [column.nullable for column in columns(database, "public.a")] == [True]

    def test_a_constraint_that_is_not_yet_valid_leaves_the_column_nullable(self, database18):
        database18.execute(
            "CREATE TABLE t (i int); INSERT INTO t VALUES (NULL); ALTER TABLE t ADD CONSTRAINT n NOT NULL i NOT VALID"
        )
        assert declared_not_null(database18, "t")
        assert [column.nullable for column in columns(database18, "public.t")] == [True]
        database18.execute("DELETE FROM t; ALTER TABLE t VALIDATE CONSTRAINT n")
        assert [column.nullable for column in columns(database18, "public.t")] == [False]

    def test_nobody_enforces_not_null_in_foreign_leaves(self, database):
        database.execute(
            "CREATE EXTENSION file_fdw; CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;"
            "CREATE TABLE p (i int NOT NULL) PARTITION BY LIST (i);"
            "CREATE FOREIGN TABLE p1 PARTITION OF p FOR VALUES IN (1) SERVER files OPTIONS (filename '/dev/null')"
        )
        assert [columns(database, f"public.{name}")[0].nullable for name in ("p", "p1")] == [True, True]


def declared_not_null(database, table) -> bool:
    [(declared,)] = database.execute(
        "SELECT attnotnull FROM pg_attribute WHERE attrelid = %s::regclass AND attname = 'i'", table
    )
    return declared


class TestQueries:
    def test_are_described_with_types_and_typmods_and_without_running(self, database):
        database.execute("CREATE TABLE t (a numeric(10,3)[], b varchar(4) NOT NULL)")
        found = described(database, "SELECT a, b, length(b) / 0 AS c FROM public.t -- division by zero")
        assert [(column.name, column.type.formatted) for column in found] == [
            ("a", "numeric(10,3)[]"), ("b", "character varying(4)"), ("c", "integer"),
        ]  # fmt: skip
        assert found[0].type.element.formatted == "numeric(10,3)"
        assert all(column.nullable for column in found)

    @pytest.mark.parametrize(
        ("query", "error", "message"),
        [
            ("SELECT 1 AS a, 2 AS b, 3 AS a", InvalidQuery, "named a"),
            ("SELECT 1 AS a, 2", InvalidQuery, "column 2 has no name"),
            ("SELECT", InvalidQuery, "no columns"),
            ("SELECT * FROM public.nowhere", NotFound, "nowhere"),
            ("SELECT nothing FROM public.t", NotFound, "nothing"),
            ("SELECT i + 'x'::text AS a FROM public.t", InvalidQuery, "query"),
        ],
    )
    def test_that_cannot_become_columns_are_refused(self, database18, query, error, message):
        database18.execute("CREATE TABLE t (i int)")
        with pytest.raises(error, match=message):
            described(database18, query)

    def test_of_what_the_role_may_not_read_are_refused(self, database18):
        database18.execute("CREATE TABLE t (i int)")
        with pytest.raises(PermissionDenied, match="permission denied for table t"):
            described(database18, "SELECT i FROM public.t", database18.role())


class TestKeys:
    def test_are_told_with_type_nullability_index_and_collation(self, database):
        database.execute(
            'CREATE DOMAIN code AS text COLLATE "C";'
            "CREATE TABLE t (a int NOT NULL, b code, c numeric(5,2), d text, e text);"
            "CREATE INDEX ON t (a, b); CREATE INDEX ON t (b); CREATE INDEX ON t (c) WHERE c > 0;"
            "CREATE INDEX ON t (d text_pattern_ops); CREATE INDEX ON t USING hash (e);"
            "INSERT INTO t SELECT i, i, i % 7, i, i FROM generate_series(1, 500) AS i; ANALYZE t"
        )
        found = [facts(database, "public.t", column) for column in "abcde"]
        assert [(key.type, key.nullable, key.indexed, key.collation) for key in found] == [
            ("pg_catalog.int4", False, True, None),
            ("pg_catalog.text", True, True, 'pg_catalog."C"'),
            ("pg_catalog.numeric", True, False, None),
            ("pg_catalog.text", True, False, 'pg_catalog."default"'),
            ("pg_catalog.text", True, False, 'pg_catalog."default"'),
        ]
        assert found[0].correlation == 1.0
        assert abs(found[2].correlation) < 0.5

    def test_an_index_counts_only_when_each_leaf_with_pages_has_it(self, database):
        database.execute(
            "CREATE TABLE a (i int); CREATE INDEX ON a (i); CREATE TABLE b () INHERITS (a);"
            "CREATE TABLE c () INHERITS (a); INSERT INTO b VALUES (1)"
        )
        assert not facts(database, "public.a", "i").indexed
        database.execute("CREATE INDEX ON b (i)")
        assert facts(database, "public.a", "i").indexed

    @pytest.mark.parametrize("kind", ["json", "int[]", "bool", "float8", "point", "bytea", "mood", "interval"])
    def test_of_types_without_an_order_for_ranges_are_refused(self, database18, kind):
        database18.execute(f"CREATE TYPE mood AS ENUM ('sad'); CREATE TABLE t (k {kind})")
        with pytest.raises(InvalidPartitioning, match=r"k is of type .* can't be split.*integer.*timestamptz.*text"):
            facts(database18, "public.t", "k")

    def test_by_default_are_single_columns_that_identify_rows(self, database):
        database.execute(
            "CREATE TABLE a (x text UNIQUE NOT NULL, y int8 UNIQUE NOT NULL, z int UNIQUE, w int);"
            "CREATE TABLE b (LIKE a, PRIMARY KEY (w)); CREATE TABLE c (x int, y int, PRIMARY KEY (x, y));"
            "CREATE TABLE d (x bytea PRIMARY KEY); CREATE UNIQUE INDEX ON b (y); CREATE TABLE e (x int NOT NULL);"
            "CREATE UNIQUE INDEX ON e (x) WHERE x > 0"
        )
        with planning(database) as connection:
            found = {name: default_key(connection, resolve_relation(connection, f"public.{name}")) for name in "abcde"}
        assert {name: key and key.name for name, key in found.items()} == {
            "a": "y",
            "b": "w",
            "c": None,
            "d": None,
            "e": None,
        }

    def test_of_a_query_are_known_by_type_alone(self, database18):
        found = described(database18, "SELECT 1::int8 AS k, true AS b")
        assert query_key(found, "k").type == "pg_catalog.int8"
        assert query_key(found, "k").nullable
        with pytest.raises(InvalidPartitioning, match="no column x"):
            query_key(found, "x")
        with pytest.raises(InvalidPartitioning, match="b is of type boolean"):
            query_key(found, "b")


def test_a_database_whose_encoding_nobody_knows_is_refused(database18):
    with planning(database18) as connection:
        assert server_facts(connection).encoding == "UTF8"
    name = sql.Identifier(f"{database18.name}_ascii")
    database18.connection.execute(
        sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'").format(name)
    )
    try:
        conninfo = database18.server.conninfo(f"{database18.name}_ascii")
        with psycopg.connect(conninfo) as connection, pytest.raises(UnsupportedSource, match="SQL_ASCII"):
            server_facts(connection)
    finally:
        database18.connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))
