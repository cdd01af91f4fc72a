"""Places for sinks to publish to, seen from outside: what a reader finds, what is left behind, what can go wrong."""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from extraction_worker.model import Consistency, Format, Manifest, ManifestChunk, Part, SnapshotIdentity, Verification
from extraction_worker.sink import folder, tree
from extraction_worker.sink.abc import MANIFEST_NAME, PartStream, Sink, StagedPart
from extraction_worker.sink.folder import FolderSink
from extraction_worker.sink.s3 import S3Sink
from extraction_worker.sink.s3_client import S3Credentials, S3Options, make_client

_CLIENTS: dict[tuple[int, str], Any] = {}
MOMENT = datetime(2026, 11, 1, 12, tzinfo=UTC)


def make_part(staged: StagedPart, *, chunk: int = 0, rows: int = 1) -> Part:
    return Part(
        name=staged.name, chunk=chunk, rows=rows, bytes=staged.bytes, xxh3_128=staged.xxh3_128, crc32=staged.crc32,
        upload_id=staged.upload_id, upload_parts=staged.upload_parts,
    )  # fmt: skip


def make_manifest(run_id: str, parts: tuple[Part, ...], **changes: Any) -> Manifest:
    identity = SnapshotIdentity(
        snapshot_id="00000003-0000001B-1", snapshot="700:700:", system_identifier="7", timeline=1,
        postmaster_start=MOMENT, in_recovery=False, server_address="", server_version=180006, lsn="0/0",
    )  # fmt: skip
    chunks = tuple(ManifestChunk(chunk=part.chunk, rows=part.rows, parts=(part.name,)) for part in parts)
    values: dict[str, Any] = {
        "program": "test", "run_id": run_id, "job": "shop/orders", "source": "shop/db", "relation": "public.orders",
        "consistency": Consistency.SNAPSHOT, "identity": identity, "plan_digest": "d" * 32, "planned_at": MOMENT,
        "published_at": MOMENT, "format": Format(type="Parquet", compression="zstd"), "columns": (),
        "verification": Verification.WRITTEN, "rows": sum(part.rows for part in parts),
        "bytes": sum(part.bytes for part in parts), "digest": Manifest.set_digest(parts), "parts": parts,
        "chunks": chunks,
    }  # fmt: skip
    return Manifest(**values | changes)


def write_part(stream: PartStream, data: bytes) -> StagedPart:
    stream.write(data)
    return stream.close()


def stage(sink: Sink, run_id: str, count: int = 2, size: int = 100) -> Manifest:
    """Write parts as a worker does; return the manifest that a publisher would write."""
    parts = []
    for chunk in range(count):
        data = f"{run_id} {chunk} ".encode() * size
        name = f"part-{chunk:05d}-{run_id:0>8}.parquet"
        parts.append(make_part(write_part(sink.open_part(name), data), chunk=chunk))
    return make_manifest(run_id, tuple(parts))


class Died(BaseException):
    """The process is gone: no handler of ours runs for it, and whatever it tries next fails too."""


class Steps:
    """Counts the steps by which a sink changes or reads its place, and interferes at one of them.

    Parameters
    ----------
    at
        The step to interfere at, from 1; 0 only counts.
    act
        Called in the place of that step, or after it. May raise.
    after
        Whether the step takes effect first.
    dead
        Whether all later steps fail too.
    """

    def __init__(
        self, at: int = 0, act: Callable[[], None] | None = None, *, after: bool = False, dead: bool = False
    ) -> None:
        self.count = 0
        self._at = at
        self._act = act
        self._after = after
        self._dead = dead
        self._paused = threading.local()
        self._lock = threading.Lock()

    @classmethod
    def dying(cls, at: int) -> "Steps":
        """Die once this step took effect, before its result is known."""

        def die() -> None:
            raise Died

        return cls(at, die, after=True, dead=True)

    def before(self) -> int:
        if getattr(self._paused, "here", False):
            return 0
        with self._lock:
            self.count += 1
            step = self.count
        if step == self._at and not self._after:
            self._run()
        elif self._dead and self._at and step > self._at:
            raise Died
        return step

    def done(self, step: int) -> None:
        if step and step == self._at and self._after:
            self._run()

    def _run(self) -> None:
        # What the interference itself does isn't counted.
        self._paused.here = True
        try:
            if self._act:
                self._act()
        finally:
            self._paused.here = False


class _Watched:
    """A module whose functions are steps."""

    def __init__(self, module: Any, names: set[str], steps: Steps) -> None:
        self._module = module
        self._names = names
        self._steps = steps

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._module, name)
        if name not in self._names:
            return value

        def watched(*arguments: Any, **keywords: Any) -> Any:
            step = self._steps.before()
            try:
                return value(*arguments, **keywords)
            finally:
                self._steps.done(step)

        return watched


