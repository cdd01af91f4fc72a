"""Masked columns through a whole local run: what is written is masked, what is proven is the source's."""

import gzip
import hmac
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from extraction_contract.problems import ManifestError
from extraction_worker.errors import InvalidManifest, InvalidPartitioning, VerificationFailed
from extraction_worker.model import Manifest, Plan
from extraction_worker.source.session import ReadSession
from extraction_worker.stages.work import ChunkWorker
from extraction_worker.verify.manifest import open_set, verify_set
from support.jobs import local_run, published, resolve_job
from support.type_cases import CASES, SETUP

KEY = "0123456789abcdef0123456789abcdef-canary-of-the-mask-key"
KEY_REF = {"name": "mask", "key": "key"}
PLAIN = ("Ada Lovelace", "ada@example.com", "+441234567890", "1815-12-10")
MASKS = [
    {"column": "name", "method": "Constant", "value": "somebody"},
    {"column": "email", "method": "Hash", "keySecretRef": KEY_REF},
    {"column": "phone", "method": "Partial", "keepLast": 3},
    {"column": "born", "method": "Truncate", "to": "Year"},
    {"column": "salary", "method": "Nullify"},
]
LEVELS = ["None", "Written", "Decoded", "Source"]
FORMATS = [("Parquet", "zstd"), ("Arrow", "none"), ("CSV", "none"), ("JSONL", "gzip")]


@pytest.fixture(scope="module")
def people(shared18):
    return fill(shared18)


def fill(database):
    database.execute(
        "CREATE TABLE t (id int8 PRIMARY KEY, name text NOT NULL, email text UNIQUE NOT NULL, phone text,"
        " born date, salary numeric(12,2) NOT NULL)"
    )
    database.execute("INSERT INTO t VALUES (0, %s, %s, %s, %s, 7654321.99)", *PLAIN)
    database.execute(
        "INSERT INTO t SELECT i, 'Ada Lovelace', 'user' || i || '@example.com', NULLIF('+44' || i % 7, '+440'),"
        " date '1900-01-01' + i, 7654321.99 FROM generate_series(1, 2999) AS i"
    )
    return database


def masked_run(folder, database, *, masks=MASKS, key=KEY, threads=2, **changes):
    spec = {"masks": masks, "partitioning": {"targetBytes": "64Ki"}} | changes.pop("spec", {})
    return local_run(folder, database, threads=threads, spec=spec, secrets={"mask": {"key": key}}, **changes)


def digest(text: str) -> str:
    return hmac.new(KEY.encode(), text.encode(), "sha256").hexdigest()


def everything_written(folder) -> bytes:
    found = []
    for path in sorted(folder.glob("volumes/**/*")):
        if path.is_file():
            data = path.read_bytes()
            found.append(gzip.decompress(data) if path.suffix == ".gz" else data)
    return b"\n".join(found)


@pytest.mark.parametrize("level", LEVELS)
def test_masks_are_applied_at_every_level_of_proof(people, tmp_path, level):
    manifest = masked_run(tmp_path, people, spec={"verification": level}).run()
    rows = {row["id"]: row for row in pq.read_table(published(tmp_path)).to_pylist()}
    assert len(rows) == 3000
    assert {row["name"] for row in rows.values()} == {"somebody"}
    assert {row["salary"] for row in rows.values()} == {None}
    assert rows[0]["email"] == digest("ada@example.com")
    assert all(rows[i]["email"] == digest(f"user{i}@example.com") for i in range(1, 3000))
    assert rows[0]["phone"] == "***890"
    assert Counter(rows[i]["phone"] for i in range(1, 3000)) == {"***": 2571, None: 428}
    assert {(row["born"].month, row["born"].day) for row in rows.values()} == {(1, 1)}
    assert {column.name: column.mask.method for column in manifest.columns if column.mask} == {
        mask["column"]: mask["method"] for mask in MASKS
    }
    assert verify_set(open_set(str(published(tmp_path)))).problems == ()


@pytest.mark.parametrize(("kind", "compression"), FORMATS)
def test_nothing_that_is_written_holds_a_value_or_a_key(people, tmp_path, monkeypatch, kind, compression):
    staged: list[bytes] = []
    original = ChunkWorker.extract

    def extract(self, chunk):
        staged.append(self.plan.to_json())
        result = original(self, chunk)
        staged.append(result.to_json())
        return result

    monkeypatch.setattr(ChunkWorker, "extract", extract)
    sink = {"format": {"type": kind, "compression": compression}}
    # None of the columns may be told by their evidence, either: the server's sums and hashes are of its values.
    manifest = masked_run(tmp_path, people, spec={"verification": "Source", "sink": sink}).run()
    assert all(chunk.source_proven for chunk in manifest.chunks)
    written = everything_written(tmp_path) + b"\n".join(staged)
    for plain in (*PLAIN, KEY, "7654321.99", "user1@example.com", "+441"):
        assert plain.encode() not in written
    for chunk in manifest.chunks:
        evidence = {column.name: column.source for column in chunk.columns}
        assert evidence["name"] is None
        assert evidence["salary"] is None
        assert all(set(evidence[name]) == {"count"} for name in ("email", "phone", "born"))
        assert set(evidence["id"]) == {"count", "sum", "hash"}


