# ruff: noqa: E501 - texts are kept whole, several in a line
"""A corpus of user SQL: what must be refused, grouped by trick, and what must pass. The schema is ``SCHEMA``."""

import contextlib
import uuid
from typing import NamedTuple

import psycopg
from psycopg import sql

SCHEMA = """
CREATE SCHEMA shop;
CREATE TYPE shop.status AS ENUM ('new', 'paid', 'sent');
CREATE TYPE shop.pair AS (a int, b text);
CREATE DOMAIN shop.percent AS int CHECK (VALUE BETWEEN 0 AND 100);
CREATE FUNCTION shop.twice(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 * 2';
CREATE FUNCTION shop.roll() RETURNS float8 VOLATILE LANGUAGE sql AS 'SELECT pg_catalog.random()';
CREATE FUNCTION shop.shout(text) RETURNS text VOLATILE LANGUAGE sql AS $$SELECT pg_catalog.pg_notify('shout', $1)::text$$;
CREATE FUNCTION shop.several(int) RETURNS SETOF int STABLE LANGUAGE sql AS 'SELECT pg_catalog.generate_series(1, $1)';
CREATE AGGREGATE shop.total(int) (SFUNC = int4pl, STYPE = int, INITCOND = '0');
CREATE FUNCTION shop.loud_sum(int, int) RETURNS int VOLATILE LANGUAGE sql AS 'SELECT $1 + $2';
CREATE OPERATOR shop.+ (LEFTARG = int, RIGHTARG = int, FUNCTION = shop.loud_sum);
CREATE DOMAIN shop.loud AS text CHECK (shop.shout(VALUE) IS NOT NULL);
CREATE DOMAIN shop.quiet_percent AS shop.percent;
CREATE TABLE shop.orders (
    id int PRIMARY KEY, customer text, amount numeric(12,2), created timestamptz, day date, tags text[], doc jsonb,
    status shop.status, age int, "Mixed Case" text, "größe" int
);
CREATE TABLE shop.items (order_id int, name text, count int, price numeric);
INSERT INTO shop.orders
SELECT i, 'customer ' || i % 7, i * 1.25, '2026-01-01 00:00+00'::timestamptz + i * interval '1 hour', date '2026-01-01' + i,
    ARRAY['a', 'b' || i % 3], jsonb_build_object('a', i, 'b', ARRAY[i, i + 1]),
    (ARRAY['new', 'paid', 'sent'])[i % 3 + 1]::shop.status, i % 90, 'x' || i, i % 5
FROM generate_series(1, 60) i;
INSERT INTO shop.items SELECT i % 60 + 1, 'item ' || i, i % 4, i / 3.0 FROM generate_series(1, 120) i;
"""


