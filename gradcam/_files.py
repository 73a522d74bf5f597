"""Files that are written as a whole, and places that one process holds at a time."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["PARTIAL", "held", "not_written", "replacing", "write_whole"]

PARTIAL = ".part"
"""The ending of a file that is being written."""

NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
"""What file systems say that have no locks."""

if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int, wait: bool) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(descriptor: int, wait: bool) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def held(path: Path, wait: bool) -> Iterator[None]:
    """Hold the lock file `path`, which no other process and no other thread then holds.

    The system frees it when the process ends, however that is. Without `wait`, a lock that another
    holds is a BlockingIOError. Where the file system has no locks, nothing is held.
    """
    descriptor = _opened(path, wait)
    try:
        yield
    finally:
        # Removed while it is still held: whoever waits for it sees that, and makes a new one.
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(descriptor)


def _opened(path: Path, wait: bool) -> int:
    """The descriptor of a lock file that is held, and still lies at `path`."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(descriptor, wait)
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except FileNotFoundError:  # the one that held it has removed it
            pass
        except OSError as error:
            if error.errno in NO_LOCKS:
                return descriptor
            os.close(descriptor)
            if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
                raise BlockingIOError(error.errno, "is held by another", str(path)) from error
            raise
        os.close(descriptor)


def write_whole(path: Path, data: str | bytes) -> None:
    """Write a file beside its place, then rename it: a run that is stopped leaves the old one.

    Text is written as UTF-8. An OSError names the file.
    """
    if isinstance(data, str):
        data = data.encode()
    with replacing(path) as partial:
        partial.write_bytes(data)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside a file to write to, which takes the file's place when the block has ended.

    Where the block raises, nothing is left; an OSError of the system then names the file.
    """
    place = Path(os.path.realpath(path))  # a link stays one
    # A new name within the folder: renaming is one step only on the same disk.
    partial = place.with_name(place.name + PARTIAL)
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(place)
    except BaseException as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        if isinstance(error, OSError) and error.errno is not None:
            raise not_written(path, error) from error
        raise


def not_written(path: Path, error: OSError) -> OSError:
    """The same error as a sentence that names the file or folder."""
    reason = error.strerror or str(error)
    return type(error)(f"{path}: could not be written ({reason})")
