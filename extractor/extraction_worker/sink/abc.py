"""What every sink is: a staging area, parts that stay invisible in it, and one atomic, fenced publish.

The order of calls is fixed: :meth:`Sink.probe` before anything is read from the source; then, for each chunk,
:meth:`Sink.open_part` … :meth:`StagedPart` and :meth:`Sink.put_state`; then :meth:`Sink.check_part` for each part
that is to be published, :meth:`Sink.publish` once, and :meth:`Sink.discard` whatever happened. Parts are named by
:func:`part_name`, so that no two writers ever write the same name.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import xxhash

from extraction_worker.model import Manifest, Part

MANIFEST_NAME = "_manifest.json"


@dataclass(frozen=True)
class StagedPart:
    """What :meth:`PartStream.close` returns: the bytes are durable in staging, and invisible to readers.

    ``xxh3_128`` and ``crc32`` are hexadecimal digests of every byte in order; ``bytes`` their number.
    ``upload_id`` and ``upload_parts`` are set by S3: the incomplete multipart upload that holds them.
    """

    name: str
    bytes: int
    xxh3_128: str
    crc32: str
    upload_id: str | None = None
    upload_parts: tuple[str, ...] = ()


class PartStream(Protocol):
    """A part being written. Never a context manager: an exception must not end in :meth:`close`."""

    def write(self, data: bytes | memoryview) -> int:
        """Take the next bytes, return how many. May block while the sink is slow; raises SinkFull, SinkUnavailable."""
        ...

    def tell(self) -> int:
        """Return the number of bytes taken so far."""
        ...

    def close(self) -> StagedPart:
        """Make all bytes durable in staging (fsync, or the last upload part) and return their digests."""
        ...

    def abort(self) -> None:
        """Leave nothing behind: unlink, or abort the upload. Idempotent; never raises."""
        ...


class Sink(Protocol):
    """Where the result of one run goes."""

    @property
    def uri(self) -> str:
        """Where readers find the published set, e.g. ``s3://lake/orders/default/orders`` or ``file:///…``."""
        ...

    def probe(self) -> None:
        """Refuse early what publish would refuse late, without leaving anything behind.

        Raises
        ------
        SinkExists
            Under ``ifExists: Fail`` something is at the path; under ``Replace`` something that isn't ours.
        SinkRefused
            No such bucket or claim, no permission, a path that leaves the root, a store that ignores conditional
            writes.
        """
        ...

    def open_part(self, name: str) -> PartStream:
        """Start a part of this name in staging."""
        ...

    def put_state(self, name: str, data: bytes) -> None:
        """Write a small staging document atomically (``plan.json``, ``results/00012-WORKER.json``)."""
        ...

    def get_state(self, name: str) -> bytes | None:
        """Read a staging document; None when there is none."""
        ...

    def list_state(self, prefix: str) -> Iterator[str]:
        """Yield the names of the staging documents that start with ``prefix``."""
        ...

    def check_part(self, part: Part) -> None:
        """Compare what the sink holds in staging with the digests of ``part``: re-read, or the store's checksums.

        Raises
        ------
        VerificationFailed
            Missing, shorter, longer or other bytes; the message names part and chunk.
        """
        ...

    def published(self) -> Manifest | None:
        """Return the manifest at the path, if there is one."""
        ...

    def publish(self, manifest: Manifest) -> Manifest:
        """Make exactly the parts of ``manifest`` visible, fenced; return the manifest that is now published.

        Idempotent: when the manifest at the path has the same ``run_id``, it is returned and nothing is published.
        The order of the parts is the manifest's. Afterwards the old set of ``Replace`` is removed. After an error the
        same manifest may be published again, by anybody; otherwise :meth:`discard` undoes what was begun.

        Raises
        ------
        VerificationFailed
            A part isn't in staging as the manifest describes it.
        SinkExists
            Somebody else's set is there, or came first.
        """
        ...

    def discard(self) -> None:
        """Remove the run's staging: parts, uploads, documents. Idempotent; leaves what is published alone.

        It may meet a publisher that was believed dead: the set is published whole then, or not at all. Nobody may
        begin to publish this run afterwards.
        """
        ...


def part_name(plan_digest: str, writer: str, chunk: int, sequence: int, extension: str) -> str:
    """Return ``part-NNNNN-DIGEST8.EXTENSION``: the chunk's index, and 8 digits that no other writer gets.

    The digits are the xxh3-64 of plan digest, writer (a pod's uid), chunk and sequence within the chunk, so that a
    zombie's files never bear the name of somebody else's.
    """
    seed = f"{plan_digest}/{writer}/{chunk}/{sequence}"
    return f"part-{chunk:05d}-{xxhash.xxh3_64_hexdigest(seed.encode())[:8]}.{extension}"
