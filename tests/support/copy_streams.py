"""Streams of binary COPY made by hand, of any columns and values, and broken ones."""

import struct
from collections.abc import Sequence

from hypothesis import strategies as st

from extraction_worker.source.copy.columns import Kind, WireColumn, wire_column

HEADER = b"PGCOPY\n\xff\r\n\x00" + struct.pack("!ii", 0, 0)
TRAILER = struct.pack("!h", -1)
OIDS = (
    16,
    17,
    20,
    21,
    23,
    25,
    700,
    1082,
    1114,
    2950,
    3802,
    1000,
    1001,
    1016,
    1005,
    1007,
    1009,
    1021,
    1182,
    1115,
    2951,
    3807,
)
COMPARABLE_OIDS = (16, 17, 20, 21, 23, 1082, 1114, 2950, 1000, 1001, 1016, 1005, 1007, 1182, 1115, 2951)
"""Of types whose values equal themselves, any bytes at all: no text, which must be UTF-8, and no NaN."""
OIDS = (*COMPARABLE_OIDS, 25, 700, 3802, 1009, 1021, 3807)
WIDTHS = {Kind.WIDTH2: 2, Kind.WIDTH4: 4, Kind.WIDTH8: 8, Kind.UUID: 16, Kind.DATE: 4, Kind.TIMESTAMP: 8}


def field(value: bytes | None) -> bytes:
    """Return a field with its length before it."""
    return struct.pack("!i", -1) if value is None else struct.pack("!i", len(value)) + value


def row(*values: bytes | None) -> bytes:
    """Return a row of fields."""
    return struct.pack("!h", len(values)) + b"".join(map(field, values))


def array(element_oid: int, *values: bytes | None, lower: int = 1, flags: int | None = None) -> bytes:
    """Return an array of one dimension; without values, of none."""
    flags = int(None in values) if flags is None else flags
    head = struct.pack("!iiI", int(bool(values)), flags, element_oid)
    return head + (struct.pack("!ii", len(values), lower) + b"".join(map(field, values)) if values else b"")


def scalars(kind: Kind) -> st.SearchStrategy[bytes]:
    """Return values of a kind as they are sent."""
    if kind is Kind.BOOL:
        return st.sampled_from([b"\x00", b"\x01"])
    if kind is Kind.BYTES:
        return st.binary(max_size=40)
    if kind is Kind.JSONB:
        return st.binary(max_size=40).map(lambda value: b"\x01" + value)
    return st.binary(min_size=WIDTHS[kind], max_size=WIDTHS[kind])


def values(column: WireColumn) -> st.SearchStrategy[bytes | None]:
    """Return values of a column as they are sent, NULL among them."""
    one = scalars(column.kind)
    if column.element_oid:
        one = st.lists(st.none() | one, max_size=5).map(lambda found: array(column.element_oid, *found))
    return st.none() | one


@st.composite
def streams(draw: st.DrawFn, oids: Sequence[int] = OIDS) -> tuple[Sequence[WireColumn], list[list[bytes | None]]]:
    """Return columns and rows of fields."""
    drawn = draw(st.lists(st.sampled_from(oids), max_size=5))
    columns = [wire_column(f"c{index}", oid) for index, oid in enumerate(drawn)]
    rows = draw(st.lists(st.tuples(*map(values, columns)).map(list), max_size=12))
    return columns, rows


def messages(rows: Sequence[Sequence[bytes | None]]) -> list[bytes]:
    """Return the messages in which PostgreSQL sends rows: the header is with the first, the trailer alone."""
    bodies = [*(row(*fields) for fields in rows), TRAILER]
    return [HEADER + bodies[0], *bodies[1:]]


@st.composite
def broken(draw: st.DrawFn, sent: list[bytes]) -> list[bytes]:
    """Return messages with bytes changed, cut out or put in, and messages lost, cut or joined."""
    sent = list(sent)
    for _ in range(draw(st.integers(1, 3))):
        if not sent:
            break
        index = draw(st.integers(0, len(sent) - 1))
        data = sent[index]
        at = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(["change", "cut out", "put in", "length", "lose", "split", "join"])):
            case "change":
                sent[index] = data[:at] + draw(st.binary(min_size=1, max_size=4)) + data[at + 1 :]
            case "cut out":
                sent[index] = data[:at] + data[at + draw(st.integers(1, 8)) :]
            case "put in":
                sent[index] = data[:at] + draw(st.binary(min_size=1, max_size=8)) + data[at:]
            case "length":
                huge = draw(st.sampled_from([-(2**31), -2, -1, 0, 2**16, 2**28, 2**31 - 1]))
                sent[index] = data[:at] + struct.pack("!i", huge) + data[at + 4 :]
            case "lose":
                del sent[index]
            case "split":
                sent[index : index + 1] = [data[:at], data[at:]]
            case "join":
                sent[index : index + 2] = [b"".join(sent[index : index + 2])]
    return sent
