"""SQL text → tokens and tree, by PostgreSQL's own scanner and grammar (libpg_query 18, through ``postgast``).

The tree is read from libpg_query's JSON, because Python's protobuf stops at 100 levels: a chain of 45 operators.
JSON names the node only where any node may stand; elsewhere the field's declared type says what it is, so
:func:`walk` reads both from the protobuf descriptors and every node has its type.

Pure: no I/O. Whatever is wrong with a text is an ``InvalidQuery``.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import orjson

from extraction_worker.errors import InvalidQuery

MAX_BYTES = 65_536

Tree = Mapping[str, Any]
"""A message of libpg_query's JSON."""

# Where something stands in the text, which differs between two texts of the same meaning.
_PLACES = frozenset(
    {"location", "name_location", "stmt_location", "stmt_len", "list_start", "list_end", "rexpr_list_start",
     "rexpr_list_end"}
)  # fmt: skip
_COMMENTS = frozenset({"SQL_COMMENT", "C_COMMENT"})
_OPENING = {"ASCII_40": "ASCII_41", "ASCII_91": "ASCII_93"}
_CLOSING = frozenset(_OPENING.values())


class Token(NamedTuple):
    """A token of the scanner: byte offsets and the grammar's name (``ASCII_59`` is ``;``)."""

    start: int
    end: int
    kind: str


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """A node of the tree with its way to the root. Two nodes are equal when they are the same one."""

    kind: str
    """The grammar's name, e.g. ``SelectStmt``."""
    field: str
    """The field of the parent that holds it."""
    value: Tree
    parent: "Node | None"

    @property
    def location(self) -> int:
        """Byte offset in the text, -1 where the parser doesn't know."""
        return int(self.value.get("location", 0))

    def ancestors(self) -> Iterator["Node"]:
        """Yield the parent, its parent and so on."""
        node = self.parent
        while node is not None:
            yield node
            node = node.parent


def encode(text: str, field: str) -> bytes:
    """Return the UTF-8 of a user's text, after what the C library can't be given was refused.

    Raises
    ------
    InvalidQuery
        Longer than 64 KiB, a NUL (the library would stop reading there), or a lone surrogate.
    """
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        raise InvalidQuery(f"{field}: character {error.start + 1} isn't Unicode text.") from None
    if b"\0" in data:
        raise InvalidQuery(f"{field}: it holds a NUL character.")
    if len(data) > MAX_BYTES:
        raise InvalidQuery(
            f"{field}: it has {len(data)} bytes; {MAX_BYTES} are allowed.", hint="Make it a view and read that."
        )
    return data


def position(before: str) -> str:
    """Return ``line L, column C`` of what follows ``before``; columns count characters."""
    return f"line {before.count(chr(10)) + 1}, column {len(before) - before.rfind(chr(10))}"


def _syntax_error(text: str, message: str, place: int, field: str) -> InvalidQuery:
    """Name the place, which PostgreSQL counts in characters from 1."""
    return InvalidQuery(f"{field}: {message} ({position(text[: max(place - 1, 0)])}).")


def scan(data: bytes, field: str) -> list[Token]:
    """Return the tokens without comments.

    Raises
    ------
    InvalidQuery
        An unterminated string, comment or quoted name.
    """
    # Imported where it is used: it takes a tenth of a second, and the job of a plain table has no SQL to parse.
    import postgast

    try:
        result = postgast.scan(data.decode())
    except postgast.PgQueryError as error:
        raise _syntax_error(data.decode(), error.message, error.cursorpos, field) from None
    tokens = (Token(token.start, token.end, _token_kind(token.token)) for token in result.tokens)
    return [token for token in tokens if token.kind not in _COMMENTS]


@cache
def _token_kind(number: int) -> str:
    from postgast import pg_query_pb2

    known = pg_query_pb2.Token.DESCRIPTOR.values_by_number.get(number)
    # Single characters that the grammar has no use for ({, #, control characters) have no name.
    return known.name if known else f"ASCII_{number}"


def refuse_unbalanced(data: bytes, tokens: list[Token], field: str) -> None:
    """Refuse a text that would leave the parentheses around it.

    A text whose tokens are known is in the scanner's first state at its end (only a ``--`` comment can be open, and
    a newline ends it). If its own brackets are balanced at each point, too, then what follows it closes exactly what
    preceded it.

    Raises
    ------
    InvalidQuery
        A bracket without its counterpart.
    """
    expected: list[str] = []
    for token in tokens:
        if token.kind in _OPENING:
            expected.append(_OPENING[token.kind])
        elif token.kind in _CLOSING and (not expected or expected.pop() != token.kind):
            raise InvalidQuery(
                f"{field}: a closing bracket has no opening one ({position(data[: token.start].decode())})."
            )
    if expected:
        raise InvalidQuery(f"{field}: a bracket isn't closed.")


