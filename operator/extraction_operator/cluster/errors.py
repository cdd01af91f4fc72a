"""What a call to the API server can come to. The queue tries again after any of them, later and later."""

from typing import Any


class ClusterError(Exception):
    """A call didn't do what was asked for."""


class LoginError(Exception):
    """There are no credentials for the API server; the message says where they were looked for."""


class NotLeaderError(ClusterError):
    """A write was refused by our own fence: this replica can't be sure any more to be the leader."""


class UnreachableError(ClusterError):
    """No answer came in time. What was asked for may have been done nevertheless."""


class ForeignObjectError(ClusterError):
    """An object of somebody else has the name of one of ours."""


class ApiError(ClusterError):
    """The API server refused.

    Parameters
    ----------
    status
        The HTTP status.
    body
        The ``Status`` object of the answer, or an empty mapping.
    what
        Verb and path of the call.
    """

    def __init__(self, status: int, body: dict[str, Any], what: str) -> None:
        self.status = status
        self.reason = str(body.get("reason") or "")
        self.message = str(body.get("message") or "")
        causes = (body.get("details") or {}).get("causes") or ()
        self.causes = tuple(str(cause.get("reason", "")) for cause in causes)
        super().__init__(f"{what}: {status} {self.reason}: {self.message}")

    @property
    def is_gone(self) -> bool:
        """The object isn't there."""
        return self.status == 404

    @property
    def is_conflict(self) -> bool:
        """It isn't the object, or the version of it, that was meant."""
        return self.status == 409

    @property
    def is_invalid(self) -> bool:
        """The API server will never take this."""
        return self.status in {400, 422}
