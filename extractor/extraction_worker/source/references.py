"""What a statement's tree refers to, what it may not hold, and what chunks would change. Pure.

Node types are allowed by name: what a later grammar adds is refused until somebody has looked at it.
"""

import re
from dataclasses import dataclass
from typing import NamedTuple

from extraction_worker.errors import InvalidQuery
from extraction_worker.source.syntax import Node, Tree, names, walk
from extraction_worker.source.vocabulary import (
    AGGREGATES,
    ALLOWED_NODES,
    CLOCK_FUNCTIONS,
    CLOCK_WORDS,
    REFUSED_NODES,
    SESSION_VALUES,
    SETS,
)


class Name(NamedTuple):
    """A name as written; an empty schema stands for pg_catalog, because search_path is empty in every session."""

    schema: str
    name: str

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}" if self.schema else self.name


class Call(NamedTuple):
    """A call of a function by its name."""

    function: Name
    arguments: int
    in_from: bool
    """Stands in FROM itself: a set of rows there is a table, not a multiplication of rows."""
    by_syntax: bool = False
    """The grammar made it of other words (``EXTRACT``, ``AT TIME ZONE``); older servers may name it otherwise."""


class Attribute(NamedTuple):
    """``b`` of ``a.b`` or ``(a).b``: where there is no such column, PostgreSQL calls the function ``b(a)``."""

    name: str
    of_value: bool
    """``a`` may be a plain value; otherwise it is a row, which few functions take."""


@dataclass(frozen=True, slots=True)
class References:
    """Names that a text uses. The server knows what they mean: :mod:`extraction_worker.source.functions`."""

    relations: frozenset[Name] = frozenset()
    """Tables, views and the like in any FROM, without names of WITH queries."""
    calls: frozenset[Call] = frozenset()
    attributes: frozenset[Attribute] = frozenset()
    operators: frozenset[Name] = frozenset()
    types: frozenset[Name] = frozenset()
    """Of casts and column definitions."""
    modern_number: str = ""
    """A number such as ``0x1F`` or ``1_000``, which servers before 16 read otherwise."""

    def __or__(self, other: "References") -> "References":
        return References(
            self.relations | other.relations,
            self.calls | other.calls,
            self.attributes | other.attributes,
            self.operators | other.operators,
            self.types | other.types,
            self.modern_number or other.modern_number,
        )


@dataclass(frozen=True, slots=True)
class Facts:
    """What one reading of a tree found."""

    references: References
    unchunkable: tuple[str, ...]
    """What chunks would compute anew, each in a few words, e.g. ``LIMIT``."""
    repeatable: bool
    """Whether the same rows would come out of the same tables, as far as the text tells: it samples nothing, holds no
    word that may be a moving date, and reads no clock."""
    clocks: tuple[Node, ...]
    """Readings of the transaction's clock, in the order of the text."""


# `t.count` is nearly always a column; these names aren't, and their results depend on the order of rows.
_AGGREGATE_ATTRIBUTES = frozenset(name for name in AGGREGATES if "_agg" in name) | {"any_value"}

# Input of dates and times knows these words; the server would read them again in each chunk.
_MOVING = re.compile(r"(?<![a-z])(?:now|today|tomorrow|yesterday)(?![a-z])", re.IGNORECASE)
_LONGEST_TIME = 128
_TIME_TYPES = frozenset({"date", "time", "timetz", "timestamp", "timestamptz", "abstime"})


def inspect(tree: Tree, field: str, kind: str = "ParseResult") -> Facts:
    """Read a tree once: refuse what isn't allowed, collect names, find what chunks would change.

    Parameters
    ----------
    field
        What the text is called in messages, e.g. ``spec.query``.
    kind
        What ``tree`` is: a whole parse, or ``Node`` for an expression.

    Raises
    ------
    InvalidQuery
        Anything but one SELECT that reads; the message names what.
    """
    return _Inspection(field).run(tree, kind)


