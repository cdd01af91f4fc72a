"""What a job's pods tell the operator when they end: termination messages, versioned and checksummed.

A container writes one to its termination log (``/dev/termination-log``); the kubelet puts it into the pod's status,
where the operator reads it, for an init container also while the pod goes on. The kubelet cuts a message at 4,096
bytes and shares 12 KiB among the containers of a pod, so ours have at most :data:`MAX_BYTES`; the checksum tells a
message that was cut, or that somebody else wrote, from one of ours.
"""

import json
import zlib
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, ValidationError

from extraction_contract.base import Contract
from extraction_contract.status import ConnectionCounts, Count, Digest, PlanStatus, ReusedStatus

MAX_BYTES = 2000
"""Of a message, encoded."""

TERMINAL_EXIT_CODES = range(10, 40)
"""Exit codes of errors that repeating the same work can't help; docs/exit-codes.md names each."""

SNAPSHOT_EXIT_CODES = {22: "SnapshotLost", 24: "SourceInDanger"}
"""Exit codes and reasons of errors that end the snapshot, which ``snapshot.onLoss`` is about."""

_VERSION = 1


class NotAMessage(ValueError):
    """The text isn't a whole message of ours."""


class Message(Contract):
    """One message. :meth:`encode` and :func:`decode` are inverse."""

    kind: ClassVar[str]

    def encode(self) -> str:
        """Return the message as one line of JSON of at most :data:`MAX_BYTES` bytes, ASCII.

        Raises
        ------
        ValueError
            It is longer; only :class:`FailureMessage` shortens itself.
        """
        body = self.model_dump_json(by_alias=True, exclude_none=True)
        head = {"v": _VERSION, "kind": self.kind, "crc32": f"{zlib.crc32(body.encode()):08x}"}
        # The body travels as a string: its checksum must not depend on how a reader formats JSON.
        text = json.dumps(head | {"body": body}, separators=(",", ":"))
        if len(text) > MAX_BYTES:
            raise ValueError(f"A message of {len(text)} bytes: {MAX_BYTES} is the most.")
        return text

    @classmethod
    def of(cls, text: str) -> Self | None:
        """Return the message of this kind in ``text``; None when it is anything else."""
        try:
            found = decode(text)
        except NotAMessage:
            return None
        return found if isinstance(found, cls) else None


class CacheUse(Contract):
    """How often a pod looked for something that was remembered."""

    cache: Literal["introspection", "pages", "statistics", "result"]
    hits: Count = 0
    """It was there, and the source had not changed."""
    misses: Count = 0
    """It wasn't there, or not current."""
    errors: Count = 0
    """Redis was away."""


class PlanMessage(Message, PlanStatus):
    """*plan* has ended: how the table is split. The plan itself is in staging."""

    kind = "plan"

    caches: Annotated[tuple[CacheUse, ...], Field(max_length=4)] = ()
    """What was remembered."""

    def status(self) -> PlanStatus:
        """Return what of it becomes part of the job's status."""
        return PlanStatus.model_validate(self.model_dump(by_alias=False, exclude={"caches"}), by_name=True)


class BundleMessage(Message):
    """*work* has ended: every chunk of one bundle has its result in staging."""

    kind = "bundle"

    bundle: Count
    """The index of the worker Job."""
    chunks: Count
    """Chunks of the bundle."""
    reused: Count = 0
    """Of these, chunks whose result was there already."""
    rows: Count
    """Rows in all chunks."""
    bytes: Count
    """Bytes that the source sent."""
    seconds: Annotated[float, Field(ge=0)]
    """From start to end."""
    retries: Count = 0
    """How often a chunk was read again."""
    sessions: Count = 0
    """Connections that were opened."""
    checkouts: Count = 0
    """How often a connection was taken from the pool."""
    session_reuses: Count = 0
    """How often it was one that had been used before."""
    session_waits: Count = 0
    """How often none was ready."""
    sessions_active: Count = 0
    """The most that were in use at the same time."""
    sessions_evicted: Count = 0
    """Connections that were closed because they were broken, or would have kept too much memory."""
    sessions_leaked: Count = 0
    """Connections that were taken and didn't come back for a minute without reading."""
    memory: Count = 0
    """The most bytes that the process had in memory; 0 is unknown."""

    @property
    def connections(self) -> ConnectionCounts:
        """What its pool did with connections to the source."""
        return ConnectionCounts(
            opened=self.sessions, checkouts=self.checkouts, reuses=self.session_reuses, waits=self.session_waits,
            evicted=self.sessions_evicted, leaks=self.sessions_leaked,
        )  # fmt: skip


