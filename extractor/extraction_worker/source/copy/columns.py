"""What arrives for each type that our SELECT lists cast to: how it is decoded, and as which Arrow type. Pure.

Types are told by OID, which is fixed for these in every PostgreSQL (``pg_type.dat``): nothing is looked up in a
catalog, and a user's type of the same name is another type.
"""

from dataclasses import dataclass
from enum import IntEnum

import pyarrow as pa

from extraction_worker.errors import UnsupportedSource


class Kind(IntEnum):
    """``enum pgcopy_kind``."""

    BOOL = 0
    WIDTH2 = 1
    WIDTH4 = 2
    WIDTH8 = 3
    UUID = 4
    DATE = 5
    TIMESTAMP = 6
    BYTES = 7
    JSONB = 8


@dataclass(frozen=True)
class WireColumn:
    """A column of the stream. ``element_oid`` is that of an array's elements, 0 of any other type."""

    name: str
    kind: Kind
    arrow: pa.DataType
    element_oid: int = 0


# OID, OID of the array, kind, Arrow type. Kept for reading: as in pg_type.dat.
_TYPES = (
    (16, 1000, Kind.BOOL, pa.bool_()),
    (17, 1001, Kind.BYTES, pa.binary()),
    (19, 1003, Kind.BYTES, pa.string()),  # name
    (20, 1016, Kind.WIDTH8, pa.int64()),
    (21, 1005, Kind.WIDTH2, pa.int16()),
    (23, 1007, Kind.WIDTH4, pa.int32()),
    (25, 1009, Kind.BYTES, pa.string()),  # text
    (114, 199, Kind.BYTES, pa.json_()),
    (700, 1021, Kind.WIDTH4, pa.float32()),
    (701, 1022, Kind.WIDTH8, pa.float64()),
    (1042, 1014, Kind.BYTES, pa.string()),  # bpchar
    (1043, 1015, Kind.BYTES, pa.string()),  # varchar
    (1082, 1182, Kind.DATE, pa.date32()),
    (1083, 1183, Kind.WIDTH8, pa.time64("us")),
    (1114, 1115, Kind.TIMESTAMP, pa.timestamp("us")),
    (1184, 1185, Kind.TIMESTAMP, pa.timestamp("us", tz="UTC")),
    (2950, 2951, Kind.UUID, pa.uuid()),
    (3802, 3807, Kind.JSONB, pa.json_()),
)
_SCALARS = {oid: (kind, arrow) for oid, _, kind, arrow in _TYPES}
_ARRAYS = {array: (oid, kind, arrow) for oid, array, kind, arrow in _TYPES}


def wire_column(name: str, oid: int) -> WireColumn:
    """Return how a column of the type with this OID arrives.

    Raises
    ------
    UnsupportedSource
        No type that is decoded has this OID.
    """
    if (scalar := _SCALARS.get(oid)) is not None:
        return WireColumn(name, *scalar)
    if (array := _ARRAYS.get(oid)) is not None:
        element_oid, kind, arrow = array
        return WireColumn(name, kind, pa.list_(arrow), element_oid)
    raise UnsupportedSource(
        f"Column {name!r} arrives as a type (OID {oid}) that isn't decoded.", hint="Cast it, e.g. to text."
    )
