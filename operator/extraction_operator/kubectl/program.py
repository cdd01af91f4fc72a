"""The user's ``kubectl``."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

KIND = "extractionjobs.extraction-operator.io"
Json = dict[str, Any]


class KubectlFailed(Exception):
    """kubectl ended with an error; the message is its own."""

    @property
    def is_not_found(self) -> bool:
        """Whether the object isn't there."""
        return "(NotFound)" in str(self)

    @property
    def is_conflict(self) -> bool:
        """Whether somebody else changed the object in between."""
        return "(Conflict)" in str(self)


@dataclass(frozen=True)
class Kubectl:
    """kubectl with the options that were given to us."""

    program: str
    options: tuple[str, ...] = ()

    @classmethod
    def find(cls, options: Mapping[str, str | None]) -> "Kubectl":
        """Find kubectl: the environment variable ``KUBECTL``, or the program on ``PATH``.

        Parameters
        ----------
        options
            Values of kubectl's options by their names; None is left out.

        Raises
        ------
        KubectlFailed
            There is none.
        """
        program = shutil.which(os.environ.get("KUBECTL", "kubectl"))
        if program is None:
            raise KubectlFailed("kubectl isn't on PATH; the environment variable KUBECTL may say where it is.")
        return cls(program, tuple(f"--{name}={value}" for name, value in options.items() if value is not None))

    def get(self, name: str) -> Json:
        """Return an ExtractionJob.

        Raises
        ------
        KubectlFailed
        """
        found: Json = json.loads(self._run("get", KIND, name, "--output=json"))
        return found

    def patch(self, name: str, change: Mapping[str, Any]) -> None:
        """Apply a merge patch to an ExtractionJob.

        Raises
        ------
        KubectlFailed
        """
        self._run("patch", KIND, name, "--type=merge", f"--patch={json.dumps(change)}")

    def pods(self, selector: str) -> list[Json]:
        """Return the pods with these labels.

        Raises
        ------
        KubectlFailed
        """
        items: list[Json] = json.loads(self._run("get", "pods", f"--selector={selector}", "--output=json"))["items"]
        return items

    def show_logs(self, pod: str, container: str, tail: int) -> bool:
        """Let kubectl print the log of a container; return whether it could."""
        words = ("logs", pod, f"--container={container}", f"--tail={tail}")
        return subprocess.run(self._command(*words), check=False).returncode == 0

    def watch(self, name: str) -> Iterator[Json]:
        """Yield watch events (``type``, ``object``) of an ExtractionJob until the server ends the watch.

        Raises
        ------
        KubectlFailed
        """
        words = ("get", KIND, name, "--watch", "--output-watch-events", "--output=json")
        with (
            # A file, not a pipe: nobody reads it before the end, which may be days away.
            tempfile.TemporaryFile("w+") as errors,
            subprocess.Popen(self._command(*words), stdout=subprocess.PIPE, stderr=errors, text=True) as process,
        ):
            try:
                for line in process.stdout or ():
                    # A line without its end was cut off by the end of kubectl.
                    if line.endswith("\n"):
                        yield json.loads(line)
                if process.wait() != 0:
                    errors.seek(0)
                    raise KubectlFailed(errors.read().strip()[-2000:])
            finally:
                process.kill()

    def _command(self, *words: str) -> list[str]:
        return [self.program, *self.options, *words]

    def _run(self, *words: str) -> str:
        done = subprocess.run(self._command(*words), capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise KubectlFailed(done.stderr.strip() or f"kubectl ended with exit code {done.returncode}.")
        return done.stdout
