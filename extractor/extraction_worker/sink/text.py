"""Values as text: how CSV and JSON lines spell what they have no type for, and JSON for any value. All vectorised.

One spelling for both formats, made for readers and exact for the decoder (docs/formats.md):

==================  ===========================================================================================
uuid                ``6f1c0f5e-…``, 36 characters, lower case
binary              base64 with padding (RFC 4648)
decimal             plain digits with all of the scale, never an exponent: ``-0.00000012``
date                ``2026-11-22``; beyond the years 1 to 9999 as ISO 8601 expands: ``+294246-12-31``, ``-4712-01-01``
time                ``23:59:59.999999``
timestamp           ``2026-11-22T02:34:17.123456``, with time zone always UTC: ``…Z``
==================  ===========================================================================================
"""  # fmt: skip

import base64
from collections.abc import Callable
from datetime import date
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

Array = Any
"""A ``pa.Array``; pyarrow ships no types."""

_UNIX_EPOCH = date(1970, 1, 1).toordinal()
_FIRST_DAY, _END_DAY = 1 - _UNIX_EPOCH, date(9999, 12, 31).toordinal() + 1 - _UNIX_EPOCH
_DAYS_OF_400_YEARS = 146_097
_MICROSECONDS_OF_DAY = 86_400_000_000
_HEX = np.frombuffer("".join(f"{byte:02x}" for byte in range(256)).encode(), np.uint8).reshape(256, 2)
_UUID_GROUPS = ((0, 4, 0), (4, 6, 9), (6, 8, 14), (8, 10, 19), (10, 16, 24))
"""Bytes from, to, and the character at which they start."""


def text_of(array: Array) -> Array:
    """Return the values of a uuid, binary, decimal, date, time or timestamp array as strings; nulls stay nulls."""
    kind = array.type
    if isinstance(kind, pa.UuidType):
        return _uuid_text(array)
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        encoded = [None if value is None else base64.b64encode(value).decode() for value in array.to_pylist()]
        return pa.array(encoded, pa.string())
    if pa.types.is_decimal(kind):
        return _decimal_text(array)
    if pa.types.is_date32(kind):
        return _expand_years(array.cast(pa.string()), array.view(pa.int32()), 1, _iso_date)
    if pa.types.is_time64(kind):
        return array.cast(pa.string())
    return _timestamp_text(array)


def plain_nan(array: Array) -> Array:
    """Return a float array with every NaN the same: text has one NaN, without sign and payload."""
    nan = pc.is_nan(array)
    if not pc.any(nan).as_py():
        return array
    return pc.if_else(nan, pa.scalar(float("nan"), array.type), array)


def with_elements(array: Array, elements: Array) -> Array:
    """Return a list array of the same lengths and nulls as ``array`` with these elements, end to end."""
    offsets = np.zeros(len(array) + 1, np.int32)
    np.cumsum(pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False), out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), elements, mask=array.is_null())


def json_of(array: Array) -> Array:
    """Return each value as a JSON text; nulls stay nulls, inside lists they are ``null``.

    JSON has no NaN and no infinities; they are the strings ``"NaN"``, ``"Infinity"``, ``"-Infinity"``, as
    PostgreSQL's ``to_json`` has them.
    """
    kind = array.type
    if pa.types.is_list(kind):
        return _json_lists(array)
    if pa.types.is_floating(kind):
        return _json_floats(array)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _json_strings(array.cast(pa.string()))
    return array.cast(pa.string())


def _uuid_text(array: Array) -> Array:
    storage = array.storage
    length = len(storage)
    if storage.null_count == length:
        return pa.nulls(length, pa.string())
    raw = np.frombuffer(storage.buffers()[1], np.uint8, length * 16, storage.offset * 16).reshape(length, 16)
    text = np.full((length, 36), ord("-"), np.uint8)
    for first, end, at in _UUID_GROUPS:
        text[:, at : at + 2 * (end - first)] = _HEX[raw[:, first:end]].reshape(length, -1)
    offsets = np.arange(0, 36 * length + 1, 36, dtype=np.int32)
    strings = pa.StringArray.from_buffers(length, pa.py_buffer(offsets), pa.py_buffer(text))
    return pc.if_else(storage.is_valid(), strings, None)


