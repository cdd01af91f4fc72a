"""Decoding streams made by hand: what comes out, and what is refused, by its column."""

import datetime as dt
import gc
import struct

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extraction_worker.errors import SourceUnavailable, UnsupportedSource
from extraction_worker.source.copy import library
from extraction_worker.source.copy.columns import wire_column
from extraction_worker.source.copy.library import Decoder
from support.copy_streams import COMPARABLE_OIDS, HEADER, TRAILER, array, messages, row, streams

TEXT, INT4, BOOL, JSONB, INT4_ARRAY, TEXT_ARRAY = 25, 23, 16, 3802, 1007, 1009


def decode(oids, sent, *, batch_bytes=1 << 20, finish=True) -> list[pa.RecordBatch]:
    decoder = Decoder([wire_column(f"c{index}", oid) for index, oid in enumerate(oids)], batch_bytes)
    try:
        batches = [batch for message in sent for batch in decoder.decode(message)]
        if finish:
            decoder.finish()
        assert decoder.rows == sum(batch.num_rows for batch in batches)
    finally:
        decoder.close()
    for batch in batches:
        batch.validate(full=True)
    return batches


def one_row(oid, value):
    [batch] = decode([oid], [HEADER + row(value) + TRAILER])
    return batch.column(0)[0].as_py()


def test_values_of_every_kind():
    assert one_row(BOOL, b"\x01") is True
    assert one_row(INT4, struct.pack("!i", -7)) == -7
    assert one_row(1082, struct.pack("!i", 0)) == dt.date(2000, 1, 1)
    assert one_row(1114, struct.pack("!q", 1)) == dt.datetime(2000, 1, 1, 0, 0, 0, 1)  # noqa: DTZ001
    assert one_row(TEXT, "ü".encode()) == "ü"
    assert one_row(JSONB, b'\x01{"a": 1}') == '{"a": 1}'
    assert one_row(INT4_ARRAY, array(INT4, struct.pack("!i", 5), None)) == [5, None]
    assert one_row(TEXT_ARRAY, array(TEXT)) == []
    assert one_row(TEXT_ARRAY, None) is None


@settings(max_examples=100, deadline=None)
@given(streams(COMPARABLE_OIDS), st.sampled_from([1, 30]))
def test_batches_are_the_same_rows_whatever_their_size(stream, batch_bytes):
    columns, rows = stream
    tables = []
    for size in (batch_bytes, 1 << 30):
        decoder = Decoder(columns, size)
        batches = [batch for message in messages(rows) for batch in decoder.decode(message)]
        decoder.finish()
        decoder.close()
        tables.append(pa.Table.from_batches(batches, pa.schema([(column.name, column.arrow) for column in columns])))
    assert tables[0].num_rows == len(rows)
    assert tables[0].equals(tables[1])


def test_rows_are_whole_in_messages_of_several_and_batches_of_one():
    rows = [row(str(number).encode()) for number in range(100)]
    batches = decode([TEXT], [HEADER + b"".join(rows) + TRAILER], batch_bytes=1)
    assert [batch.num_rows for batch in batches] == [1] * 100
    assert [batch.column(0)[0].as_py() for batch in batches] == [str(number) for number in range(100)]


def test_a_table_without_rows_gives_no_batch():
    assert decode([TEXT], [HEADER + TRAILER]) == []


def test_batches_live_longer_than_their_decoder():
    batches = decode([TEXT, TEXT_ARRAY], [HEADER + row(b"a" * 1000, array(TEXT, b"b")), TRAILER])
    gc.collect()
    assert batches[0].to_pylist() == [{"c0": "a" * 1000, "c1": ["b"]}]
    assert batches[0].nbytes > 1000


int4 = struct.pack("!i", 1)


