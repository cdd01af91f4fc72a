"""User SQL by its text alone: what is refused, what the wrapped text means, how the clock is fixed."""

import contextlib
import re
from datetime import datetime, timedelta, timezone

import pytest
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st
from postgast import parse as parse_message
from postgast import pg_query_pb2

from extraction_worker.errors import InvalidQuery
from extraction_worker.source.clock import fix_clock
from extraction_worker.source.query import check_predicate, check_query
from extraction_worker.source.references import Name, inspect
from extraction_worker.source.syntax import parse
from support.hostile_sql import (
    ACCEPTED_PREDICATES,
    ACCEPTED_QUERIES,
    NESTINGS,
    REFUSED_CALLS,
    REFUSED_PREDICATES,
    REFUSED_QUERIES,
)

AT = datetime(2026, 11, 22, 23, 30, 0, 123456, tzinfo=timezone(timedelta(hours=1)))

# Why each group is refused, so that no text is refused by accident.
REASONS = {
    "nothing": "it is empty",
    "not SQL": r"syntax error|unterminated|invalid|junk|it isn't one condition|in multi|Unicode escape|not a valid",
    "bytes that SQL can't hold": r"NUL|isn't Unicode|UTF-8|Unicode|invalid",
    "too much": r"65536|nested too deeply|memory exhausted",
    "several statements": "semicolon",
    "other statements": r"it is a \w+Stmt|would (write|create)",
    "statements within": r"would write|SetToDefault|syntax error",
    "INTO": "INTO would create",
    "row locks": "lock rows",
    "parentheses": r"bracket|syntax error|semicolon",
    "parameters": r"parameters|syntax error",
    "names": r"schema|names a database",
    "clocks": r"isn't allowed|read anew|clock can't stand",
    "rest": r"isn't allowed|aren't allowed|isn't a name|syntax error",
    "leaves its parentheses": r"bracket|syntax error|semicolon|unterminated",
    "doesn't end": r"unterminated|syntax error|isn't closed",
    "more than an expression": r"isn't one condition|syntax error|semicolon",
    "writes or locks": r"would|lock rows|parameters|no schema",
}


def refusal(check, text):
    """Return why a text is refused."""
    try:
        check(text)
    except InvalidQuery as error:
        return str(error)
    return pytest.fail(f"accepted: {text[:200]!r}")


def query(text):
    return check_query(text, planned_at=AT)


def predicate(text):
    return check_predicate(text, planned_at=AT)


@pytest.mark.parametrize("group", REFUSED_QUERIES)
def test_hostile_queries_are_refused(group):
    for text in REFUSED_QUERIES[group]:
        message = refusal(query, text)
        assert message.startswith("spec.query: ")
        assert re.search(REASONS[group], message), text[:200]


@pytest.mark.parametrize("group", REFUSED_PREDICATES)
def test_hostile_predicates_are_refused(group):
    for text in REFUSED_PREDICATES[group]:
        message = refusal(predicate, text)
        assert message.startswith("spec.where: ")
        assert re.search(REASONS[group], message), text[:200]


def test_the_corpus_is_large_enough_to_mean_something():
    refused = [
        text for groups in (REFUSED_QUERIES, REFUSED_PREDICATES, REFUSED_CALLS) for g in groups.values() for text in g
    ]
    assert len(set(refused)) > 350
    assert len({case.text for case in ACCEPTED_QUERIES} | set(ACCEPTED_PREDICATES)) > 130


@pytest.mark.parametrize("case", ACCEPTED_QUERIES, ids=lambda case: case.text[:60])
def test_benign_queries_pass_and_say_whether_chunks_change_them(case):
    checked = query(case.text)
    assert checked.chunkable == case.chunkable, checked.chunk_reason
    assert (checked.chunk_reason == "") == case.chunkable


@pytest.mark.parametrize("text", ACCEPTED_PREDICATES)
def test_benign_predicates_pass_unchanged_but_for_the_clock(text):
    checked = predicate(text)
    assert checked.chunkable, checked.chunk_reason
    if "now()" not in text and "CURRENT" not in text:
        assert checked.text == text


@pytest.mark.parametrize("nesting", NESTINGS)
def test_the_places_for_expressions_are_themselves_allowed(nesting):
    query(nesting.format("1"))


