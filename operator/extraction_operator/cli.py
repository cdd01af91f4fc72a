"""``extraction-operator``: the command line. Options are environment variables, too: ``EXTRACTION_OPERATOR_RUN_…``."""

import asyncio
import gc
import os
import sys
import uuid
from collections.abc import Coroutine
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import click

from extraction_operator.cluster.errors import LoginError
from extraction_operator.cluster.service_account import FOLDER
from extraction_operator.config import Config, Election, RecordConfig
from extraction_operator.observe.logs import configure
from extraction_operator.plan.budget import DEFAULT_CAP
from extraction_operator.plan.claims import LEAST_FOR_A_JOB
from extraction_operator.plan.settings import Settings
from extraction_operator.plan.values import Key
from extraction_record.commands import history, record
from extraction_record.connection import Place

T = TypeVar("T")
_NAMESPACE_FILE = FOLDER / "namespace"


@click.group(context_settings={"auto_envvar_prefix": "EXTRACTION_OPERATOR", "help_option_names": ["-h", "--help"]})
@click.version_option(version("extraction-operator"))
def main() -> None:
    """Operator of ExtractionJobs: plans extractions, runs them as Jobs, reports in their status."""


@main.command(context_settings={"show_default": True})
@click.option("--image", required=True, help="Image of the pods that read and write.")
@click.option(
    "--image-pull-policy", type=click.Choice(["Always", "IfNotPresent", "Never"]), default="IfNotPresent",
    help="When nodes pull it.",
)  # fmt: skip
@click.option("--namespace", "namespaces", multiple=True, help="Watch this namespace alone; repeatable. Default: all.")
@click.option("--leader-elect/--no-leader-elect", default=True, help="Work only while holding the Lease.")
@click.option("--lease-name", default="extraction-operator", help="Name of the Lease.")
@click.option("--lease-namespace", default=None, help="Its namespace. Default: that of this pod.")
@click.option("--metrics-host", default="0.0.0.0", help="Address of /metrics, /healthz and /readyz.")  # noqa: S104
@click.option("--metrics-port", type=click.IntRange(0, 65535), default=8080, help="Port of them.")
@click.option("--workers", type=click.IntRange(1, 256), default=16, help="Objects worked on at the same time.")
@click.option(
    "--compare-seconds", type=click.FloatRange(1), default=300.0, help="Between two comparisons with the API server."
)
@click.option(
    "--max-source-connections",
    type=click.IntRange(LEAST_FOR_A_JOB),
    default=DEFAULT_CAP,
    help="Connections to all sources together.",
)
@click.option(
    "--request-connections/--no-request-connections", default=False,
    help="Have pods of jobs request extraction-operator.io/connections, a resource that nodes must advertise.",
)  # fmt: skip
@click.option("--record-url", default=None, metavar="URL",
              help="Record what happens there: postgresql://HOST[:PORT]/DATABASE, without a password.")  # fmt: skip
@click.option("--record-credentials", type=click.Path(file_okay=False, path_type=Path), default=None, metavar="FOLDER",
              help="With the files username and password, read for each connection.")  # fmt: skip
@click.option("--record-cluster", default="default", metavar="NAME", help="This cluster, where several share a record.")
@click.option("--record-spool-mebibytes", type=click.IntRange(1, 4096), default=64,
              help="Memory of what waits while the record is away; beyond it the oldest is dropped.")  # fmt: skip
@click.option("--redis-url-file", type=click.Path(dir_okay=False, path_type=Path), default=None,
              help="A file with the URL of the Redis that live progress is read from.")  # fmt: skip
@click.option("--jobs-redis-secret", default="", metavar="NAME",
              help="A Secret in the namespaces of jobs, key url: the Redis of their pods; optional there.")  # fmt: skip
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info")
@click.option("--kubeconfig", type=click.Path(exists=True, dir_okay=False, path_type=Path), default=None,
              help="Default: the service account in a pod, else as kubectl finds it.")  # fmt: skip