def parse(data: bytes, field: str, *, offset: int = 0) -> Tree:
    """Return the tree of a text: ``{"version": …, "stmts": […]}``.

    Parameters
    ----------
    offset
        Where the user's text begins in ``data``, behind ASCII characters, for the position in messages.

    Raises
    ------
    InvalidQuery
        Not PostgreSQL's syntax, or nested deeper than about 500 levels.
    """
    from postgast import native

    result = native.lib.pg_query_parse(data)
    try:
        if result.error:
            error = result.error.contents
            message = (error.message or b"syntax error").decode(errors="replace")
            raise _syntax_error(data[offset:].decode(), message, error.cursorpos - offset, field)
        raw = result.parse_tree
    finally:
        native.lib.pg_query_free_parse_result(result)
    try:
        raw.decode()
        tree: Tree = orjson.loads(raw)
    except UnicodeDecodeError:
        raise InvalidQuery(f"{field}: a string holds bytes that aren't UTF-8.") from None
    except orjson.JSONDecodeError:
        raise InvalidQuery(
            f"{field}: it is nested too deeply (about 500 levels are allowed).",
            hint="Write a long chain of operators as one function, e.g. concat(…) or x = ANY (ARRAY[…]).",
        ) from None
    return tree


def walk(tree: Tree, kind: str = "ParseResult") -> Iterator[Node]:
    """Yield every node below and including ``tree``, parents first, in the order of the text.

    Raises
    ------
    InvalidQuery
        A field that the descriptors don't know; nothing is passed over.
    """
    stack = [Node(kind, "", tree, None)]
    while stack:
        node = stack.pop()
        yield node
        children: list[Node] = []
        for key, value in node.value.items():
            declared = _message_fields(node.kind).get(key)
            if declared is None:
                raise InvalidQuery(f"{node.kind}.{key} isn't known to this version.")
            if not declared:  # a number, a name
                continue
            for item in value if isinstance(value, list) else (value,):
                if declared != "Node":
                    children.append(Node(declared, key, item, node))
                else:  # {"KIND": {…}}, or {} where a list has a hole
                    children.extend(Node(inner, key, body, node) for inner, body in item.items())
        stack.extend(reversed(children))


@cache
def _message_fields(kind: str) -> Mapping[str, str]:
    """Map each field of a message to the kind of node in it, "" where it holds a plain value."""
    from postgast import pg_query_pb2

    descriptor = pg_query_pb2.DESCRIPTOR.message_types_by_name[kind]
    return {field.json_name: field.message_type.name if field.message_type else "" for field in descriptor.fields}


def names(items: list[Tree]) -> list[str]:
    """Return the strings of a list of String nodes; an empty one for what isn't a String (``*``)."""
    return [item.get("String", {}).get("sval", "") for item in items]


def same(left: Any, right: Any, swapped: Mapping[int, Any] | None = None) -> bool:
    """Compare two trees by all but the places in the text, without recursion.

    Parameters
    ----------
    swapped
        ``id()`` of a node's value on the left → what must stand there on the right instead, as ``{"KIND": {…}}``.
    """
    swapped = swapped or {}
    pairs = [(left, right)]
    while pairs:
        a, b = pairs.pop()
        if isinstance(a, dict) and len(a) == 1:
            a = swapped.get(id(next(iter(a.values()))), a)
        if isinstance(a, dict) and isinstance(b, dict):
            keys = a.keys() - _PLACES
            if keys != b.keys() - _PLACES:
                return False
            pairs.extend((a[key], b[key]) for key in keys)
        elif isinstance(a, list) and isinstance(b, list):
            if len(a) != len(b):
                return False
            pairs.extend(zip(a, b, strict=True))
        elif a != b or type(a) is not type(b):
            return False
    return True


_NOT_DECIMAL = re.compile(rb"[_xXoObB]")


def modern_number(data: bytes, tokens: list[Token]) -> str:
    """Return the first number like ``0x1F`` or ``1_000``, which servers before 16 read otherwise; else ""."""
    for token in tokens:
        text = data[token.start : token.end]
        if token.kind in {"ICONST", "FCONST"} and _NOT_DECIMAL.search(text):
            return text.decode()
    return ""
