"""The ``extraction`` command. Imports are made inside the commands, so that ``--help`` stays fast."""

from extraction_worker.cli.commands import main

__all__ = ["main"]
