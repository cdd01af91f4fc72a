"""The commands and their options; what they do is in the modules that they import."""

import os
import sys
from pathlib import Path

import click

from extraction_record.commands import history, record
from extraction_worker.cli.arguments import JobArguments, files_argument, job_arguments, output_option
from extraction_worker.cli.cluster import COMMANDS as IN_CLUSTER
from extraction_worker.cli.pod import pod
from extraction_worker.loading import uncollected

# Nobody here does linear algebra, for which numpy starts a thread on each core of the machine; they spin at first.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="extraction-operator", prog_name="extraction")
def main() -> None:
    """Get large tables out of databases: fast, gentle to the source, provably complete."""


@main.command()
@job_arguments
def run(arguments: JobArguments) -> None:
    """Run an ExtractionJob of the manifests FILE... in this process.

    Nothing is published unless all of it is complete and verified. Ctrl-C stops within two seconds.
    """
    with uncollected():
        from extraction_worker.cli.run import run_job

    sys.exit(run_job(arguments))


@main.command()
@job_arguments
def plan(arguments: JobArguments) -> None:
    """Show how a job would be split, without extracting anything."""
    with uncollected():
        from extraction_worker.cli.run import plan_job

    sys.exit(plan_job(arguments))


@main.command()
@files_argument
def validate(files: tuple[Path, ...]) -> None:
    """Check manifests without a database; print every problem with its file, document and field."""
    from extraction_worker.cli.run import validate_files

    sys.exit(validate_files(files))


@main.command()
@click.argument("manifest", metavar="MANIFEST")
@click.option("--endpoint", metavar="URL", help="The S3 store, where it isn't Amazon's.")
@click.option("--region", metavar="NAME", help="The bucket's region.")
@click.option(
    "--ca", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Authorities to trust, in PEM."
)
@output_option
def verify(manifest: str, endpoint: str | None, region: str | None, ca: Path | None, output: str) -> None:
    """Repeat the proof of a published set without its database.

    MANIFEST is a folder, a _manifest.json in it, or s3://BUCKET/PREFIX; for S3 the credentials are those of the
    environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, a profile, an instance's role).
    """
    from extraction_worker.cli.verify import verify_published

    sys.exit(verify_published(manifest, endpoint, region, ca, output))


@main.command()
@click.option("--rows", type=click.IntRange(1, 100_000_000), default=1_000_000, show_default=True, help="Rows to make.")
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("build/demo"),
    show_default=True,
    help="Where manifests and files go.",
)
def demo(rows: int, folder: Path) -> None:
    """Make a PostgreSQL with a data set, extract it, and query the result."""
    from extraction_worker.demo.run import run_demo

    sys.exit(run_demo(rows, folder))


main.add_command(pod)
main.add_command(history)
main.add_command(record)
for command in IN_CLUSTER:
    main.add_command(command)
