"""``python -m bench.operator``: the command line. Prints a table, writes it and JSON to bench/results."""

import signal
import sys
from pathlib import Path

import click

from bench.operator.plane import VERSION
from bench.operator.report import Report

_ROOT = Path(__file__).parents[2]
_RESULTS = _ROOT / "bench" / "results"

raised_option = click.option(
    "--raised", is_flag=True, help="Let Kubernetes' own programs ask for 200 requests a second, not for its defaults."
)


@click.group(context_settings={"show_default": True})
@click.option("--name", default="", help="Of the results. Default: operator-COMMAND.local, which stays out of git.")
@click.pass_context
def main(ctx: click.Context, *, name: str) -> None:
    """Measure the operator."""
    # So that everything that was started is ended, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    ctx.obj = name or f"operator-{ctx.invoked_subcommand}.local"


@main.command()
@click.option("--rate", default=20.0, help="Creations a second.")
@click.option("--seconds", default=20.0)
@click.option("--sources", default=50)
@raised_option
@click.pass_obj
def latency(name: str, *, rate: float, seconds: float, sources: int, raised: bool) -> None:
    """From the creation of an ExtractionJob to that of its lead Job."""
    from bench.operator.latency import run

    report = Report(name, VERSION)
    run(report, rate=rate, seconds=seconds, sources=sources, raised=raised)
    _show(report)


@main.command()
@click.option("--jobs", default=500)
@click.option("--sources", default=50)
@click.option("--bundles", default=2, help="Worker pods of each job, and pods of each second bare Job.")
@click.option("--rounds", default=2)
@click.option("--admitted", default=10, help="Jobs that a source admits at once.")
@raised_option
@click.pass_obj
def pairs(name: str, *, jobs: int, sources: int, bundles: int, rounds: int, admitted: int, raised: bool) -> None:
    """Many jobs to their end, against pairs of dependent bare Jobs; writes per job."""
    from bench.operator.pairs import run

    report = Report(name, VERSION)
    run(report, jobs=jobs, sources=sources, bundles=bundles, rounds=rounds, admitted=admitted, raised=raised)
    _show(report)


@main.command()
@click.option("--finished", default=5000)
@click.option("--running", default=200)
@click.option("--sources", default=50)
@click.option("--restarts", default=3)
@click.option("--idle", default=60.0, help="Seconds over which the CPU is taken.")
@click.pass_obj
def standing(name: str, *, finished: int, running: int, sources: int, restarts: int, idle: float) -> None:
    """Memory, CPU and restart with thousands of jobs."""
    from bench.operator.standing import run

    report = Report(name, VERSION)
    run(report, finished=finished, running=running, sources=sources, restarts=restarts, idle=idle)
    _show(report)


@main.command()
@click.option("--kubeconfig", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              default=_ROOT / "build" / "e2e" / "kubeconfig")  # fmt: skip
@click.option("--cluster", default="extraction", help="Its name, as e2e/node/kind knows it.")
@click.option("--rounds", default=5)
@click.pass_obj
def stages(name: str, *, kubeconfig: Path, cluster: str, rounds: int) -> None:
    """One small job on a real cluster, by stage."""
    from bench.operator.stages import run

    report = Report(name, VERSION)
    run(report, kubeconfig=kubeconfig, name=cluster, rounds=rounds)
    _show(report)


def _show(report: Report) -> None:
    report.save(_RESULTS)
    click.echo(report.markdown())


if __name__ == "__main__":
    main()
