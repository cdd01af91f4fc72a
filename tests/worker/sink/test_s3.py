"""The S3 sink against a real S3 server process, and against stores and networks that misbehave."""

import base64
import hashlib
import re
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from extraction_worker.errors import (
    ExtractionError,
    InvalidManifest,
    SinkExists,
    SinkFull,
    SinkRefused,
    SinkUnavailable,
    VerificationFailed,
)
from extraction_worker.sink import s3_upload
from extraction_worker.sink.abc import MANIFEST_NAME
from extraction_worker.sink.s3 import S3Sink
from extraction_worker.sink.s3_client import S3Credentials, S3Options
from support.s3_gateway import Forward, Gateway, Request, Response, error, self_signed
from support.sinks import S3Place, make_manifest, make_part, stage, write_part

MIB = 1 << 20


@pytest.fixture
def place(s3_server: Any, bucket: str) -> S3Place:
    return S3Place(s3_server, bucket)


@pytest.fixture
def gateway(s3_server: Any) -> Iterator[Gateway]:
    with Gateway(s3_server.port).running() as value:
        yield value


def through(gateway: Gateway, place: S3Place, run_id: str = "run", **changes: Any) -> S3Sink:
    """Return a sink that reaches the place through the gateway."""
    options = {"endpoint": gateway.endpoint, "region": "us-east-1", "attempts": 1, "credentials": credentials}
    taken = {key: changes.pop(key) for key in list(changes) if key in {*options, "ca", "path_style"}}
    changes = {"if_exists": "Fail"} | changes
    return S3Sink(place.bucket, "shop/orders", S3Options(**options | taken), run_id=run_id, **changes)


def credentials() -> S3Credentials:
    return S3Credentials("test-access-key", "test-secret-key")


# Bytes ---------------------------------------------------------------------------------------------------------------


