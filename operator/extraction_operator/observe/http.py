"""``/metrics``, ``/healthz`` and ``/readyz``."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from extraction_operator.observe.metrics import Metrics


@dataclass(frozen=True)
class Patience:
    """Seconds after which this process counts as stuck; none of them depends on another service's health."""

    work: float = 120.0
    """Of one key: every call in it is bounded by far less."""
    beat: float = 30.0
    """Since the comparison with the API server has turned round last, whether it succeeded or not."""


class Health:
    """Whether this process works, or should be started anew.

    Parameters
    ----------
    longest_work
        Seconds for which the oldest key has been worked on.
    """

    def __init__(
        self, longest_work: Callable[[], float], *, patience: Patience = Patience(),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._longest_work = longest_work
        self._patience = patience
        self._clock = clock
        self._beat = clock()
        self.is_ready = False
        """Whether everything was listed once; so a standby is ready, too."""

    def beat(self) -> None:
        """Take note that the loop turns, and the watch has a task."""
        self._beat = self._clock()

    def beat_age(self) -> float:
        """Return the seconds since the last beat."""
        return self._clock() - self._beat

    def problem(self) -> str:
        """Return what is wrong; empty when nothing is."""
        if (working := self._longest_work()) > self._patience.work:
            return f"A key has been worked on for {working:.0f} s."
        if (silent := self.beat_age()) > self._patience.beat:
            return f"No heartbeat for {silent:.0f} s."
        return ""


def application(metrics: Metrics, health: Health) -> web.Application:
    """Return the web application."""

    async def show_metrics(_: web.Request) -> web.Response:
        return web.Response(body=metrics.page(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def healthz(_: web.Request) -> web.Response:
        problem = health.problem()
        return web.Response(text=problem or "ok", status=503 if problem else 200)

    async def readyz(_: web.Request) -> web.Response:
        ready = health.is_ready
        return web.Response(text="ok" if ready else "Not everything is listed yet.", status=200 if ready else 503)

    app = web.Application()
    app.add_routes([web.get("/metrics", show_metrics), web.get("/healthz", healthz), web.get("/readyz", readyz)])
    return app


async def serve(app: web.Application, host: str, port: int) -> tuple[web.AppRunner, int]:
    """Serve on a port, 0 is a free one; return what to clean up at the end, and the port."""
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, host, port)
    await site.start()
    return runner, int(runner.addresses[0][1])
