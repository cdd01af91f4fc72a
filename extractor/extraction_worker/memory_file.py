"""Files that live in memory only, for libraries that want a secret or a certificate by its path."""

import os


class MemoryFile:
    """An anonymous file in memory that this process opens by its path under ``/proc``; gone when it is collected."""

    def __init__(self, name: str, content: bytes = b"") -> None:
        self._descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
        os.fchmod(self._descriptor, 0o600)  # libpq ignores a password file that others could read
        self._content = b""
        self.write(content)

    @property
    def path(self) -> str:
        """Where it can be opened while this object lives."""
        return f"/proc/{os.getpid()}/fd/{self._descriptor}"

    def __fspath__(self) -> str:
        return self.path

    def write(self, content: bytes) -> None:
        """Replace the content. Nothing happens when it is the same, so that readers rarely see a change."""
        if content != self._content:
            os.pwrite(self._descriptor, content, 0)
            os.ftruncate(self._descriptor, len(content))
            self._content = content

    def __del__(self) -> None:
        os.close(self._descriptor)
