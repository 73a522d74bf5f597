"""A folder of a run, on this machine or in an object store, by its path or URL.

What is on this machine is written beside its place and renamed, and may be held by one process at a
time. An object appears in a store when it is whole; there nothing can be held. A store that does
not answer is asked again for about a minute.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain, repeat
from pathlib import Path
from typing import Any, TypeVar

from gradcam._files import held, not_written, replacing, write_whole

__all__ = ["Place", "StoreError", "file_of", "is_local", "opened", "patient", "resolved"]

R = TypeVar("R")

WAITS = (0.5, 1, 2, 4, 8)
"""Seconds before a store that did not answer is asked again; then always the last."""
PATIENCE = 60.0
"""Seconds after which it is not asked again. Its package may have tried for long in each."""

LOCAL = ("file", "local")


class StoreError(Exception):
    """A store did not answer: nothing is known of what was asked for."""


SURE = (
    FileNotFoundError,
    PermissionError,
    IsADirectoryError,
    NotADirectoryError,
    ValueError,
    TypeError,
    ImportError,
    MemoryError,
    StoreError,
)
"""What another try would not change."""

NO_ACCESS = (
    "NoCredentialsError",
    "PartialCredentialsError",
    "DefaultCredentialsError",
    "ClientAuthenticationError",
)
"""What packages of stores raise where they find no keys; by name, as none is imported here."""


def resolved(url: str | os.PathLike[str]) -> tuple[Any, str]:
    """The fsspec file system of a path or URL, and the path in it.

    Raises ImportError where fsspec, or the package for this kind of URL, is missing, and ValueError
    where no package is known for it.
    """
    try:
        import fsspec
    except ImportError as error:
        raise ImportError('runs over data sets need fsspec: pip install "gradcam[runs]"') from error
    # Told once, and not for each file: listings of a store that others write to are never old.
    system, path = fsspec.core.url_to_fs(os.fspath(url))
    return system, str(path)


def is_local(system: Any) -> bool:
    """Whether the file system is this machine's."""
    protocol = system.protocol
    names = (protocol,) if isinstance(protocol, str) else tuple(protocol)
    return any(name in LOCAL for name in names)


def patient(system: Any, ask: Callable[[], R]) -> R:
    """The answer of a file system; a store that fails is asked again, this machine is not.

    Raises `StoreError` where a store does not answer for about a minute, and PermissionError where
    there are no keys for it.
    """
    if is_local(system):
        return ask()
    until = time.monotonic() + PATIENCE
    for wait in chain(WAITS, repeat(WAITS[-1])):
        try:
            return ask()
        except SURE:
            raise
        except Exception as error:  # each store has its own kinds of errors
            kinds = system.protocol
            name = kinds if isinstance(kinds, str) else kinds[0]
            kind = type(error).__name__
            if kind in NO_ACCESS:
                raise PermissionError(f"{name}: no access to the store ({error})") from error
            if time.monotonic() + wait > until:
                raise StoreError(
                    f"{name}: the store does not answer ({kind}: {error}); run again, and it goes "
                    "on where it was"
                ) from error
        time.sleep(wait)
    raise AssertionError


def file_of(system: Any, path: str) -> Any:
    """A file, to be read; `patient` in a store."""
    return system.open(path, "rb") if is_local(system) else _Stored(system, path)


class _Stored(io.RawIOBase):
    """A file in a store, which is opened again where reading fails, and read on."""

    def __init__(self, system: Any, path: str) -> None:
        super().__init__()
        self._system = system
        self._path = path
        self._file: Any = None
        self._at = 0
        patient(system, self._opened)

    def _opened(self) -> Any:
        if self._file is None:
            self._file = self._system.open(self._path, "rb")
        return self._file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at}
        if whence == os.SEEK_END:
            start[whence] = int(patient(self._system, self._opened).size)
        self._at = start[whence] + offset
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        def asked() -> bytes:
            file = self._opened()
            try:
                file.seek(self._at)
                return bytes(file.read(-1 if size is None else size))
            except Exception:
                self._file = None
                raise

        data = patient(self._system, asked)
        self._at += len(data)
        return data

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        super().close()


