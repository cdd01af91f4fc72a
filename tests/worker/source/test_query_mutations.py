# ruff: noqa: E501 - texts are kept whole, several in a line
"""A bounded fuzzer on the boundary of the parser: mutations of a corpus, the same in every run."""

from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from postgast import parse as parse_message

from extraction_worker.errors import InvalidManifest, InvalidQuery
from extraction_worker.source.query import check_predicate, check_query
from extraction_worker.source.sensitive import SecretColumns
from extraction_worker.source.taint import tainted_names
from support.hostile_sql import (
    ACCEPTED_PREDICATES,
    ACCEPTED_QUERIES,
    NESTINGS,
    REFUSED_CALLS,
    REFUSED_PREDICATES,
    REFUSED_QUERIES,
)

AT = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
_SHORT = 400


def _texts(*groups) -> list[str]:
    found: list[str] = []
    for group in groups:
        for item in group.values() if isinstance(group, dict) else group:
            found += [item] if isinstance(item, str) else [text for text in item if isinstance(text, str)]
    return [text for text in found if len(text) <= _SHORT]


CORPUS = _texts(ACCEPTED_QUERIES, ACCEPTED_PREDICATES, REFUSED_QUERIES, REFUSED_PREDICATES, REFUSED_CALLS, NESTINGS)
SPLICES = [
    ")", "(", ";", "'", '"', "--", "/*", "*/", "$$", "\\", "\n", "\0", "E'", "U&'", ") AS q; DROP TABLE t; --", ") UNION SELECT 1 --", "]", "[",
    ", pg_sleep(1)", " INTO x ", " FOR UPDATE ", "::s.t", ".*", "\u00a0", "\ufeff", "ſ", "İ", "$1", " OR true", "{}", "%s",
]  # fmt: skip


@st.composite
def mutated(draw) -> str:
    """A text of the corpus that was cut, doubled, joined with another, or spliced, a few times."""
    text = draw(st.sampled_from(CORPUS))
    for _ in range(draw(st.integers(1, 4))):
        first = draw(st.integers(0, len(text)))
        last = draw(st.integers(first, min(len(text), first + 12)))
        match draw(st.sampled_from(["cut", "double", "splice", "join", "case"])):
            case "cut":
                text = text[:first] + text[last:]
            case "double":
                text = text[:last] + text[first:]
            case "splice":
                text = text[:first] + draw(st.sampled_from(SPLICES)) + text[first:]
            case "join":
                other = draw(st.sampled_from(CORPUS))
                text = text[:first] + other[draw(st.integers(0, len(other))) :]
            case "case":
                text = text[:first] + text[first:last].swapcase() + text[last:]
    return text


bounded = settings(
    max_examples=400, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)  # fmt: skip


@bounded
@given(mutated())
def test_a_mutated_query_is_refused_or_stays_within_its_parentheses(text):
    try:
        checked = check_query(text, planned_at=AT)
    except InvalidQuery:
        return
    whole = parse_message(f"SELECT c FROM {checked.from_sql} WHERE c > 1 AND d < 2 LIMIT 3")
    [statement] = whole.stmts
    outer = statement.stmt.select_stmt
    [source] = outer.from_clause
    assert source.WhichOneof("node") == "range_subselect"
    assert source.range_subselect.alias.aliasname == "q"
    assert len(outer.where_clause.bool_expr.args) == 2
    assert outer.limit_count.a_const.ival.ival == 3
    assert not outer.HasField("into_clause")
    assert not outer.locking_clause
    assert source.range_subselect.subquery.WhichOneof("node") == "select_stmt"


@bounded
@given(mutated())
def test_a_mutated_condition_is_refused_or_stays_within_its_parentheses(text):
    try:
        checked = check_predicate(text, planned_at=AT)
    except InvalidQuery:
        return
    whole = parse_message(f"SELECT c FROM t WHERE ({checked.where_sql}\n) AND (ctid < '(1,0)') LIMIT 3")
    [statement] = whole.stmts
    outer = statement.stmt.select_stmt
    assert outer.limit_count.a_const.ival.ival == 3
    assert [node.WhichOneof("node") for node in outer.from_clause] == ["range_var"]
    # The chunk's own condition holds for every row, whatever the user's says.
    assert outer.where_clause.bool_expr.args[-1].WhichOneof("node") == "a_expr"
    assert outer.where_clause.bool_expr.boolop == 1
    assert not outer.locking_clause


@bounded
@given(mutated(), st.sampled_from(["*", "c*", "email", "count", "?"]))
def test_what_a_mutated_query_carries_is_told_or_refused(text, pattern):
    try:
        checked = check_query(text, planned_at=AT)
    except InvalidQuery:
        return
    try:
        found = tainted_names(checked.text, SecretColumns((pattern,)))
    except InvalidManifest:
        return
    assert "\0" not in found
    assert "" not in found


def test_the_corpus_of_sql_is_large():
    hostile = _texts(REFUSED_QUERIES, REFUSED_PREDICATES, REFUSED_CALLS)
    assert len(set(hostile)) >= 300


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("SELECT id, email FROM u", {"email"}),
        ("SELECT pg_catalog.lower(email) AS e FROM u", {"e", "email"}),
        ("SELECT e || 'x' AS f FROM (SELECT pg_catalog.lower(email) AS e FROM u) AS s", {"e", "email", "f"}),
        ("WITH c (x) AS (SELECT email FROM u) SELECT x AS y FROM c", {"email", "x", "y"}),
        ("SELECT id FROM a WHERE email = 'x' UNION SELECT id FROM b", {"email"}),
        ("SELECT id FROM a UNION SELECT email FROM b", {"email", "id"}),
        ("SELECT a FROM x UNION ALL SELECT * FROM u", {"a"}),
        ("SELECT pg_catalog.to_json(u) AS j FROM users AS u", {"j"}),
        ("SELECT pg_catalog.count(u.*) AS j FROM users AS u", {"j"}),
        ("SELECT u.* FROM users AS u", set()),
        ("SELECT b AS q FROM users AS u (a, b)", {"a", "b", "q"}),
        ("SELECT x AS z FROM users, pg_catalog.unnest(email) AS l (x)", {"email", "l", "x", "z"}),
        ("SELECT (u).email FROM u", {"email"}),
        ("SELECT id, (SELECT pg_catalog.max(email) FROM u) AS m FROM t", {"email", "m", "max"}),
        ("SELECT id FROM t WHERE EXISTS (SELECT email || 'a' FROM u)", {"email"}),
        ("SELECT id, amount FROM orders AS o", set()),
    ],
)
def test_names_that_carry_a_sensitive_column_are_found(query, names):
    found = tainted_names(query, SecretColumns(("email",)))
    assert found - {"email"} == names - {"email"}


@pytest.mark.parametrize("query", ["SELECT email || 'x' FROM u", "SELECT * FROM a UNION SELECT * FROM b"])
def test_what_carries_one_without_a_name_is_refused(query):
    with pytest.raises(InvalidManifest, match="has no name"):
        tainted_names(query, SecretColumns(("email",)))
