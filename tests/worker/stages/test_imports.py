"""What a pod loads before it begins: each library costs the start of every pod some tenths of a second."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("command", ["hold", "plan", "check", "clean"])
def test_a_pod_that_reads_no_rows_starts_without_the_libraries_of_the_data_path(command: str):
    heavy = "{'pyarrow', 'numpy', 'boto3', 'botocore', 'rich', 'postgast'}"
    code = f"import sys, extraction_worker.stages.pod.{command}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
