"""``python -m extraction_worker.cli``."""

from extraction_worker.cli import main

main(prog_name="extraction")
