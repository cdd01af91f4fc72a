"""Where a pod finds what is mounted into it. Tests put the same tree below another root."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True)
class Mounts:
    """Paths of what a container reads and writes besides the sink."""

    manifests: Path
    """DataSource and ExtractionJob."""
    secrets: Path
    """``NAME/KEY``."""
    volumes: Path
    """A claim is a folder of its name."""
    run: Path
    """What the containers of the lead share."""
    termination_log: Path
    redis: Path
    """The URL of Redis; may not be there."""

    @classmethod
    def below(cls, root: Path, *, run: Path | None = None, termination_log: Path | None = None) -> Self:
        """Return the paths below ``root``, which is ``/`` in a pod."""
        etc = root / "etc" / "extraction"
        return cls(
            manifests=etc / "manifests" / "job.json",
            secrets=etc / "secrets",
            volumes=etc / "volumes",
            run=run or root / "run" / "extraction",
            termination_log=termination_log or root / "dev" / "termination-log",
            redis=etc / "redis" / "url",
        )
