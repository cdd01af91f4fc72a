"""How to reach a source, as libpq parameters, with credentials that never enter a string of ours.

The password goes to libpq through a password file that lives in memory only (``memfd``), so that it is in no
connection string, no environment, no command line and no file system; a CA certificate travels the same way.
The file is written anew for each connection: rotated credentials are used by the next one.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from psycopg.conninfo import make_conninfo

from extraction_worker.errors import AuthenticationFailed
from extraction_worker.memory_file import MemoryFile
from extraction_worker.source.danger import Protection
from extraction_worker.source.slots import SlotBudget

_PINNED_TIMEOUT = 5
"""Seconds for an address that is reached within the cluster, or not at all."""


@dataclass(frozen=True)
class Credentials:
    """A role and its password, read at the moment of connecting."""

    username: str
    password: str = field(repr=False)


@dataclass(frozen=True)
class SourceSettings:
    """Where the source is and how a session of ours behaves on it. Times are seconds.

    Parameters
    ----------
    credentials
        Called before each new connection; may raise an ExtractionError.
    ca_certificate
        PEM of the authority that signed the server's certificate; None means the system's store.
    slots
        The budget of connections that every session takes a slot of; None is no budget.
    protection
        When to slow down and when to give way.
    """

    host: str
    port: int
    database: str
    credentials: Callable[[], Credentials] = field(repr=False)
    ssl_mode: str = "verify-full"
    ca_certificate: bytes | None = field(default=None, repr=False)
    application_name: str = "extraction"
    connect_timeout: int = 10
    statement_timeout: float = 60.0
    lock_timeout: float = 5.0
    stall_timeout: float = 60.0
    slots: SlotBudget | None = None
    protection: Protection = field(default_factory=Protection)
    knocking: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)
    """Held while connecting: of one process never more than one session is there without a slot."""
    address: str = ""
    """``ADDRESS:PORT`` of the server that holds the snapshot, as it knows itself; empty where it isn't known.

    Behind a name that stands for several servers only this one has the snapshot. It is tried first, TLS is verified by
    :attr:`host` all the same, and the name is what remains where the address can't be reached from here."""
    unreachable: threading.Event = field(default_factory=threading.Event, repr=False, compare=False)
    """Set when the address couldn't be reached and the name could."""
    known_pooler: threading.Event = field(default_factory=threading.Event, repr=False, compare=False)
    """Set when a pooler was found to be in session mode."""
    _password_file: MemoryFile = field(default_factory=lambda: MemoryFile("credentials"), repr=False, compare=False)
    _ca_file: MemoryFile = field(default_factory=lambda: MemoryFile("ca"), repr=False, compare=False)

    def conninfo(self, *, pinned: bool = False) -> str:
        """Return a libpq connection string without a password in it, and refresh what it points to.

        Parameters
        ----------
        pinned
            Connect to :attr:`address`.

        Raises
        ------
        AuthenticationFailed
            The user or the password holds what libpq can't be told.
        """
        place = {"host": self.host, "port": str(self.port)}
        timeout = self.connect_timeout
        if pinned:
            address, _, port = self.address.rpartition(":")
            place |= {"hostaddr": address, "port": port}
            timeout = min(timeout, _PINNED_TIMEOUT)
        credentials = self.credentials()
        # A file of passwords has one a line, and C's strings end at NUL: libpq would use a part, or another line.
        if set("\0\r\n") & set(credentials.username + credentials.password):
            raise AuthenticationFailed(
                f"Connecting to {self.host}:{self.port}: the user or the password holds a line break or a NUL.",
                hint="Look at the Secret that credentialsSecretRef names: only one line feed, at the end, is left out.",
            )
        escaped = credentials.password.replace("\\", "\\\\").replace(":", "\\:")
        self._password_file.write(f"*:*:*:*:{escaped}\n".encode())
        tls: dict[str, str] = {}
        if self.ca_certificate is not None:
            self._ca_file.write(self.ca_certificate)
            tls["sslrootcert"] = self._ca_file.path
        elif self.ssl_mode in ("verify-ca", "verify-full"):
            # libpq allows the system's store with full verification only.
            tls["sslrootcert"] = "system"
        return make_conninfo(
            **place,
            dbname=self.database,
            user=credentials.username,
            passfile=self._password_file.path,
            sslmode=self.ssl_mode,
            **tls,
            application_name=self.application_name[:63],
            connect_timeout=timeout,
            client_encoding="UTF8",
            # A peer that is gone without a word is noticed after about a minute.
            keepalives_idle=30,
            keepalives_interval=10,
            keepalives_count=3,
            tcp_user_timeout=60_000,
        )