def test_the_same_key_gives_the_same_hashes_in_every_run_and_another_key_others(people, tmp_path):
    folders = [tmp_path / name for name in ("one", "two", "other")]
    keys = [KEY, KEY, KEY[::-1]]
    manifests = [masked_run(folder, people, key=key).run() for folder, key in zip(folders, keys, strict=True)]
    hashes = [set(pq.read_table(published(folder)).column("email").to_pylist()) for folder in folders]
    assert hashes[0] == hashes[1]
    assert not hashes[0] & hashes[2]
    ids = [next(column.mask.key_id for column in found.columns if column.name == "email") for found in manifests]
    assert ids[0] == ids[1] != ids[2]
    assert all(len(found) == 16 for found in ids)


def test_the_plans_digest_covers_the_masks_and_the_key(people, tmp_path):
    def planned(name: str, **changes) -> Plan:
        return masked_run(tmp_path / name, people, **changes).plan()

    one, other_key = planned("one"), planned("two", key=KEY[::-1])
    other_mask = planned("three", masks=[*MASKS[:-1], {"column": "salary", "method": "Constant", "value": "0"}])
    none = planned("four", masks=[])
    columns = {plan.model_copy(update={"identity": one.identity, "planned_at": one.planned_at}).plan_digest()
               for plan in (one, other_key, other_mask, none)}  # fmt: skip
    assert len(columns) == 4


def test_the_server_still_proves_what_is_masked(people, tmp_path, monkeypatch):
    original = ReadSession.read

    def read(self, *args, **kwargs):
        for batch in original(self, *args, **kwargs):
            changed = batch.column("email").to_pylist()
            changed[0] = "forged@example.com"
            index = batch.schema.get_field_index("email")
            yield batch.set_column(index, batch.schema.field(index), pa.array(changed, batch.schema.field(index).type))

    monkeypatch.setattr(ReadSession, "read", read)
    with pytest.raises(VerificationFailed, match="column 'email'") as failed:
        masked_run(tmp_path, people, spec={"verification": "Source"}).run()
    assert "@" not in str(failed.value)


def test_a_key_that_changes_while_the_job_runs_ends_it(people, tmp_path):
    run = masked_run(tmp_path, people)
    plan = run.plan()
    secrets = tmp_path / "secrets.yaml"
    secrets.write_text(secrets.read_text().replace(KEY, KEY[::-1]))
    changed = resolve_job([tmp_path / "job.yaml", secrets])
    from extraction_worker.stages.masks import open_masks

    with pytest.raises(InvalidManifest, match="isn't the one that the job was planned with") as refused:
        open_masks(changed, plan.columns)
    assert KEY not in str(refused.value)
    assert KEY[::-1] not in str(refused.value)


@pytest.mark.parametrize("key", ["", "short", "x" * 31])
def test_a_short_key_is_refused_before_anything_is_read(people, tmp_path, key):
    with pytest.raises(ManifestError, match="32 bytes or more") as refused:
        masked_run(tmp_path, people, key=key)
    assert "spec.masks[1].keySecretRef" in str(refused.value)


# Policy ------------------------------------------------------------------------------------------------------------

POLICY = {"policy": {"sensitiveColumns": ["*EMAIL*", "salar?"]}}


def test_a_sensitive_column_is_masked_or_left_out(people, tmp_path):
    with pytest.raises(InvalidManifest, match=r"sensitiveColumns, and not masked: 'email', 'salary'"):
        local_run(tmp_path / "a", people, source=POLICY).run()
    with pytest.raises(InvalidManifest, match="not masked: 'salary'"):
        masked_run(tmp_path / "b", people, source=POLICY, masks=MASKS[:-1]).run()
    masked_run(tmp_path / "c", people, source=POLICY).run()
    local_run(tmp_path / "d", people, source=POLICY, spec={"columns": ["id", "name"]}).run()


def test_a_sensitive_or_masked_column_is_no_key(people, tmp_path):
    by_email = {"partitioning": {"strategy": "Range", "column": "email", "targetBytes": "64Ki"}}
    with pytest.raises(InvalidPartitioning, match="email is masked or sensitive"):
        masked_run(
            tmp_path / "a", people, source=POLICY, masks=MASKS[-1:], spec=by_email | {"columns": ["id", "salary"]}
        ).run()
    with pytest.raises(ManifestError, match="can't be masked: its values are the bounds"):
        masked_run(tmp_path / "b", people, spec=by_email)


def test_a_masked_key_is_passed_over(database18, tmp_path):
    spec = {"consistency": "PerPartition"}
    masks = [{"column": "id", "method": "Constant", "value": "0"}]
    assert masked_run(tmp_path / "a", fill(database18), masks=[], spec=spec).plan().strategy == "range"
    plan = masked_run(tmp_path / "b", database18, masks=masks, spec=spec).plan()
    # email, which is unique, too, isn't masked here.
    assert (plan.strategy, plan.chunks[0].read.column) == ("range", "email")
    plan = masked_run(tmp_path / "c", database18, masks=[*masks, MASKS[1]], spec=spec).plan()
    assert plan.strategy == "ctid"


