"""What a command imports, and when."""

import gc
import os
import subprocess
import sys

import pytest

from extraction_worker.loading import load_beside, uncollected


def test_arrow_is_not_loaded_before_the_source_is_asked():
    script = "import sys, extraction_worker.cli.run; print({'pyarrow', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_modules_are_loaded_beside_and_the_collector_goes_on():
    load_beside("json.tool").join(30)
    assert "json.tool" in sys.modules
    assert gc.isenabled()


def test_a_module_that_is_missing_is_missed_by_who_needs_it():
    load_beside("extraction_worker.no_such_module", "json.tool").join(30)
    assert gc.isenabled()
    with uncollected():
        assert not gc.isenabled()
    assert gc.isenabled()


@pytest.mark.skipif(sys.platform != "linux" or os.cpu_count() == 1, reason="needs /proc and a second core")
def test_no_threads_are_started_for_linear_algebra():
    script = "import extraction_worker.cli, numpy, os; print(len(os.listdir('/proc/self/task')))"
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
