"""``extraction pod``: what the pods of a job run. Imports click alone; the commands are in ``stages/pod``."""

import os
import sys
from pathlib import Path

import click

_FOLDER = click.Path(file_okay=False, path_type=Path)
_WHAT = {
    "hold": "Keep the snapshot while the job reads it; a sidecar, until it is told to end.",
    "plan": "Split the table under the snapshot, and put the plan into staging.",
    "publish": "Wait for every result, or work a small plan; then verify and publish.",
    "work": "Work one bundle of the plan.",
    "clean": "Remove what an attempt left in staging, unless it has published.",
    "check": "Connect to a DataSource, and tell what its server is.",
}


@click.group(hidden=True)
def pod() -> None:
    """Run what the operator's pods run (docs/operator.md)."""


def _command(name: str, what: str) -> click.Command:
    @click.command(name, help=what)
    @click.option("--root", type=_FOLDER, default=Path("/"), help="Stands for / of everything that is mounted.")
    @click.option("--run-dir", type=_FOLDER, help="What the containers of the lead share; /run/extraction.")
    @click.option(
        "--termination-log",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Where the last words go; /dev/termination-log.",
    )
    def command(root: Path, run_dir: Path | None, termination_log: Path | None) -> None:
        from extraction_worker.hardening import keep_memory_private
        from extraction_worker.stages.pod.invocation import Invocation
        from extraction_worker.stages.pod.log import EventLog
        from extraction_worker.stages.pod.mounts import Mounts
        from extraction_worker.stages.pod.process import run_command
        from extraction_worker.stages.pod.stop import Stop

        keep_memory_private()
        mounts = Mounts.below(root, run=run_dir, termination_log=termination_log)
        sys.exit(run_command(name, Invocation(mounts, os.environ, Stop(), EventLog(command=name))))

    return command


for _name, _help in _WHAT.items():
    pod.add_command(_command(_name, _help))
