"""Files of manifests: what is read, and what is said of what can't be."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extraction_contract import documents, yaml_documents
from extraction_contract.documents import MAX_BYTES, InvalidDocument, parse_documents
from extraction_contract.load import Manifests, ObjectKey, load_files
from extraction_contract.problems import ManifestError, Origin
from extraction_contract.yaml_documents import parse_yaml

SOURCE = """
apiVersion: extraction-operator.io/v1alpha1
kind: DataSource
metadata: {name: shop}
spec:
  type: PostgreSQL
  connection: {host: shop-db, database: shop}
  credentialsSecretRef: {name: shop-reader}
"""
JOB = """
apiVersion: extraction-operator.io/v1alpha1
kind: ExtractionJob
metadata: {name: orders}
spec:
  dataSourceRef: {name: shop}
  table: public.orders
  sink: {s3: {bucket: lake}}
"""
A_QUANTITY = "must be a number of bytes (64Mi, 1.5G, 1048576), from 64Ki to 64Gi"
TEXT = "must be text; put it in quotes if it looks like a number or a yes"
SECRET = """
apiVersion: v1
kind: Secret
metadata:
  name: shop-reader
  annotations: {kubectl.kubernetes.io/last-applied-configuration: hunter2}
type: Opaque
stringData: {username: reader, password: hunter2}
"""


def written(folder: Path, name: str, *documents: str) -> Path:
    """Write a file of documents."""
    path = folder / name
    path.write_text("---".join(documents))
    return path


def complaints(*paths: Path) -> list[str]:
    """Load files that can't be; return what is said, without the folder."""
    with pytest.raises(ManifestError) as caught:
        load_files(paths)
    return [line.replace(f"{paths[0].parent}/", "") for line in str(caught.value).splitlines()]


@pytest.fixture
def manifests(tmp_path: Path) -> Manifests:
    """A job, its source and its secret, from two files."""
    return load_files([written(tmp_path, "job.yaml", SOURCE, JOB), written(tmp_path, "secret.yaml", SECRET)])


def test_objects_are_found_by_namespace_and_name(manifests: Manifests, tmp_path: Path) -> None:
    orders = ObjectKey("default", "orders")
    assert list(manifests.jobs) == [orders]
    assert list(manifests.sources) == [ObjectKey("default", "shop")]
    assert list(manifests.secrets) == [ObjectKey("default", "shop-reader")]
    assert manifests.origins["ExtractionJob", orders] == Origin(str(tmp_path / "job.yaml"), 2)


def test_no_secret_is_shown(manifests: Manifests) -> None:
    assert "hunter2" not in repr(manifests)


def test_what_kubectl_shows_can_be_loaded(tmp_path: Path) -> None:
    shown = JOB.replace(
        "metadata: {name: orders}",
        "metadata: {name: orders, uid: x, generation: 2, resourceVersion: '5', creationTimestamp: 2026-11-22T03:00:55Z,"
        " finalizers: [a/b], ownerReferences: [{kind: X}], managedFields: [{operation: Apply}]}",
    )
    status = "status: {observedGeneration: 2, phase: Running, startTime: 2026-11-22T03:00:55Z, attempt: 1}\n"
    job = load_files([written(tmp_path, "job.yaml", shown + status)]).job()
    assert job.metadata.generation == 2
    assert job.status.phase == "Running"
    assert job.status.start_time is not None
    assert job.status.start_time.utcoffset() is not None