@pytest.mark.parametrize(
    ("oids", "sent", "message"),
    [
        ([TEXT], b"PGCOPY\n\xff\r\n\x01" + HEADER[11:], "doesn't begin"),
        ([TEXT], HEADER[:12], "doesn't begin"),
        ([TEXT], HEADER[:11] + struct.pack("!ii", 1 << 16, 0), "extension"),
        ([TEXT], HEADER[:11] + struct.pack("!ii", 0, 5), "doesn't begin"),
        ([TEXT], HEADER + row(b"a", b"b"), "another number of fields"),
        ([TEXT], HEADER + struct.pack("!h", -2), "another number of fields"),
        ([TEXT, TEXT], HEADER + row(b"a", b"bcd")[:-1], "column 'c1': a message ends within a row"),
        ([TEXT, TEXT], HEADER + row(b"a", b"bcd")[:-5], "column 'c1': a message ends within a row"),
        ([TEXT], HEADER + row(b"a")[:1], "a message ends within a row"),
        ([TEXT], HEADER + struct.pack("!hi", 1, -2), "column 'c0': a message ends within a row"),
        ([TEXT, INT4], HEADER + row(b"a", b"bcd"), "column 'c1': a field has another width"),
        ([BOOL], HEADER + row(b"\x00\x00"), "column 'c0': a field has another width"),
        ([BOOL], HEADER + row(b"\x02"), "column 'c0': a field has a value"),
        ([JSONB], HEADER + row(b"\x02{}"), "column 'c0': a field has a value"),
        ([JSONB], HEADER + row(b""), "column 'c0': a field has a value"),
        ([INT4_ARRAY], HEADER + row(b"abc"), "column 'c0': an array isn't laid out"),
        ([INT4_ARRAY], HEADER + row(array(INT4, int4, flags=2)), "column 'c0': an array isn't laid out"),
        ([INT4_ARRAY], HEADER + row(array(INT4, None, flags=0)), "column 'c0': an array isn't laid out"),
        ([INT4_ARRAY], HEADER + row(array(INT4, int4)[:-1]), "column 'c0': an array isn't laid out"),
        ([INT4_ARRAY], HEADER + row(array(INT4, int4)[:-5]), "column 'c0': an array isn't laid out"),
        ([INT4_ARRAY], HEADER + row(array(INT4, int4)[:14]), "column 'c0': an array isn't laid out"),
        ([INT4_ARRAY], HEADER + row(array(INT4, int4) + b"x"), "column 'c0': an array isn't laid out"),
        ([INT4_ARRAY], HEADER + row(array(INT4, b"abc")), "column 'c0': a field has another width"),
        ([INT4_ARRAY], HEADER + row(array(INT4, int4, lower=0)), "column 'c0': an array has several dim"),
        ([INT4_ARRAY], HEADER + row(struct.pack("!iiI", 2, 0, INT4)), "column 'c0': an array has several dim"),
        ([INT4_ARRAY], HEADER + row(array(20, int4)), "column 'c0': an array has elements of another type"),
        ([TEXT], HEADER + TRAILER + row(b"a"), "something follows the end"),
        ([TEXT], HEADER + TRAILER + TRAILER, "something follows the end"),
    ],
)
def test_what_is_not_as_postgresql_sends_it_is_refused_by_column(oids, sent, message):
    with pytest.raises(UnsupportedSource, match=message):
        decode(oids, [sent])


def test_nothing_is_taken_after_a_fault():
    decoder = Decoder([wire_column("a", TEXT)], 1)
    for _ in range(2):
        with pytest.raises(UnsupportedSource, match="doesn't begin"):
            decoder.decode(b"x" * 30)
    with pytest.raises(SourceUnavailable, match="doesn't begin"):
        decoder.finish()
    decoder.close()
    decoder.close()


def test_a_stream_without_the_mark_of_its_end_is_not_complete():
    with pytest.raises(SourceUnavailable, match="without the mark of its end"):
        decode([TEXT], [HEADER + row(b"a")])


def test_a_type_that_is_not_decoded_is_named():
    with pytest.raises(UnsupportedSource, match=r"'amount'.*1700"):
        wire_column("amount", 1700)


def test_a_library_of_another_interface_or_none_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(library, "_INTERFACE", 999)
    with pytest.raises(UnsupportedSource, match=r"999 is needed.*pip install"):
        library._library.__wrapped__()
    monkeypatch.setattr(library, "LIBRARY", tmp_path / "none.so")
    with pytest.raises(UnsupportedSource, match=r"isn't there.*pip install"):
        library._library.__wrapped__()


def test_a_libpq_that_cannot_be_found_is_told(monkeypatch):
    def nothing():
        raise OSError("no such library")

    monkeypatch.setattr(library, "_psycopgs_libpq", nothing)
    with pytest.raises(UnsupportedSource, match=r"no such library.*psycopg\[binary\]"):
        library._libpq.__wrapped__()
