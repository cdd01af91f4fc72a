"""``kubectl extraction``: the commands and their options. Imports click alone; what commands do is imported by them."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from extraction_operator.kubectl.exit_codes import CANCELLED, OTHER
from extraction_operator.kubectl.program import Kubectl, KubectlFailed

if TYPE_CHECKING:
    from extraction_operator.kubectl.requests import Ask

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
Command = Callable[..., None]


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="extraction-operator", prog_name="kubectl-extraction")
def main() -> None:
    """Follow and steer ExtractionJobs in a cluster, with the contexts and rights of kubectl."""


def _name(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    """Take the name of an object, also as kubectl prints it: ``extractionjob.extraction-operator.io/orders``."""
    kind, _, name = value.rpartition("/")
    known = {"exj", "extractionjob", "extractionjobs"}
    if (kind and kind.removesuffix(".extraction-operator.io") not in known) or not _LABEL.fullmatch(name):
        raise click.BadParameter(f"{value!r} isn't the name of an ExtractionJob.")
    return name


def _in_cluster(command: Command) -> Command:
    """Give a command ``NAME`` and kubectl's options; call it with a :class:`Kubectl` and the name."""

    @click.argument("name", callback=_name)
    @click.option("-n", "--namespace", metavar="NAME", help="Its namespace; default: that of the context.")
    @click.option("--context", metavar="NAME", help="The context of the kubeconfig.")
    @click.option("--kubeconfig", metavar="FILE", type=click.Path(dir_okay=False), help="The kubeconfig.")
    @wraps(command)
    def run(name: str, namespace: str | None, context: str | None, kubeconfig: str | None, **options: Any) -> None:
        try:
            kubectl = Kubectl.find({"namespace": namespace, "context": context, "kubeconfig": kubeconfig})
            command(kubectl, name, **options)
        except KubectlFailed as error:
            # kubectl's own words, which begin with "error" already.
            click.echo(str(error), err=True)
            sys.exit(OTHER)
        except KeyboardInterrupt:
            sys.exit(CANCELLED)

    return run


def _ask(kubectl: Kubectl, name: str, ask: "Ask") -> None:
    from extraction_operator.kubectl.change import carry_out
    from extraction_operator.kubectl.requests import Refused

    try:
        click.echo(carry_out(kubectl, name, ask))
    except Refused as refusal:
        raise click.ClickException(str(refusal)) from None


@main.command()
@_in_cluster
@click.option("--redis-url-file", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE",
              help="Where the URL of the jobs' Redis is: show each pod, every second.")  # fmt: skip
def watch(kubectl: Kubectl, name: str, redis_url_file: Path | None) -> None:
    """Follow a job in a cluster to its end.

    Ends with 0 when it succeeded, with the exit code of its failure (docs/exit-codes.md; 1 for those that aren't listed
    there), with 130 when it was cancelled. Ctrl-C ends the watching with 130, and not the job.
    """
    from extraction_operator.kubectl.follow import follow
    from extraction_operator.kubectl.live import live_of
    from extraction_operator.kubectl.show import display

    with display() as shown, live_of(redis_url_file, shown) as live:
        code = follow(kubectl, name, shown, seen_by=live.see if live is not None else lambda _: None)
    sys.exit(code)


@main.command()
@_in_cluster
@click.option("--attempt", type=click.IntRange(1), help="Of this attempt; default: the last one.")
@click.option("--all", "everything", is_flag=True, help="Of workers that didn't fail, too.")
@click.option("--tail", type=click.IntRange(-1), default=-1, help="So many lines of each; default: all.")
def logs(kubectl: Kubectl, name: str, attempt: int | None, everything: bool, tail: int) -> None:
    """Print the logs of a job in a cluster: what failed first, then the lead pod."""
    from extraction_operator.kubectl.logs import show_logs

    for line in show_logs(kubectl, name, attempt=attempt, everything=everything, tail=tail):
        click.echo(line)


@main.command()
@_in_cluster
def cancel(kubectl: Kubectl, name: str) -> None:
    """End a job in a cluster without a result; what is published already stays."""
    from extraction_operator.kubectl import requests

    _ask(kubectl, name, requests.cancel)


@main.command()
@_in_cluster
def retry(kubectl: Kubectl, name: str) -> None:
    """Begin another attempt of a failed job in a cluster."""
    from extraction_operator.kubectl import requests

    _ask(kubectl, name, requests.retry)


@main.command()
@_in_cluster
def suspend(kubectl: Kubectl, name: str) -> None:
    """Stop the workers of a job in a cluster."""
    from extraction_operator.kubectl import requests

    _ask(kubectl, name, requests.suspend)


@main.command()
@_in_cluster
def resume(kubectl: Kubectl, name: str) -> None:
    """Let a suspended job in a cluster go on."""
    from extraction_operator.kubectl import requests

    _ask(kubectl, name, requests.resume)


@main.command(context_settings={"ignore_unknown_options": True})
@click.option(
    "-f", "--filename", "files", multiple=True, required=True, type=click.Path(exists=True, dir_okay=False),
    metavar="FILE", help="Manifests; repeatable.",
)  # fmt: skip
@click.argument("more", nargs=-1, type=click.UNPROCESSED, metavar="[OPTION]...")
def plan(files: tuple[str, ...], more: tuple[str, ...]) -> None:
    """Show how a job would be split, without creating anything.

    This runs `extraction plan` here, on this machine: it needs a connection from here to the source, and its secrets
    (--secrets-dir DIR, or a Secret in a FILE). The cluster isn't asked. More options are those of `extraction plan`.
    """
    beside = Path(sys.executable).with_name("extraction")
    program = str(beside) if beside.exists() else shutil.which("extraction")
    if program is None:
        raise click.ClickException("`extraction` isn't on PATH: pip install 'extraction-operator[extractor]'")
    sys.exit(subprocess.run([program, "plan", *files, *more], check=False).returncode)
