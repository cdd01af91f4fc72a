"""Charts, installed by the real helm."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2e.support.cluster import Cluster


class HelmFailed(Exception):
    """helm ended with an error; the message is its own."""


@dataclass(frozen=True)
class Helm:
    """helm in one namespace of a cluster."""

    program: Path
    cluster: Cluster
    home: Path
    """Folder for what helm keeps; that of the user is neither read nor written."""

    def install(self, release: str, chart: Path, values: dict[str, Any] | None = None, *options: str) -> str:
        """Install a chart and wait until all it contains is ready; return what helm printed.

        Raises
        ------
        HelmFailed
            If it can't be installed, or isn't ready within two minutes.
        """
        return self._change("install", release, chart, values, *options)

    def upgrade(self, release: str, chart: Path, values: dict[str, Any] | None = None, *options: str) -> str:
        """Upgrade a release to a chart and values, and wait as :meth:`install` does."""
        return self._change("upgrade", release, chart, values, *options)

    def uninstall(self, release: str, *options: str) -> str:
        """Uninstall a release, run its hooks, and wait until its objects are gone."""
        return self("uninstall", release, "--wait", "--timeout=2m", *options)

    def releases(self) -> dict[str, str]:
        """Return the status of each release by name, e.g. ``deployed``."""
        return {found["name"]: found["status"] for found in json.loads(self("list", "--all", "--output=json"))}

    def __call__(self, *words: str, stdin: str | None = None) -> str:
        """Run helm; return what it printed.

        Raises
        ------
        HelmFailed
            If it fails.
        """
        places = {f"HELM_{name}_HOME": str(self.home / name.lower()) for name in ("CACHE", "CONFIG", "DATA")}
        options = ["--kubeconfig", str(self.cluster.kubeconfig), "--namespace", self.cluster.namespace]
        done = subprocess.run(
            [self.program, *options, *words], input=stdin, capture_output=True, text=True, timeout=300, check=False,
            env=os.environ | places,
        )  # fmt: skip
        if done.returncode:
            raise HelmFailed(done.stderr.strip() or done.stdout.strip())
        return done.stdout

    def _change(self, verb: str, release: str, chart: Path, values: dict[str, Any] | None, *options: str) -> str:
        # JSON is YAML, which helm reads.
        words = (verb, release, str(chart), "--values=-", "--wait", "--timeout=2m", *options)
        return self(*words, stdin=json.dumps(values or {}))
