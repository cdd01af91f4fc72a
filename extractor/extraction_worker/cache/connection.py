"""One way to talk to Redis: bounded in time whatever hangs, and never an error that anybody has to handle."""

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from extraction_contract.redis_url import RedisUrl, RedisUrlError
from extraction_worker.cache.breaker import Breaker

if TYPE_CHECKING:
    from redis import Redis

_Result = TypeVar("_Result")

ANSWER_SECONDS = 0.5
_CALL_SECONDS = 1.0
"""A name server that hangs, or an answer that comes byte by byte, is beyond the time-outs of sockets."""


class RedisAwayError(Exception):
    """Redis didn't answer, or refused; it says why in one word, and nothing of what was sent."""


class RedisConnection:
    """Calls of Redis, in threads of their own so that a caller never waits longer than a second.

    Parameters
    ----------
    say
        Gets one line when Redis is away, and one when it is back.
    """

    def __init__(
        self, url: RedisUrl, say: Callable[[str], object] = lambda _: None, breaker: Breaker | None = None,
        seconds: float = _CALL_SECONDS,
    ) -> None:  # fmt: skip
        self._url = url
        self._say = say
        self._breaker = breaker or Breaker()
        self._seconds = seconds
        self._client: Redis | None = None
        self._is_away = False

    @classmethod
    def of_file(cls, file: Path | None, say: Callable[[str], object] = lambda _: None) -> "RedisConnection | None":
        """Return the connection that a file names; None without a file, or where what is in it can't be used."""
        if file is None:
            return None
        try:
            url = RedisUrl.read(file, seconds=ANSWER_SECONDS)
        except RedisUrlError as error:
            say(f"Going on without Redis. {error}")
            return None
        return cls(url, say)

    @property
    def weakness(self) -> str:
        """Why others could read or answer what is sent there; empty where they can't."""
        return self._url.weakness

    def call(self, work: "Callable[[Redis], _Result]") -> _Result:
        """Do something with a client.

        Parameters
        ----------
        work
            Must be harmless when it is only half done, or done although nobody waits for it any more.

        Raises
        ------
        RedisAwayError
            It failed, took too long, or isn't tried because it failed before.
        """
        if self._breaker.is_open:
            raise RedisAwayError("not tried")
        outcome: list[_Result | BaseException] = []

        def run() -> None:
            try:
                outcome.append(work(self._opened()))
            except BaseException as error:  # noqa: BLE001 - told to who waits
                outcome.append(error)

        thread = threading.Thread(target=run, name="redis", daemon=True)
        thread.start()
        thread.join(self._seconds)
        # A thread that is late has a client that nobody else may use meanwhile.
        result = outcome[0] if outcome else TimeoutError()
        if isinstance(result, BaseException):
            self._client = None
            self._breaker.failed()
            reason = type(result).__name__
            if not self._is_away:
                self._is_away = True
                self._say(f"Going on without Redis ({reason}).")
            raise RedisAwayError(reason)
        self._breaker.succeeded()
        if self._is_away:
            self._is_away = False
            self._say("Redis is back.")
        return result

    def close(self) -> None:
        """Close what is open. Never raises."""
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(Exception):
                client.close()

    def _opened(self) -> "Redis":
        client: Any = self._client
        if client is None:
            client = self._client = self._url.open()
        opened: Redis = client
        return opened