# What chunks would change -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("SELECT 1 LIMIT 1", "LIMIT"),
        ("SELECT 1 OFFSET 1", "OFFSET"),
        ("SELECT id FROM shop.orders ORDER BY id FETCH FIRST 1 ROWS WITH TIES", "LIMIT"),
        ("SELECT DISTINCT 1", "DISTINCT"),
        ("SELECT 1 GROUP BY ()", "GROUP BY"),
        ("SELECT 1 HAVING true", "HAVING"),
        ("SELECT 1 UNION SELECT 2", "UNION"),
        ("SELECT 1 EXCEPT SELECT 2", "EXCEPT"),
        ("SELECT rank() OVER ()", "a window function"),
        ("SELECT 1 WINDOW w AS ()", "a window function"),
        ("SELECT count(*)", "an aggregate"),
        ("SELECT shop.f(DISTINCT 1)", "an aggregate"),
        ("SELECT shop.f(1 ORDER BY 2)", "an aggregate"),
        ("SELECT shop.f(1) FILTER (WHERE true)", "an aggregate"),
        ("SELECT t.array_agg FROM shop.orders t", "an aggregate"),
        ("SELECT unnest(ARRAY[1])", "a set-returning function"),
        ("SELECT * FROM shop.orders TABLESAMPLE bernoulli (1)", "TABLESAMPLE"),
        ("WITH RECURSIVE a AS (SELECT 1) TABLE a", "WITH RECURSIVE"),
        ("SELECT 1 WHERE created > 'yesterday'", "'yesterday'"),
        ("SELECT 1 WHERE created > ALL (ARRAY['tomorrow 04:00'])", "'tomorrow 04:00'"),
    ],
)
def test_the_reason_against_chunks_names_what_it_is(text, word):
    for nested in (text, f"SELECT * FROM ({text}) a", f"WITH b AS ({text}) TABLE b", f"SELECT 1 WHERE EXISTS ({text})"):
        assert word in query(nested).chunk_reason
    assert word in predicate(f"EXISTS ({text})").chunk_reason


def test_words_that_only_look_like_moving_dates_stay_chunkable():
    assert query("SELECT 'snow', 'nowhere', 'Todays', 'knows'").chunkable


def test_an_order_is_noted_as_lost_for_the_files_and_no_reason_against_chunks():
    assert "ORDER BY" in query("SELECT id FROM shop.orders ORDER BY id").notes[0]
    assert query("SELECT id FROM (SELECT id FROM shop.orders ORDER BY id) a").notes == ()


# References ---------------------------------------------------------------------------------------------------------


def test_relations_are_found_wherever_they_stand_and_with_names_are_left_out():
    text = """
        WITH a AS (TABLE shop.one), b AS (SELECT * FROM a JOIN shop.two USING (x))
        SELECT (SELECT max(x) FROM shop.three), ARRAY(SELECT x FROM shop.four)
        FROM b, ONLY shop.five, LATERAL (TABLE "S"."Six") l
        WHERE EXISTS (SELECT FROM shop.seven) AND x = ANY (SELECT x FROM shop.eight) OR x IN (SELECT x FROM pg_class)
        ORDER BY (SELECT x FROM shop.nine)
    """
    assert query(text).references.relations == {
        *(Name("shop", name) for name in ("one", "two", "three", "four", "five", "seven", "eight", "nine")),
        Name("S", "Six"),
        Name("", "pg_class"),
    }


def test_tables_of_subqueries_in_predicates_are_reported():
    assert predicate("id IN (SELECT order_id FROM shop.items)").references.relations == {Name("shop", "items")}


def test_functions_operators_types_and_dotted_names_are_reported():
    references = query(
        "SELECT shop.f(1, 2), upper('a'), a OPERATOR(shop.+) b, 'x'::shop.t, o.total, (o).size FROM shop.orders o "
        "ORDER BY a USING OPERATOR(shop.<)"
    ).references
    assert {call.function: call.arguments for call in references.calls} == {Name("shop", "f"): 2, Name("", "upper"): 1}
    assert references.operators == {Name("shop", "+"), Name("shop", "<")}
    assert references.types == {Name("shop", "t")}
    assert {(attribute.name, attribute.of_value) for attribute in references.attributes} == {
        ("total", False),
        ("size", True),
    }


@pytest.mark.parametrize(
    ("text", "of_value"),
    [
        ("SELECT t.x FROM shop.orders t", False),
        ("SELECT t.x FROM shop.orders t, abs(1) g", False),
        ("SELECT g.x FROM abs(1) g", True),
        ("SELECT abs.x FROM abs(1)", True),
        ("SELECT g.x FROM ROWS FROM (abs(1)) AS g (y)", True),
        ("SELECT t.x FROM shop.orders t, abs(1)", True),
    ],
)
def test_a_dotted_name_may_be_of_a_value_only_where_a_function_stands_in_from(text, of_value):
    assert {attribute.of_value for attribute in query(text).references.attributes} == {of_value}


@pytest.mark.parametrize("number", ["0x1F", "0o17", "0b1", "1_000", "1_0.5", "0XFF"])
def test_numbers_that_old_servers_read_otherwise_are_reported(number):
    assert query(f"SELECT {number}").references.modern_number == number
    assert predicate(f"a = {number}").references.modern_number == number


