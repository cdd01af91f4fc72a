"""Compression of text files as one stream, deterministic: the same text gives the same bytes, however it was cut."""

import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

from extraction_worker.errors import VerificationFailed
from extraction_worker.sink.gate import Gate

_BLOCK = 1 << 20
"""Bytes handed to a compressor at once: what it writes depends on how its input is cut."""
GZIP_LEVEL = 1
"""Level 4 takes 2.5 times the time and saves 4 %, level 9 in Parquet (pyarrow's default) 7 times for 2 %."""
_GZIP = 16 + zlib.MAX_WBITS
"""zlib's ``wbits`` for a gzip header; it has no file name, and 0 as its time."""

EXTENSIONS = {"none": "", "gzip": ".gz", "zstd": ".zst"}


class TextStream:
    """Collects text into blocks and hands them, compressed, to a gate."""

    def __init__(self, gate: Gate, compression: str) -> None:
        self._gate = gate
        self._waiting = bytearray()
        self._compress: Callable[[bytes], object] = gate.write
        self._end: Callable[[], object] = bytes
        if compression == "gzip":
            deflate = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, _GZIP)
            self._compress = lambda block: gate.write(deflate.compress(block))
            self._end = lambda: gate.write(deflate.flush())
        elif compression == "zstd":
            # Closed by its destructor, too, if need be; the gate is shut then.
            zstd = pa.CompressedOutputStream(pa.PythonFile(gate, "w"), "zstd")
            self._compress, self._end = zstd.write, zstd.close

    def write(self, text: bytes | memoryview) -> None:
        """Take the next text."""
        self._waiting += text
        if len(self._waiting) >= _BLOCK:
            whole = len(self._waiting) - len(self._waiting) % _BLOCK
            with memoryview(self._waiting) as view:
                for start in range(0, whole, _BLOCK):
                    self._compress(bytes(view[start : start + _BLOCK]))
            del self._waiting[:whole]

    def finish(self) -> None:
        """Hand on what waits, and the end of the compressed stream."""
        if self._waiting:
            self._compress(bytes(self._waiting))
        self._end()

    def tell(self) -> int:
        """Return the bytes that passed the gate; up to a block waits."""
        return self._gate.tell()


def read_text(source: Any, compression: str) -> Iterator[bytes]:
    """Yield the text behind ``source`` in blocks.

    Raises
    ------
    VerificationFailed
        The compressed stream is damaged or ends early.
    """
    if compression != "none":
        if source.size() == 0:
            # pyarrow takes an empty file for the compressed form of nothing.
            raise VerificationFailed(f"The file is empty, not a {compression} stream.")
        source = pa.CompressedInputStream(source, compression)
    try:
        while block := source.read(_BLOCK):
            yield block
    except OSError as error:
        raise VerificationFailed(f"The file can't be read as a {compression} stream: {error}.") from error