def _decimal_text(array: Array) -> Array:
    """Spell the unscaled integers and set the point: Arrow's own cast writes small values as ``1E-9``."""
    kind = array.type
    integer = (pa.decimal128 if kind.bit_width == 128 else pa.decimal256)(kind.precision, 0)
    unscaled = pa.Array.from_buffers(integer, len(array), array.buffers(), offset=array.offset).cast(pa.string())
    if kind.scale == 0:
        return unscaled
    digits = pc.ascii_lpad(pc.ascii_ltrim(unscaled, "-"), kind.scale + 1, "0")
    pointed = pc.binary_replace_slice(digits, -kind.scale, -kind.scale, ".")
    sign = pc.if_else(pc.starts_with(unscaled, "-"), "-", "")
    return pc.binary_join_element_wise(sign, pointed, "")


def _timestamp_text(array: Array) -> Array:
    # With a time zone the values are UTC already, and Arrow's cast of a zoned timestamp takes 17 times as long.
    naive = array.view(pa.timestamp("us"))
    spelled = pc.binary_replace_slice(naive.cast(pa.string()), 10, 11, "T")
    spelled = _expand_years(spelled, array.view(pa.int64()), _MICROSECONDS_OF_DAY, _iso_timestamp)
    return spelled if array.type.tz is None else pc.binary_join_element_wise(spelled, "Z", "")


def _expand_years(spelled: Array, raw: Array, units_of_day: int, iso: Callable[[int], str]) -> Array:
    """Replace what Arrow can't spell: it knows the years 1 to 9999, and goes wrong beyond 32767."""
    early, late = pc.less(raw, _FIRST_DAY * units_of_day), pc.greater_equal(raw, _END_DAY * units_of_day)
    outside = pc.fill_null(pc.or_(early, late), False)
    if not pc.any(outside).as_py():
        return spelled
    return pc.replace_with_mask(spelled, outside, pa.array(map(iso, raw.filter(outside).to_pylist()), pa.string()))


def _iso_date(days: int) -> str:
    # The Gregorian calendar repeats every 400 years, and Python's dates know the years 1 to 9999.
    cycles, rest = divmod(days + _UNIX_EPOCH - 1, _DAYS_OF_400_YEARS)
    day = date.fromordinal(rest + 1)
    year = day.year + 400 * cycles
    sign = "-" if year < 0 else "+" if year > 9999 else ""
    return f"{sign}{abs(year):04d}-{day.month:02d}-{day.day:02d}"


def _iso_timestamp(micros: int) -> str:
    days, rest = divmod(micros, _MICROSECONDS_OF_DAY)
    seconds, fraction = divmod(rest, 1_000_000)
    return f"{_iso_date(days)}T{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{fraction:06d}"


def _json_floats(array: Array) -> Array:
    # Shortest digits that read back to the same bits. "-0" is an integer to some parsers, and loses its sign there.
    tokens = array.cast(pa.string())
    tokens = pc.if_else(pc.equal(tokens, "-0"), "-0.0", tokens)
    if pc.all(pc.is_finite(array)).as_py() is False:
        for value, name in (("nan", '"NaN"'), ("inf", '"Infinity"'), ("-inf", '"-Infinity"')):
            tokens = pc.if_else(pc.equal(tokens, value), name, tokens)
    return tokens


def _json_strings(array: Array) -> Array:
    special = pc.match_substring_regex(array, r'["\\\x00-\x1f]')
    quoted = pc.binary_join_element_wise('"', array, '"', "")
    if not pc.any(special).as_py():
        return quoted
    special = pc.fill_null(special, False)
    escaped = [orjson.dumps(value).decode() for value in array.filter(special).to_pylist()]
    return pc.replace_with_mask(quoted, special, pa.array(escaped, pa.string()))


def _json_lists(array: Array) -> Array:
    joined = pc.binary_join(with_elements(array, pc.fill_null(json_of(array.flatten()), "null")), ",")
    return pc.binary_join_element_wise("[", joined, "]", "")