class PublishMessage(Message):
    """*publish* has ended, or *clean* found that it had: the set that readers find."""

    kind = "publish"

    rows: Count
    bytes: Count
    files: Count
    digest: Digest
    manifest: Annotated[str, Field(max_length=1024)]
    """URI of ``_manifest.json``."""
    plan_digest: Digest
    consistency: Literal["Snapshot", "PerPartition"]
    verification: Literal["None", "Written", "Decoded", "Source"]
    snapshot_seconds: Annotated[float, Field(ge=0)] | None = None
    """For how long the snapshot was held, as far as *publish* knows."""
    connections: ConnectionCounts | None = None
    """Of all pods that read, until the last chunk of each."""
    work: BundleMessage | None = None
    """What *publish* read itself, where the plan was one bundle."""
    reused: ReusedStatus | None = None
    """Whose result was taken instead of reading."""


class CleanMessage(Message):
    """*clean* has ended: nothing of the attempt was published, and nothing of it is left."""

    kind = "clean"


class CheckMessage(Message):
    """*check* has ended: what a source's server is."""

    kind = "check"

    server_version: Annotated[str, Field(max_length=64)]
    """E.g. ``18.6``."""
    latency_milliseconds: Annotated[float, Field(ge=0)]
    """Of one round trip, the least of several."""
    tls: Annotated[str, Field(max_length=64)] = ""
    """Protocol, e.g. ``TLSv1.3``; empty without TLS."""
    pooler: bool = False
    """Whether a connection pooler (in session mode) stands between."""
    replica: bool = False
    """Whether the server is in recovery."""
    max_connections: Count = 0
    """The server's limit; 0 is unknown."""
    role_connection_limit: Annotated[int, Field(ge=-1)] = -1
    """The role's limit; -1 is none."""
    can_write: bool = False
    """Whether the role could write somewhere in this database, or may do everything."""


class FailureMessage(Message):
    """A container has ended with an error of ours."""

    kind = "failure"

    reason: Annotated[str, Field(max_length=64)]
    """As in docs/exit-codes.md."""
    exit_code: Annotated[int, Field(ge=1, le=255)]
    transient: bool = False
    """Whether repeating the same work may help."""
    message: Annotated[str, Field(max_length=1500)]
    """What happened, to which object, and what to do. No secret, no value of a row."""
    bundle: Count | None = None
    chunk: Count | None = None
    retries: Count = 0
    """How often a chunk was read again before."""
    connections: ConnectionCounts | None = None
    """What was done with connections to the source before; None where none was needed, or nobody counted."""

    def encode(self) -> str:
        """Return the message; its text is cut where the whole would be too long."""
        shown = self
        while True:
            try:
                return Message.encode(shown)
            except ValueError:
                # Characters beyond ASCII take more than one byte each, so a cut may have to be repeated.
                kept = len(shown.message) * 9 // 10
                shown = self.model_copy(update={"message": f"{self.message[:kept]}…"})


_KINDS: dict[str, type[Message]] = {
    kind.kind: kind for kind in (PlanMessage, BundleMessage, PublishMessage, CleanMessage, CheckMessage, FailureMessage)
}


def decode(text: str) -> Message:
    """Return the message that :meth:`Message.encode` wrote.

    Fields that we don't know are left out: an operator that was set back reads what the pods of a newer one say.

    Raises
    ------
    NotAMessage
        The text is cut, altered, of another version or not ours.
    """
    try:
        head = json.loads(text)
        if not isinstance(head, dict) or head.get("v") != _VERSION or not isinstance(head.get("body"), str):
            raise NotAMessage("Not a message of this version.")
        if head.get("crc32") != f"{zlib.crc32(head['body'].encode()):08x}":
            raise NotAMessage("Its checksum is wrong.")
        kind = _KINDS.get(str(head.get("kind")))
        if kind is None:
            raise NotAMessage("Of an unknown kind.")
        return kind.model_validate_json(head["body"], extra="ignore")
    except (json.JSONDecodeError, ValidationError, RecursionError) as error:
        raise NotAMessage(type(error).__name__) from None
