"""``extraction verify``: the proof of a published set, repeated from its manifest alone, without the database.

What is proven is that the set is the one that was published, whole and unaltered: which files, every byte of them,
the rows that footers and decoders count and, where the manifest has digests of columns, every value. That what was
published is what the source held was proven before, and the manifest says to which level.
"""

import base64
import binascii
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import pyarrow as pa
from pydantic import ValidationError

from extraction_worker.errors import InvalidManifest, NotFound, SinkRefused, VerificationFailed
from extraction_worker.model import MANIFEST_VERSION, ColumnDigest, Manifest, ManifestChunk, Part
from extraction_worker.parallel import in_order
from extraction_worker.sink.abc import MANIFEST_NAME
from extraction_worker.sink.digests import differences
from extraction_worker.sink.formats import decode, footer_rows, wire_schema
from extraction_worker.sink.paths import RelativePath
from extraction_worker.verify.columns import ColumnDigester
from extraction_worker.verify.published import Content, PublishedSet, open_set

__all__ = ["PublishedSet", "Report", "open_set", "verify_set"]


@dataclass(frozen=True)
class Report:
    """What was found. ``problems`` are sentences, none when the set is as published."""

    uri: str
    run_id: str
    rows: int
    parts: int
    bytes: int
    columns_proven: bool
    """Whether every chunk's columns were decoded and compared with their digests."""
    problems: tuple[str, ...] = ()

    def require_whole(self) -> Self:
        """Return the report; raises VerificationFailed with every problem."""
        if self.problems:
            raise VerificationFailed(f"{self.uri} isn't what was published: {' '.join(self.problems)}")
        return self


def verify_set(published: PublishedSet, *, columns: bool = True, threads: int = 2) -> Report:
    """Compare a published set with its manifest, and the manifest with itself; the report names every problem.

    Parameters
    ----------
    published
        From :func:`open_set`.
    columns
        Whether to decode every value where the manifest has digests of columns; otherwise bytes and footers alone.
    threads
        Chunks at once. A file from S3 passes through a temporary one.

    Raises
    ------
    NotFound
        There is no manifest.
    VerificationFailed
        The manifest can't be read: nothing else can be said then.
    SinkRefused, SinkUnavailable
        The place can't be read.
    """
    manifest = _read_manifest(published)
    problems = [*_contradictions(manifest), *_strangers(published, manifest)]
    schema = None
    try:
        schema = _schema(manifest)
    except (pa.ArrowException, OSError, binascii.Error, InvalidManifest) as error:
        problems.append(f"The manifest's schema can't be read: {error}.")
    check = _ChunkCheck(published, manifest, schema, columns=columns)
    for found in in_order(check.problems, manifest.chunks, threads, name="verify"):
        problems += found
    return Report(
        uri=published.uri,
        run_id=manifest.run_id,
        rows=manifest.rows,
        parts=len(manifest.parts),
        bytes=manifest.bytes,
        columns_proven=columns and schema is not None and all(chunk.columns for chunk in manifest.chunks if chunk.rows),
        problems=tuple(problems),
    )


def _read_manifest(published: PublishedSet) -> Manifest:
    data = published.manifest()
    if data is None:
        raise NotFound(f"{published.uri} has no {MANIFEST_NAME}.", hint="Name the folder or prefix of a result.")
    try:
        document = json.loads(data)
        version = document.get("version") if isinstance(document, dict) else None
        if version == MANIFEST_VERSION:
            return Manifest.from_json(data)
    except ValidationError as error:
        fields = error.errors(include_input=False)
        found = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in fields)
        raise VerificationFailed(f"The manifest of {published.uri} is damaged: {found}.") from None
    except ValueError:
        raise VerificationFailed(f"The manifest of {published.uri} is damaged: it is not JSON.") from None
    raise VerificationFailed(
        f"The manifest of {published.uri} has version {version!r}; this program reads {MANIFEST_VERSION!r}.",
        hint="Verify it with the version of the program that wrote it.",
    )


def _schema(manifest: Manifest) -> pa.Schema | None:
    """Return the schema that the files hold, or None where the manifest has none."""
    if manifest.arrow_schema is None:
        return None
    target = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(manifest.arrow_schema, validate=True)))
    return wire_schema(target, manifest.format)


