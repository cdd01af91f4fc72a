"""What a format holds of a schema, and the conversion to it.

Parquet and Arrow hold the types of the extractor as they are. CSV and JSON lines hold booleans, integers, floats
and strings; everything else travels as the text of :mod:`extraction_worker.sink.text`. JSON lines have lists, CSV
holds a list as its JSON text.
"""

from typing import Any

import pyarrow as pa

from extraction_worker.errors import InvalidManifest, VerificationFailed
from extraction_worker.model import Format
from extraction_worker.sink.text import Array, json_of, plain_nan, text_of, with_elements

_HELD = (
    pa.types.is_boolean, pa.types.is_signed_integer, pa.types.is_float32, pa.types.is_float64,
    pa.types.is_string, pa.types.is_large_string,
)  # fmt: skip
_SPELLED = (
    pa.types.is_binary, pa.types.is_large_binary, pa.types.is_decimal128, pa.types.is_decimal256, pa.types.is_date32,
)  # fmt: skip


def wire_schema(schema: pa.Schema, file_format: Format) -> pa.Schema:
    """Return the schema that a file of this format holds of ``schema``: the same names, order and nullability.

    Raises
    ------
    InvalidManifest
        A column of a type that the extractor doesn't write; the message names it.
    """
    return pa.schema([field.with_type(_wire_type(field.type, field.name, file_format)) for field in schema])


def to_wire(batch: pa.RecordBatch, file_format: Format) -> pa.RecordBatch:
    """Return ``batch`` in its wire schema; the batch itself where the format holds it as it is.

    Raises
    ------
    InvalidManifest
        As :func:`wire_schema`.
    """
    schema = wire_schema(batch.schema, file_format)
    if _typed(file_format):
        return batch
    columns = [_spelled(column) for column in batch.columns]
    if file_format.type == "CSV":
        columns = [json_of(column) if pa.types.is_list(column.type) else column for column in columns]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def brief(schema: pa.Schema) -> str:
    """Return ``schema`` on one line, for messages."""
    return ", ".join(f'"{field.name}" {field.type}{"" if field.nullable else " not null"}' for field in schema)


def require_schema(found: pa.Schema, expected: pa.Schema) -> None:
    """Refuse a file of another schema: names, order, types, nullability.

    Raises
    ------
    VerificationFailed
        With both schemas.
    """
    if not found.equals(expected):
        raise VerificationFailed(f"The file has the columns {brief(found)}, not {brief(expected)}.")


def _typed(file_format: Format) -> bool:
    return file_format.type in {"Parquet", "Arrow"}


def _wire_type(kind: Any, name: str, file_format: Format) -> Any:
    if pa.types.is_list(kind):
        element = _wire_type(kind.value_type, name, file_format)
        return pa.string() if file_format.type == "CSV" else kind if _typed(file_format) else pa.list_(element)
    if any(holds(kind) for holds in _HELD):
        return kind
    spelled = any(holds(kind) for holds in _SPELLED) or isinstance(kind, pa.UuidType)
    moment = (pa.types.is_timestamp(kind) or pa.types.is_time64(kind)) and kind.unit == "us"
    if spelled or moment:
        return kind if _typed(file_format) else pa.string()
    raise InvalidManifest(
        f'Column "{name}" has the Arrow type {kind}, which {file_format.type} files of this program can\'t hold.',
        hint="Select an expression of another type, such as a cast to text.",
    )


def _spelled(array: Array) -> Array:
    """Return ``array`` as JSON lines hold it."""
    kind = array.type
    if pa.types.is_list(kind):
        return with_elements(array, _spelled(array.flatten()))
    if pa.types.is_floating(kind):
        return plain_nan(array)
    return array if any(holds(kind) for holds in _HELD) else text_of(array)