class _Inspection:
    def __init__(self, field: str) -> None:
        self.field = field
        self.relations: set[Name] = set()
        self.with_names: set[str] = set()
        self.calls: set[Call] = set()
        self.attributes: set[Attribute] = set()
        self.columns: list[list[str]] = []
        self.functions_in_from: set[str] = set()
        self.operators: set[Name] = set()
        self.types: set[Name] = set()
        self.unchunkable: dict[str, None] = {}
        self.repeatable = True
        self.clocks: list[Node] = []

    def run(self, tree: Tree, kind: str) -> Facts:
        rules = {kind: getattr(self, f"see_{kind}", None) for kind in ALLOWED_NODES}
        for node in walk(tree, kind):
            if node.kind not in rules:
                raise self.refusal(node)
            if (rule := rules[node.kind]) is not None:
                rule(node)
        for *_, relation, column in self.columns:
            # The row of a function in FROM is a plain value where the function returns one.
            self.attribute(column, of_value=bool(self.functions_in_from & {relation, ""}))
        relations = frozenset(self.relations - {Name("", name) for name in self.with_names})
        for name in sorted(relations):
            if not name.schema and not name.name.startswith("pg_"):
                raise InvalidQuery(
                    f'{self.field}: table "{name}" has no schema.',
                    hint=f"Write it with its schema, e.g. public.{name}: search_path is empty.",
                )
        references = References(
            relations,
            frozenset(self.calls),
            frozenset(self.attributes),
            frozenset(self.operators),
            frozenset(self.types),
        )
        return Facts(references, tuple(self.unchunkable), self.repeatable and not self.clocks, tuple(self.clocks))

    def refusal(self, node: Node) -> InvalidQuery:
        if node.kind in REFUSED_NODES:
            return InvalidQuery(f"{self.field}: {REFUSED_NODES[node.kind]}.", hint="Only a plain SELECT is run.")
        if node.field == "stmt":
            return InvalidQuery(f"{self.field}: it is a {node.kind}.", hint="Only a SELECT is run.")
        return InvalidQuery(f"{self.field}: {node.kind} isn't allowed.", hint="Only a plain SELECT is run.")

    def name(self, parts: list[str], what: str) -> Name:
        if len(parts) > 2 or not all(parts):
            raise InvalidQuery(
                f"{self.field}: {what} {'.'.join(parts)} isn't a name with or without a schema.",
                hint="Leave the database's name out.",
            )
        return Name(parts[0] if len(parts) == 2 else "", parts[-1])

    # What chunks would change ----------------------------------------------------------------------------------

    def see_SelectStmt(self, node: Node) -> None:  # noqa: N802 - named for the grammar's nodes
        for key, word in (
            ("limitCount", "LIMIT"),
            ("limitOffset", "OFFSET"),
            ("distinctClause", "DISTINCT"),
            ("groupClause", "GROUP BY"),
            ("havingClause", "HAVING"),
            ("windowClause", "a window function"),
        ):
            if node.value.get(key):
                self.unchunkable[word] = None
        operation = str(node.value.get("op", "SETOP_NONE"))
        if operation != "SETOP_NONE":
            self.unchunkable[operation.removeprefix("SETOP_")] = None

    def see_WithClause(self, node: Node) -> None:  # noqa: N802
        if node.value.get("recursive"):
            self.unchunkable["WITH RECURSIVE"] = None

    def see_RangeTableSample(self, node: Node) -> None:  # noqa: N802
        self.unchunkable["TABLESAMPLE"] = None
        self.repeatable = False
        method = names(node.value["method"])
        if method[-1] not in {"bernoulli", "system"} or method[:-1] not in ([], ["pg_catalog"]):
            raise InvalidQuery(f"{self.field}: TABLESAMPLE {'.'.join(method)} isn't allowed.", hint="Use SYSTEM.")

    def see_JsonAggConstructor(self, _node: Node) -> None:  # noqa: N802
        self.unchunkable["an aggregate"] = None

    def see_A_Const(self, node: Node) -> None:  # noqa: N802
        text = node.value.get("sval", {}).get("sval", "")
        if len(text) > _LONGEST_TIME or not _MOVING.search(text):
            return
        parent = node.parent
        if parent is not None and parent.kind == "TypeCast":
            kind = names(parent.value["typeName"]["names"])[-1]
            if kind in _TIME_TYPES:
                raise InvalidQuery(
                    f"{self.field}: '{text}' as {kind} would be read anew by each session.",
                    hint="Use CURRENT_DATE or now(), which become the moment of the plan.",
                )
        self.unchunkable[f"the string '{text}' (perhaps a moving date)"] = None
        self.repeatable = False

    # Names -----------------------------------------------------------------------------------------------------

    def see_RangeVar(self, node: Node) -> None:  # noqa: N802
        value = node.value
        if value.get("catalogname"):
            raise InvalidQuery(
                f"{self.field}: {value['catalogname']}.{value.get('schemaname', '')}.{value['relname']} names a "
                "database.", hint="Leave the database's name out.",
            )  # fmt: skip
        self.relations.add(Name(value.get("schemaname", ""), value["relname"]))

    def see_CommonTableExpr(self, node: Node) -> None:  # noqa: N802
        self.with_names.add(node.value["ctename"])

    def see_RangeFunction(self, node: Node) -> None:  # noqa: N802
        # Without an alias its name follows from rules of its own; "" stands for any.
        self.functions_in_from.add(node.value.get("alias", {}).get("aliasname", ""))

    def see_ColumnRef(self, node: Node) -> None:  # noqa: N802
        parts = names(node.value["fields"])
        if len(parts) > 1 and parts[-1]:
            self.columns.append(parts)

    def see_A_Indirection(self, node: Node) -> None:  # noqa: N802
        for name in names(node.value["indirection"]):
            if name:
                self.attribute(name, of_value=True)

    def attribute(self, name: str, *, of_value: bool) -> None:
        self.attributes.add(Attribute(name, of_value))
        if name in _AGGREGATE_ATTRIBUTES:
            self.unchunkable["an aggregate"] = None

    def see_A_Expr(self, node: Node) -> None:  # noqa: N802
        self.operator(node.value["name"])

    def see_SubLink(self, node: Node) -> None:  # noqa: N802
        self.operator(node.value.get("operName", []))

    def see_SortBy(self, node: Node) -> None:  # noqa: N802
        self.operator(node.value.get("useOp", []))

    def operator(self, parts: list[Tree]) -> None:
        if parts:
            self.operators.add(self.name(names(parts), "operator"))

    def see_TypeName(self, node: Node) -> None:  # noqa: N802
        if node.value.get("setof") or node.value.get("pct_type"):
            raise InvalidQuery(f"{self.field}: SETOF and %TYPE aren't allowed.")
        self.types.add(self.name(names(node.value.get("names", [])), "type"))

    def see_SQLValueFunction(self, node: Node) -> None:  # noqa: N802
        operation = str(node.value["op"])
        if operation in CLOCK_WORDS:
            self.clock(node)
        elif operation not in SESSION_VALUES:
            word = operation.removeprefix("SVFOP_").removesuffix("_N")
            hint = "Use now() or LOCALTIMESTAMP, the moment of the plan."
            if word == "CURRENT_SCHEMA":
                hint = "search_path is empty, so it is NULL."
            raise InvalidQuery(f"{self.field}: {word} isn't allowed.", hint=hint)

    def see_FuncCall(self, node: Node) -> None:  # noqa: N802
        value = node.value
        function = self.name(names(value["funcname"]), "function")
        built_in = function.schema in {"", "pg_catalog"}
        in_from = _stands_in_from(node)
        aggregate_order = value.get("agg_order", [])
        if value.get("over"):
            self.unchunkable["a window function"] = None
        elif (
            (built_in and function.name in AGGREGATES)
            or aggregate_order
            or any(value.get(key) for key in ("agg_filter", "agg_star", "agg_distinct", "agg_within_group"))
        ):
            self.unchunkable["an aggregate"] = None
        if built_in and function.name in SETS and not in_from:
            self.unchunkable["a set-returning function"] = None
        if built_in and function.name in CLOCK_FUNCTIONS and value.keys() <= {"funcname", "funcformat", "location"}:
            self.clock(node)
            return
        arguments = len(value.get("args", []))
        if value.get("agg_within_group"):
            arguments += len(aggregate_order)
        by_syntax = value.get("funcformat") == "COERCE_SQL_SYNTAX"
        self.calls.add(Call(function, arguments, in_from, by_syntax))

    def clock(self, node: Node) -> None:
        if _stands_in_from(node):
            raise InvalidQuery(f"{self.field}: the clock can't stand in FROM.", hint="Write (SELECT now()) AS alias.")
        self.clocks.append(node)


def _stands_in_from(node: Node) -> bool:
    """Tell whether FROM holds this function itself; List nodes lie between."""
    for ancestor in node.ancestors():
        if ancestor.kind != "List":
            return ancestor.kind == "RangeFunction"
    return False