def _contradictions(manifest: Manifest) -> Iterator[str]:
    """Yield what the manifest says of itself that can't all be true."""
    if Manifest.set_digest(manifest.parts) != manifest.digest:
        yield "The manifest's list of parts doesn't have the manifest's digest."
    if (rows := sum(part.rows for part in manifest.parts)) != manifest.rows:
        yield f"The manifest counts {manifest.rows} rows, its parts {rows}."
    if (size := sum(part.bytes for part in manifest.parts)) != manifest.bytes:
        yield f"The manifest counts {manifest.bytes} bytes, its parts {size}."
    listed = [name for chunk in manifest.chunks for name in chunk.parts]
    if listed != [part.name for part in manifest.parts] or len(set(listed)) != len(listed):
        yield "The manifest's chunks don't list its parts in order, each once."
    parts = {part.name: part for part in manifest.parts}
    for chunk in manifest.chunks:
        mine = [parts[name] for name in chunk.parts if name in parts]
        if (rows := sum(part.rows for part in mine)) != chunk.rows:
            yield f"Chunk {chunk.chunk} has {chunk.rows} rows, its parts {rows}."
        if any(part.chunk != chunk.chunk for part in mine):
            yield f"Chunk {chunk.chunk} lists a part of another chunk."
        for column in chunk.columns:
            counted = (column.source or {}).get("count")
            if counted is not None and counted != str(chunk.rows - column.nulls):
                yield (
                    f"Chunk {chunk.chunk}, column {column.name!r}: the server counted {counted} values; "
                    f"{chunk.rows} rows with {column.nulls} nulls have {chunk.rows - column.nulls}."
                )


def _strangers(published: PublishedSet, manifest: Manifest) -> Iterator[str]:
    """Yield the files that a reader who lists the place takes for parts."""
    known = {part.name for part in manifest.parts}
    for name in sorted(set(published.names()) - known):
        if name.startswith("part-"):
            yield f"{name} is there and isn't in the manifest."


class _ChunkCheck:
    """Compares the files of chunks with the manifest; several threads may."""

    def __init__(self, published: PublishedSet, manifest: Manifest, schema: pa.Schema | None, *, columns: bool) -> None:
        self._published = published
        self._format = manifest.format
        self._parts = {part.name: part for part in manifest.parts}
        self._schema = schema
        self._columns = columns

    def problems(self, chunk: ManifestChunk) -> list[str]:
        """Return every difference of a chunk."""
        proven = self._columns and self._schema is not None and chunk.columns
        digester = ColumnDigester(self._schema) if proven else None
        found: list[str] = []
        for name in chunk.parts:
            if (part := self._parts.get(name)) is not None:
                found += (f"{part.name} of chunk {part.chunk} {what}." for what in self._part(part, digester))
        if digester is not None and not found:
            # With a part missing or altered every column would differ, which says nothing new.
            found += _compare(chunk, digester.finish())
        return found

    def _part(self, part: Part, digester: ColumnDigester | None) -> list[str]:
        try:
            RelativePath.name(part.name, field="its name", error=SinkRefused)
            with self._published.read(part.name) as content:
                if content is None:
                    return ["is missing"]
                if found := differences(part, content.digest):
                    return [f"has {', '.join(found)}"]
                return self._rows(part, content, digester)
        except (VerificationFailed, SinkRefused) as error:
            # Of this file: a link in its place, a footer that can't be read. Anything else ends it all.
            return [f"can't be read: {error.message.removesuffix('.')}"]

    def _rows(self, part: Part, content: Content, digester: ColumnDigester | None) -> list[str]:
        rows = footer_rows(self._format, content.file)
        if rows is not None and rows != part.rows:
            return [f"has {rows} rows by its footer, not {part.rows}"]
        if self._schema is None or (rows is not None and digester is None):
            return []
        content.file.seek(0)
        rows = 0
        for batch in decode(self._format, content.file, self._schema):
            rows += batch.num_rows
            if digester is not None:
                digester.update(batch)
        return [] if rows == part.rows else [f"decodes to {rows} rows, not {part.rows}"]


def _compare(chunk: ManifestChunk, decoded: tuple[ColumnDigest, ...]) -> Iterator[str]:
    names, expected = [column.name for column in decoded], [column.name for column in chunk.columns]
    if names != expected:
        yield f"Chunk {chunk.chunk} has digests of the columns {expected}, its files hold {names}."
        return
    for one, found in zip(chunk.columns, decoded, strict=True):
        if one.nulls != found.nulls:
            yield f"Chunk {chunk.chunk}, column {one.name!r}: {found.nulls} nulls instead of {one.nulls}."
        elif one.digest != found.digest:
            yield f"Chunk {chunk.chunk}, column {one.name!r}: other values than were published."
