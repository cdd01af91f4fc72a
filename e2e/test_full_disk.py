"""A volume without space: the documented end, and nothing that a reader could take for a result."""

import pytest

from e2e.support.cluster import HOST_NAME, Cluster
from e2e.support.extraction import CLAIM, Extraction
from e2e.support.servers import Postgres
from extraction_worker.errors import SinkFull

# What is left in the volume is told behind the run's own last words; the Job sees the run's exit code.
RUN_AND_LIST = 'extraction "$@"; code=$?; echo "left:"; cd "$0"; find . -mindepth 1; exit $code'


@pytest.fixture(scope="module")
def incompressible(postgres: Postgres) -> str:
    """About 30 MB that no codec makes small."""
    with postgres.connect() as connection:
        connection.execute(
            "CREATE TABLE incompressible AS"
            " SELECT i AS id, sha512(i::text::bytea) || sha512((-i)::text::bytea) AS noise"
            " FROM generate_series(1, 200000) AS i"
        )
        connection.execute("ANALYZE incompressible")
        connection.execute("GRANT SELECT ON incompressible TO reader")
    return "public.incompressible"


def test_a_job_whose_volume_is_too_small_fails_as_documented_and_leaves_nothing(
    restricted: Cluster, extractor_image: str, postgres: Postgres, incompressible: str
) -> None:
    job = Extraction(restricted.namespace, postgres, incompressible, HOST_NAME, spec={"parallelism": 2})
    full = {"onExitCodes": {"containerName": "extraction", "operator": "In", "values": [SinkFull.exit_code]}}
    ended = job.run_as_job(
        restricted, volume={"emptyDir": {"medium": "Memory", "sizeLimit": "12Mi"}},
        command=("sh", "-c", RUN_AND_LIST, f"/volumes/{CLAIM}"),
        podFailurePolicy={"rules": [{"action": "FailJob"} | full]},
    )  # fmt: skip
    log = restricted.kubectl("logs", "job/records")
    [failed] = [entry for entry in ended["status"]["conditions"] if entry["type"] == "Failed"]
    # The failure policy has seen the exit code that the documentation gives.
    assert failed["reason"] == "PodFailurePolicy", log
    assert f"failed with exit code {SinkFull.exit_code}" in failed["message"]
    assert "SinkFull: " in log
    assert "No space left" in log
    assert log.partition("left:\n")[2] == "", log
