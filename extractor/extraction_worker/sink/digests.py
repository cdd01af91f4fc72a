"""Digests of every byte that passes, computed in one place for writing, checking and verifying."""

import zlib
from dataclasses import dataclass
from typing import Final

import xxhash

from extraction_worker.errors import VerificationFailed
from extraction_worker.model import Part

BLOCK: Final = 1 << 20
"""Bytes read at once where files are read again."""


@dataclass(frozen=True)
class FileDigest:
    """Size and digests of a file, as :class:`extraction_worker.model.Part` keeps them."""

    bytes: int
    xxh3_128: str
    crc32: str


class Digester:
    """Running size, xxh3-128 and CRC-32. Both let go of the interpreter's lock for blocks of this size."""

    def __init__(self) -> None:
        self.bytes = 0
        self._xxh3 = xxhash.xxh3_128()
        self._crc32 = 0

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """Add the next bytes."""
        self._xxh3.update(data)
        self._crc32 = zlib.crc32(data, self._crc32)
        self.bytes += len(data)

    def digest(self) -> FileDigest:
        """Return the digest of all bytes so far."""
        return FileDigest(self.bytes, self._xxh3.hexdigest(), f"{self._crc32:08x}")


def differences(part: Part, held: FileDigest) -> list[str]:
    """Return what differs between a part as recorded and as it is held, in words; nothing when they are equal."""
    if held.bytes != part.bytes:
        return [f"{held.bytes} bytes instead of {part.bytes}"]
    pairs = (("xxh3-128", part.xxh3_128, held.xxh3_128), ("CRC-32", part.crc32, held.crc32))
    return [f"{name} {found} instead of {expected}" for name, expected, found in pairs if expected != found]


def require_equal(part: Part, held: FileDigest) -> None:
    """Compare a part as recorded with what is held.

    Raises
    ------
    VerificationFailed
        They differ; the message names part and chunk.
    """
    if found := differences(part, held):
        raise corrupted(part, ", ".join(found))


def corrupted(part: Part, what: str) -> VerificationFailed:
    """Return the error of a part whose staged bytes aren't the ones that were written."""
    return VerificationFailed(
        f"Part {part.name} of chunk {part.chunk} isn't what was written: {what}.",
        hint="Its chunk has to be extracted again.",
    )
