"""Which names of a query carry a sensitive column: text in, names out. Pure; rather too many than too few.

An item of a SELECT list carries what its expression mentions, at any depth; a name that carries something is itself
such a mention for the queries around it. Names are compared without regard to where they are visible. What may be
any column (a whole row ``t``, ``t.*`` within an expression, names that an alias gives to a table's columns) is taken
for a sensitive one.
"""

from collections.abc import Container, Iterator
from typing import Any

from extraction_worker.errors import InvalidManifest
from extraction_worker.source.syntax import Node, encode, names, parse, walk

_ANY = "\0"
"""A mention of what may be any column; no name holds a NUL."""
_ALIASED = frozenset({"RangeVar", "RangeSubselect", "RangeFunction", "RangeTableFunc", "JsonTable", "JoinExpr"})
_TABLES_OF_FUNCTIONS = frozenset({"RangeFunction", "RangeTableFunc", "JsonTable"})
_HINT = "Name the columns one by one (AS), and mask those that are sensitive."


def tainted_names(text: str, sensitive: Container[str]) -> frozenset[str]:
    """Return every name in a query that stands for something made of a sensitive column.

    Parameters
    ----------
    text
        A query that was checked.

    Raises
    ------
    InvalidManifest
        Something is made of one and has no name of its own that a mask could name.
    """
    nodes = list(walk(parse(encode(text, "spec.query"), "spec.query")))
    rows = {name for node in nodes for name in _row_names(node)}
    mentions: dict[Node, set[str]] = {}
    for node in nodes:
        if node.kind == "ColumnRef":
            name = _mentioned(node, rows)
            for holder in _holders(node, is_star=not name):
                mentions.setdefault(holder, set()).add(name or _ANY)
    given = {holder: _given(holder, nodes) for holder in mentions}
    known = {name for mentioned in mentions.values() for name in mentioned if name in sensitive}
    known |= {_ANY}.union(*(_renamed(node) for node in nodes))
    while grown := set[str]().union(*(given[holder] for holder in mentions if mentions[holder] & known)) - known:
        known |= grown
    for holder, mentioned in mentions.items():
        if mentioned & known and not given[holder] and _needs_name(holder):
            raise InvalidManifest(
                "spec.query: a column that is made of a sensitive one (policy.sensitiveColumns of the DataSource) has"
                " no name.",
                hint=_HINT,
            )
    return frozenset(known - {_ANY})


def _row_names(node: Node) -> Iterator[str]:
    """Yield the name by which a whole row can be mentioned."""
    if node.kind in _ALIASED:
        yield _alias(node).get("aliasname") or node.value.get("relname", "")


def _alias(node: Node) -> Any:
    return node.value.get("alias", {})


def _renamed(node: Node) -> set[str]:
    """Return the names that an alias gives to the columns of tables."""
    return set(names(_alias(node).get("colnames", []))) if node.kind in {"RangeVar", "JoinExpr"} else set()


def _mentioned(node: Node, rows: set[str]) -> str:
    """Return the column that a reference means, "" for a star, and :data:`_ANY` for a whole row."""
    parts = names(node.value.get("fields", []))
    last = parts[-1] if parts else ""
    return _ANY if len(parts) == 1 and last in rows else last


def _holders(node: Node, *, is_star: bool) -> Iterator[Node]:
    """Yield what carries the value of a reference, from the inside to the outside."""
    # A star that is an item by itself expands to columns, whose names and origins the server tells; within an
    # expression it is a row, and in a set operation the server tells no origin.
    told = is_star and node.parent is not None and node.parent.kind == "ResTarget"
    is_item = False
    for ancestor in node.ancestors():
        if ancestor.kind == "ResTarget" and ancestor.field == "targetList":
            is_item = True
            if not told:
                yield ancestor
        elif ancestor.kind in _TABLES_OF_FUNCTIONS:
            yield ancestor
        elif is_item and ancestor.kind == "SelectStmt" and "larg" in ancestor.value:
            told = False
            yield ancestor
        elif is_item and not told and ancestor.kind in {"RangeSubselect", "CommonTableExpr"}:
            yield ancestor


def _given(holder: Node, nodes: list[Node]) -> set[str]:
    """Return the names that stand for what is in a holder: its own, or those that its alias lists."""
    value = holder.value
    if holder.kind == "ResTarget":
        return {value.get("name") or _implied(value.get("val", {}))} - {""}
    if holder.kind == "SelectStmt":
        return _first_names(value)
    if holder.kind == "CommonTableExpr":
        return set(names(value.get("aliascolnames", [])))
    found = set(names(_alias(holder).get("colnames", [])))
    if holder.kind in _TABLES_OF_FUNCTIONS:
        # Columns that a function's table has: its alias, and every one that such a table declares.
        found.add(_alias(holder).get("aliasname", ""))
        found |= {node.value.get("colname", "") for node in nodes if node.kind in {"ColumnDef", "RangeTableFuncCol"}}
        found |= {node.value.get("name", "") for node in nodes if node.kind == "JsonTableColumn"}
    return found - {""}


def _first_names(value: Any) -> set[str]:
    """Return the names of a set operation's columns, those of its first SELECT; none where it doesn't list them."""
    while "larg" in value:
        value = value["larg"]
    items = [item.get("ResTarget", {}) for item in value.get("targetList", [])]
    found = [item.get("name") or _implied(item.get("val", {})) for item in items]
    return set(found) if all(found) else set()


def _implied(value: Any) -> str:
    """Return the name that an item without AS has, where it is a column or a call."""
    for kind, field in (("ColumnRef", "fields"), ("FuncCall", "funcname")):
        if kind in value:
            return (names(value[kind].get(field, [])) or [""])[-1]
    if "A_Indirection" in value:
        return (names(value["A_Indirection"].get("indirection", [])) or [""])[-1]
    for kind in ("TypeCast", "CollateClause"):
        if kind in value:
            return _implied(value[kind].get("arg", {}))
    return ""


def _needs_name(holder: Node) -> bool:
    """Whether what has no name becomes a column that somebody reads, and isn't a value of a subquery."""
    if holder.kind not in {"ResTarget", "SelectStmt"}:
        return False
    return not any(ancestor.kind == "SubLink" for ancestor in holder.ancestors())
