"""Settings of our own code for the databases of tests."""

import time
from collections.abc import Callable

from extraction_worker.source.settings import Credentials, SourceSettings


def settings_of(database, /, user: str | None = None, password: str | None = None, **changes) -> SourceSettings:
    """Return settings that reach ``database``, as superuser unless a role is named."""
    server = database.server
    credentials = Credentials(user or server.user, password or server.password)
    fields = {
        "host": server.host,
        "port": server.port,
        "database": database.name,
        "credentials": lambda: credentials,
        "ssl_mode": "disable",
    }
    return SourceSettings(**(fields | changes))


def wait_until(condition: Callable[[], object], seconds: float = 20) -> None:
    """Return when the condition is true; fail when it isn't in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it didn't happen in time"
        time.sleep(0.01)