def test_a_large_part_travels_in_upload_parts_and_is_proven_whole(place: S3Place) -> None:
    sink = place.sink("run", upload_bytes=5 * MIB)
    data = b"".join(hashlib.sha256(str(index).encode()).digest() for index in range(12 * MIB // 32)) + b"end"
    stream = sink.open_part("part-00000-00000001.parquet")
    for start in range(0, len(data), 700_001):
        assert stream.write(memoryview(data)[start : start + 700_001]) == len(data[start : start + 700_001])
        assert stream.tell() == min(start + 700_001, len(data))
    staged = stream.close()
    assert (staged.bytes, staged.crc32) == (len(data), f"{zlib.crc32(data):08x}")
    assert len(staged.upload_parts) == 3
    part = make_part(staged)
    sink.check_part(part)
    sink.publish(make_manifest("run", (part,)))
    assert place.visible()[part.name] == data


def test_upload_parts_grow_so_that_huge_files_fit(place: S3Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_upload, "GROWS_AFTER", 1)
    monkeypatch.setattr(s3_upload, "MOST_PARTS", 2)
    sink = place.sink("run", upload_bytes=5 * MIB)
    stream = sink.open_part("part-00000-00000001.parquet")
    stream.write(b"x" * 15 * MIB)
    assert len(stream.close().upload_parts) == 2
    stream = sink.open_part("part-00000-00000002.parquet")
    stream.write(b"x" * 15 * MIB + b"x")
    with pytest.raises(SinkRefused, match="targetFileBytes"):
        stream.close()
    assert s3_upload.UPLOAD_BYTES * (2_500 + 2 * 7_500) > 130 << 30


def test_parts_are_written_by_several_threads_at_once(place: S3Place) -> None:
    sink = place.sink("run", upload_bytes=5 * MIB)
    with ThreadPoolExecutor(4) as pool:
        staged = list(
            pool.map(
                lambda index: write_part(sink.open_part(f"part-{index:05d}-00000001.csv"), bytes([index]) * 6 * MIB),
                range(4),
            )
        )
    parts = tuple(make_part(one, chunk=index) for index, one in enumerate(staged))
    for part in parts:
        sink.check_part(part)
    manifest = make_manifest("run", parts)
    sink.publish(manifest)
    place.require_whole(manifest)
    assert place.visible()[parts[3].name] == b"\3" * 6 * MIB


@pytest.mark.parametrize("store", ["checks CRC-32", "ignores CRC-32"])
def test_bytes_altered_on_their_way_are_noticed_at_once(gateway: Gateway, place: S3Place, store: str) -> None:
    def spoil(request: Request, forward: Forward) -> Response:
        spoiled = "partNumber=1" in request.path and request.method == "PUT"
        if spoiled:
            request.body = b"X" + request.body[1:]
        sent = request.headers.get("x-amz-checksum-crc32")
        right = base64.b64encode(zlib.crc32(request.body).to_bytes(4, "big")).decode()
        if store == "checks CRC-32" and sent and sent != right:
            return error(400, "BadDigest")
        return forward(request)

    gateway.spoil = spoil
    sink = through(gateway, place)
    assert sink._bucket.checks_crc32 == (store == "checks CRC-32")
    stream = sink.open_part("part-00000-00000001.parquet")
    stream.write(b"payload")
    with pytest.raises(SinkUnavailable):
        stream.close()
    with pytest.raises(SinkRefused):
        stream.close()
    sink.discard()
    assert place.left() == []


def test_checksums_that_the_store_lists_are_compared(gateway: Gateway, place: S3Place) -> None:
    sink = through(gateway, place)
    manifest = stage(sink, "run", count=1)
    part = manifest.parts[0]
    crc32 = base64.b64encode(bytes.fromhex(part.crc32)).decode()

    def listing(value: str) -> Any:
        def spoil(request: Request, forward: Forward) -> Response:
            reply = forward(request)
            if request.method == "GET" and "uploadId=" in request.path:
                reply.body = reply.body.replace(b"</ETag>", f"</ETag><ChecksumCRC32>{value}</ChecksumCRC32>".encode())
            return reply

        return spoil

    gateway.spoil = listing(crc32)
    sink.check_part(part)
    gateway.spoil = listing("AAAAAA==")
    with pytest.raises(VerificationFailed, match="upload part 1 has other bytes"):
        sink.check_part(part)


@pytest.mark.parametrize(
    ("header", "value", "message"),
    [
        ("Content-Length", "3", "3 bytes instead of"),
        ("x-amz-checksum-crc32", "AAAAAA==-1", "checksum differs"),
        ("x-amz-checksum-crc32", "AAAAAA==", "checksum differs"),
    ],
)
def test_what_the_store_made_of_an_upload_is_compared_before_the_manifest(
    gateway: Gateway, place: S3Place, header: str, value: str, message: str
) -> None:
    def spoil(request: Request, forward: Forward) -> Response:
        reply = forward(request)
        if request.method == "HEAD" and "/part-" in request.path:
            reply.headers = {name: text for name, text in reply.headers.items() if name.lower() != header.lower()}
            reply.headers[header] = value
        return reply

    sink = through(gateway, place)
    manifest = stage(sink, "run")
    gateway.spoil = spoil
    with pytest.raises(VerificationFailed, match=message):
        sink.publish(manifest)
    sink.discard()
    assert place.visible() == {}
    assert place.left() == []


def test_an_upload_whose_parts_were_replaced_is_not_completed(place: S3Place) -> None:
    sink = place.sink("run")
    manifest = stage(sink, "run")
    place.damage(manifest.parts[0], "flip")
    with pytest.raises(VerificationFailed, match="chunk 0"):
        sink.publish(manifest)


# Stores that lack something ------------------------------------------------------------------------------------------


def without_conditions(request: Request, forward: Forward) -> Response:
    for name in ("If-None-Match", "If-Match"):
        request.headers.pop(name, None)
    return forward(request)


def without_if_match(request: Request, forward: Forward) -> Response:
    request.headers.pop("If-Match", None)
    return forward(request)


def test_a_store_that_ignores_conditional_writes_is_refused_and_nothing_is_left(
    gateway: Gateway, place: S3Place
) -> None:
    for spoil, header in ((without_conditions, "If-None-Match"), (without_if_match, "If-Match")):
        gateway.spoil = spoil
        with pytest.raises(SinkRefused, match=rf"ignores {header}: .*publishGuard: None"):
            through(gateway, place).probe()
        assert place.left() == []


def test_such_a_store_is_used_without_a_guard(gateway: Gateway, place: S3Place) -> None:
    gateway.spoil = without_conditions
    for run in ("old", "run"):
        sink = through(gateway, place, run, publish_guard="None", if_exists="Replace")
        sink.probe()
        manifest = stage(sink, run)
        sink.publish(manifest)
        assert sink.publish(manifest).run_id == run
        sink.discard()
        place.require_whole(manifest)
        assert place.left() == []
    with pytest.raises(SinkExists):
        through(gateway, place, "third", publish_guard="None").probe()


def test_a_bucket_that_is_not_there_is_named(place: S3Place) -> None:
    sink = S3Sink("no-such-bucket", "shop/orders", place.options, run_id="run", if_exists="Fail")
    with pytest.raises(SinkRefused, match=r"Bucket 'no-such-bucket' isn't there"):
        sink.probe()
    with pytest.raises(SinkRefused, match=r"Bucket 'no-such-bucket' isn't there"):
        sink.open_part("part-00000-00000001.parquet")


# Errors --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (403, "AccessDenied", SinkRefused),
        (403, "InvalidAccessKeyId", SinkRefused),
        (403, "SignatureDoesNotMatch", SinkRefused),
        (400, "ExpiredToken", SinkRefused),
        (301, "PermanentRedirect", SinkRefused),
        (405, "MethodNotAllowed", SinkRefused),
        (500, "InternalError", SinkUnavailable),
        (503, "SlowDown", SinkUnavailable),
        (429, "TooManyRequests", SinkUnavailable),
        (400, "RequestTimeout", SinkUnavailable),
        (507, "InsufficientStorage", SinkFull),
        (400, "QuotaExceeded", SinkFull),
    ],
)
def test_what_a_store_answers_is_sorted_and_no_secret_is_repeated(
    gateway: Gateway, place: S3Place, status: int, code: str, kind: type[ExtractionError]
) -> None:
    sink = through(gateway, place)
    gateway.spoil = lambda request, forward: error(status, code) if request.method == "PUT" else forward(request)
    with pytest.raises(kind, match=f"bucket '{place.bucket}'") as caught:
        sink.put_state("plan.json", b"{}")
    assert type(caught.value) is kind
    assert code in str(caught.value)
    assert "secret-key" not in str(caught.value)


