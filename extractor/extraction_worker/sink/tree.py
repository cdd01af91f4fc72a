"""Files below a root, reached through directory descriptors: no component may be a symbolic link.

Every function takes the descriptor of a directory and names inside it, so that a link planted between a check and a
use leads nowhere. Errors of the system become errors of the sink in :func:`sink_errors`.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterable, Iterator
from typing import Final

from extraction_worker.errors import SinkFull, SinkRefused, SinkUnavailable

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# What time doesn't heal. The rest (EIO, ESTALE, ETIMEDOUT, …) is worth another try.
_REFUSED: Final = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENAMETOOLONG, errno.EINVAL, errno.EXDEV, errno.ENOSYS,
    errno.EOPNOTSUPP, errno.EEXIST, errno.ENOTEMPTY, errno.EMLINK,
}  # fmt: skip
_RENAME_EXCHANGE: Final = 2
LOCK_SECONDS: Final = 30.0

_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def sink_errors(doing: str) -> Iterator[None]:
    """Turn OSError into the errors of sinks; ``doing`` begins the message, e.g. ``Writing part-00001-…``.

    Raises
    ------
    SinkFull
        No space, no quota, or the file is larger than this process or file system allows.
    SinkRefused
        Not permitted, read-only, a symbolic link in the path, or not possible here.
    SinkUnavailable
        Anything else.
    """
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        if error.errno in _FULL:
            raise SinkFull(f"{doing}: {reason}.", hint="Free space where the files go, or raise the quota.") from error
        if error.errno in {errno.ELOOP, errno.ENOTDIR}:
            message = f"{doing}: a component of the path is a symbolic link or not a folder."
            raise SinkRefused(message, hint="Paths below the sink's root can't contain links.") from error
        if error.errno in _REFUSED:
            raise SinkRefused(f"{doing}: {reason}.") from error
        raise SinkUnavailable(f"{doing}: {reason}.") from error


@contextlib.contextmanager
def opened(start: str | int, segments: tuple[str, ...] = (), *, create: bool = False) -> Iterator[int]:
    """Yield a descriptor of the directory ``segments`` below ``start`` (a path, or a descriptor that stays open).

    Only ``start`` itself may be reached through links. With ``create``, missing directories are made, durably.
    """
    current = os.open(start, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) if isinstance(start, str) else os.dup(start)
    try:
        for segment in segments:
            below = _enter(current, segment, create=create)
            os.close(current)
            current = below
        yield current
    finally:
        os.close(current)


def _enter(folder: int, name: str, *, create: bool) -> int:
    # Another run's discard may remove a shared, empty parent between our mkdir and our open.
    for _ in range(100):
        try:
            return os.open(name, _DIRECTORY, dir_fd=folder)
        except FileNotFoundError:
            if not create:
                raise
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, dir_fd=folder)
            os.fsync(folder)
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), name)


def names(folder: int) -> list[str]:
    """Return the names in a directory."""
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries]


def create_file(folder: int, name: str) -> int:
    """Return a descriptor of a new, empty file; whatever had the name is an error."""
    return os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666, dir_fd=folder)


def write_all(file: int, data: bytes | bytearray | memoryview) -> None:
    """Write every byte."""
    view = memoryview(data)
    while view.nbytes:
        view = view[os.write(file, view) :]


def write_file(folder: int, name: str, data: bytes | Iterable[bytes]) -> None:
    """Create a file with this content, which may come in blocks, durably."""
    file = create_file(folder, name)
    try:
        for block in (data,) if isinstance(data, bytes) else data:
            write_all(file, block)
        os.fsync(file)
    finally:
        os.close(file)
    os.fsync(folder)


def read_file(folder: int, name: str) -> bytes | None:
    """Return the content of a regular file; None when there is none."""
    try:
        file = open_regular(folder, name)
    except FileNotFoundError:
        return None
    with os.fdopen(file, "rb") as stream:
        return stream.read()


def open_regular(folder: int, name: str) -> int:
    """Return a descriptor for reading a regular file, never a link or a device."""
    # Without O_NONBLOCK a named pipe in the place of a file would block for ever.
    file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), name)
    return file


def remove_tree(folder: int, name: str) -> None:
    """Remove a file or a directory with all it holds, without following links; missing is fine."""
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        return
    except (IsADirectoryError, PermissionError):
        # Linux says EISDIR, POSIX EPERM.
        with opened(folder, (name,)) as inner:
            for entry in names(inner):
                remove_tree(inner, entry)
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(name, dir_fd=folder)


def exchange(old_folder: int, old: str, new_folder: int, new: str) -> None:
    """Swap two names atomically: ``renameat2(…, RENAME_EXCHANGE)``, which Python doesn't offer.

    Raises
    ------
    OSError
        EINVAL where the file system can't (NFS, CephFS, SMB).
    """
    if _libc.renameat2(old_folder, os.fsencode(old), new_folder, os.fsencode(new), _RENAME_EXCHANGE) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), new)


@contextlib.contextmanager
def locked(folder: int) -> Iterator[None]:
    """Hold the exclusive flock of a directory.

    Raises
    ------
    SinkUnavailable
        Somebody else has held it for :data:`LOCK_SECONDS`.
    """
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() > deadline:
                message = f"Another publisher has held the lock of the sink's root for {LOCK_SECONDS:.0f} s."
                raise SinkUnavailable(message) from None
            time.sleep(0.05)
    try:
        yield
    finally:
        fcntl.flock(folder, fcntl.LOCK_UN)