def opened(url: str | os.PathLike[str]) -> Place:
    """The folder at a path or URL; an ImportError where the packages of runs are missing."""
    if importlib.util.find_spec("pyarrow") is None:
        raise ImportError('runs over data sets need pyarrow: pip install "gradcam[runs]"')
    system, path = resolved(url)
    return Place(system, path.rstrip("/") or "/")


class Place:
    """A folder; names are relative to it, with "/" between their parts."""

    def __init__(self, system: Any, path: str) -> None:
        self._system = system
        self.path = path
        self.local = is_local(system)

    def __str__(self) -> str:
        if self.local:
            return self.path
        return str(self._system.unstrip_protocol(self.path))

    def _at(self, name: str) -> str:
        return f"{self.path}/{name}"

    def read(self, name: str) -> bytes | None:
        """A file's bytes; None where there is no such file."""
        try:
            return bytes(patient(self._system, lambda: self._system.cat_file(self._at(name))))
        except FileNotFoundError:
            return None

    def names(self, folder: str = "") -> set[str]:
        """The names of the files and folders that a folder holds now."""
        path = self._at(folder).rstrip("/")

        def listing() -> list[str]:
            self._system.invalidate_cache()
            return list(self._system.ls(path, detail=False))

        try:
            found = patient(self._system, listing)
        except FileNotFoundError:
            return set()
        return {str(name).rstrip("/").rpartition("/")[2] for name in found}

    def has(self, name: str) -> bool:
        """Whether there is such a file now."""

        def asked() -> bool:
            self._system.invalidate_cache()
            self._system.info(self._at(name))  # `exists` may take any error for a no
            return True

        try:
            return patient(self._system, asked)
        except FileNotFoundError:
            return False

    def open(self, name: str) -> Any:
        """A file, to be read."""
        return file_of(self._system, self._at(name))

    @contextmanager
    def reading(self, name: str) -> Iterator[Path]:
        """A path on this machine to read a file from; of a store it is a copy."""
        if self.local:
            yield Path(self._at(name))
            return
        with tempfile.TemporaryDirectory(prefix="gradcam-") as folder:
            path = Path(folder, "part")
            patient(self._system, lambda: self._system.get_file(self._at(name), str(path)))
            yield path

    def write(self, name: str, data: bytes) -> None:
        """Write a file as a whole."""
        if self.local:
            self._make_parent(name)
            write_whole(Path(self._at(name)), data)
        else:
            patient(self._system, lambda: self._system.pipe_file(self._at(name), data))

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """A path on this machine to write to; the file is in its place when the block has ended.

        Where the block raises, nothing is left. What a process that was killed leaves is written
        over by the next one: the caller holds the file's shard.
        """
        if not self.local:
            with tempfile.TemporaryDirectory(prefix="gradcam-") as folder:
                path = Path(folder, "part")
                yield path
                patient(self._system, lambda: self._system.put_file(str(path), self._at(name)))
            return
        self._make_parent(name)
        with replacing(Path(self._at(name))) as partial:
            yield partial

    def _make_parent(self, name: str) -> None:
        parent = Path(self._at(name)).parent
        try:
            parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise not_written(parent, error) from error

    def remove(self, name: str) -> None:
        """Remove a file, where there is one."""
        with contextlib.suppress(FileNotFoundError):
            patient(self._system, lambda: self._system.rm_file(self._at(name)))

    @contextmanager
    def holding(self, name: str, wait: bool) -> Iterator[bool]:
        """Hold a lock of that name, on this machine: False where another process has it.

        In a store nobody can hold anything, and it is True for all.
        """
        if not self.local:
            yield True
            return
        self._make_parent(name)
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(held(Path(self._at(name)), wait))
            except BlockingIOError:
                yield False
                return
            yield True
