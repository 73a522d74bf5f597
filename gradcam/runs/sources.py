"""Where photographs come from, and how they are divided into shards: always the same ones.

A source is a folder, a glob, a text file of paths, tar files as WebDataset writes them, Parquet
files with a column of images, or arrays in Python. Paths may be URLs that fsspec knows. Files come
in the order of their names. A shard is so many files, one tar file, one row group, or so many
arrays.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, Protocol, TypeAlias

from gradcam.pictures.images import endings
from gradcam.runs.places import file_of, is_local, patient, resolved

__all__ = ["Kind", "Listing", "Shard", "Source", "batched", "joined", "listing", "source_name"]

Kind: TypeAlias = Literal["files", "tar", "parquet", "arrays"]


class Arrays(Protocol):
    """Whatever has a length and can be indexed."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


Source: TypeAlias = str | os.PathLike[str] | Arrays
"""What `gradcam.run` takes: a path, a URL, or arrays."""

RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
"""As WebDataset names shards: train-{000..146}.tar"""

GLOB = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Shard:
    """Photographs that are explained together, into one file.

    names: of files, from the root of the listing; one for a tar file or a row group. labels: of
    each file, where the source has them. group: the row group. items: how many there are, where
    that is known before they are read.
    """

    number: int
    kind: Kind
    names: tuple[str, ...]
    labels: tuple[str | None, ...] | None = None
    group: int | None = None
    items: int | None = None


@dataclass(frozen=True)
class Listing:
    """root: what the names of shards start from. about: the source, as it was named."""

    root: str
    about: str
    shards: Iterable[Shard]


def listing(source: Source, size: int, labels: str | None = None) -> Listing:
    """What the source holds now, in shards of `size` files or arrays.

    labels: "folder" takes the name of the folder that a file is in for its label. Raises ValueError
    or FileNotFoundError, in a sentence, where the source holds no photographs.
    """
    if labels not in (None, "folder"):
        raise ValueError(f'`labels` must be None or "folder", but is {labels!r}')
    if labels and (not isinstance(source, (str, os.PathLike)) or str(source).endswith(".txt")):
        raise ValueError(
            '`labels` is "folder", but this source says itself what its photographs show'
        )
    if not isinstance(source, (str, os.PathLike)):
        return Listing("", source_name(source), _of_arrays(source, size))
    text = os.fspath(source)
    if text.endswith(".txt"):
        return _of_text(text, size)
    root, names = _names(text)
    if not names:
        raise FileNotFoundError(
            f"`source` {text} holds no photographs, tar or Parquet files; photographs end in "
            f"{', '.join(endings())}"
        )
    kinds = {kind for kind in map(_kind, names) if kind is not None}
    if len(kinds) > 1:
        raise ValueError(
            f"`source` {text} holds files of several kinds ({', '.join(sorted(kinds))}); name one "
            'by a glob, such as "*.tar"'
        )
    kind = kinds.pop()
    if labels and kind != "files":
        raise ValueError(
            f'`labels` is "folder", but `source` {text} holds no files in folders; its labels are '
            "those that it has itself"
        )
    if kind == "tar":
        shards = _of_tars(names)
    elif kind == "parquet":
        shards = _of_row_groups(root, names)
    else:
        folders = [_folder(name) for name in names] if labels else None
        if folders is not None and None in folders:
            outside = names[folders.index(None)]
            raise ValueError(f'`labels` is "folder", but "{outside}" is in no folder')
        shards = _of_files(names, folders, size)
    return Listing(root, text, shards)


# ---------------------------------------------------------------------------------- names of files


def _names(text: str) -> tuple[str, list[str]]:
    """The root, and what is below it: names that can be read, in order."""
    system, path = resolved(text)
    match = RANGE.search(path)
    if match:
        return _parent(system, path), [_base(name) for name in _in_range(path, match)]
    if GLOB.search(path) and not (is_local(system) and os.path.exists(path)):
        found = patient(system, lambda: system.glob(path))
        return "", sorted(_full(system, name) for name in found if _kind(name))
    # `exists` may take any error of a store for a no.
    is_folder = patient(system, lambda: system.isdir(path))
    if not is_folder and not patient(system, lambda: system.exists(path)):
        raise FileNotFoundError(f"`source` {text}: there is no such file or folder")
    if is_folder:
        path = path.rstrip("/")
        found = _walk(path) if is_local(system) else patient(system, lambda: system.find(path))
        below = (str(name)[len(path) + 1 :] for name in found)
        return _full(system, path), sorted(name for name in below if _kind(name))
    if _kind(path) is None:
        raise ValueError(
            f"`source` {text} is no folder, photograph, tar or Parquet file, and no .txt of paths"
        )
    return _parent(system, path), [_base(path)]


