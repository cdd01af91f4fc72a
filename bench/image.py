"""How large an image is, and how soon it answers: ``python -m bench.image``; see docs/performance.md.

Runs ``extraction --version`` in containers of the image that ``make images`` has built, with Docker, Podman or buildah.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from statistics import median

from bench.compare import RESULTS
from bench.machine import this_machine

ARCHIVE = Path("build/images/extractor.tar")
IMAGE = "localhost/extraction-operator/extractor:dev"


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.image", description="Size and start of the image.")
    parser.add_argument("--tries", type=int, default=10, help="(default: %(default)s)")
    parser.add_argument("--name", default="image.local", help="of the file in bench/results (default: %(default)s)")
    return parser.parse_args()


def _run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _works(engine: str) -> bool:
    command = [engine, "info"]
    return bool(shutil.which(engine)) and subprocess.run(command, check=False, capture_output=True).returncode == 0


@contextmanager
def _container() -> Iterator[list[str]]:
    """Yield a command that runs what follows it in a container of the image."""
    engine = next(filter(_works, ("docker", "podman")), None)
    if engine:
        _run(engine, "load", "--input", str(ARCHIVE))
        yield [engine, "run", "--rm", "--network=none", "--read-only", "--entrypoint", "", IMAGE]
        return
    buildah = ["buildah", "--storage-driver", "vfs"]
    container = _run(*buildah, "from", f"docker-archive:{ARCHIVE}")
    try:
        yield [*buildah, "run", "--isolation=chroot", container, "--"]
    finally:
        _run(*buildah, "rm", container)


def main() -> int:
    options = _parse()
    if not ARCHIVE.exists():
        print(f"{ARCHIVE} is missing; make images", file=sys.stderr)
        return 1
    seconds = []
    with _container() as inside:
        for _ in range(options.tries + 1):
            began = time.monotonic()
            said = _run(*inside, "extraction", "--version")
            seconds.append(time.monotonic() - began)
            if not said.startswith("extraction, version "):
                print(f"The image answers {said!r}.", file=sys.stderr)
                return 1
    first, later, size = seconds[0], seconds[1:], ARCHIVE.stat().st_size
    print("| MB | first start s | median s | min–max s |\n|--:|--:|--:|--:|")
    print(f"| {size / 1e6:.0f} | {first:.2f} | {median(later):.2f} | {min(later):.2f}–{max(later):.2f} |")
    document = {"machine": asdict(this_machine()), "bytes": size, "first_seconds": first, "seconds": later}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{options.name}.json").write_text(json.dumps(document, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
