"""The commands and their options; what they do is in the modules that they import."""

import sys
from pathlib import Path

import click

_FILES = click.argument(
    "files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE..."
)
_JOB = click.option("--job", metavar="NAME", help="Which ExtractionJob of the files: NAME or NAMESPACE/NAME.")
_SECRETS = click.option(
    "--secrets-dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Secrets that no file has, laid out as mounted ones: DIR/NAME/KEY.",
)
_VOLUMES = click.option(
    "--volumes-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("volumes"),
    show_default=True,
    metavar="DIR",
    help="Where a volume CLAIM is the folder DIR/CLAIM.",
)
_OUTPUT = click.option(
    "--output", type=click.Choice(["text", "json"]), default="text", show_default=True, help="What to print."
)
_THREADS = click.option(
    "--threads", type=click.IntRange(1, 256), metavar="N", help="Threads that read; default: by processors and limits."
)
_MEMORY = click.option(
    "--memory",
    metavar="BYTES",
    help="Memory to stay below, e.g. 256Mi; default: the cgroup's limit, or half of what is free.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="extraction-operator", prog_name="extraction")
def main() -> None:
    """Get large tables out of databases: fast, gentle to the source, provably complete."""


@main.command()
@_FILES
@_JOB
@_SECRETS
@_VOLUMES
@_THREADS
@_MEMORY
@_OUTPUT
def run(
    files: tuple[Path, ...],
    job: str | None,
    secrets_dir: Path | None,
    volumes_dir: Path,
    threads: int | None,
    memory: str | None,
    output: str,
) -> None:
    """Run an ExtractionJob of the manifests FILE... in this process.

    Nothing is published unless all of it is complete and verified. Ctrl-C stops within two seconds.
    """
    from extraction_worker.cli.run import run_job

    sys.exit(run_job(files, job, secrets_dir, volumes_dir, threads, memory, output))


@main.command()
@_FILES
@_JOB
@_SECRETS
@_VOLUMES
@_THREADS
@_MEMORY
@_OUTPUT
def plan(
    files: tuple[Path, ...],
    job: str | None,
    secrets_dir: Path | None,
    volumes_dir: Path,
    threads: int | None,
    memory: str | None,
    output: str,
) -> None:
    """Show how a job would be split, without extracting anything."""
    from extraction_worker.cli.run import plan_job

    sys.exit(plan_job(files, job, secrets_dir, volumes_dir, threads, memory, output))


@main.command()
@_FILES
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
@_OUTPUT
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