class Place:
    """Where one published set may lie."""

    def sink(self, run_id: str, if_exists: str = "Fail") -> Sink:
        raise NotImplementedError

    def visible(self) -> dict[str, bytes]:
        """What a reader who lists the place finds."""
        raise NotImplementedError

    def left(self) -> list[str]:
        """What is in staging, and uploads."""
        raise NotImplementedError

    def put(self, name: str, data: bytes) -> None:
        """Put something there that is not ours."""
        raise NotImplementedError

    def damage(self, part: Part, how: str) -> None:
        """``flip`` a byte of a staged part, ``truncate``, ``extend`` or ``remove`` it."""
        raise NotImplementedError

    def watch(self, sink: Sink, steps: Steps) -> contextlib.AbstractContextManager[None]:
        """Let ``steps`` interfere with this sink (in a folder: with every sink of this process)."""
        raise NotImplementedError

    def failure(self) -> Exception:
        """What the system raises when it fails for a moment."""
        raise NotImplementedError

    def require_whole(self, *manifests: Manifest) -> None:
        """Check that readers find exactly one of the manifests' sets, or nothing at all."""
        seen = self.visible()
        if MANIFEST_NAME not in seen:
            assert seen == {}
            assert None in manifests
            return
        found = Manifest.from_json(seen.pop(MANIFEST_NAME))
        assert found.run_id in {manifest.run_id for manifest in manifests if manifest}
        assert {name: len(data) for name, data in seen.items()} == {part.name: part.bytes for part in found.parts}


class FolderPlace(Place):
    def __init__(self, root: Path) -> None:
        self.root = root
        self.target = root / "shop" / "orders"

    def sink(self, run_id: str, if_exists: str = "Fail") -> FolderSink:
        return FolderSink(self.root, "shop/orders", run_id=run_id, if_exists=if_exists)  # type: ignore[arg-type]

    def visible(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.target)): path.read_bytes() for path in self.target.rglob("*") if path.is_file()
        }

    def left(self) -> list[str]:
        return sorted(str(path.relative_to(self.root)) for path in self.root.glob("_staging/**"))

    def put(self, name: str, data: bytes) -> None:
        path = self.target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def damage(self, part: Part, how: str) -> None:
        (path,) = self.root.glob(f"_staging/**/files/{part.name}")
        data = bytearray(path.read_bytes())
        if how == "remove":
            path.unlink()
            return
        if how == "flip":
            data[len(data) // 2] ^= 1
        path.write_bytes({"flip": data, "truncate": data[:-1], "extend": data + b"x"}[how])

    @contextlib.contextmanager
    def watch(self, sink: Sink, steps: Steps) -> Iterator[None]:
        names = {"open", "mkdir", "link", "rename", "fsync", "write", "unlink", "rmdir", "scandir"}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tree, "os", _Watched(os, names, steps))
            patch.setattr(folder, "os", _Watched(os, names, steps))
            patch.setattr(tree, "_libc", _Watched(tree._libc, {"renameat2"}, steps))
            yield

    def failure(self) -> Exception:
        return OSError(5, "Input/output error")


class S3Place(Place):
    def __init__(self, server: Any, bucket: str) -> None:
        self.server = server
        self.bucket = bucket
        self.options = S3Options(
            endpoint=server.endpoint, region=server.region, attempts=1,
            credentials=lambda: S3Credentials(server.access_key, server.secret_key),
        )  # fmt: skip
        self.client = self._client("reader")

    def sink(self, run_id: str, if_exists: str = "Fail", **changes: Any) -> S3Sink:
        sink = S3Sink(self.bucket, "shop/orders/", self.options, run_id=run_id, if_exists=if_exists, **changes)  # type: ignore[arg-type]
        # Making a client takes longer than all that a test does with it.
        sink._bucket._made = self._client("shared")
        sink._bucket.checks_crc32 = False
        return sink

    def _client(self, kind: str) -> Any:
        key = (self.server.port, kind)
        if key not in _CLIENTS:
            _CLIENTS[key] = make_client(self.options)
        return _CLIENTS[key]

    def _keys(self) -> list[str]:
        reply = self.client.list_objects_v2(Bucket=self.bucket, Prefix="shop/orders/")
        return [entry["Key"] for entry in reply.get("Contents", ())]

    def visible(self) -> dict[str, bytes]:
        return {
            key.removeprefix("shop/orders/"): self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read()
            for key in self._keys()
            if "/_staging/" not in key
        }

    def left(self) -> list[str]:
        uploads = self.client.list_multipart_uploads(Bucket=self.bucket).get("Uploads", ())
        return sorted([key for key in self._keys() if "/_staging/" in key] + [upload["Key"] for upload in uploads])

    def put(self, name: str, data: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=f"shop/orders/{name}", Body=data)

    def damage(self, part: Part, how: str) -> None:
        upload = {"Bucket": self.bucket, "Key": f"shop/orders/{part.name}", "UploadId": part.upload_id}
        if how == "remove":
            self.client.abort_multipart_upload(**upload)
            return
        data = bytearray(part.bytes)
        number = 2 if how == "extend" else 1
        self.client.upload_part(**upload, PartNumber=number, Body=bytes(data[:-1] if how == "truncate" else data))

    @contextlib.contextmanager
    def watch(self, sink: Sink, steps: Steps) -> Iterator[None]:
        assert isinstance(sink, S3Sink)
        sink._bucket._made = self._client("watched")
        events = sink._bucket.client.meta.events
        here = threading.local()

        def before(**_: Any) -> None:
            here.step = steps.before()

        def after(**_: Any) -> None:
            steps.done(here.step)

        events.register("before-send.s3", before)
        events.register("after-call.s3", after)
        yield
        events.unregister("before-send.s3", before)
        events.unregister("after-call.s3", after)

    def failure(self) -> Exception:
        from botocore.exceptions import EndpointConnectionError

        return EndpointConnectionError(endpoint_url=self.server.endpoint)
