"""What a user's query or predicate may be, and whether chunks would change it: text in, value out. Pure.

The text is never regenerated. It is checked, edited at most in two ways (trailing semicolons go, the clock becomes
the plan's moment), wrapped in parentheses, and what the wrapped text means is compared with what was checked.
Function names are checked by the server afterwards: :mod:`extraction_worker.source.functions`.
"""

from dataclasses import dataclass, replace
from datetime import datetime

from extraction_worker.errors import InvalidQuery
from extraction_worker.source.clock import fix_clock
from extraction_worker.source.references import Facts, References, inspect
from extraction_worker.source.syntax import (
    Token,
    Tree,
    encode,
    modern_number,
    parse,
    position,
    refuse_unbalanced,
    same,
    scan,
)

SYSTEM_SCHEMAS = frozenset({"", "pg_catalog", "information_schema"})
"""Of what belongs to the server; an empty one stands for pg_catalog."""
_SEMICOLON = "ASCII_59"
_BARE = b'SELECT FROM "t" WHERE\n'


@dataclass(frozen=True, slots=True)
class CheckedSql:
    """A text that may be run, inside parentheses only."""

    text: str
    """The user's text; its clock readings are the plan's moment."""
    references: References
    chunk_reason: str
    """Why chunks would change what it means, a sentence for people; empty where they wouldn't."""
    repeatable: bool
    """Whether the same rows would come out of the same tables, as far as the text tells."""

    @property
    def chunkable(self) -> bool:
        """Whether chunks read the same rows as one read, as far as the text tells."""
        return not self.chunk_reason


@dataclass(frozen=True, slots=True)
class CheckedQuery(CheckedSql):
    """One SELECT."""

    notes: tuple[str, ...] = ()
    """What the user should know, sentences."""

    @property
    def from_sql(self) -> str:
        """What stands behind FROM; the newline ends a trailing comment."""
        return f'(\n{self.text}\n) AS "q"'


@dataclass(frozen=True, slots=True)
class CheckedPredicate(CheckedSql):
    """One boolean expression; ``references.relations`` are the tables of its subqueries, to be locked, too."""

    @property
    def where_sql(self) -> str:
        """The expression in its parentheses."""
        return f"(\n{self.text}\n)"


def check_query(text: str, *, planned_at: datetime, field: str = "spec.query") -> CheckedQuery:
    """Check that a text is one SELECT that only reads.

    Parameters
    ----------
    planned_at
        What ``now()`` and its kin mean; with a time zone.
    field
        What the text is called in messages.

    Raises
    ------
    InvalidQuery
        It isn't; the message says what and where.
    """
    data = encode(text, field)
    tokens = scan(data, field)
    data, tokens = without_trailing_semicolons(data, tokens)
    _refuse_empty_or_several(data, tokens, field, "one SELECT")
    refuse_unbalanced(data, tokens, field)
    tree = parse(data, field)
    facts = inspect(tree, field)
    references = replace(facts.references, modern_number=modern_number(data, tokens))
    data, tree = fix_clock(data, tree, facts.clocks, planned_at, field)
    statement = _select(tree, field)
    wrapped = _select(parse(b"SELECT FROM (\n" + data + b'\n) AS "q"', field), field)
    template = _select(parse(b'SELECT FROM (SELECT) AS "q"', field), field)
    hole = template["fromClause"][0]["RangeSubselect"]["subquery"]["SelectStmt"]
    if not same(template, wrapped, {id(hole): {"SelectStmt": statement}}):
        raise InvalidQuery(f"{field}: it means something else within parentheses.")
    notes = ("Its ORDER BY says nothing about the order of rows in the files.",) if "sortClause" in statement else ()
    return CheckedQuery(data.decode(), references, _chunk_reason("The query", facts), _repeatable(facts), notes)


def check_predicate(text: str, *, planned_at: datetime, field: str = "spec.where") -> CheckedPredicate:
    """Check that a text is one expression of a WHERE clause that only reads.

    Parameters
    ----------
    planned_at
        What ``now()`` and its kin mean; with a time zone.
    field
        What the text is called in messages.

    Raises
    ------
    InvalidQuery
        It isn't; the message says what and where.
    """
    data = encode(text, field)
    tokens = scan(data, field)
    _refuse_empty_or_several(data, tokens, field, "a condition")
    refuse_unbalanced(data, tokens, field)
    start = len(_BARE)
    tree = parse(_BARE + data, field, offset=start)
    condition = _condition(tree, field)
    facts = inspect(condition, field, kind="Node")
    references = replace(facts.references, modern_number=modern_number(data, tokens))
    data, tree = fix_clock(_BARE + data, tree, facts.clocks, planned_at, field)
    data = data[start:]
    # Without parentheses and within them: only an expression is the same in both.
    bare = _condition(tree, field)
    wrapped = _condition(parse(_BARE + b"(\n" + data + b"\n)", field), field)
    if not same(bare, wrapped):
        raise InvalidQuery(f"{field}: it means something else within parentheses.")
    return CheckedPredicate(data.decode(), references, _chunk_reason("The condition", facts), _repeatable(facts))


def _refuse_empty_or_several(data: bytes, tokens: list[Token], field: str, what: str) -> None:
    if not tokens:
        raise InvalidQuery(f"{field}: it is empty.", hint=f"Write {what}.")
    for token in tokens:
        if token.kind == _SEMICOLON:
            raise InvalidQuery(
                f"{field}: a semicolon ends the statement ({position(data[: token.start].decode())}).",
                hint=f"Write {what} alone.",
            )


def without_trailing_semicolons(data: bytes, tokens: list[Token]) -> tuple[bytes, list[Token]]:
    """Blank the semicolons at the end, so that no offset moves."""
    tokens = list(tokens)
    while tokens and tokens[-1].kind == _SEMICOLON:
        last = tokens.pop()
        data = data[: last.start] + b" " + data[last.end :]
    return data, tokens


def _select(tree: Tree, field: str) -> Tree:
    """Return the SelectStmt that is all of a tree."""
    statements = tree.get("stmts", [])
    if len(statements) != 1 or "SelectStmt" not in statements[0]["stmt"]:
        raise InvalidQuery(f"{field}: it isn't one SELECT.")
    statement: Tree = statements[0]["stmt"]["SelectStmt"]
    return statement


def _condition(tree: Tree, field: str) -> Tree:
    """Return the WHERE clause of a tree that is ``_BARE`` with a condition, and nothing else."""
    statement = dict(_select(tree, field))
    condition: Tree = statement.pop("whereClause", {})
    template = _select(parse(_BARE + b"true", field), field)
    if not same({key: value for key, value in template.items() if key != "whereClause"}, statement):
        raise InvalidQuery(f"{field}: it isn't one condition.", hint="Write only what stands behind WHERE.")
    return condition


def _repeatable(facts: Facts) -> bool:
    # System catalogs are no tables: some are written in place, some are views of the server's state.
    return facts.repeatable and not any(name.schema in SYSTEM_SCHEMAS for name in facts.references.relations)


def _chunk_reason(what: str, facts: Facts) -> str:
    if not facts.unchunkable:
        return ""
    return f"{what} uses {', '.join(facts.unchunkable)}, which each chunk would compute anew."