@contextlib.contextmanager
def corpus_database(server):
    """Create a database with the corpus's schema; yield its connection string; drop it."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server.conninfo(), autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))
        try:
            with psycopg.connect(server.conninfo(name), autocommit=True) as owner:
                owner.execute(SCHEMA)
            yield server.conninfo(name)
        finally:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


# Refused by their text alone ---------------------------------------------------------------------------------------

REFUSED_QUERIES: dict[str, list[str]] = {
    "nothing": ["", " ", "\n\t", ";", ";;", "-- SELECT 1", "/* SELECT 1 */", "/* /* nested */ */ ;"],
    "not SQL": [
        "SELECT FROM WHERE", "SELEC 1", "SELECT 1 1", "hello", "\\d shop.orders", "SELECT 1 \\gexec", "\\! id",
        "SELECT * FORM shop.orders", "%s", "{{ query }}", "SELECT 1 AS", "'", '"', "SELECT 'a", 'SELECT "a', "$$",
        "SELECT $tag$ a", "SELECT 1 /* a", "SELECT 1 /* /* a */", "SELECT U&'\\00", "SELECT B'2", "SELECT 1e",
        "SELECT 0x", "SELECT @", "SELECT 1..2", "SELECT #",
    ],
    "bytes that SQL can't hold": [
        "SELECT 1\0", "SELECT 1\0; DROP TABLE shop.orders", "\0", "SELECT '\ud800'", "SELECT E'\\xff'",
        "SELECT E'\\x00'", "SELECT U&'\\0000'", "SELECT U&'\\D800'", "SELECT E'\\uD83D'",
    ],
    "too much": [
        "SELECT '" + "x" * 70_000 + "'", "SELECT " + "+".join(["1"] * 2_000), "SELECT " + "(" * 20_000 + "1" + ")" * 20_000,
        "SELECT " + "abs(" * 2_000 + "1" + ")" * 2_000, "SELECT " + "NOT " * 15_000 + "true",
        "SELECT 1" + " UNION SELECT 1" * 2_000, "SELECT 1" + "::int" * 3_000, "SELECT ARRAY" + "[" * 5_000 + "]" * 5_000,
    ],
    "several statements": [
        "SELECT 1; SELECT 2", "SELECT 1; DROP TABLE shop.orders", "SELECT 1; DROP TABLE shop.orders; --", ";SELECT 1",
        "SELECT 1;/* a */SELECT 2", "SELECT 1;\n-- a\nDELETE FROM shop.orders;", "BEGIN; SELECT 1; COMMIT",
        "SELECT 1; COMMIT; DELETE FROM shop.orders", "SELECT ';'; SELECT 2", "SELECT $$;$$; SELECT 2",
        "SELECT 1;;SELECT 2", "COMMIT; SELECT 1",
    ],
    "other statements": [
        "INSERT INTO shop.orders (id) VALUES (1)", "UPDATE shop.orders SET id = 1", "DELETE FROM shop.orders",
        "MERGE INTO shop.orders o USING shop.items i ON true WHEN MATCHED THEN DELETE", "TRUNCATE shop.orders",
        "DROP TABLE shop.orders", "CREATE TABLE shop.x AS SELECT 1", "CREATE TEMP TABLE x (a int)",
        "CREATE VIEW shop.x AS SELECT 1", "ALTER TABLE shop.orders ADD x int", "COPY shop.orders TO STDOUT",
        "COPY (SELECT 1) TO PROGRAM 'id'", "COPY shop.orders FROM PROGRAM 'id'", "EXPLAIN SELECT 1",
        "EXPLAIN ANALYZE DELETE FROM shop.orders", "DO $$BEGIN END$$", "CALL shop.x()", "LISTEN a", "NOTIFY a, 'b'",
        "UNLISTEN *", "SET search_path = public", "SET LOCAL row_security = on", "RESET ALL", "DISCARD ALL", "SHOW ALL",
        "BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT a", "START TRANSACTION READ WRITE", "SET TRANSACTION READ WRITE",
        "SET SESSION AUTHORIZATION postgres", "SET ROLE postgres", "LOCK TABLE shop.orders", "VACUUM shop.orders",
        "ANALYZE shop.orders", "CLUSTER shop.orders", "REINDEX TABLE shop.orders", "REFRESH MATERIALIZED VIEW shop.x",
        "CHECKPOINT", "LOAD 'x'", "PREPARE a AS SELECT 1", "EXECUTE a", "DEALLOCATE a", "DECLARE a CURSOR FOR SELECT 1",
        "FETCH ALL FROM a", "MOVE a", "CLOSE a", "GRANT SELECT ON shop.orders TO public", "REVOKE ALL ON shop.orders FROM public",
        "CREATE EXTENSION dblink", "CREATE FUNCTION shop.x() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "SECURITY LABEL ON TABLE shop.orders IS 'x'", "COMMENT ON TABLE shop.orders IS 'x'",
        "IMPORT FOREIGN SCHEMA a FROM SERVER b INTO c", "PREPARE TRANSACTION 'a'", "COMMIT PREPARED 'a'",
        "ALTER SYSTEM SET fsync = off", "CREATE SUBSCRIPTION a CONNECTION 'x' PUBLICATION b", "DROP OWNED BY reader",
        "CREATE RULE r AS ON SELECT TO shop.orders DO INSTEAD NOTHING", "WITH a AS (SELECT 1) DELETE FROM shop.orders",
    ],
    "statements within": [
        "WITH a AS (INSERT INTO shop.orders (id) VALUES (1) RETURNING id) SELECT * FROM a",
        "WITH a AS (UPDATE shop.orders SET id = id RETURNING id) SELECT * FROM a",
        "WITH a AS (DELETE FROM shop.orders RETURNING *) SELECT * FROM a",
        "WITH a AS (MERGE INTO shop.orders o USING shop.items i ON true WHEN MATCHED THEN DELETE RETURNING o.id) TABLE a",
        "SELECT (WITH a AS (DELETE FROM shop.orders RETURNING id) SELECT id FROM a)",
        "SELECT * FROM (WITH a AS (DELETE FROM shop.orders RETURNING id) SELECT id FROM a) b",
        "SELECT 1 WHERE EXISTS (WITH a AS (DELETE FROM shop.orders RETURNING id) TABLE a)",
        "WITH a AS (WITH b AS (DELETE FROM shop.orders RETURNING id) TABLE b) TABLE a",
        "SELECT 1 UNION (WITH a AS (DELETE FROM shop.orders RETURNING id) TABLE a)",
        "SELECT ARRAY(WITH a AS (DELETE FROM shop.orders RETURNING id) TABLE a)",
        "SELECT * FROM a.b WHERE CURRENT OF c", "VALUES (DEFAULT)",
    ],
    "INTO": [
        "SELECT 1 INTO x", "SELECT * INTO shop.x FROM shop.orders", "SELECT * INTO TEMP x FROM shop.orders",
        "SELECT 1 INTO UNLOGGED shop.x", "(SELECT 1 INTO x)", "SELECT 1 INTO x UNION SELECT 2",
        "WITH a AS (SELECT 1 INTO x) TABLE a", "SELECT * FROM (SELECT 1 INTO x) y",
    ],
    "row locks": [
        "SELECT * FROM shop.orders FOR UPDATE", "SELECT * FROM shop.orders FOR SHARE", "SELECT * FROM shop.orders FOR KEY SHARE",
        "SELECT * FROM shop.orders FOR NO KEY UPDATE", "SELECT * FROM shop.orders FOR UPDATE NOWAIT",
        "SELECT * FROM shop.orders FOR UPDATE SKIP LOCKED", "SELECT * FROM shop.orders o FOR UPDATE OF o",
        "(SELECT * FROM shop.orders FOR UPDATE)", "SELECT * FROM (SELECT * FROM shop.orders FOR SHARE) a",
        "WITH a AS (SELECT * FROM shop.orders FOR UPDATE) TABLE a", "SELECT (SELECT id FROM shop.orders LIMIT 1 FOR UPDATE)",
        "SELECT 1 WHERE 1 IN (SELECT id FROM shop.orders FOR SHARE)", "TABLE shop.orders FOR UPDATE",
        "SELECT 1 FROM shop.orders FOR/**/UPDATE", "SELECT 1 FROM shop.orders fOr uPdAtE",
    ],
    "parentheses": [
        "SELECT 1) AS a, (SELECT 2", "SELECT 1) UNION (SELECT 2", "SELECT 1) q; DROP TABLE shop.orders; --", ")", "(",
        "SELECT 1 /*) */ )", "SELECT (1", "SELECT 1]", "SELECT 1) -- ", "SELECT 1\n) AS q, (SELECT 2", "((SELECT 1)",
        "SELECT [1)]", "SELECT ')' )", "SELECT $$($$ )", 'SELECT 1 AS "(" )', "SELECT E'\\')' )",
    ],
    "parameters": ["SELECT $1", "SELECT * FROM shop.orders WHERE id = $1", "SELECT $1::int + $2", "SELECT abs($1)", "SELECT ?"],
    "names": [
        "SELECT * FROM orders", "SELECT * FROM shop.orders, items", "SELECT * FROM other.shop.orders",
        "SELECT a.b.c.d()", "SELECT 1::a.b.c", "SELECT 1 WHERE id IN (SELECT order_id FROM items)",
        "WITH a AS (TABLE orders) TABLE a", "SELECT 1 OPERATOR(a.b.+) 2",
    ],
    "clocks": [
        "SELECT CURRENT_TIME", "SELECT LOCALTIME", "SELECT CURRENT_TIME(2)", "SELECT localtime(0)", "SELECT 'now'::timestamptz",
        "SELECT DATE 'today'", "SELECT timestamp 'yesterday'", "SELECT 'tomorrow'::date", "SELECT TIME 'now'",
        "SELECT CAST('NOW' AS timestamp)", "SELECT E'n\\157w'::pg_catalog.timestamptz", "SELECT 'today 04:05'::timestamptz",
        "SELECT 'now04:05'::time", "SELECT * FROM now()", "SELECT * FROM CURRENT_DATE AS d", "SELECT * FROM ROWS FROM (now()) d",
    ],
    "rest": [
        "SELECT CURRENT_SCHEMA", "SELECT * FROM shop.orders TABLESAMPLE shop.rows (1)",
        "SELECT * FROM shop.orders TABLESAMPLE system_rows (1)", "SELECT 1::shop.orders.id%TYPE",
        "SELECT merge_action()", "SELECT 1::SETOF int",
    ],
}  # fmt: skip

REFUSED_PREDICATES: dict[str, list[str]] = {
    "nothing": ["", " ", "-- a", "/* a */", "\n"],
    "leaves its parentheses": [
        "a) OR (b", "1=1) UNION SELECT (1", "1=1) UNION SELECT * FROM pg_authid WHERE (1=1", "true) --", "true)--\n(",
        "1=1); DROP TABLE shop.orders; --", "true) LIMIT 1 --", "true) OR (true", ") OR (", "a)", "(a", "a]", "[a", "a)(b",
        "true) x (", "true) /* ( */", "'(' = ')' )", "$$ ( $$ IS NULL )", "a = '(' ) OR ( b = ')'", "a\n)\nOR\n(\nb",
        "E'\\'' = ') OR ('' ) OR (1=1", 'U&"a" ) OR (true', "a AND (b) ) OR ((c)", "a -- (\n) OR (b",
    ],
    "doesn't end": ["a /*", "a = 'b", 'a = "b', "a = $$b", "a = $x$b$$", "a = E'b\\'", "a = U&'b", "a AND", "NOT", "a IN (",
                    "a /* /* */", "a = 'b''", "a BETWEEN 1 AND"],
    "more than an expression": [
        "a ORDER BY b", "a GROUP BY b", "a HAVING b", "a LIMIT 1", "a OFFSET 1", "a FETCH FIRST ROW ONLY", "a FOR UPDATE",
        "a WINDOW w AS ()", "a UNION SELECT 1", "(SELECT true) UNION SELECT true", "a INTO x", "a AS b", "a, b", "*",
        "a; b", "a;", "SELECT 1", "WHERE a", "TABLE shop.orders", "WITH a AS (SELECT 1) SELECT 1",
        "a EXCEPT SELECT 1", "(a) INTERSECT (SELECT 1)", "a INTO TEMP x",
    ],
    "writes or locks": [
        "EXISTS (WITH a AS (DELETE FROM shop.orders RETURNING id) TABLE a)", "id IN (SELECT id FROM shop.orders FOR UPDATE)",
        "id = $1", "id IN (SELECT order_id FROM items)", "EXISTS (SELECT 1 INTO x)", "id = (SELECT 1 FOR SHARE)",
    ],
    "bytes that SQL can't hold": ["a\0", "a = '\0'", "\0", "a = '\ud800'", "a = E'\\xff'"],
    "too much": ["a = '" + "x" * 70_000 + "'", " OR ".join(["NOT (" * 400 + "a" + ")" * 400] * 2)],
    "clocks": ["created > 'now'::timestamptz", "day = DATE 'today'", "CURRENT_TIME > '12:00'"],
}  # fmt: skip

# Refused by what the server says the names mean ----------------------------------------------------------------------

REFUSED_CALLS: dict[str, list[str]] = {
    "sends, locks, sets": [
        "pg_notify('a', 'b')", "PG_NOTIFY('a', 'b')", '"pg_notify"(\'a\', \'b\')', "pg_catalog.pg_notify('a', 'b')",
        'pg_catalog."pg_notify"(\'a\', \'b\')', 'U&"pg\\005fnotify"(\'a\', \'b\')', 'U&"pg!005fnotify" UESCAPE \'!\' (\'a\', \'b\')',
        "pg_notify\n(\n'a', /* b */ 'c')", "pg_logical_emit_message(true, 'a', 'b')",
        "pg_catalog.pg_logical_emit_message(false, 'a', 'b', true)", "pg_advisory_lock(1)", "pg_advisory_xact_lock(1, 2)",
        "pg_try_advisory_lock(1)", "pg_advisory_unlock_all()", "set_config('default_transaction_read_only', 'off', false)",
        "pg_catalog.set_config('row_security', 'on', true)", "pg_sleep(0)", "pg_sleep_for('1 second')",
        "pg_terminate_backend(1)", "pg_cancel_backend(1)", "pg_reload_conf()", "pg_rotate_logfile()", "pg_switch_wal()",
        "pg_create_restore_point('a')", "pg_export_snapshot()", "pg_promote()", "setseed(0.5)", "pg_stat_reset()",
        "pg_create_physical_replication_slot('a')", "pg_create_logical_replication_slot('a', 'b')",
        "pg_drop_replication_slot('a')", "pg_import_system_collations('pg_catalog')", "pg_stat_clear_snapshot()",
        "pg_current_xact_id()", "txid_current()", "pg_replication_origin_create('a')",
    ],
    "reads and writes elsewhere": [
        "pg_read_file('/etc/passwd')", "pg_read_binary_file('/etc/passwd')", "pg_ls_dir('/')", "pg_stat_file('/')",
        "lo_import('/etc/passwd')", "lo_export(1, '/tmp/x')", "lo_get(1)", "lo_create(0)", "lo_unlink(1)", "lo_put(1, 0, 'x')",
        "lo_from_bytea(0, 'x')", "nextval('shop.s')", "setval('shop.s', 1)", "currval('shop.s')", "lastval()",
        "current_setting('data_directory')", "pg_database_size('postgres')", "pg_relation_size('shop.orders')",
        "inet_server_addr()", "pg_backend_pid()", "has_table_privilege('shop.orders', 'SELECT')",
        "pg_get_viewdef('pg_user'::regclass)", "pg_ls_waldir()", "pg_current_logfile()", "pg_hba_file_rules()",
    ],
    "runs SQL given as text": [
        "query_to_xml('DELETE FROM shop.orders', true, true, '')", "table_to_xml('shop.orders', true, true, '')",
        "query_to_xml_and_xmlschema('SELECT 1', true, true, '')", "cursor_to_xml('c', 1, true, true, '')",
        "schema_to_xml('shop', true, true, '')", "database_to_xml(true, true, '')", "ts_stat('SELECT 1')",
        "ts_rewrite('a'::tsquery, 'SELECT 1')", "pg_input_is_valid('a', 'shop.loud')",
    ],
    "clocks and chance": [
        "statement_timestamp()", "clock_timestamp()", "timeofday()", "random()", "age(now())", "age(LOCALTIMESTAMP)",
        "gen_random_uuid()", "pg_postmaster_start_time()", "pg_stat_get_snapshot_timestamp()",
    ],
    "columns that are functions": [
        "(5::bigint).pg_advisory_lock", "('a'::text).pg_read_file", "(1.5::float8).pg_sleep", "(0.5::float8).setseed",
        "('shop.s'::regclass).nextval", '(5::bigint)."pg_advisory_lock"', '(5::bigint).U&"pg\\005fadvisory_lock"',
        "(5::bigint).PG_Advisory_Lock", "(ARRAY[5::bigint])[1].pg_advisory_lock", "(SELECT 5::bigint).pg_advisory_lock",
        "(SELECT g.pg_advisory_lock FROM generate_series(1::bigint, 2) g)",
        "(SELECT g.pg_advisory_lock FROM generate_series(1::bigint, 2) AS g (g))",
        "(SELECT abs.pg_advisory_lock FROM abs(1::bigint))", "(SELECT max((x).pg_sleep::text) FROM (SELECT 1.0::float8 x) s)",
        "(SELECT int8.pg_advisory_lock FROM CAST(1 AS bigint))", "(SELECT coalesce.pg_advisory_lock FROM coalesce(1::bigint))",
        "(SELECT g.pg_advisory_lock FROM ROWS FROM (abs(1::bigint)) g)", "(SELECT (g).pg_advisory_lock FROM abs(1::bigint) g)",
        "(SELECT g.pg_advisory_lock FROM (SELECT 1) x, LATERAL abs(1::bigint) g)",
        "(CASE WHEN true THEN 5::bigint END).pg_advisory_lock", "(5::bigint).pg_advİsory_lock",
    ],
    "the user's own": [
        "shop.twice(1)", "shop.roll()", "shop.shout('a')", '"shop"."shout"(\'a\')', 'U&"sh\\006fp".shout(\'a\')',
        "1 OPERATOR(shop.+) 2", '1 OPERATOR("shop".+) ANY (SELECT 1)', "'a'::shop.loud", "CAST('a' AS shop.loud)",
        "shop.loud('a')", "shop.loud 'a'", "ARRAY['a']::shop.loud[]", "ROW(1, 'a')::shop.pair",
        "(SELECT id FROM shop.orders ORDER BY id USING OPERATOR(shop.+) LIMIT 1)", "NULL::shop.orders",
        "(SELECT a FROM jsonb_to_record('{}') AS x (a shop.loud))", "(SELECT 1 FROM shop.several(3) LIMIT 1)",
        "xmlserialize(CONTENT '<a/>' AS shop.loud)", "shop.total(1)", "(SELECT shop.total(id) FROM shop.orders)",
    ],
    "not there": ["nosuch(1)", "public.nosuch(1)", "1::nosuch", "pg_temp.f(1)", "shop.nosuch 'a'", "pg_notİfy('a', 'b')",
                  "crosstab('SELECT 1')", "dblink('', 'SELECT 1')", "system_user"],
}  # fmt: skip
"""Expressions; each must be refused anywhere an expression may stand."""

NESTINGS = [
    "SELECT {}",
    "SELECT 1 WHERE ({}) IS NULL",
    "SELECT coalesce(({})::text, 'x')",
    "SELECT CASE WHEN ({}) IS NULL THEN 1 END",
    "SELECT * FROM (SELECT {} AS x) q",
    "WITH a AS (SELECT {}) TABLE a",
    "SELECT id FROM shop.orders ORDER BY ({})",
    "SELECT 1 LIMIT length(({})::text)",
    "SELECT ARRAY[({})::text]",
    "VALUES (({}))",
    "SELECT count(*) FILTER (WHERE ({}) IS NULL) FROM shop.orders",
    "SELECT sum(id) OVER (PARTITION BY ({})) FROM shop.orders",
    "SELECT * FROM shop.orders o JOIN shop.items i ON ({}) IS NULL",
    "SELECT * FROM shop.orders o, LATERAL (SELECT {}) l",
    "SELECT * FROM shop.orders GROUP BY id HAVING ({}) IS NULL",
    "SELECT * FROM generate_series(1, length(({})::text)) g",
    'SELECT (({})::text COLLATE "C")',
    "SELECT 1 UNION ALL SELECT 2 WHERE ({}) IS NULL",
    "WITH RECURSIVE a (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM a WHERE ({}) IS NULL) TABLE a",
]
"""Places for an expression."""

# Accepted ------------------------------------------------------------------------------------------------------------


class Accepted(NamedTuple):
    """A text that must pass; ``since`` is the first major version of the server that reads it."""

    text: str
    since: int = 12
    chunkable: bool = True


ACCEPTED_QUERIES = [
    Accepted(text)
    for text in (
        "SELECT * FROM shop.orders", "SELECT * FROM shop.orders;", "SELECT * FROM shop.orders ; ; -- end", "TABLE shop.orders",
        "SELECT id FROM shop.orders -- comment", "SELECT id /* a /* b */ c */ FROM shop.orders", "(SELECT id FROM shop.orders)",
        "VALUES (1, 'a'), (2, 'b')", "SELECT 1 AS one", "select ID as X from SHOP.Orders", 'SELECT "Mixed Case" FROM shop.orders',
        'SELECT o.größe, "größe" + 1 AS g FROM shop.orders o', "SELECT 'ä€😀' AS s, id FROM shop.orders", 'SELECT id AS "é;--" FROM shop.orders',
        "SELECT ';' AS a, '--' AS b, '/*' AS c, '$$' AS d", "SELECT $$a ' ; b$$ AS a, $x$ $$ $x$ AS b", "SELECT E'a\\'b\\n;' AS a",
        "SELECT U&'\\0061\\+01F600' AS a", "SELECT U&'!0061' UESCAPE '!' AS a", "SELECT 'a'\n'b' AS a", "SELECT 'a\\' AS a, 'b' AS b",
        "SELECT B'101' AS b, X'1F' AS x, N'a' AS n", "SELECT id FROM ONLY shop.orders", "SELECT o.* FROM shop.orders AS o",
        "SELECT o.id, i.name FROM shop.orders o JOIN shop.items i ON i.order_id = o.id",
        "SELECT * FROM shop.orders o LEFT JOIN shop.items i ON i.order_id = o.id AND i.count > 1",
        "SELECT o.id, i.name FROM shop.orders o CROSS JOIN LATERAL (SELECT name FROM shop.items WHERE order_id = o.id) i",
        "SELECT a.id FROM shop.orders a NATURAL JOIN shop.orders b", "SELECT id, x.y FROM shop.orders, unnest(tags) AS x (y)",
        "WITH a AS (SELECT * FROM shop.orders) SELECT id FROM a WHERE id > 5",
        "WITH a AS MATERIALIZED (SELECT id FROM shop.orders), b AS (TABLE a) SELECT * FROM b",
        "WITH orders AS (SELECT id FROM shop.orders) SELECT * FROM orders", "SELECT id FROM shop.orders ORDER BY id DESC NULLS LAST",
        "SELECT id, amount * 1.19 AS gross, -amount AS neg FROM shop.orders WHERE amount BETWEEN 10 AND 20",
        "SELECT id FROM shop.orders WHERE customer LIKE 'customer 1%' OR customer ILIKE '%2' OR customer ~ '\\d$'",
        "SELECT id FROM shop.orders WHERE customer SIMILAR TO '%(1|2)' ESCAPE '#'", "SELECT id, status::text FROM shop.orders",
        "SELECT id FROM shop.orders WHERE id IN (SELECT order_id FROM shop.items WHERE count > 2)",
        "SELECT id FROM shop.orders o WHERE EXISTS (SELECT FROM shop.items i WHERE i.order_id = o.id AND i.count = 3)",
        "SELECT id FROM shop.orders WHERE id = ANY (ARRAY[1, 2, 3])", "SELECT id FROM shop.orders WHERE id <> ALL ('{1,2}'::int[])",
        "SELECT id, CASE WHEN id > 5 THEN 'big' ELSE 'small' END AS size FROM shop.orders",
        "SELECT id, CASE status WHEN 'new' THEN 1 END AS c FROM shop.orders", "SELECT id::bigint, id::text AS t FROM shop.orders",
        "SELECT coalesce(customer, 'x') AS c, nullif(id, 1) AS n, greatest(id, 3) AS g, least(1, id) AS l FROM shop.orders",
        "SELECT id, upper(customer) AS u, length(customer) AS l, md5(customer) AS m, left(customer, 3) AS f FROM shop.orders",
        "SELECT id, substring(customer FROM 1 FOR 3) AS s, trim(BOTH 'c' FROM customer) AS t, position('e' IN customer) AS p FROM shop.orders",
        "SELECT id, overlay(customer PLACING 'x' FROM 1) AS o, customer COLLATE \"C\" AS c FROM shop.orders",
        "SELECT id, to_char(created, 'YYYY-MM-DD') AS d, date_trunc('month', created) AS m FROM shop.orders",
        "SELECT id, extract(year FROM created) AS y, date_part('day', created) AS d FROM shop.orders",
        "SELECT id, created AT TIME ZONE 'Europe/Berlin' AS local, created - interval '1 day' AS before FROM shop.orders",
        "SELECT id, age(created, timestamptz '2025-01-01') AS a FROM shop.orders", "SELECT o.age, o.id FROM shop.orders o",
        "SELECT id, created::date AS d, day + 1 AS next, day - date '2026-01-01' AS days FROM shop.orders",
        "SELECT i.count, i.name, i.price FROM shop.items i", "SELECT (day, day) OVERLAPS (day, day) AS o, id FROM shop.orders",
        "SELECT id, doc -> 'a' AS a, doc ->> 'a' AS t, doc #>> '{b,0}' AS b0, doc @> '{\"a\": 1}' AS c FROM shop.orders",
        "SELECT id FROM shop.orders WHERE doc ? 'a' AND doc ?| ARRAY['a', 'b'] AND doc ?& ARRAY['a']",
        "SELECT id, jsonb_build_object('id', id, 'tags', tags) AS j, to_jsonb(o) AS r FROM shop.orders o",
        "SELECT id, row_to_json(o)::text AS j FROM shop.orders o", "SELECT id, doc @@ '$.a > 5' AS m FROM shop.orders",
        "SELECT id, jsonb_path_exists(doc, '$.b[*] ? (@ > 5)') AS m FROM shop.orders", "SELECT id, tags[1], tags[1:2] AS s FROM shop.orders",
        "SELECT id, ARRAY[id, id + 1] AS a, array_length(tags, 1) AS n, array_to_string(tags, ',') AS s FROM shop.orders",
        "SELECT id, concat(customer, id) AS c, concat_ws(',', id, customer) AS w, format('%s-%s', id, customer) AS f FROM shop.orders",
        "SELECT id, customer || '-' || id AS c, ROW(id, customer)::text AS r FROM shop.orders",
        "SELECT id, 'paid'::shop.status = status AS paid, 50::shop.percent AS p FROM shop.orders",
        "SELECT id FROM shop.orders WHERE status = ANY ('{new,paid}'::shop.status[])", "SELECT 7::shop.quiet_percent AS p",
        "SELECT id FROM shop.orders WHERE status IS DISTINCT FROM 'new' AND customer IS NOT NULL AND (id > 1) IS TRUE",
        "SELECT id, NOT (id > 3 AND id < 7 OR id = 9) AS x FROM shop.orders", "SELECT id FROM shop.orders WHERE (id, age) IN ((1, 1), (2, 2))",
        "SELECT id, regexp_replace(customer, '\\d', '#') AS r, split_part(customer, ' ', 2) AS s FROM shop.orders",
        "SELECT g.n, g.n * 2 AS d FROM generate_series(1, 10) AS g (n)", "SELECT * FROM ROWS FROM (generate_series(1, 3), unnest(ARRAY[4, 5])) AS r (a, b)",
        "SELECT * FROM unnest(ARRAY['a', 'b']) WITH ORDINALITY AS u (v, n)", "SELECT * FROM jsonb_to_recordset('[{\"a\": 1}]') AS x (a int, b text)",
        "SELECT * FROM jsonb_each_text('{\"a\": 1}') AS e", "SELECT oid, relname FROM pg_catalog.pg_class WHERE relname = 'orders'",
        "SELECT nspname FROM pg_namespace WHERE nspname = 'shop'", "SELECT CURRENT_USER AS u, session_user AS s, current_database() AS d",
        "SELECT to_tsvector('english', customer) @@ to_tsquery('english', 'customer') AS m, id FROM shop.orders",
        "SELECT id, hashtext(customer) AS h, sha256(customer::bytea) AS s FROM shop.orders", "SELECT inet('10.0.0.1') AS i, uuid('00000000-0000-0000-0000-000000000001') AS u",
        "SELECT (ROW(1, 'a')).f1 AS a", "SELECT id, (doc).a FROM (SELECT id, s AS doc FROM shop.orders, LATERAL (SELECT id AS a) s) x",
        "SELECT id, 1.5e3 AS a, .5 AS b, 10 AS c, 1e-3 AS d FROM shop.orders", "SELECT id, amount OPERATOR(pg_catalog.+) 1 AS a FROM shop.orders",
        "SELECT * FROM (SELECT id FROM shop.orders) AS q", "SELECT ctid, tableoid, id FROM shop.orders",
        "SELECT " + " || '-' || ".join(["customer"] * 150) + " AS long FROM shop.orders", "SELECT interval '1 day 2 hours' AS i, interval '1' day AS d",
    )
] + [
    Accepted(text, chunkable=False)
    for text in (
        "SELECT id FROM shop.orders ORDER BY id LIMIT 5", "SELECT id FROM shop.orders ORDER BY id OFFSET 5",
        "SELECT id FROM shop.orders ORDER BY id FETCH FIRST 5 ROWS ONLY", "SELECT DISTINCT customer FROM shop.orders",
        "SELECT DISTINCT ON (customer) customer, id FROM shop.orders ORDER BY customer, id",
        "SELECT customer, count(*) FROM shop.orders GROUP BY customer", "SELECT max(id) FROM shop.orders",
        "SELECT 1 AS a FROM shop.orders HAVING true", "SELECT customer FROM shop.orders GROUP BY customer HAVING customer > 'customer 3'",
        "SELECT id, row_number() OVER (ORDER BY id) FROM shop.orders", "SELECT id, sum(id) OVER w FROM shop.orders WINDOW w AS (PARTITION BY customer)",
        "SELECT id FROM shop.orders UNION SELECT order_id FROM shop.items", "SELECT id FROM shop.orders UNION ALL SELECT order_id FROM shop.items",
        "SELECT id FROM shop.orders EXCEPT SELECT order_id FROM shop.items", "SELECT id FROM shop.orders INTERSECT SELECT 5",
        "WITH RECURSIVE a (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM a WHERE n < 5) SELECT n FROM a",
        "SELECT id, unnest(tags) AS tag FROM shop.orders", "SELECT generate_series(1, 3) AS g",
        "SELECT (SELECT max(count) FROM shop.items i WHERE i.order_id = o.id) AS m, id FROM shop.orders o",
        "SELECT id FROM (SELECT id FROM shop.orders ORDER BY id LIMIT 3) AS x", "WITH a AS (SELECT DISTINCT age FROM shop.orders) TABLE a",
        "SELECT string_agg(customer, ',' ORDER BY id) AS s FROM shop.orders", "SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY id) AS p FROM shop.orders",
        "SELECT count(*) FILTER (WHERE id > 5) AS n FROM shop.orders", "SELECT id FROM shop.orders TABLESAMPLE SYSTEM (100) REPEATABLE (1)",
        "SELECT customer, age, count(*) FROM shop.orders GROUP BY GROUPING SETS ((customer), (age), ())",
        "SELECT id FROM shop.orders WHERE customer <> 'today'", "SELECT o.count FROM (SELECT count(*) FROM shop.orders) o",
        "SELECT id FROM shop.orders WHERE id = (SELECT order_id FROM shop.items ORDER BY name LIMIT 1)",
    )
] + [
    Accepted("SELECT 0x1F AS h, 1_000 AS n, 0b11 AS b", since=16),
    Accepted("SELECT id, doc IS JSON AS j FROM (SELECT id, doc::text FROM shop.orders) o", since=16),
    Accepted("SELECT id, JSON_VALUE(doc, '$.a') AS a FROM shop.orders", since=17),
    Accepted("SELECT * FROM JSON_TABLE('[1,2]', '$[*]' COLUMNS (n int PATH '$')) AS t", since=17),
    Accepted("SELECT JSON_OBJECT('a' VALUE 1) AS j, JSON_ARRAY(1, 2) AS a", since=16),
    Accepted("SELECT JSON_ARRAYAGG(id ORDER BY id) AS j FROM shop.orders", since=16, chunkable=False),
    Accepted("SELECT created AT LOCAL AS c, id FROM shop.orders", since=17),
    Accepted("WITH RECURSIVE a (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM a WHERE n < 3) SEARCH DEPTH FIRST BY n SET o SELECT n FROM a",
             since=14, chunkable=False),
]  # fmt: skip

ACCEPTED_PREDICATES = [
    "true", "id = 1", "id > 3 AND id < 9 OR id = 20", "NOT (id = 1)", "id IN (1, 2, 3)", "id BETWEEN 3 AND 5", "customer LIKE '%1'",
    "id = 1 -- comment", "/* a */ id = 1 /* b */", "customer = ')'", "customer = '; DROP TABLE x' OR true", "customer = $$)$$ OR id = 2",
    "customer = E'\\')' OR id = 3", 'U&"\\0069d" = 4', "(id = 1) OR (id = 2)", "((id)) = ((5))", "\"Mixed Case\" = 'x7'", "größe = 1",
    "id IN (SELECT order_id FROM shop.items WHERE count = 2)", "EXISTS (SELECT 1 FROM shop.items i WHERE i.order_id = id)",
    "tags @> ARRAY['b1']", "tags[1] = 'a'", "doc ->> 'a' = '7'", "doc ? 'a'", "status = 'paid'::shop.status", "status IS NOT NULL",
    "created >= now() - interval '1000 years'", "created < CURRENT_TIMESTAMP", "day <= CURRENT_DATE", "created::date = date '2026-01-02'",
    "lower(customer) = 'customer 1'", "length(customer) > 3", "id % 2 = 0", "customer ~ '^c.*\\d$'", "customer IS DISTINCT FROM 'a'",
    "extract(hour FROM created) = 5", "CASE WHEN id > 5 THEN true ELSE false END", "(id, age) = (3, 3)", "ctid IS NOT NULL", "true\n", "\n\ttrue ",
]  # fmt: skip
