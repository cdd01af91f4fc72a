"""Half a file is never a file: whatever fails, the bytes left behind are the beginning of the file and no more."""

import gc
import io
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import ipc

from extraction_worker.errors import SinkFull, SinkUnavailable, VerificationFailed
from extraction_worker.model import Format
from extraction_worker.sink.formats import Encoder, footer_rows, to_wire
from extraction_worker.sink.gate import Gate
from support.encoding import ENDED, FORMATS, Recorder, cut, decoded, encoded, many_rows, name_of, opened

each_format = pytest.mark.parametrize("file_format", FORMATS, ids=name_of)
each_ended = pytest.mark.parametrize("file_format", ENDED, ids=name_of)
GROUPS: dict[str, Any] = {"row_group_bytes": 20_000}
ROWS = many_rows(400)
SECRET = "the value of a row"


def write_all(encoder: Encoder, file_format: Format) -> None:
    for piece in cut(ROWS, 90):
        encoder.write(to_wire(piece, file_format))


def encode(file_format: Format, stream: Recorder) -> None:
    encoder = opened(file_format, ROWS.schema, stream, **GROUPS)
    write_all(encoder, file_format)
    encoder.finish()


def refused(file_format: Format, data: bytes) -> bool:
    """Whether our decoder, and a reader that isn't ours, find that ``data`` is no whole file."""
    with pytest.raises(VerificationFailed):
        decoded(file_format, ROWS.schema, data)
    readers: dict[str, Callable[[], object]] = {
        "Parquet": lambda: pq.read_table(io.BytesIO(data)),
        "Arrow": lambda: ipc.open_file(io.BytesIO(data)).read_all(),
        "CSV": lambda: pa.CompressedInputStream(io.BytesIO(data or b"x"), file_format.compression).read(),
    }
    with pytest.raises((pa.ArrowException, OSError, EOFError)):
        readers.get(file_format.type, readers["CSV"])()
    return True