def test_old_numbers_are_not_reported():
    assert query("SELECT 10, 1.5, 1e10, .5, 1E-3, '0x1F' AS \"1_000\" -- 0x1F").references.modern_number == ""


# The clock ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "literal"),
    [
        ("now()", "pg_catalog.timestamptz '2026-11-22 22:30:00.123456+00'"),
        ("NOW ( )", "pg_catalog.timestamptz '2026-11-22 22:30:00.123456+00'"),
        ("pg_catalog.now()", "pg_catalog.timestamptz '2026-11-22 22:30:00.123456+00'"),
        ("pg_catalog /* a) */ . -- b\n now(/* ) */)", "pg_catalog.timestamptz '2026-11-22 22:30:00.123456+00'"),
        ('"now"()', "pg_catalog.timestamptz '2026-11-22 22:30:00.123456+00'"),
        ("U&\"n!006fw\" UESCAPE '!' ()", "pg_catalog.timestamptz '2026-11-22 22:30:00.123456+00'"),
        ("transaction_timestamp()", "pg_catalog.timestamptz '2026-11-22 22:30:00.123456+00'"),
        ("CURRENT_TIMESTAMP", "pg_catalog.timestamptz '2026-11-22 22:30:00.123456+00'"),
        ("current_timestamp(2)", "pg_catalog.timestamptz(2) '2026-11-22 22:30:00.123456+00'"),
        ("CURRENT_TIMESTAMP /* ( */ (0)", "pg_catalog.timestamptz(0) '2026-11-22 22:30:00.123456+00'"),
        ("CURRENT_TIMESTAMP(9)", "pg_catalog.timestamptz(6) '2026-11-22 22:30:00.123456+00'"),
        ("LOCALTIMESTAMP", "pg_catalog.timestamp '2026-11-22 22:30:00.123456'"),
        ("localtimestamp ( 3 )", "pg_catalog.timestamp(3) '2026-11-22 22:30:00.123456'"),
        ("CURRENT_DATE", "pg_catalog.date '2026-11-22'"),
    ],
)
def test_clocks_become_literals_of_the_plan_in_utc(word, literal):
    assert predicate(f"'ä' <> é AND {word}>a").text == f"'ä' <> é AND  {literal} >a"
    assert query(f"SELECT 'ä€' AS a FROM b.c WHERE({word})=d").text == f"SELECT 'ä€' AS a FROM b.c WHERE( {literal} )=d"


def test_a_clock_in_an_output_column_keeps_the_column_s_name():
    assert query("SELECT now()::date").text == (
        "SELECT  (SELECT pg_catalog.timestamptz '2026-11-22 22:30:00.123456+00' AS \"now\") ::date"
    )
    assert "SELECT  pg_catalog.date" in query("SELECT CURRENT_DATE AS d").text


def test_many_clocks_in_one_text_are_all_fixed_and_nothing_else_is():
    text = "SELECT now() AS a, 'now()' AS b, now AS c, x.now AS d, CURRENT_DATE - now()::date AS \"now()\" FROM a.b /* now() */"  # noqa: E501
    fixed = query(text).text
    assert fixed.count("pg_catalog.") == 3
    assert "'now()' AS b, now AS c, x.now AS d" in fixed
    assert fixed.endswith('AS "now()" FROM a.b /* now() */')


@pytest.mark.parametrize(
    "text", ["SELECT now() OVER ()", "SELECT now(1)", "SELECT now(*)", "SELECT shop.now()", 'SELECT "NOW"()']
)
def test_what_only_resembles_the_clock_is_left_to_the_functions_check(text):
    checked = query(text)
    assert checked.text == text
    assert {call.function.name.lower() for call in checked.references.calls} == {"now"}


def test_a_moment_without_a_time_zone_is_refused():
    with pytest.raises(ValueError, match="time zone"):
        check_query("SELECT 1", planned_at=datetime(2026, 11, 22))  # noqa: DTZ001


def test_an_edit_that_would_change_anything_but_the_clock_is_refused():
    tree = parse(b"SELECT now(), a", "spec.query")
    clocks = inspect(tree, "spec.query").clocks
    with pytest.raises(InvalidQuery, match="clock can't be read here"):
        fix_clock(b"SELECT now(), b", tree, clocks, AT, "spec.query")


# Errors -------------------------------------------------------------------------------------------------------------


def test_syntax_errors_say_line_and_column_of_the_user_s_text_in_characters():
    with pytest.raises(InvalidQuery, match=re.escape('spec.query: syntax error at or near "y" (line 2, column 16).')):
        query("SELECT '€',\n  'ä' * FORM x y")
    with pytest.raises(InvalidQuery, match=re.escape("(line 1, column 5)")):
        predicate("ä = = 1")