def test_every_problem_of_every_file_is_said_at_once(tmp_path: Path) -> None:
    bad_job = JOB.replace("table: public.orders", "partitioning: {targetBytes: 1.5X}\n  parallelism: 0")
    first = written(tmp_path, "job.yaml", SOURCE.replace("shop-db", '""'), bad_job)
    second = written(tmp_path, "more.yaml", JOB.replace("kind: ExtractionJob", "kind: ExtractionJobb"))
    assert complaints(first, second, tmp_path / "none.yaml") == [
        "job.yaml, document 1, spec.connection.host: must have 1 or more characters",
        f"job.yaml, document 2, spec.partitioning.targetBytes: {A_QUANTITY}",
        "job.yaml, document 2, spec.parallelism: must be at least 1",
        "more.yaml, document 1, kind: did you mean ExtractionJob?",
        "none.yaml: can't be read: No such file or directory",
    ]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("- a", ": must be a mapping with apiVersion, kind, metadata and spec"),
        ("kind: Pod", ", kind: must be one of DataSource, ExtractionJob, Secret"),
        ("kind: [DataSource]", ", kind: must be one of DataSource, ExtractionJob, Secret"),
        ("kind: Secret\nmetadata: {name: a}", ", apiVersion: is required: v1"),
        (JOB.replace("v1alpha1", "v1"), ", apiVersion: must be 'extraction-operator.io/v1alpha1'"),
        ("spec: 1\nspec: 2", ", spec: is there twice"),
        ("spec: {a: [{b: 1, b: 2}]}", ", spec.a[0].b: is there twice"),
        ("spec: {1: 2}", ", spec: has a key that isn't text; put it in quotes"),
        ("spec: {on: 2}", ", spec: has a key that isn't text; put it in quotes"),
        ("a: [1", ": isn't valid YAML, line 1: expected …"),
        ("a:\n  b: *hunter2", ": isn't valid YAML, line 2: found undefined alias …"),
        ("a: !hunter2 b", ": isn't valid YAML, line 1: could not determine a constructor for the tag …"),
        ("a: !!binary aGk=", ": isn't valid YAML, line 1: could not determine a constructor for the tag …"),
        ("a: &a [*a]", ": is nested too deeply"),
        ("a: " + "[" * 5000, ": is nested too deeply"),
        ("a: " + "1" * 5000, ": contains a number that is too long"),
        (JOB.replace("{name: shop}", "{name: .inf}"), ": contains a number that isn't finite"),
        (JOB.replace("{name: shop}", '{name: "\\ud800"}'), ": contains text that isn't valid Unicode"),
        (JOB.replace("{bucket: lake}", "lake"), ", spec.sink.s3: must be a mapping"),
        (JOB.replace("table:", "columns: id\n  table:"), ", spec.columns: must be a list"),
        (JOB.replace("table:", "podTemplate: {labels: a}\n  table:"), ", spec.podTemplate.labels: must be a mapping"),
        (JOB.replace("public.orders", "5"), f", spec.table: {TEXT}"),
        (SECRET.replace("password: hunter2", "password: 5"), f", stringData.password: {TEXT}"),
        (JOB.replace("{name: shop}", "{zzz: 1, name: s}"), ", spec.dataSourceRef.zzz: unknown field; there are name"),
        (JOB.replace("table:", "podTemplate: {tolerations: [{efect: x}]}\n  table:"),
         ", spec.podTemplate.tolerations[0].efect: unknown field; did you mean effect?"),
        (JOB + "status: {conditions: [{typ: x}]}", ", status.conditions[0].type: is required"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(tmp_path: Path, text: str, complaint: str) -> None:
    said = complaints(written(tmp_path, "job.yaml", text))
    assert said[0] == f"job.yaml, document 1{complaint}"
    assert "hunter2" not in "".join(said)


def test_a_document_after_a_broken_one_is_counted(tmp_path: Path) -> None:
    said = complaints(written(tmp_path, "job.yaml", SOURCE, "\n# nothing\n", "\na: [1"))
    assert said[0].startswith("job.yaml, document 3: isn't valid YAML, line ")


def test_an_alias_may_be_used_but_not_as_a_bomb(tmp_path: Path) -> None:
    fine = JOB.replace("{name: shop}", "&ref {name: shop}").replace("{bucket: lake}", "{<<: {bucket: lake}}")
    assert load_files([written(tmp_path, "fine.yaml", fine)]).job().spec.sink.s3 is not None
    lines = ["a0: &a0 [x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12))]
    said = complaints(written(tmp_path, "bomb.yaml", "\n".join(lines)))
    assert said == ["bomb.yaml, document 1: has more than 100000 values once its anchors are expanded"]


def test_keys_merged_twice_are_no_duplicates() -> None:
    text = b"base: &base {a: 1}\nuse: {<<: *base, a: 2}"
    assert list(parse_documents(text)) == [(1, {"base": {"a": 1}, "use": {"a": 2}})]


def test_a_date_stays_text_and_a_null_is_left_out() -> None:
    text = b"a: 2026-11-22\nb: null\nc:\nd: [1, null]\ne: {f: ~}"
    assert list(parse_documents(text)) == [(1, {"a": "2026-11-22", "d": [1, None], "e": {}})]


# YAML takes 1e5 for text, and an escaped character beyond the first 65,536 for two.
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(-1e9, 1e9).map(lambda value: round(value, 3))
    | st.text(st.characters(max_codepoint=0xFFFF, exclude_categories=["C", "Zl", "Zp"]), max_size=8)
)  # fmt: skip
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text("ab<~1.", max_size=3), inner), max_leaves=8
)
OBJECTS = st.lists(st.dictionaries(st.text("xyz", max_size=3), VALUES, max_size=4), min_size=1, max_size=3)
STYLES = st.fixed_dictionaries({"indent": st.sampled_from([None, 2]), "ensure_ascii": st.booleans()})


