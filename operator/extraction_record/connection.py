"""Where the record is, and how to sign in: one URL without a password, and a folder with the credentials."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SETTINGS = {
    "application_name": "extraction-record", "connect_timeout": "5",
    # A server that is gone without a word is noticed.
    "keepalives_idle": "10", "keepalives_interval": "5", "keepalives_count": "3", "tcp_user_timeout": "20000",
}  # fmt: skip


class PlaceError(ValueError):
    """The record's URL or credentials can't be used; the message shows neither a name nor a password."""


@dataclass(frozen=True)
class Place:
    """Where the record is.

    Parameters
    ----------
    url
        As libpq takes it, e.g. ``postgresql://db.example.com/record?sslmode=verify-full``; several hosts are fine.
        Without ``sslmode`` the server's certificate and host name are verified: plain text has to be asked for.
    credentials
        A folder with the files ``username`` and ``password``, as a Secret is mounted. Read for each connection, so
        that rotation works. None leaves it to libpq: ``PGUSER``, ``PGPASSWORD``, a password file.
    """

    url: str
    credentials: Path | None = None

    @property
    def weakness(self) -> str:
        """Why others could read or answer what is sent there, in one sentence without a name; empty where they can't.

        Raises
        ------
        PlaceError
            The URL can't be read.
        """
        mode = self._parsed()["sslmode"]
        if mode == "verify-full":
            return ""
        if mode in {"require", "verify-ca"}:
            return f"Nobody checks the name in the certificate of the record's server: sslmode is {mode}."
        return f"The record is reached without TLS, or may be: sslmode is {mode}."

    def parameters(self) -> dict[str, Any]:
        """Return what ``psycopg.connect`` takes.

        Raises
        ------
        PlaceError
            The URL can't be read or has a password in it, or a file is missing.
        """
        found = self._parsed()
        if found["sslmode"] == "verify-full":
            found.setdefault("sslrootcert", "system")
        if self.credentials is not None:
            found["user"] = self._read(self.credentials / "username")
            found["password"] = self._read(self.credentials / "password")
        return _SETTINGS | found

    def _parsed(self) -> dict[str, Any]:
        # Late: the operator's configuration has a place, and most operators write no record.
        from psycopg import ProgrammingError
        from psycopg.conninfo import conninfo_to_dict

        try:
            found = conninfo_to_dict(self.url)
        except ProgrammingError:
            raise PlaceError("The record's URL can't be read: postgresql://HOST[:PORT]/DATABASE.") from None
        if "password" in found:
            raise PlaceError("The record's URL has a password: it belongs into the file `password` of the credentials.")
        return {"sslmode": "verify-full"} | found

    @staticmethod
    def _read(file: Path) -> str:
        try:
            return file.read_text(encoding="utf-8").rstrip("\r\n")
        except OSError as error:
            raise PlaceError(f"The record's credentials: {file} can't be read ({error.strerror}).") from None