def _walk(folder: str) -> Iterator[str]:
    """The files below a folder of this machine; folders that are links once, also in a circle."""
    seen = {os.path.realpath(folder)}
    waiting = [folder]
    while waiting:
        place = waiting.pop()
        try:
            entries = os.scandir(place)
        except OSError:  # one that may not be read
            continue
        with entries:
            # Not os.walk: it would hold a second list of a folder's names.
            for entry in entries:
                path = f"{place}/{entry.name}".replace(os.sep, "/")
                if not _is_folder(entry):
                    yield path
                elif (real := os.path.realpath(path)) not in seen:
                    seen.add(real)
                    waiting.append(path)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _kind(name: str) -> Kind | None:
    """The kind of a file, by its ending; None for what is not read, and for hidden files."""
    parts = name.split("/")
    if any(part.startswith(".") for part in parts if part not in (".", "..")):
        # Hidden below the root; a root that is hidden itself is not among the parts of a name.
        return None
    base = parts[-1].lower()
    if base.endswith((".tar", ".tar.gz", ".tgz")):
        return "tar"
    if base.endswith((".parquet", ".pq")):
        return "parquet"
    if base.endswith(endings()):
        return "files"
    return None


def _in_range(path: str, match: re.Match[str]) -> list[str]:
    first, last = match.groups()
    numbers = range(int(first), int(last) + 1)
    return [f"{path[: match.start()]}{n:0{len(first)}d}{path[match.end() :]}" for n in numbers]


def _full(system: Any, path: str) -> str:
    return path if is_local(system) else str(system.unstrip_protocol(path))


def _parent(system: Any, path: str) -> str:
    return _full(system, path.rpartition("/")[0])


def _base(path: str) -> str:
    return path.rpartition("/")[2]


def joined(root: str, name: str) -> str:
    """The path or URL of a name below the root of a listing; one that is whole stays."""
    if not root or "://" in name or name.startswith("/"):
        return name
    return f"{root}/{name}"


def _folder(name: str) -> str | None:
    return name.split("/")[-2] if "/" in name else None


# ------------------------------------------------------------------------------------------ shards


def _of_files(
    names: Sequence[str], labels: Sequence[str | None] | None, size: int
) -> Iterator[Shard]:
    for number, start in enumerate(range(0, len(names), size)):
        part = tuple(names[start : start + size])
        own = None if labels is None else tuple(labels[start : start + size])
        yield Shard(number, "files", part, own, items=len(part))


def _of_tars(names: Sequence[str]) -> Iterator[Shard]:
    for number, name in enumerate(names):
        yield Shard(number, "tar", (name,))


def _of_row_groups(root: str, names: Sequence[str]) -> Iterator[Shard]:
    number = 0
    for name in names:
        system, path = resolved(joined(root, name))
        about = _footer(system, path)
        for group in range(about.num_row_groups):
            items = about.row_group(group).num_rows
            yield Shard(number, "parquet", (name,), group=group, items=items)
            number += 1


def _footer(system: Any, path: str) -> Any:
    import pyarrow.parquet as pq

    with file_of(system, path) as file:
        try:
            return pq.read_metadata(file)
        except (ValueError, OSError) as error:
            raise ValueError(f"{path}: is a corrupt Parquet file ({error})") from error


def _of_text(text: str, size: int) -> Listing:
    """A path in each line, and behind a tab its label; relative to the file's own folder."""
    system, path = resolved(text)
    try:
        data = patient(system, lambda: system.cat_file(path))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"`source` {text}: there is no such file") from error
    root = _parent(system, path)
    names, labels = [], []
    try:
        lines = data.decode().splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{text}: is no text in UTF-8 ({error})") from error
    for line in filter(str.strip, lines):
        name, _, label = line.partition("\t")
        names.append(name.strip())
        labels.append(label.strip() or None)
    if not names:
        raise ValueError(f"`source` {text} names no file")
    return Listing(root, text, _of_files(names, labels if any(labels) else None, size))


def _of_arrays(source: Any, size: int) -> Iterator[Shard]:
    try:
        count = len(source)
        source.__getitem__  # noqa: B018, an iterator has none
    except (TypeError, AttributeError) as error:
        raise TypeError(
            "`source` must be a path or URL, or arrays that have a length and can be indexed, "
            f"such as a list or a data set, but is a {type(source).__name__}; make a list of it"
        ) from error
    if not count:
        raise ValueError("`source` is empty")
    for number, start in enumerate(range(0, count, size)):
        items = min(size, count - start)
        yield Shard(number, "arrays", (str(start),), items=items)


def source_name(source: Source) -> str:
    """What a source is called: its path, or the type and the length of arrays."""
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    return f"{type(source).__name__} of {len(source) if hasattr(source, '__len__') else '?'}"


def batched(shards: Iterable[Shard], count: int) -> Iterator[list[Shard]]:
    """Shards, some at a time."""
    rest = iter(shards)
    while part := list(islice(rest, count)):
        yield part
