"""``extraction``, the command itself with its own arguments, only that its imports are counted apart."""

import sys

import extraction_worker.cli.run  # what the command would import when it runs
import extraction_worker.source.pool  # and these later, beside the planning
import extraction_worker.stages.extraction
import extraction_worker.stages.publish  # noqa: F401
from bench.peers.protocol import clocked
from extraction_worker.cli import main


def extract() -> None:
    try:
        main(sys.argv[1:], prog_name="extraction")
    except SystemExit as ended:
        if ended.code:
            raise


if __name__ == "__main__":
    clocked(extract)
