"""A run whose volume gets full in the middle: `extraction run` on a file system of a few MiB, in a mount namespace."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from extraction_worker.errors import SinkFull
from support.jobs import write_job

REQUIRED = os.environ.get("CI") == "true"
# Mounts the small file system at $1, runs the rest, and lists what is left there behind a line of its own.
SCRIPT = """
mount -t tmpfs -o size=4m tmpfs "$1" || exit 99
folder=$1; shift
"$@"; code=$?
echo left:; cd "$folder" && find . -mindepth 1
exit $code
"""


@pytest.fixture
def own_mounts() -> list[str]:
    """Return a command that runs what follows with mounts of its own, which end with it."""
    command = ["unshare", "--mount", *(["--map-root-user"] if os.geteuid() else [])]
    try:
        subprocess.run([*command, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        if REQUIRED:
            pytest.fail(f"CI must be able to mount: {error}")
        pytest.skip("needs root, or Linux with user namespaces")
    return command


@pytest.mark.parametrize("file_format", ["Parquet", "CSV"])
def test_a_run_on_a_full_disk_ends_as_documented_and_leaves_nothing(database18, tmp_path, own_mounts, file_format):
    database18.execute(
        "CREATE TABLE t AS SELECT i AS id, sha512(i::text::bytea)::text AS noise FROM generate_series(1, 80000) AS i"
    )
    database18.execute("ANALYZE t")
    compression = {"type": file_format, "compression": "zstd"}
    spec = {"partitioning": {"targetBytes": "1Mi"}, "sink": {"format": compression}}
    files = write_job(tmp_path, database18, spec=spec)
    volume = tmp_path / "volumes" / "lake"
    extraction = Path(sys.executable).with_name("extraction")
    options = ["--volumes-dir", volume.parent, "--threads", "2", "--output", "json"]
    done = subprocess.run(
        [*own_mounts, "sh", "-c", SCRIPT, "-", volume, extraction, "run", *files, *options],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == SinkFull.exit_code, done.stderr
    told = json.loads(done.stderr.splitlines()[-1])
    assert (told["reason"], told["exitCode"]) == ("SinkFull", SinkFull.exit_code)
    assert "No space left" in told["message"]
    assert done.stdout == "left:\n"