def test_a_store_that_hangs_up_or_is_away_is_unavailable(gateway: Gateway, place: S3Place) -> None:
    gateway.spoil = lambda _request, _forward: Response(200, cut=True)
    with pytest.raises(SinkUnavailable, match="can't be reached"):
        through(gateway, place).probe()
    closed = S3Options(endpoint="http://127.0.0.1:1", attempts=1, credentials=credentials)
    with pytest.raises(SinkUnavailable, match="forcePathStyle"):
        S3Sink("bucket", "shop/orders", closed, run_id="run", if_exists="Fail").probe()


def test_requests_are_repeated_when_trouble_passes(gateway: Gateway, place: S3Place) -> None:
    troubles = iter([error(503, "SlowDown"), Response(200, cut=True)])
    gateway.spoil = lambda request, forward: next(troubles, None) or forward(request)
    through(gateway, place, attempts=4).put_state("plan.json", b"{}")
    assert place.sink("run").get_state("plan.json") == b"{}"
    assert len(gateway.requests) == 3


def test_missing_credentials_and_impossible_requests_are_refused(
    place: S3Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    nobody = S3Options(endpoint=place.options.endpoint, attempts=1)
    with pytest.raises(SinkRefused, match="no credentials"):
        S3Sink(place.bucket, "shop/orders", nobody, run_id="run", if_exists="Fail").probe()
    with pytest.raises(SinkRefused, match="the request can't be made"):
        S3Sink("Not A Bucket", "shop/orders", place.options, run_id="run", if_exists="Fail").probe()


def test_credentials_are_asked_for_at_each_request_and_never_shown(gateway: Gateway, place: S3Place) -> None:
    keys = iter(range(1_000))
    options = {"credentials": lambda: S3Credentials(f"key-{next(keys)}", "very-secret", "very-secret-token")}
    sink = through(gateway, place, **options)
    for _ in range(3):
        sink.put_state("plan.json", b"{}")
    used = [re.search(r"Credential=(key-\d+)/", request.headers["Authorization"]) for request in gateway.requests]
    assert len({found.group(1) for found in used if found}) == 3
    assert {request.headers["X-Amz-Security-Token"] for request in gateway.requests} == {"very-secret-token"}
    assert "very-secret" not in repr(S3Credentials("key", "very-secret", "very-secret-token"))
    assert "very-secret" not in repr(S3Options(credentials=lambda: S3Credentials("key", "very-secret")))


def test_the_path_style_puts_the_bucket_into_the_path(gateway: Gateway, place: S3Place) -> None:
    port = gateway.endpoint.rsplit(":", 1)[1]
    sink = through(gateway, place, endpoint=f"http://localhost:{port}", path_style=True)
    sink.put_state("plan.json", b"{}")
    assert gateway.requests[0].path.startswith(f"/{place.bucket}/shop/orders/")


def test_tls_is_verified_with_the_given_authorities(s3_server: Any, place: S3Place, tmp_path: Path) -> None:
    certificate = self_signed(tmp_path)
    with Gateway(s3_server.port, certificate).running() as gateway:
        with pytest.raises(SinkRefused, match="TLS failed"):
            through(gateway, place).probe()
        through(gateway, place, ca=certificate).probe()


# Publish -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", [MANIFEST_NAME, "part-00000"])
def test_a_lost_reply_is_not_a_lost_publish(gateway: Gateway, place: S3Place, lost: str) -> None:
    sink = through(gateway, place, attempts=3)
    manifest = stage(sink, "run")
    cut: list[str] = []

    def spoil(request: Request, forward: Forward) -> Response:
        reply = forward(request)
        if request.method in {"PUT", "POST"} and lost in request.path and not cut:
            cut.append(request.path)
            reply.cut = True
        return reply

    gateway.spoil = spoil
    assert sink.publish(manifest).digest == manifest.digest
    assert cut
    sink.discard()
    place.require_whole(manifest)


def test_a_conflict_that_passes_is_tried_again_and_one_that_stays_is_unavailable(
    gateway: Gateway, place: S3Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("extraction_worker.sink.s3_publish.time.sleep", lambda _: None)
    sink = through(gateway, place)
    manifest = stage(sink, "run")
    conflicts = 10

    def spoil(request: Request, forward: Forward) -> Response:
        nonlocal conflicts
        if request.method == "PUT" and request.path.endswith(MANIFEST_NAME) and conflicts:
            conflicts -= 1
            return error(409, "ConditionalRequestConflict")
        return forward(request)

    gateway.spoil = spoil
    with pytest.raises(SinkUnavailable, match="met other writes"):
        sink.publish(manifest)
    conflicts = 2
    sink.publish(manifest)
    sink.discard()
    place.require_whole(manifest)


def test_a_folder_marker_of_a_console_is_not_somebody_elses(place: S3Place) -> None:
    place.put("", b"")
    sink = place.sink("run")
    sink.probe()
    sink.publish(stage(sink, "run"))


def test_the_prefix_of_another_job_that_begins_alike_is_left_alone(place: S3Place) -> None:
    place.client.put_object(Bucket=place.bucket, Key="shop/orders2/part-00000-00000001.parquet", Body=b"x")
    sink = place.sink("run")
    sink.probe()
    sink.publish(stage(sink, "run"))
    sink.discard()
    assert place.client.head_object(Bucket=place.bucket, Key="shop/orders2/part-00000-00000001.parquet")


@pytest.mark.parametrize("prefix", ["", "/", "/abs", "a//b", "a/../b", "a/_staging/b", "a\\b", "a\nb", "x" * 600])
def test_prefixes_that_are_no_relative_path_are_refused_by_field(place: S3Place, prefix: str) -> None:
    with pytest.raises(InvalidManifest, match=r"spec\.sink\.s3\.prefix"):
        S3Sink(place.bucket, prefix, place.options, run_id="run", if_exists="Fail")


@pytest.mark.parametrize("name", ["../part", "a/b", "_manifest.json", "", "a/"])
def test_names_of_parts_cannot_leave_the_prefix(place: S3Place, name: str) -> None:
    with pytest.raises(SinkRefused):
        place.sink("run").open_part(name)


def test_the_uri_is_bucket_and_prefix(place: S3Place) -> None:
    assert place.sink("run").uri == f"s3://{place.bucket}/shop/orders"
