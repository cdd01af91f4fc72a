"""Settings of our own code for the databases of tests."""

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