@settings(deadline=None)
@given(OBJECTS, STYLES)
def test_json_is_read_as_the_yaml_that_it_is(objects: list[dict[str, Any]], style: dict[str, Any]) -> None:
    text = "\n---\n".join(json.dumps(value, **style) for value in objects)
    assert list(parse_documents(text.encode())) == list(parse_yaml(text.encode()))


def test_json_is_read_by_its_own_rules_where_yaml_has_others() -> None:
    assert list(parse_documents(b'{"a": 1e-05, "b": "\\ud83d\\ude00"}')) == [
        (1, {"a": 1e-05, "b": "\N{GRINNING FACE}"})
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1}\n---\n{"b": {"c": 1, "c": 2}}', "is there twice"),
        ('{"a": [' + "1," * 100 + "1]}", "has more than 100 values"),
        ('{"a": ' + "[" * 1500, "is nested too deeply"),
        ('{"a": ' + "1" * 5000 + "}", "a number that is too long"),
        ('{"a": 1}\n{"b": 2}', "isn't valid YAML"),
    ],
)
def test_json_is_refused_for_what_yaml_is(monkeypatch: pytest.MonkeyPatch, text: str, message: str) -> None:
    for module in (documents, yaml_documents):
        monkeypatch.setattr(module, "MAX_VALUES", 100)
    with pytest.raises(InvalidDocument, match=message):
        list(parse_documents(text.encode()))


def test_json_is_read_without_the_reader_of_yaml(tmp_path: Path) -> None:
    objects = [value for text in (JOB, SOURCE) for _, value in parse_documents(text.encode())]
    file = tmp_path / "job.json"
    file.write_text("\n---\n".join(map(json.dumps, objects)))
    code = (
        "import sys; from extraction_contract.load import load_files; print(load_files(sys.argv[1:]).job().spec.table);"
        "assert 'yaml' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code, file], capture_output=True, text=True, check=True)
    assert done.stdout == "public.orders\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"a" * (MAX_BYTES + 1), "is larger than"), (b"\xff", "isn't UTF-8 text"), (b"a: \x01", "aren't allowed")],
)
def test_a_file_that_is_no_text_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(InvalidDocument, match=message):
        list(parse_documents(content))


@given(st.binary(max_size=200) | st.text("{}[]:-&*!|>'\"#%@, \n\tab1<", max_size=60).map(str.encode))
def test_any_file_is_read_or_refused(content: bytes) -> None:
    try:
        list(parse_documents(content))
    except InvalidDocument:
        return


def test_an_object_is_given_once(tmp_path: Path) -> None:
    said = complaints(
        written(tmp_path, "a.yaml", JOB, JOB.replace("{name: orders}", "{name: orders, namespace: default}"))
    )
    assert said[0].endswith(
        "document 2, metadata.name: ExtractionJob default/orders is there already (a.yaml, document 1)"
    )


def test_a_job_is_chosen_by_name(tmp_path: Path) -> None:
    other = JOB.replace("{name: orders}", "{name: orders, namespace: eu}")
    manifests = load_files([written(tmp_path, "jobs.yaml", JOB, other, JOB.replace("name: orders", "name: lines"))])
    assert manifests.job("lines").metadata.name == "lines"
    assert manifests.job("eu/orders").metadata.namespace == "eu"
    there = "default/orders, eu/orders, default/lines"
    for name in ("orders", None):
        with pytest.raises(ManifestError, match=f"several ExtractionJobs fit: choose one of {there} by --job"):
            manifests.job(name)
    with pytest.raises(ManifestError, match=f"jobs.yaml: no ExtractionJob is called x; there are {there}"):
        manifests.job("x")


def test_a_job_is_needed(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no ExtractionJob was given"):
        load_files([written(tmp_path, "source.yaml", SOURCE)]).job()
    with pytest.raises(ManifestError, match="no file: no ExtractionJob was given"):
        load_files([]).job()
