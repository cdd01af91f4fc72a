"""Compiles the C code of ``extraction_worker.source.copy``, with the compiler at hand or with one from PyPI.

It uses nothing but the C library, and functions that glibc has had for long, so what is built here runs on older
systems, too.
"""

import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCES = ("decode.c", "export.c", "read.c")
FOLDER = Path("extractor/extraction_worker/source/copy")
LIBRARY = "_pgcopy.so"
FLAGS = ("-std=c11", "-D_DEFAULT_SOURCE", "-O2", "-Wall", "-Wextra", "-Wconversion", "-fPIC", "-fvisibility=hidden")
OLDEST_GLIBC = "2.28"


def compiler() -> list[str] | None:
    """Return the command of a C compiler of this machine, None where it has none."""
    if command := os.environ.get("CC"):
        return shlex.split(command)
    return next(([name] for name in ("cc", "gcc", "clang") if shutil.which(name)), None)


def zig() -> list[str]:
    """Return the command of the compiler in the package ``ziglang``, for any glibc from ``OLDEST_GLIBC`` on."""
    machine = platform.machine()
    libc = f"gnu.{OLDEST_GLIBC}" if platform.libc_ver()[0] == "glibc" else "musl"
    return [sys.executable, "-m", "ziglang", "cc", "-target", f"{machine}-linux-{libc}"]


class BuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Puts the library beside its sources, and into the wheel."""

    def dependencies(self) -> list[str]:
        """Ask for a compiler where there is none."""
        return [] if compiler() else ["ziglang>=0.13"]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        """Compile before the wheel's files are collected; an editable installation finds it in the tree."""
        folder = Path(self.root) / FOLDER
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            draft = Path(scratch) / LIBRARY
            command = [*(compiler() or zig()), *FLAGS, "-shared", "-o", str(draft)]
            cache = {"ZIG_GLOBAL_CACHE_DIR": scratch, "ZIG_LOCAL_CACHE_DIR": scratch}
            subprocess.run(
                [*command, *(str(folder / source) for source in SOURCES)], check=True, env=os.environ | cache
            )
            # At once: a process that runs keeps the library that it has loaded.
            draft.replace(folder / LIBRARY)
        build_data["artifacts"].append(f"{FOLDER}/{LIBRARY}")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
