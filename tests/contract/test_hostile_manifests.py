"""Hostile values in every field of a manifest: refused by the field's name, and never shown."""

import contextlib
import copy

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from extraction_contract.load import load_files
from extraction_contract.problems import ManifestError
from extraction_worker.errors import InvalidManifest
from extraction_worker.sink.paths import RelativePath
from support.hostile_inputs import PATHS, REFUSED

BASES = {
    "ExtractionJob": {
        "apiVersion": "extraction-operator.io/v1alpha1", "kind": "ExtractionJob",
        "metadata": {"name": "orders", "namespace": "eu"},
        "spec": {
            "dataSourceRef": {"name": "shop"}, "table": "public.orders", "sink": {"volume": {"claimName": "lake"}},
        },
    },
    "DataSource": {
        "apiVersion": "extraction-operator.io/v1alpha1", "kind": "DataSource", "metadata": {"name": "shop"},
        "spec": {
            "type": "PostgreSQL", "connection": {"host": "shop-db", "database": "shop"},
            "credentialsSecretRef": {"name": "shop-reader"},
        },
    },
}  # fmt: skip
CASES = [(kind, path, value) for (kind, path), values in REFUSED.items() for value in values]


def declared(kind: str, path: str, value: object) -> dict:
    manifest = copy.deepcopy(BASES[kind])
    if ".s3." in path:
        manifest["spec"]["sink"] = {"s3": {"bucket": "lake"}}
    if path.endswith("caSecretRef.key"):
        parent = manifest["spec"]["sink"]["s3"] if ".s3." in path else manifest["spec"]["connection"]
        parent["caSecretRef"] = {"name": "ca"}
    *parents, last = path.split(".")
    target = manifest
    for name in parents:
        target = target.setdefault(name, {})
    target[last] = value
    return manifest


def problems_of(tmp_path, manifest: object) -> list:
    file = tmp_path / "manifest.yaml"
    file.write_text(yaml.safe_dump(manifest, allow_unicode=False), encoding="utf-8", errors="surrogatepass")
    with pytest.raises(ManifestError) as refused:
        load_files([file])
    return refused.value.problems


def test_the_corpus_is_large():
    assert len({repr(case) for case in CASES}) >= 700


@pytest.mark.parametrize("field", REFUSED, ids=" ".join)
def test_hostile_values_are_refused_by_the_name_of_the_field_and_not_shown(tmp_path, field):
    kind, path = field
    for value in REFUSED[field]:
        problems = problems_of(tmp_path, declared(kind, path, value))
        blamed = {problem.path for problem in problems}
        assert any(found.startswith(path) or path.startswith(found) for found in blamed), (value, blamed)
        if isinstance(value, str) and len(value) > 12:
            assert all(value not in problem.message for problem in problems)


def test_a_path_that_the_loader_would_let_through_still_stays_below_its_root():
    """The second line. It takes more than the loader does, so what it takes has to be harmless."""
    refused = 0
    for path in PATHS:
        try:
            found = RelativePath.parse(path, field="spec")
        except (InvalidManifest, UnicodeEncodeError):
            refused += 1
            continue
        assert not {"", ".", "..", "_staging"} & set(found.segments)
        assert not any("/" in one or "\\" in one or ord(min(one)) < 32 for one in found.segments)
    assert refused >= 45


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
TREES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
FIELDS = sorted({path for _, path in REFUSED} | {"spec", "metadata", "spec.sink", "spec.masks", "spec.policy", "kind"})


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.sampled_from(sorted(BASES)), st.sampled_from(FIELDS), TREES)
def test_any_tree_in_any_field_is_taken_or_refused_by_name(tmp_path_factory, kind, path, tree):
    file = tmp_path_factory.getbasetemp() / "fuzzed.yaml"
    manifest = copy.deepcopy(BASES[kind])
    *parents, last = path.split(".")
    target = manifest
    for name in parents:
        below = target.get(name)
        target[name] = below if isinstance(below, dict) else {}
        target = target[name]
    target[last] = tree
    file.write_text(yaml.safe_dump(manifest))
    # Whatever else it raised would be an error here.
    with contextlib.suppress(ManifestError):
        load_files([file])
