"""What both sinks must know of a published set: whether it is ours, and what belongs to it."""

from collections.abc import Iterable
from typing import BinaryIO, Literal

from pydantic import ValidationError

from extraction_worker.errors import SinkExists
from extraction_worker.lines import Changed
from extraction_worker.model import MANIFEST_VERSION, Manifest, Part
from extraction_worker.sink.abc import MANIFEST_NAME

IfExists = Literal["Fail", "Replace"]


def parse_manifest(found: bytes | BinaryIO, where: str) -> Manifest:
    """Parse the manifest found at ``where``; a file of it may be closed afterwards, but must not change.

    Raises
    ------
    SinkExists
        It isn't a manifest of this program, or of another version, or its own digest contradicts it: nothing that
        this program may replace.
    """
    try:
        manifest = Manifest.from_json(found) if isinstance(found, bytes) else Manifest.from_file(found)
    except ValidationError as error:
        raise _foreign(where, f"{MANIFEST_NAME} is not a manifest of this program") from error
    if manifest.version != MANIFEST_VERSION:
        raise _foreign(
            where, f"its manifest has version {manifest.version!r}, this program writes {MANIFEST_VERSION!r}"
        )
    if Manifest.set_digest(manifest.parts) != manifest.digest:
        raise _foreign(where, "its manifest contradicts its own digest")
    return manifest


def as_published(manifest: Manifest) -> Manifest:
    """Return the manifest as readers get it: without the uploads that held the parts."""
    return manifest.model_copy(update={"parts": Changed(manifest.parts, _without_upload)})


def _without_upload(part: Part) -> Part:
    return part.model_copy(update={"upload_id": None, "upload_parts": ()})


def require_ours(names: Iterable[str], manifest: Manifest | None, where: str, *, also: Iterable[str] = ()) -> None:
    """Refuse a place that holds what isn't part of ``manifest`` (nor in ``also``).

    Raises
    ------
    SinkExists
        Naming the first thing that isn't ours.
    """
    ours = set(also)
    if manifest:
        ours |= {MANIFEST_NAME, *(part.name for part in manifest.parts)}
    if others := sorted(set(names) - ours):
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        raise _foreign(where, f"it holds {others[0]!r}{more}, which no manifest there lists")


def _foreign(where: str, what: str) -> SinkExists:
    return SinkExists(f"{where} is taken: {what}.", hint="Move it away, or choose another path; nothing was changed.")


def already_published(where: str, manifest: Manifest) -> SinkExists:
    """Return the error of ``ifExists: Fail`` at a place where another run's set is."""
    return SinkExists(
        f"{where} already holds the set that run {manifest.run_id} published.",
        hint="Choose another path, or declare ifExists: Replace.",
    )


def lost_race(where: str, winner: Manifest | None) -> SinkExists:
    """Return the error of a publisher that another one came before."""
    who = f"run {winner.run_id}" if winner else "somebody"
    return SinkExists(f"{where} was published by {who} meanwhile; this run's set was not.")
