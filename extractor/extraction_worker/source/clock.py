"""Readings of the transaction's clock become the moment of the plan, by editing the user's text. Pure.

``now()`` differs per transaction, so that each chunk would see another one. The text is edited at the places that
the parser names; the edited text is parsed again and may differ from the first one there and nowhere else.
"""

from datetime import UTC, datetime
from functools import lru_cache

from extraction_worker.errors import InvalidQuery
from extraction_worker.source.syntax import Node, Token, Tree, names, parse, same, scan
from extraction_worker.source.vocabulary import CLOCK_WORDS

_MICROSECONDS = 6


def fix_clock(
    data: bytes, tree: Tree, clocks: tuple[Node, ...], planned_at: datetime, field: str
) -> tuple[bytes, Tree]:
    """Return the text with typed literals of ``planned_at``, in UTC, where it read the clock, and its tree.

    A literal is ``pg_catalog.timestamptz '…'``: as much one word of the grammar as the call was. Where the reading
    may give an output column its name (``SELECT now()``), it is ``(SELECT … AS "now")``, which gives it, too.

    Parameters
    ----------
    tree
        The parse of ``data``.
    clocks
        Nodes of ``tree``.

    Raises
    ------
    InvalidQuery
        A clock where the grammar allows no literal.
    ValueError
        ``planned_at`` has no time zone: it would be taken for this machine's.
    """
    if planned_at.tzinfo is None:
        raise ValueError("planned_at has no time zone")
    if not clocks:
        return data, tree
    tokens = scan(data, field)
    index = {token.start: number for number, token in enumerate(tokens)}
    pieces: list[bytes] = []
    copied = 0
    swapped = {}
    for node in sorted(clocks, key=lambda node: node.location):
        literal = _literal(node, planned_at)
        swapped[id(node.value)] = _parsed(literal)
        start, end = _extent(node, tokens, index)
        pieces += [data[copied:start], f" {literal} ".encode()]
        copied = end
    edited = b"".join([*pieces, data[copied:]])
    edited_tree = parse(edited, field)
    if not same(tree, edited_tree, swapped):
        raise InvalidQuery(f"{field}: the clock can't be read here.", hint="Write a literal instead.")
    return edited, edited_tree


@lru_cache(maxsize=64)
def _parsed(literal: str) -> Tree:
    """Return the node of a literal, as ``{"KIND": {…}}``."""
    statement = parse(f"SELECT {literal}".encode(), "now()")["stmts"][0]["stmt"]["SelectStmt"]
    node: Tree = statement["targetList"][0]["ResTarget"]["val"]
    return node


def _literal(node: Node, planned_at: datetime) -> str:
    moment = planned_at.astimezone(UTC)
    operation = node.value.get("op", "")
    name = CLOCK_WORDS.get(operation) or names(node.value["funcname"])[-1]
    precision = f"({min(node.value.get('typmod', 0), _MICROSECONDS)})" if operation.endswith("_N") else ""
    if name == "current_date":
        literal = f"pg_catalog.date '{moment:%Y-%m-%d}'"
    elif name == "localtimestamp":
        literal = f"pg_catalog.timestamp{precision} '{moment:%Y-%m-%d %H:%M:%S.%f}'"
    else:
        literal = f"pg_catalog.timestamptz{precision} '{moment:%Y-%m-%d %H:%M:%S.%f}+00'"
    return f'(SELECT {literal} AS "{name}")' if _may_name_a_column(node) else literal


def _may_name_a_column(node: Node) -> bool:
    """Tell whether the node lies in an output column without an alias; its name may come from anywhere below."""
    for ancestor in node.ancestors():
        if ancestor.kind == "ResTarget":
            return ancestor.field == "targetList" and "name" not in ancestor.value
    return False


def _extent(node: Node, tokens: list[Token], index: dict[int, int]) -> tuple[int, int]:
    """Return the byte offsets of a clock's words, with its parentheses."""
    first = last = index[node.location]
    if node.kind == "FuncCall" or str(node.value["op"]).endswith("_N"):
        while tokens[last].kind != "ASCII_41":
            last += 1
    return tokens[first].start, tokens[last].end
