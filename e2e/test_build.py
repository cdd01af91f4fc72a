"""Programs of a node are built once, whoever else asks for them. On the stand-in alone."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from e2e.node.build import DEFAULT_VERSION, cached
from e2e.node.commands import wait_until

KIND = Path(__file__).parent / "node" / "kind"
# Tells of each build, and begins it when it may.
SLOW_GO = """\
#!/bin/sh
if [ "$1" = build ]; then
    echo "$@" >>"{log}"
    until [ -e "{may_begin}" ]; do sleep 0.1; done
fi
exec "{go}" "$@"
"""


def test_who_comes_while_another_builds_waits_and_finds_it(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if Path(request.config.option.kind_bin).parent.name != "node":
        pytest.skip("this is a test of the stand-in")
    there = cached(DEFAULT_VERSION)
    empty = tmp_path / "cache" / there.relative_to(there.parents[1])
    empty.mkdir(parents=True)
    for program in there.iterdir():
        if program.name != "pause":
            (empty / program.name).symlink_to(program)
    go, log, may_begin = shutil.which("go"), tmp_path / "builds", tmp_path / "may-begin"
    assert go is not None
    wrapper = tmp_path / "bin" / "go"
    wrapper.parent.mkdir()
    wrapper.write_text(SLOW_GO.format(log=log, may_begin=may_begin, go=go))
    wrapper.chmod(0o755)
    environment = os.environ | {
        "XDG_CACHE_HOME": str(tmp_path / "cache"), "PATH": f"{wrapper.parent}:{os.environ['PATH']}",
        "GOCACHE": subprocess.check_output([go, "env", "GOCACHE"], text=True).strip(),
    }  # fmt: skip
    told = [tmp_path / str(number) for number in range(3)]
    asking = []
    for file in told:
        with file.open("w") as stderr:
            asking.append(subprocess.Popen([KIND, "programs"], stdout=subprocess.PIPE, stderr=stderr, env=environment))
    try:
        wait_until(lambda: sum("Waiting for whoever builds" in file.read_text() for file in told) == 2, "Waiting", 60)
    finally:
        may_begin.touch()
        said = [process.communicate(timeout=200)[0].decode().strip() for process in asking]
    assert [process.returncode for process in asking] == [0, 0, 0]
    assert set(said) == {str(empty)}
    assert len(log.read_text().splitlines()) == 1
    assert os.access(empty / "pause", os.X_OK)