@each_format
@pytest.mark.parametrize("end", ["abort", "drop"])
def test_a_stream_that_fails_at_any_byte_keeps_a_beginning_without_an_end(file_format: Format, end: str) -> None:
    whole = encoded(file_format, ROWS.schema, cut(ROWS, 90), **GROUPS)
    size = len(whole)
    streams: dict[int, Recorder] = {}
    for limit in {0, 1, 3, 4, 7, 8, 9, *range(0, size, size // 12), *range(size - 12, size)}:
        streams[limit] = stream = Recorder(limit, SinkFull("full"))
        encoder: Encoder | None = None
        try:
            encoder = opened(file_format, ROWS.schema, stream, **GROUPS)
            write_all(encoder, file_format)
            encoder.finish()
            pytest.fail(f"the error at byte {limit} was lost")
        except SinkFull:
            pass
        stream.limit = None
        if encoder is not None and end == "abort":
            encoder.abort()
    encoder = None
    gc.collect()
    for limit, stream in streams.items():
        assert bytes(stream.taken) == whole[:limit]
        assert file_format not in ENDED or refused(file_format, whole[:limit])


@each_format
@pytest.mark.parametrize("end", ["abort", "drop", "error", "interrupt"])
def test_an_unfinished_encoder_leaves_no_end_behind(file_format: Format, end: str) -> None:
    whole = encoded(file_format, ROWS.schema, cut(ROWS, 90), **GROUPS)
    stream = Recorder()
    encoder: Encoder | None = opened(file_format, ROWS.schema, stream, **GROUPS)
    assert encoder is not None
    write_all(encoder, file_format)
    if end == "abort":
        encoder.abort()
    elif end == "error":
        with pytest.raises(Exception, match="schema"):
            encoder.write(pa.record_batch({"other": [1]}))
    elif end == "interrupt":
        stream.limit, stream.error = len(stream.taken), KeyboardInterrupt()
        with pytest.raises(KeyboardInterrupt):
            encoder.finish()
        stream.limit = None
    encoder = None
    gc.collect()
    assert whole.startswith(stream.taken)
    assert len(stream.taken) < len(whole)
    assert file_format not in ENDED or refused(file_format, bytes(stream.taken))


@each_format
def test_a_stream_that_takes_less_than_it_is_given_is_an_error(file_format: Format) -> None:
    class Short(Recorder):
        def write(self, data: bytes | memoryview) -> int:
            return super().write(data) - 1

    with pytest.raises(SinkUnavailable, match=r"took \d+ of \d+ bytes"):
        encode(file_format, Short())


def test_a_gate_passes_nothing_outside_of_a_call_and_nothing_after_an_error() -> None:
    stream = Recorder()
    gate = Gate(stream)
    assert gate.write(b"a destructor's") == 14
    with gate.passing():
        gate.write(b"passed")
    stream.limit, stream.error = 6, SinkFull("full")
    with gate.passing(), pytest.raises(SinkFull):
        gate.write(b"refused")
    stream.limit = None
    with pytest.raises(RuntimeError, match="failed"), gate.passing():
        pass
    gate.flush()
    gate.close()
    assert (bytes(stream.taken), gate.tell(), gate.closed) == (b"passed", 6, False)
    assert (gate.readable(), gate.writable(), gate.seekable()) == (False, True, False)


def test_a_failed_stream_gets_nothing_more_even_if_its_error_was_swallowed() -> None:
    stream = Recorder(0, SinkFull("full"))
    gate = Gate(stream)

    def write_twice() -> None:
        with gate.passing():
            with pytest.raises(SinkFull):
                gate.write(b"first")
            stream.limit = None
            gate.write(b"second")

    with pytest.raises(RuntimeError, match="failed before"):
        write_twice()
    assert stream.taken == b""


@each_ended
def test_a_file_cut_short_or_with_something_behind_it_is_refused(file_format: Format) -> None:
    whole = encoded(file_format, ROWS.schema, [ROWS])
    for size in {0, 1, 2, 10, len(whole) // 2, len(whole) - 9, len(whole) - 1}:
        assert refused(file_format, whole[:size])
    with pytest.raises(VerificationFailed):
        decoded(file_format, ROWS.schema, whole + b"something")


@each_ended
def test_a_footer_that_is_not_whole_is_an_error(file_format: Format) -> None:
    if file_format.type in {"Parquet", "Arrow"}:
        with pytest.raises(VerificationFailed, match=f"as {file_format.type}"):
            footer_rows(file_format, io.BytesIO(encoded(file_format, ROWS.schema, [ROWS])[:-1]))


@pytest.mark.parametrize("file_format", [one for one in FORMATS if one not in ENDED], ids=name_of)
def test_plain_text_that_ends_within_a_row_is_refused(file_format: Format) -> None:
    whole = encoded(file_format, ROWS.schema, [ROWS])
    for size in range(len(whole) - 30, len(whole)):
        with pytest.raises(VerificationFailed, match="ends in the middle"):
            decoded(file_format, ROWS.schema, whole[:size])


@pytest.mark.parametrize(
    "text",
    [b'{"n":1}', b'{"n":"x","s":"y"}', b'{"s":"a","n":1}', b'{"n":1,"s":"a","t":1}', b"[]", b"null", b"",
     b'{"n":1.5,"s":""}', b'{"n":true,"s":""}', b'{"n":99999999999999999999,"s":""}', b"{",
     b'{"n":1,"s":2}', b'{"n":1,"s":"\xff"}'],
)  # fmt: skip
def test_json_of_another_shape_is_refused_without_a_word_of_its_values(text: bytes) -> None:
    schema = pa.schema([("n", pa.int64()), ("s", pa.string())])
    good = f'{{"n":1,"s":"{SECRET}"}}\n'.encode()
    with pytest.raises(VerificationFailed) as caught:
        decoded(Format(type="JSONL", compression="none"), schema, good + text + b"\n")
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("text", ["1\n", '1,"a",2\n', '"x","y"\n', ",,,\n", "1.5,\n", '1,"\udcff"\n'])
def test_csv_of_another_shape_is_refused_without_a_word_of_its_values(text: str) -> None:
    schema = pa.schema([("n", pa.int64()), ("s", pa.string())])
    good = f'"n","s"\n1,"{SECRET}"\n'
    data = (good + text).encode(errors="surrogateescape")
    with pytest.raises(VerificationFailed) as caught:
        decoded(Format(type="CSV", compression="none"), schema, data)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


@each_format
def test_no_garbage_is_decoded_and_none_escapes_as_another_error(file_format: Format) -> None:
    @settings(
        max_examples=25, deadline=None, database=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
    )
    @given(st.binary(min_size=1, max_size=200))
    def check(garbage: bytes) -> None:
        with pytest.raises(VerificationFailed):
            decoded(file_format, ROWS.schema, garbage)

    check()


def test_an_arrow_file_with_damaged_offsets_is_refused_not_followed() -> None:
    batch = pa.record_batch({"text": ["some", "text", "in", "a", "row"]})
    data = bytearray(encoded(Format(type="Arrow", compression="none"), batch.schema, [batch]))
    offsets = batch["text"].buffers()[1].to_pybytes()[:24]
    at = data.index(offsets) + 8
    data[at : at + 4] = (1 << 30).to_bytes(4, "little")
    with pytest.raises(VerificationFailed, match="as Arrow"):
        decoded(Format(type="Arrow", compression="none"), batch.schema, bytes(data))