@click.option("--context", default=None, help="Context of the kubeconfig.")
@click.pass_context
def run(
    ctx: click.Context, *, image: str, image_pull_policy: str, namespaces: tuple[str, ...], leader_elect: bool,
    lease_name: str, lease_namespace: str | None, metrics_host: str, metrics_port: int, workers: int,
    compare_seconds: float, max_source_connections: int, request_connections: bool, record_url: str | None,
    record_credentials: Path | None, record_cluster: str, record_spool_mebibytes: int, redis_url_file: Path | None,
    jobs_redis_secret: str, log_level: str, kubeconfig: Path | None, context: str | None,
) -> None:  # fmt: skip
    """Run until SIGTERM."""
    configure(log_level)
    # A container that was started anew isn't the process that held the Lease.
    identity = f"{os.environ.get('HOSTNAME', 'local')}_{uuid.uuid4()}"
    election = None
    if leader_elect:
        namespace = lease_namespace or _own_namespace()
        if not namespace:
            raise click.UsageError("--lease-namespace is needed outside of a pod, or --no-leader-elect.")
        election = Election(Key(namespace, lease_name), identity)
    config = Config(
        plan=Settings(
            image=image, image_pull_policy=image_pull_policy, redis_secret=jobs_redis_secret,
            request_connections=request_connections,
        ),
        identity=identity,
        pod=_own_pod(),
        namespaces=namespaces,
        election=election,
        kubeconfig=kubeconfig,
        context=context,
        max_source_connections=max_source_connections,
        metrics_host=metrics_host,
        metrics_port=metrics_port,
        workers=workers,
        compare_seconds=compare_seconds,
        redis_url_file=redis_url_file,
        record=None if not record_url else RecordConfig(
            Place(record_url, record_credentials), record_cluster, record_spool_mebibytes * 1024 * 1024
        ),
    )  # fmt: skip
    # Late, so that --help answers at once. What is imported stays for ever: the collector needn't walk through it again
    # and again, neither while it is loaded nor in each of its rounds later.
    gc.disable()
    from extraction_operator.runtime import run as run_operator

    gc.freeze()
    gc.enable()
    ctx.exit(_run(run_operator(config)))


@main.command()
@click.option("--deployment", default=None, help="The operator's Deployment, to be stopped first.")
@click.option("--lease-name", default=None, help="Its Lease: wait until nobody holds it.")
@click.option("--own-namespace", default=None, help="The namespace of both. Default: that of this pod.")
@click.option("--namespace", "namespaces", multiple=True, help="Look here alone; repeatable. Default: everywhere.")
@click.option("--kubeconfig", type=click.Path(exists=True, dir_okay=False, path_type=Path), default=None,
              help="Default: the service account in a pod, else as kubectl finds it.")  # fmt: skip
@click.option("--context", default=None, help="Context of the kubeconfig.")
def release_finalizers(
    *, deployment: str | None, lease_name: str | None, own_namespace: str | None, namespaces: tuple[str, ...],
    kubeconfig: Path | None, context: str | None,
) -> None:  # fmt: skip
    """Take the operator's finalizer off all objects, before it is uninstalled.

    Jobs that run go on without the operator; staging of those that are deleted then isn't cleaned up.
    """
    configure("info")
    own = own_namespace or _own_namespace()
    if (deployment or lease_name) and not own:
        raise click.UsageError("--own-namespace is needed outside of a pod.")
    from extraction_operator.release import release

    _run(
        release(
            namespaces, deployment=Key(own, deployment) if deployment else None,
            lease=Key(own, lease_name) if lease_name else None, kubeconfig=kubeconfig, context=context,
        )
    )  # fmt: skip


main.add_command(record)
main.add_command(history)


def _run(work: Coroutine[Any, Any, T]) -> T:
    try:
        return asyncio.run(work)
    except LoginError as error:
        raise click.ClickException(f"There is no way to the API server: {error}") from None


def _own_pod() -> Key | None:
    namespace, name = _own_namespace(), os.environ.get("HOSTNAME", "")
    return Key(namespace, name) if namespace and name else None


def _own_namespace() -> str:
    return _NAMESPACE_FILE.read_text().strip() if _NAMESPACE_FILE.exists() else ""


if __name__ == "__main__":
    sys.exit(main())