def test_the_field_in_messages_is_the_caller_s():
    with pytest.raises(InvalidQuery, match=r"^spec\.other: "):
        check_query("x", planned_at=AT, field="spec.other")


# Properties ---------------------------------------------------------------------------------------------------------

PIECES = """
( ) [ ] { } , ; ' '' " "" -- /* */ $$ $x$ E'\\' \\' U&'\\0041' U&"a" UESCAPE '!' N'a' B'1' a b.c é 1 1.5 0x1F $1 = <> ||
:: . * - now() CURRENT_DATE CURRENT_TIMESTAMP(3) LOCALTIME AND OR NOT IN IS NULL BETWEEN LIKE CASE WHEN THEN END SELECT
FROM WHERE UNION ALL LIMIT ORDER BY GROUP WITH AS TABLE VALUES INTO FOR UPDATE pg_class int true ARRAY[1] f(a)
OPERATOR(s.+) COLLATE ESCAPE AT LOCAL
"""
SOUP = st.lists(st.sampled_from([*PIECES.split(), "\n", "\t", "\0", "\v"]), max_size=12).flatmap(
    lambda pieces: st.sampled_from([" ", "", "\n"]).map(lambda joint: joint.join(pieces))
)


@settings(max_examples=250, deadline=None)
@given(st.one_of(st.text(max_size=40), SOUP))
def test_any_text_is_accepted_or_refused_by_name(text):
    for check in (query, predicate):
        with contextlib.suppress(InvalidQuery):
            assert check(text).text


NOISE = st.sampled_from([" ", "\n", " /* ) */ ", " -- (\n", " /* ' */"])
ATOMS = st.sampled_from(
    ["a", '"b"', "1", "'x'", "')'", "$$)($$", "E'\\')'", "now()", "CURRENT_DATE", "f(a, b)", "ARRAY[1, 2]",
     "(SELECT 1)", "'ä€'", "NULL", "a.b", "x[1]", "U&'\\0028'"]
)  # fmt: skip
OPERATORS = st.sampled_from(["=", "<>", "||", "+", "AND", "OR", "IS DISTINCT FROM", "LIKE", "OPERATOR(pg_catalog.+)"])


def _combined(inner):
    binary = st.tuples(inner, NOISE, OPERATORS, NOISE, inner).map("".join)
    return st.one_of(
        binary,
        st.tuples(st.just("("), NOISE, inner, NOISE, st.just(")")).map("".join),
        st.tuples(st.just("NOT "), inner).map("".join),
        st.tuples(inner, st.just(" IS NULL")).map("".join),
    )


EXPRESSIONS = st.tuples(
    st.recursive(ATOMS, _combined, max_leaves=8), st.sampled_from(["", " -- end", " /* end */"])
).map("".join)


def _placeless(message):
    """Blank where things stand in the text, in place; return the message."""
    for field, value in message.ListFields():
        if field.name in {"location", "list_start", "list_end", "rexpr_list_start", "rexpr_list_end"}:
            message.ClearField(field.name)
        elif field.message_type:
            for inner in [value] if isinstance(value, Message) else value:
                _placeless(inner)
    return message


def _target(text):
    """Return the tree of ``SELECT text``'s only column, by the parser's other interface."""
    (target,) = _placeless(parse_message(f"SELECT {text}").stmts[0].stmt.select_stmt).target_list
    return target.res_target.val


@settings(max_examples=100, deadline=None)
@given(EXPRESSIONS)
def test_an_accepted_predicate_is_one_operand_wherever_it_is_wrapped(text):
    try:
        checked = predicate(text)
    except InvalidQuery:
        assert "syntax error" in refusal(predicate, text)  # a = b = c: PostgreSQL's own
        return
    whole = _target(f"NOT {checked.where_sql}").bool_expr
    assert pg_query_pb2.BoolExprType.Name(whole.boolop) == "NOT_EXPR"
    (operand,) = whole.args
    assert operand == _target(f"\n{checked.text}\n")


@settings(max_examples=100, deadline=None)
@given(
    EXPRESSIONS,
    st.sampled_from(["SELECT {}", "SELECT 1 FROM a.b WHERE {}", "WITH x AS (SELECT {}\n) TABLE x", "VALUES (({}\n))"]),
)
def test_an_accepted_query_is_one_relation_wherever_it_is_wrapped(expression, template):
    text = template.format(expression)
    try:
        checked = query(text)
    except InvalidQuery:
        assert "syntax error" in refusal(query, text)
        return
    text = f"SELECT c FROM a.a JOIN {checked.from_sql} ON true WHERE c > 1 LIMIT 1"
    (joined,) = _placeless(parse_message(text).stmts[0].stmt.select_stmt).from_clause
    alone = _placeless(parse_message(checked.text).stmts[0].stmt)
    assert joined.join_expr.rarg.range_subselect.subquery == alone
