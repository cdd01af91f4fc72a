"""Names that users and plans give, made safe: one relative path below a root, and nothing else."""

import unicodedata
import uuid
from dataclasses import dataclass
from typing import Self

from extraction_worker.errors import InvalidManifest, Terminal
from extraction_worker.sink.abc import MANIFEST_NAME

STAGING = "_staging"
MAX_SEGMENT_BYTES = 255
"""What file systems hold in one name."""
MAX_PATH_BYTES = 512
"""S3 keys end at 1,024 bytes; staging documents need the rest."""
RESERVED = frozenset({STAGING, MANIFEST_NAME})
_CONTROL = frozenset({"Cc", "Cs", "Zl", "Zp"})


@dataclass(frozen=True)
class RelativePath:
    """A path below a root that can't leave it. Make it with :meth:`parse`."""

    segments: tuple[str, ...]

    @classmethod
    def parse(cls, text: str, *, field: str, error: type[Terminal] = InvalidManifest) -> Self:
        """Return ``text`` as a path; one trailing slash, as in S3 prefixes, is dropped.

        Parameters
        ----------
        text
            Segments separated by ``/``.
        field
            Where it was declared, e.g. ``spec.sink.volume.path``; begins the message.
        error
            What to raise.

        Raises
        ------
        InvalidManifest
            Empty, absolute, too long, with an empty, ``.`` or ``..`` segment, a control character, a backslash, or a
            name that is reserved for staging and manifest.
        """
        path = text.removesuffix("/")
        segments = tuple(path.split("/"))
        if not path or path.startswith("/"):
            raise error(f"{field}: {text!r} is not a relative path.", hint="Write it as FOLDER/NAME.")
        if any(unicodedata.category(character) in _CONTROL for character in path) or "\\" in path:
            raise error(f"{field}: {text!r} has a control character or a backslash.")
        if len(path.encode()) > MAX_PATH_BYTES:
            raise error(f"{field}: the path is longer than {MAX_PATH_BYTES} bytes.")
        for segment in segments:
            if segment in {"", ".", ".."}:
                raise error(f"{field}: {text!r} has an empty, '.' or '..' segment.")
            if segment in RESERVED:
                raise error(f"{field}: {segment!r} is reserved.")
            if len(segment.encode()) > MAX_SEGMENT_BYTES:
                raise error(f"{field}: a segment of {text!r} is longer than {MAX_SEGMENT_BYTES} bytes.")
        return cls(segments)

    @classmethod
    def name(cls, text: str, *, field: str, error: type[Terminal] = InvalidManifest) -> str:
        """Return ``text`` when it is a path of one segment; raises like :meth:`parse`."""
        path = cls.parse(text, field=field, error=error)
        if len(path.segments) != 1 or text.endswith("/"):
            raise error(f"{field}: {text!r} has a slash.")
        return path.segments[0]

    @property
    def parent(self) -> tuple[str, ...]:
        """Every segment but the last."""
        return self.segments[:-1]

    @property
    def last(self) -> str:
        """The last segment."""
        return self.segments[-1]

    def __str__(self) -> str:
        return "/".join(self.segments)


def nonce() -> str:
    """Return 12 digits that nobody else draws."""
    return uuid.uuid4().hex[:12]
