"""Our hashes are those of PostgreSQL, asked of real servers."""

import random
import struct
from collections.abc import Iterator

import numpy as np
import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extraction_worker.demo.postgres import PostgresServer
from extraction_worker.verify.hashes import hash_bytes, hash_float64, hash_int64, hash_uint32, hash_words

bounded = settings(max_examples=20, derandomize=True, deadline=None)
Connection = psycopg.Connection[tuple[int]]


@pytest.fixture(scope="module")
def connection(server: PostgresServer) -> Iterator[Connection]:
    with psycopg.connect(server.conninfo(), autocommit=True) as value:
        yield value


def expected(connection: Connection, function: str, array: str, values: list) -> list[int]:
    """Let the server hash each element of an array parameter; as unsigned integers."""
    rows = connection.execute(
        f"SELECT {function} FROM unnest(%s::{array}) WITH ORDINALITY AS u (v, position) ORDER BY position", [values]
    )
    return [value % 2**64 for (value,) in rows]


def ours(values: list[bytes], *, before: bytes = b"") -> list[int]:
    """Hash values that lie end to end behind some other bytes."""
    offsets = np.cumsum([len(before), *map(len, values)])
    return hash_bytes(np.frombuffer(before + b"".join(values), np.uint8), offsets).tolist()


def hash_of_bytea(connection: Connection, values: list[bytes]) -> list[int]:
    # The hash of an array of one value is 31 more than the value's.
    found = expected(connection, "hash_array_extended(ARRAY[v], 0)", "bytea[]", values)
    return [(value - 31) % 2**64 for value in found]


def test_bytes_of_every_length(connection: Connection) -> None:
    source = random.Random(1)
    values = [source.randbytes(length) for length in range(301)]
    assert ours(values) == hash_of_bytea(connection, values)
    source.shuffle(values)
    for shift in range(4):
        assert ours(values, before=b"x" * shift) == hash_of_bytea(connection, values)


@bounded
@given(st.lists(st.binary(max_size=60), min_size=1, max_size=60))
def test_any_bytes(connection: Connection, values: list[bytes]) -> None:
    assert ours(values) == hash_of_bytea(connection, values)


@bounded
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), min_size=1))
def test_any_text(connection: Connection, values: list[str]) -> None:
    found = expected(connection, 'hashtextextended(v COLLATE "C", 0)', "text[]", values)
    assert ours([value.encode() for value in values]) == found


def test_values_of_very_different_lengths(connection: Connection) -> None:
    source = random.Random(2)
    lengths = [0, 1, 11, 12, 13, 95, 96, 97, 5000, 30_000, 60_000] + [source.randrange(200) for _ in range(300)]
    values = [source.randbytes(length) for length in lengths]
    assert ours(values) == hash_of_bytea(connection, values)


@pytest.mark.parametrize("count", [8193, 65537])
def test_more_values_than_are_hashed_together(connection: Connection, count: int) -> None:
    text = "left(md5(i::text) || md5((i + 1)::text), (i * 7919 % 61)::int)"
    rows = connection.execute(
        f"SELECT string_agg({text}, '' ORDER BY i)::text, array_agg(octet_length({text}) ORDER BY i),"  # type: ignore[arg-type]
        f' array_agg(hashtextextended({text} COLLATE "C", 0) ORDER BY i) FROM generate_series(1, {count}) AS i'
    )
    (data, lengths, hashes) = rows.fetchone()  # type: ignore[misc]
    found = hash_bytes(np.frombuffer(data.encode(), np.uint8), np.cumsum([0, *lengths]).astype(np.int32))
    assert found.view(np.int64).tolist() == hashes


def test_no_values() -> None:
    assert hash_bytes(np.empty(0, np.uint8), np.zeros(1, np.int32)).tolist() == []
    assert hash_words(np.empty((0, 4), np.uint32)).tolist() == []


@bounded
@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1))
def test_any_int8(connection: Connection, values: list[int]) -> None:
    assert hash_int64(np.array(values)).tolist() == expected(connection, "hashint8extended(v, 0)", "int8[]", values)


@bounded
@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1))
def test_any_int4(connection: Connection, values: list[int]) -> None:
    found = expected(connection, "hashint4extended(v, 0)", "int4[]", values)
    assert hash_uint32(np.array(values, np.int32).view(np.uint32)).tolist() == found
    assert hash_int64(np.array(values)).tolist() == found


@bounded
@given(st.lists(st.floats(), min_size=1))
def test_any_float8(connection: Connection, values: list[float]) -> None:
    values += [0.0, -0.0, float("nan"), struct.unpack("<d", struct.pack("<Q", 0xFFF8000000000001))[0]]
    assert hash_float64(np.array(values)).tolist() == expected(
        connection, "hashfloat8extended(v, 0)", "float8[]", values
    )


@bounded
@given(st.lists(st.floats(width=32), min_size=1))
def test_any_float4(connection: Connection, values: list[float]) -> None:
    found = expected(connection, "hashfloat4extended(v, 0)", "float4[]", values)
    assert hash_float64(np.array(values, np.float32).astype(np.float64)).tolist() == found


@bounded
@given(st.lists(st.uuids(), min_size=1))
def test_any_uuid(connection: Connection, values: list) -> None:
    words = np.frombuffer(b"".join(value.bytes for value in values), np.uint32).reshape(-1, 4)
    assert hash_words(words).tolist() == expected(connection, "uuid_hash_extended(v, 0)", "uuid[]", values)