QUERIES = [
    ("SELECT id, email FROM public.t", "email"),
    ("SELECT id, email AS contact FROM public.t", "contact"),
    ("SELECT id, contact FROM (SELECT id, email AS contact FROM public.t) AS s", "contact"),
    ("WITH c(a, b) AS (SELECT id, email FROM public.t) SELECT a, b AS contact FROM c", "a', 'contact"),
    ("SELECT id, pg_catalog.lower(email) AS contact FROM public.t", "contact"),
    ("SELECT id, x AS contact FROM (SELECT id, pg_catalog.lower(email) AS x FROM public.t) AS s", "contact"),
    ("SELECT id FROM public.t UNION ALL SELECT pg_catalog.length(email)::int8 FROM public.t", "id"),
    ("SELECT pg_catalog.to_json(t) AS everything FROM public.t AS t", "everything"),
    ("SELECT c AS contact FROM public.t AS u (a, b, c)", "contact"),
    ("SELECT * FROM public.t", "email', 'salary"),
]


@pytest.mark.parametrize(("query", "column"), QUERIES)
def test_what_a_query_makes_of_a_sensitive_column_is_masked_or_refused(people, tmp_path, query, column):
    with pytest.raises(InvalidManifest, match=f"not masked: '{column}'"):
        local_run(tmp_path / "a", people, source=POLICY, spec={"query": query}).run()
    masks = [{"column": name, "method": "Nullify"} for name in column.split("', '")]
    masked_run(tmp_path / "b", people, source=POLICY, masks=masks, spec={"query": query, "partitioning": {}}).run()


@pytest.mark.parametrize(
    "query",
    ["SELECT email || 'x' FROM public.t", "SELECT * FROM public.t UNION ALL SELECT * FROM public.t"],
)
def test_what_no_mask_could_name_is_refused(people, tmp_path, query):
    with pytest.raises(Exception, match=r"has no name"):
        local_run(tmp_path, people, source=POLICY, spec={"query": query}).run()


@pytest.mark.parametrize(
    "query",
    [
        "SELECT id, name FROM public.t WHERE email IS NOT NULL",
        "SELECT pg_catalog.count(*) AS n FROM public.t",
        "SELECT a.id FROM public.t AS a JOIN public.t AS b ON a.email = b.email",
    ],
)
def test_a_query_that_shows_no_sensitive_column_needs_no_mask(people, tmp_path, query):
    local_run(tmp_path, people, source=POLICY, spec={"query": query}).run()


# Types -------------------------------------------------------------------------------------------------------------


def test_every_type_can_be_hashed_cut_and_left_out_and_the_server_agrees(database, tmp_path):
    """One table with a column of every type, three times over, under ``Source``."""
    for statement in SETUP:
        database.execute(statement)
    columns, values = [], []
    version = database.connection.info.server_version // 10000
    for index, case in enumerate(CASES):
        if not case.requires and case.since <= version:
            columns.append((f"c{index}", case.type))
            values.append(case.values[0])
    database.execute("CREATE TABLE t ({})".format(", ".join(f"{name} {kind}" for name, kind in columns)))
    database.execute("INSERT INTO t VALUES ({})".format(", ".join(values)))
    database.execute("INSERT INTO t DEFAULT VALUES")
    database.execute("SET IntervalStyle = iso_8601")
    database.execute("SET TimeZone = UTC")
    # Money is a number everywhere else, too: how it is printed is a setting of the server.
    texts = ", ".join(f"{name}::numeric::text" if kind == "money" else f"{name}::text" for name, kind in columns)
    [expected] = database.execute(f"SELECT {texts} FROM t WHERE c0 IS NOT NULL")
    methods = {
        "hash": {"method": "Hash", "keySecretRef": KEY_REF}, "part": {"method": "Partial"},
        "null": {"method": "Nullify"},
    }  # fmt: skip
    for label, method in methods.items():
        masks = [{"column": name} | method for name, _ in columns]
        manifest = masked_run(tmp_path / label, database, masks=masks, spec={"verification": "Source"}).run()
        table = pq.read_table(published(tmp_path / label))
        assert table.num_rows == manifest.rows == 2
        if label == "null":
            assert all(column.null_count == 2 for column in table.columns)
        if label == "part":
            assert all(set(column.to_pylist()) == {"***", None} for column in table.columns)
        if label == "hash":
            found = [next(filter(None, column.to_pylist())) for column in table.columns]
            assert dict(zip(columns, found, strict=True)) == dict(zip(columns, map(digest, expected), strict=True))


def test_the_manifest_reads_back_with_its_masks(people, tmp_path):
    manifest = masked_run(tmp_path, people).run()
    assert Manifest.from_json((published(tmp_path) / "_manifest.json").read_bytes()) == manifest
    assert yaml.safe_load((published(tmp_path) / "_manifest.json").read_text())["columns"][2]["mask"] == {
        "method": "Hash", "keyId": next(column.mask.key_id for column in manifest.columns if column.name == "email"),
    }  # fmt: skip
