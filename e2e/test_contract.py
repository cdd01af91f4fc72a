"""The API server judges every case of the contract as the loader of local mode does."""

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from contract.cases import Case, Refusal, Update, cases, merged, updates
from e2e.support.api import Answer, Api
from e2e.support.cluster import Cluster
from extraction_contract.models import DataSource, ExtractionJob

CRDS = Path(__file__).parents[1] / "crds"
MODELS: dict[str, type[DataSource | ExtractionJob]] = {"DataSource": DataSource, "ExtractionJob": ExtractionJob}
PLURALS = {"DataSource": "datasources", "ExtractionJob": "extractionjobs"}
STRICT = "fieldValidation=Strict"


@pytest.fixture(scope="module")
def api(cluster: Cluster) -> Api:
    """The API server with our kinds, which stay: other tests may use them."""
    for file in sorted(CRDS.glob("*.yaml")):
        cluster.kubectl("apply", "--server-side", "--filename", str(file))
    for plural in PLURALS.values():
        cluster.kubectl("wait", "--for=condition=Established", f"crd/{plural}.extraction-operator.io", "--timeout=60s")
    return cluster.api


@pytest.fixture(scope="module")
def prefix(cluster: Cluster) -> Iterator[str]:
    """Path of a namespace for all cases."""
    with cluster.fresh_namespace() as namespace:
        yield f"/apis/extraction-operator.io/v1alpha1/namespaces/{namespace.namespace}"


def assert_judged(answer: Answer, refused: Refusal | None) -> None:
    if refused is None:
        assert answer.code < 300, answer.refusal
        return
    assert answer.code in {400, 422}, answer
    assert refused.server_path in answer.refusal
    assert refused.server in answer.refusal
    assert "hunter2" not in answer.refusal  # the password of the cases


def without_nulls(value: Any) -> Any:
    """Return what kubectl and the loader see: a null is an absent field."""
    if isinstance(value, dict):
        return {key: without_nulls(child) for key, child in value.items() if child is not None}
    return [without_nulls(child) for child in value] if isinstance(value, list) else value


@pytest.mark.parametrize("case", list(cases()), ids=lambda case: case.name)
def test_the_server_judges_a_manifest_as_the_loader_does(api: Api, prefix: str, case: Case) -> None:
    manifest = case.manifest
    if case.refused is None and "namespace" in manifest["metadata"]:
        manifest = merged(manifest, {"metadata": {"namespace": prefix.rpartition("/")[2]}})
    kind = manifest["kind"]
    answer = api.request("POST", f"{prefix}/{PLURALS[kind]}?dryRun=All&{STRICT}", manifest)
    assert_judged(answer, case.refused)
    if case.refused is None:
        # Defaults that the server has filled in are those of the models.
        sent, kept = (
            MODELS[kind].model_validate_json(json.dumps(without_nulls(value)), by_alias=True, by_name=False)
            for value in (manifest, answer.body)
        )
        assert (kept.spec, kept.status) == (sent.spec, sent.status)


@pytest.mark.parametrize("update", list(updates()), ids=lambda update: update.name)
def test_the_server_judges_a_change(api: Api, prefix: str, update: Update) -> None:
    jobs = f"{prefix}/extractionjobs"
    job = merged(update.job, {"metadata": {"name": f"job-{uuid.uuid4().hex[:8]}"}})
    if not update.status:
        job = merged(job, update.before)
    made = api.request("POST", f"{jobs}?{STRICT}", job)
    assert made.code == 201, made.refusal
    target = f"{jobs}/{job['metadata']['name']}" + ("/status" if update.status else "")
    if update.status:
        assert made.body["status"]["observedGeneration"] == -1
        assert_judged(api.merge(target, update.before), None)
    assert_judged(api.merge(f"{target}?{STRICT}", update.after), update.refused)
