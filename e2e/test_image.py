"""The extractor's image: no tools to build or fetch anything, content with a read-only file system, quick to start."""

import json

from e2e.support.cluster import Cluster
from e2e.support.pods import RESTRICTED

TOOLS = ("pip", "gcc", "cc", "ld", "make", "apt-get", "curl", "wget")
PYTHON = "/opt/extraction/bin/python"
# Prints what the command printed, and how long each start took.
START = """
import json, subprocess, time
said, seconds = [], []
for _ in range(5):
    began = time.monotonic()
    said.append(subprocess.run(["extraction", "--version"], capture_output=True, text=True, check=True).stdout)
    seconds.append(round(time.monotonic() - began, 2))
print(json.dumps({"said": said, "seconds": seconds}))
"""


def test_the_image_has_no_tools_to_build_or_fetch_anything(namespace: Cluster, extractor_image: str) -> None:
    script = f"import shutil; print([tool for tool in {TOOLS} if shutil.which(tool)])"
    assert namespace.run_pod("tools", PYTHON, "-c", script, image=extractor_image) == "[]\n"


def test_the_command_starts_on_a_read_only_file_system(restricted: Cluster, extractor_image: str) -> None:
    log = restricted.run_pod(
        "version", PYTHON, "-c", START, image=extractor_image, container={"securityContext": RESTRICTED}
    )
    measured = json.loads(log)
    assert all(line.startswith("extraction, version ") for line in measured["said"])
    # No limit here: a machine may be slow. `python -m bench.image` is for comparing.
    print(f"extraction --version in a container: {measured['seconds']} s")
