"""``extraction verify``: what was published is proven again, and every discrepancy named."""

import json
import shutil

import pytest
from click.testing import CliRunner

from extraction_worker.cli import main
from extraction_worker.errors import InvalidManifest, NotFound, SinkRefused
from extraction_worker.model import Manifest
from extraction_worker.verify.manifest import open_set, verify_set
from support.jobs import local_run, published

CHUNKS = {"targetBytes": "64Ki"}


@pytest.fixture
def table(database18):
    database18.execute("CREATE TABLE t (id int8 PRIMARY KEY, name text, at timestamptz, raw bytea, tags text[])")
    database18.execute(
        "INSERT INTO t SELECT i, nullif('name ' || i % 50, 'name 7'), '2026-01-01Z'::timestamptz + i * interval '1 s', "
        "decode(md5(i::text), 'hex'), ARRAY[i::text, NULL] FROM generate_series(1, 5000) AS i"
    )
    return database18


@pytest.fixture
def result(table, tmp_path):
    """A published set of several chunks, with digests of columns."""
    local_run(tmp_path, table, spec={"partitioning": CHUNKS, "verification": "Decoded"}).run()
    return published(tmp_path)


def problems_of(folder) -> str:
    return " ".join(verify_set(open_set(str(folder))).problems)


def rewrite(folder, change):
    """Change the manifest as a document; keep its own digest right."""
    path = folder / "_manifest.json"
    document = json.loads(path.read_text())
    change(document)
    manifest = Manifest.model_validate(document)
    path.write_bytes(manifest.model_copy(update={"digest": Manifest.set_digest(manifest.parts)}).to_json())


@pytest.mark.parametrize("location", ["folder", "manifest", "uri"])
def test_a_whole_set_is_proven(result, location):
    locations = {"folder": str(result), "manifest": str(result / "_manifest.json"), "uri": result.as_uri()}
    report = verify_set(open_set(locations[location]))
    assert report.problems == ()
    assert report.columns_proven
    assert (report.rows, report.parts) == (5000, len(list(result.glob("part-*"))))
    assert report.require_whole() is report


@pytest.mark.parametrize("kind", ["Parquet", "Arrow", "CSV", "JSONL"])
@pytest.mark.parametrize("level", ["Written", "Decoded"])
def test_sets_of_every_format_are_proven(table, tmp_path, kind, level):
    spec = {"sink": {"format": {"type": kind}}, "verification": level, "partitioning": CHUNKS}
    local_run(tmp_path, table, spec=spec).run()
    report = verify_set(open_set(str(published(tmp_path))))
    assert report.problems == ()
    assert report.columns_proven is (level == "Decoded")


def test_a_set_in_s3_is_proven_and_what_is_missing_named(table, tmp_path, s3_server, bucket, monkeypatch):
    manifest = local_run(tmp_path, table, s3=(s3_server, bucket), spec={"partitioning": CHUNKS}).run()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.secret_key)
    location = f"s3://{bucket}/default/job"
    assert verify_set(open_set(location, endpoint=s3_server.endpoint, region="us-east-1")).problems == ()
    part = manifest.parts[0].name
    s3_server.client().delete_object(Bucket=bucket, Key=f"default/job/{part}")
    found = verify_set(open_set(location, endpoint=s3_server.endpoint, region="us-east-1"))
    assert found.problems == (f"{part} of chunk 0 is missing.",)
    with pytest.raises(SinkRefused, match="nowhere"):
        verify_set(open_set("s3://nowhere-at-all/x", endpoint=s3_server.endpoint, region="us-east-1"))


def test_every_discrepancy_is_named_not_only_the_first(result):
    first, second, third, *_ = sorted(result.glob("part-*"))
    data = bytearray(first.read_bytes())
    data[len(data) // 2] ^= 1
    first.write_bytes(data)
    second.unlink()
    third.write_bytes(third.read_bytes()[:-1])
    shutil.copy(result / "_manifest.json", result / "part-99999-ffffffff.parquet")
    found = problems_of(result)
    assert f"{first.name} of chunk 0 has xxh3-128" in found
    assert f"{second.name} of chunk 1 is missing" in found
    assert f"{third.name} of chunk 2 has" in found
    assert "bytes instead of" in found
    assert "part-99999-ffffffff.parquet is there and isn't in the manifest" in found


def test_files_of_others_beside_the_parts_are_let_be(result):
    (result / "README").write_text("ours")
    assert problems_of(result) == ""


def test_two_parts_that_changed_places_are_noticed(result):
    first, second, *_ = sorted(result.glob("part-*"))
    first.rename(result / "x")
    second.rename(first)
    (result / "x").rename(second)
    assert first.name in problems_of(result)
    assert second.name in problems_of(result)


def test_a_changed_digest_of_a_column_is_noticed(result):
    def change(document):
        document["chunks"][1]["columns"][1]["digest"] = "0" * 32

    rewrite(result, change)
    assert "Chunk 1, column 'name'" in problems_of(result)


def test_rows_that_the_footer_does_not_have_are_noticed(result):
    def change(document):
        document["parts"][0]["rows"] += 1
        document["chunks"][0]["rows"] += 1
        document["rows"] += 1

    rewrite(result, change)
    assert "rows by its footer" in problems_of(result)


def test_rows_that_a_text_file_does_not_have_are_noticed(table, tmp_path):
    local_run(tmp_path, table, spec={"sink": {"format": {"type": "CSV"}}}).run()

    def change(document):
        document["parts"][0]["rows"] += 1
        document["chunks"][0]["rows"] += 1
        document["rows"] += 1

    rewrite(published(tmp_path), change)
    assert "decodes to 5000 rows, not 5001" in problems_of(published(tmp_path))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda document: document.update(rows=1), "The manifest counts 1 rows, its parts 5000."),
        (lambda document: document.update(bytes=1), "The manifest counts 1 bytes, its parts"),
        (lambda document: document["chunks"].pop(), "chunks don't list its parts in order, each once"),
        (lambda document: document["chunks"][0].update(rows=1), "Chunk 0 has 1 rows, its parts"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_no_proof(result, change, problem):
    rewrite(result, change)
    assert problem in problems_of(result)


def test_a_manifest_whose_parts_were_edited_is_no_proof(result):
    path = result / "_manifest.json"
    document = json.loads(path.read_text())
    document["parts"][0]["xxh3_128"] = "0" * 32
    path.write_text(json.dumps(document))
    assert "list of parts doesn't have the manifest's digest" in problems_of(result)


def test_a_place_without_a_manifest_is_told(tmp_path):
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(NotFound, match="has no _manifest"):
            verify_set(open_set(str(place)))
    with pytest.raises(InvalidManifest, match="BUCKET"):
        open_set("s3://bucket-only")


def test_the_command_prints_for_people_and_machines(result):
    runner = CliRunner()
    good = runner.invoke(main, ["verify", str(result)])
    assert (good.exit_code, "every column of every chunk" in good.stdout) == (0, True)
    next(result.glob("part-00000-*")).unlink()
    bad = runner.invoke(main, ["verify", str(result)])
    assert (bad.exit_code, "of chunk 0 is missing" in bad.stdout) == (28, True)
    document = json.loads(runner.invoke(main, ["verify", str(result), "--output", "json"]).stdout)
    assert len(document["problems"]) == 1
    assert runner.invoke(main, ["verify", str(result / "nowhere")]).exit_code == 12
