"""A pod that was made wrongly says which variable is to blame."""

import pytest

from extraction_worker.errors import InvalidManifest
from extraction_worker.model import Consistency
from extraction_worker.stages.pod.environment import BundleEnvironment, Environment

GOOD = {
    "EXTRACTION_RUN_ID": "uid-1", "EXTRACTION_POD_UID": "p", "EXTRACTION_POD_NAME": "n", "EXTRACTION_POOL": "2",
    "EXTRACTION_CONSISTENCY": "Snapshot", "EXTRACTION_BUNDLES": "3", "EXTRACTION_PLAN_DIGEST": "d",
    "JOB_COMPLETION_INDEX": "2",
}  # fmt: skip


def test_variables_become_values():
    environment = Environment.parse(GOOD)
    assert (environment.consistency, environment.pool) == (Consistency.SNAPSHOT, 2)
    assert (environment.parallelism, environment.bundles, environment.killed) == (None, 3, 0)
    assert Environment.parse(GOOD | {"EXTRACTION_KILLED": "2"}).killed == 2
    assert BundleEnvironment.parse(GOOD) == BundleEnvironment(2, 3, "d")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("EXTRACTION_RUN_ID", ""),
        ("EXTRACTION_POD_UID", ""),
        ("EXTRACTION_POD_NAME", ""),
        ("EXTRACTION_CONSISTENCY", "snapshot"),
        ("EXTRACTION_POOL", ""),
        ("EXTRACTION_POOL", "0"),
        ("EXTRACTION_POOL", "two"),
        ("EXTRACTION_PARALLELISM", "-1"),
        ("EXTRACTION_BUNDLES", "0"),
        ("EXTRACTION_KILLED", "once"),
    ],
)
def test_a_wrong_variable_is_named(name, value):
    with pytest.raises(InvalidManifest, match=name):
        Environment.parse(GOOD | {name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [("EXTRACTION_BUNDLES", ""), ("EXTRACTION_PLAN_DIGEST", ""), ("JOB_COMPLETION_INDEX", "3"),
     ("JOB_COMPLETION_INDEX", "")],
)  # fmt: skip
def test_a_wrong_variable_of_a_worker_is_named(name, value):
    with pytest.raises(InvalidManifest, match=name):
        BundleEnvironment.parse(GOOD | {name: value})
