"""The decoder under AddressSanitizer and UndefinedBehaviorSanitizer: no input makes it read or write beyond its memory.

A program without Python in it (``harness.c``) takes streams, right ones and broken ones, and reads all that comes out.
"""

import shutil
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extraction_worker.source.copy.columns import WireColumn
from extraction_worker.source.copy.library import LIBRARY, Status
from support import copy_streams as cs

HARNESS = Path(__file__).with_name("harness.c")
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1")


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The decoder and its harness, compiled with the sanitizers."""
    compiler = next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)
    if compiler is None:
        pytest.skip("there is no C compiler")
    program = tmp_path_factory.mktemp("harness") / "harness"
    folder = LIBRARY.parent
    sources = [folder / "decode.c", folder / "export.c", HARNESS]
    done = subprocess.run(
        [compiler, "-std=c11", "-D_DEFAULT_SOURCE", *SANITIZERS, f"-I{folder}", "-o", program, *sources],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "cannot find -lasan" in done.stderr or "cannot find -lubsan" in done.stderr:
        pytest.skip("the compiler has no sanitizers")
    assert done.returncode == 0, done.stderr
    return program


def written(columns: Sequence[WireColumn], batch_bytes: int, messages: Sequence[bytes]) -> bytes:
    """Return a stream as the harness takes it."""
    described = b"".join(struct.pack("=iI", column.kind, column.element_oid) for column in columns)
    sent = b"".join(struct.pack("=i", len(message)) + message for message in messages)
    return struct.pack("=i", len(columns)) + described + struct.pack("=ii", batch_bytes, len(messages)) + sent


def run(harness: Path, streams: Sequence[bytes]) -> list[tuple[int, int, int]]:
    """Return status, fault and column of each stream."""
    done = subprocess.run([harness], input=b"".join(streams), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()[-4000:]
    return [tuple(map(int, line.split())) for line in done.stdout.splitlines()]  # type: ignore[misc]


@st.composite
def some_streams(draw: st.DrawFn, *, whole: bool) -> list[bytes]:
    found = []
    # Many in one process: starting one takes longer than decoding.
    for _ in range(draw(st.integers(5, 10))):
        columns, rows = draw(cs.streams())
        sent = cs.messages(rows)
        found.append(
            written(columns, draw(st.sampled_from([1, 20, 1 << 20])), sent if whole else draw(cs.broken(sent)))
        )
    return found


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_right_streams_are_decoded_without_a_fault(harness, data):
    streams = data.draw(some_streams(whole=True))
    assert run(harness, streams) == [(Status.END, 0, -1)] * len(streams)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_broken_streams_end_well_or_malformed(harness, data):
    streams = data.draw(some_streams(whole=False))
    found = run(harness, streams)
    assert len(found) == len(streams)
    assert {status for status, _, _ in found} <= {Status.END, Status.MALFORMED}


def test_what_must_not_happen_would_be_seen(harness):
    done = subprocess.run([harness, "overread"], capture_output=True, check=False)
    assert done.returncode != 0
    assert b"harness.c" in done.stderr
