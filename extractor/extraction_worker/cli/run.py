"""``extraction run``, ``plan`` and ``validate``: from files to an exit code."""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from extraction_contract.load import load_files
from extraction_contract.problems import ManifestError
from extraction_contract.resolve import ResolvedJob, resolve
from extraction_contract.scalars import Quantity
from extraction_worker.cli.arguments import JobArguments
from extraction_worker.errors import ExtractionError, Interrupted, InvalidManifest, scrub
from extraction_worker.loading import load_beside
from extraction_worker.model import Manifest
from extraction_worker.report.progress import Progress
from extraction_worker.report.show import follow, print_manifest, print_plan
from extraction_worker.stages.local import LocalRun
from extraction_worker.stages.settings import LocalOptions

_LATER = ("extraction_worker.stages.extraction", "extraction_worker.stages.publish", "extraction_worker.source.pool")
"""What reads and writes: half of all that is imported, and not needed until the plan is made."""
_GRACE_SECONDS = 1.8
"""How long a stopped run may take to clean up before the process ends anyway; the next run removes the rest."""


def run_job(arguments: JobArguments) -> int:
    """Run a job; return the exit code."""
    with errors_told(arguments.output) as failed:
        load_beside(*_LATER)
        resolved = _resolve(arguments)
        progress = Progress()
        local = LocalRun(resolved, _options(arguments), progress)
        manifest = run_in_thread(local, progress)
        print_manifest(manifest, local.uri, progress.now(), arguments.output)
    return failed.code


def plan_job(arguments: JobArguments) -> int:
    """Print a job's plan; return the exit code."""
    with errors_told(arguments.output) as failed:
        resolved = _resolve(arguments)
        local = LocalRun(resolved, _options(arguments), Progress())
        print_plan(local.plan(), local.connections, arguments.output)
    return failed.code


def validate_files(files: tuple[Path, ...]) -> int:
    """Check manifests; return the exit code."""
    with errors_told("text") as failed:
        found = load_files(files)
        for kind, objects in (
            ("DataSource", found.sources),
            ("ExtractionJob", found.jobs),
            ("Secret", found.secrets),
        ):
            for key in objects:
                print(f"{kind} {key} is valid")
    return failed.code


def run_in_thread(local: LocalRun, progress: Progress) -> Manifest:
    """Run in a thread of its own, so that this one shows progress and takes signals at once.

    Raises
    ------
    ExtractionError
        As :meth:`LocalRun.run`.
    """
    outcome: list[Manifest | BaseException] = []

    def work() -> None:
        try:
            outcome.append(local.run())
        except BaseException as error:  # noqa: BLE001 - raised again by the main thread
            outcome.append(error)

    thread = threading.Thread(target=work, name="run", daemon=True)
    # A read that doesn't end, a sink that hangs: the process must go all the same.
    grace = threading.Timer(_GRACE_SECONDS, os._exit, (Interrupted.exit_code,))
    grace.daemon = True

    def stop(number: int, _frame: FrameType | None) -> None:
        local.stop(Interrupted(f"Stopped by {signal.Signals(number).name}; nothing was published."))
        if not grace.is_alive():
            grace.start()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        thread.start()
        follow(progress, thread)
        thread.join()
    finally:
        # What ended in time ends with its own exit code, and at once.
        grace.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)
    [result] = outcome
    if isinstance(result, BaseException):
        raise result
    return result


class Outcome:
    """The exit code of a command."""

    code = 0


@contextmanager
def errors_told(output: str) -> Iterator[Outcome]:
    """Print an error for people, or as JSON, to standard error, and keep its exit code."""
    failed = Outcome()
    try:
        yield failed
    except ManifestError as error:
        failed.code = InvalidManifest.exit_code
        for line in str(error).splitlines():
            print(line, file=sys.stderr)
    except ExtractionError as error:
        failed.code = error.exit_code
        _print_error(error, output)
    except Exception as error:  # noqa: BLE001 - the last resort of a command
        failed.code = ExtractionError.exit_code
        if os.environ.get("EXTRACTION_DEBUG"):
            traceback.print_exc()
        unexpected = ExtractionError(
            f"Unexpected {type(error).__name__}: {scrub(str(error))[:500]}", hint="EXTRACTION_DEBUG=1 shows where."
        )
        _print_error(unexpected, output)


def _print_error(error: ExtractionError, output: str) -> None:
    if output == "json":
        import orjson

        document = {"reason": error.reason, "message": error.message, "hint": error.hint, "exitCode": error.exit_code}
        print(orjson.dumps(document).decode(), file=sys.stderr)
    else:
        print(f"{error.reason}: {error}", file=sys.stderr)


def _resolve(arguments: JobArguments) -> ResolvedJob:
    manifests = load_files(arguments.files)
    return resolve(manifests.job(arguments.job), manifests, arguments.secrets_dir)


def _options(arguments: JobArguments) -> LocalOptions:
    memory = arguments.memory
    try:
        limit = int(Quantity(memory)) if memory is not None else None
    except ValueError:
        raise InvalidManifest(f"--memory {memory} isn't a quantity of bytes.", hint="Write e.g. 256Mi.") from None
    return LocalOptions(arguments.volumes_dir, arguments.threads, limit, arguments.redis_url_file)
