"""``extraction verify``: a published set, proven again."""

from dataclasses import asdict
from pathlib import Path

from extraction_worker.cli.run import errors_told
from extraction_worker.errors import VerificationFailed
from extraction_worker.report.show import size
from extraction_worker.verify.manifest import Report, open_set, verify_set


def verify_published(manifest: str, endpoint: str | None, region: str | None, ca: Path | None, output: str) -> int:
    """Verify a set and print what was found; return the exit code."""
    with errors_told(output) as failed:
        report = verify_set(open_set(manifest, endpoint=endpoint, region=region, ca=ca))
        _print(report, output)
        if report.problems:
            failed.code = VerificationFailed.exit_code
    return failed.code


def _print(report: Report, output: str) -> None:
    """Print what a verification found, for people or as JSON."""
    if output == "json":
        import orjson

        print(orjson.dumps(asdict(report)).decode())
        return
    if report.problems:
        print(f"{report.uri} isn't what run {report.run_id} published:")
        for problem in report.problems:
            print(f"  {problem}")
        return
    columns = ", and every column of every chunk" if report.columns_proven else ""
    print(
        f"{report.uri} is what run {report.run_id} published: {report.rows:,} rows in {report.parts} files "
        f"({size(report.bytes)}), every byte and count{columns}"
    )
