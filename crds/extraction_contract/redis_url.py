"""How every part of the system opens Redis: from a URL in a file, with bounded times, verified TLS and no retries.

The URL holds a password, so it is in a file (a mounted Secret), never on a command line or in the environment. What
is done with Redis may always fail: whoever uses it goes on without.

::

    redis://[[USER]:PASSWORD@]HOST[:PORT][/DB]            one server
    rediss://…                                            the same with TLS; certificate and name are verified
    unix://[USER@]/PATH?db=0&password=…                   a socket
    redis+cluster://…  rediss+cluster://…                 a cluster, by any of its nodes
    redis+sentinel://[[USER]:PASSWORD@]HOST[:PORT][,HOST[:PORT]]…/SERVICE[/DB]      the master that sentinels name
    rediss+sentinel://…                                   (?sentinel_password=… is their own password)

``redis`` is imported when a client is made: who reads manifests alone doesn't need it.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

if TYPE_CHECKING:
    from redis import Redis

URL_KEY, CA_KEY = "url", "ca.crt"
"""Keys of the Secret, and names of the files that it is mounted as."""
_MAX_BYTES = 1 << 20
_SENTINEL_PORT = 26379
_URL = re.compile(r"(?P<kind>rediss?|unix|rediss?\+cluster|rediss?\+sentinel)://(?P<rest>.*)", re.DOTALL)
_UNVERIFIED = re.compile(r"[?&](?:ssl_cert_reqs=(?!required\b)|ssl_check_hostname=(?:false|f|no|n|0)\b)", re.IGNORECASE)
_SENTINELS = re.compile(
    r"(?:(?P<user>[^:@/]*)(?::(?P<password>[^@/]*))?@)?(?P<hosts>[^/@]+)/(?P<service>[^/?]+)(?:/(?P<db>\d{1,5}))?"
    r"(?:\?(?:sentinel_username=(?P<asking_user>[^&]*)&)?sentinel_password=(?P<asking_password>[^&]*))?"
)


class RedisUrlError(ValueError):
    """The URL, or its file, can't be used; the message shows nothing of it."""


@dataclass(frozen=True)
class RedisUrl:
    """Where Redis is, and how long an answer may take.

    Parameters
    ----------
    ca
        PEM file of the authorities to trust; None is the system's.
    seconds
        For connecting, and for each answer.
    """

    text: str = field(repr=False)
    ca: Path | None = None
    seconds: float = 0.5

    def __post_init__(self) -> None:
        if _URL.fullmatch(self.text) is None:
            raise RedisUrlError(
                "The URL of Redis must begin with redis://, rediss://, unix://, redis+cluster:// or redis+sentinel://."
            )
        if "+sentinel" in self._kind and _SENTINELS.fullmatch(self._rest) is None:
            raise RedisUrlError(
                "The URL of Redis must be redis+sentinel://[USER:PASSWORD@]HOST:PORT,…/SERVICE[/DB]"
                "[?[sentinel_username=…&]sentinel_password=…]."
            )

    @classmethod
    def read(cls, file: Path, *, seconds: float = 0.5) -> "RedisUrl":
        """Read the URL from a file; a ``ca.crt`` beside it names the authorities to trust.

        Raises
        ------
        RedisUrlError
            The file can't be read, or holds no URL.
        """
        try:
            with file.open("rb") as opened:
                text = opened.read(_MAX_BYTES).decode().strip()
        except OSError as error:
            raise RedisUrlError(f"{file}: {error.strerror}") from None
        except UnicodeError:
            raise RedisUrlError(f"{file} isn't UTF-8 text.") from None
        ca = file.with_name(CA_KEY)
        return cls(text, ca if ca.is_file() else None, seconds)

    @property
    def weakness(self) -> str:
        """Why others could read or answer what is sent there, in a sentence without a name; empty where they can't."""
        if self._kind.startswith("redis+") or self._kind == "redis":
            return "Redis is reached without TLS: its URL begins with redis, not with rediss."
        if _UNVERIFIED.search(self._rest):
            return "Nobody checks the certificate of Redis, or the name in it: its URL says so."
        return ""

    @property
    def _kind(self) -> str:
        return self.text.partition("://")[0]

    @property
    def _rest(self) -> str:
        return self.text.partition("://")[2]

    def open(self) -> "Redis":
        """Return a client. It tries nothing twice; of a cluster a node is asked at once, else nothing is connected yet.

        Raises
        ------
        RedisUrlError
            The client library refuses the URL.
        redis.RedisError
            No node of the cluster answers.
        """
        try:
            return self._open()
        except (ValueError, TypeError) as error:
            # Its text may quote the URL.
            raise RedisUrlError(f"The client library refuses the URL of Redis ({type(error).__name__}).") from None

    def _open(self) -> "Redis":
        from redis import Redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        options: dict[str, Any] = {
            "socket_timeout": self.seconds, "socket_connect_timeout": self.seconds,
            "retry": Retry(NoBackoff(), 0), "client_name": "extraction",
        }  # fmt: skip
        kind, _, how = self._kind.partition("+")
        if kind == "rediss" and self.ca is not None:
            options["ssl_ca_certs"] = str(self.ca)
        if how == "sentinel":
            return self._by_sentinels(options)
        url = f"{kind}://{self._rest}"
        if how == "cluster":
            from redis.cluster import RedisCluster

            # It is used like a client of one server: each of our keys and scripts stays within one slot.
            cluster: Any = RedisCluster.from_url(url, **options)
            client: Redis = cluster
            return client
        return Redis.from_url(url, **options)

    def _by_sentinels(self, options: dict[str, Any]) -> "Redis":
        from redis.sentinel import Sentinel

        found = _SENTINELS.fullmatch(self._rest)
        if found is None:
            raise AssertionError("it was looked at before")
        hosts = [host.rpartition(":") if ":" in host else (host, "", "") for host in found["hosts"].split(",")]
        if self._kind.startswith("rediss"):
            options["ssl"] = True
        asking = options | _signing_in(found["asking_user"], found["asking_password"])
        options |= _signing_in(found["user"], found["password"])
        # The library says nothing of the types of this part.
        connect: Any = Sentinel
        addresses = [(host, int(port or _SENTINEL_PORT)) for host, _, port in hosts]
        sentinel = connect(addresses, sentinel_kwargs=asking, **options)
        master: Redis = sentinel.master_for(unquote(found["service"]), db=int(found["db"] or 0))
        return master


def _signing_in(user: str | None, password: str | None) -> dict[str, str]:
    """Return options of a client for what stands in a URL."""
    given = {"username": user, "password": password}
    return {name: unquote(value) for name, value in given.items() if value}
