"""The library as it is built: for older systems than this one, with whatever compiler there is."""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from extraction_worker.source.copy.library import LIBRARY

ROOT = Path(__file__).parents[4]


@pytest.fixture
def hook() -> ModuleType:
    pytest.importorskip("hatchling")
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_library_needs_no_newer_glibc_than_is_said(hook):
    oldest = tuple(map(int, hook.OLDEST_GLIBC.split(".")))
    versions = {tuple(map(int, found.split(b"."))) for found in re.findall(rb"GLIBC_([0-9.]+)", LIBRARY.read_bytes())}
    assert versions
    assert max(versions) <= oldest


def test_the_library_is_as_new_as_its_sources(hook):
    for source in [*hook.SOURCES, "pgcopy.h", "decode.h"]:
        assert LIBRARY.stat().st_mtime >= (LIBRARY.parent / source).stat().st_mtime, "pip install --editable ."


def test_a_machine_without_a_compiler_gets_one_from_pypi(hook, monkeypatch, tmp_path):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    build = hook.BuildHook(str(ROOT), {}, None, None, str(tmp_path), "wheel")
    assert [requirement.split(">=")[0] for requirement in build.dependencies()] == ["ziglang"]
    assert hook.zig()[:4] == [sys.executable, "-m", "ziglang", "cc"]
    compiler = tmp_path / "gcc"
    compiler.write_text("#!/bin/sh\n")
    compiler.chmod(0o700)
    assert build.dependencies() == []
    assert hook.compiler() == ["gcc"]
    monkeypatch.setenv("CC", "ccache clang")
    assert hook.compiler() == ["ccache", "clang"]


def test_the_library_is_built_beside_its_sources_and_goes_into_the_wheel(hook, tmp_path):
    if hook.compiler() is None:
        pytest.skip("there is no C compiler")
    folder = tmp_path / hook.FOLDER
    folder.mkdir(parents=True)
    for file in LIBRARY.parent.glob("*.[ch]"):
        (folder / file.name).write_bytes(file.read_bytes())
    data = {"artifacts": []}
    hook.BuildHook(str(tmp_path), {}, None, None, str(tmp_path), "wheel").initialize("standard", data)
    assert (folder / "_pgcopy.so").stat().st_mode & 0o500 == 0o500
    assert data["artifacts"] == [f"{hook.FOLDER}/_pgcopy.so"]
    assert data["tag"].startswith("py3-none-linux_")
    assert sorted(file.suffix for file in folder.iterdir()) == [".c", ".c", ".c", ".h", ".h", ".so"]
