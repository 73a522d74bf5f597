"""The photographs of a shard, one after the other: what cannot be read is an error of its own.

A sequential part gives items, which hold bytes or say where they are; `load` makes a picture of
one, and may run in a thread.
"""

from __future__ import annotations

import json
import tarfile
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from gradcam._arrays import to_numpy
from gradcam._faults import FAULTS, described
from gradcam.pictures.images import endings, read, read_bytes
from gradcam.runs.places import file_of, is_local, patient, resolved
from gradcam.runs.sources import Shard, joined

__all__ = ["Columns", "Item", "Seen", "ahead", "items", "load"]

T = TypeVar("T")
R = TypeVar("R")

Columns = Mapping[str, str]
"""The names of the columns of a Parquet source, by what is in them: "image", "label", "key"."""

KEYS = ("key", "__key__", "id", "image_id", "path", "file_name")
LABELS = ("label", "labels", "class", "cls")
ROWS = 64
"""Of a Parquet file that are decoded at a time."""


@dataclass(frozen=True)
class Item:
    """One photograph of a shard, not yet decoded. get: its picture, or whatever that raises."""

    sample: int
    key: str
    label: str | None
    get: Callable[[], Any]


@dataclass(frozen=True)
class Seen:
    """A photograph as the network sees it, or why it could not be read."""

    sample: int
    key: str
    label: str | None
    picture: Any = None
    error: str | None = None


def items(
    shard: Shard, root: str, source: Any = None, columns: Columns | None = None
) -> Iterator[Item]:
    """The items of a shard, in order.

    root: of the listing. source: the arrays, where it is one of arrays. columns: of a Parquet file.
    """
    if shard.kind == "arrays":
        return _arrays(shard, source)
    if shard.kind == "files":
        return _files(shard, root)
    path = joined(root, shard.names[0])
    if shard.kind == "tar":
        return _members(path, shard.names[0])
    return _rows(path, shard, columns or {})


def load(item: Item, view: Callable[[Any], Any] | None) -> Seen:
    """The item's picture, as the view shows it."""
    try:
        picture = item.get()
        if view is not None:
            picture = view(picture)
    except FAULTS as error:
        return Seen(item.sample, item.key, item.label, error=described(error))
    return Seen(item.sample, item.key, item.label, picture)


def ahead(steps: Iterable[T], work: Callable[[T], R], threads: int, depth: int) -> Iterator[R]:
    """`work` of each step, in order, done in threads, at most `depth` of them ahead."""
    if threads < 1:
        yield from map(work, steps)
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="gradcam-read") as pool:
        waiting: deque[Future[R]] = deque()
        try:
            for step in steps:
                waiting.append(pool.submit(work, step))
                if len(waiting) >= depth:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


# ------------------------------------------------------------------------------------------- files


def _files(shard: Shard, root: str) -> Iterator[Item]:
    labels = shard.labels or (None,) * len(shard.names)
    for sample, (name, label) in enumerate(zip(shard.names, labels, strict=True)):
        yield Item(sample, shown(name), label, _Opener(joined(root, name), name))


def shown(name: str) -> str:
    """A file's name as text that a Parquet file can hold; bytes that are no text are spelled."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


@dataclass(frozen=True)
class _Opener:
    path: str
    name: str

    def __call__(self) -> np.ndarray:
        system, path = resolved(self.path)
        if is_local(system):
            return read(Path(path))
        data = patient(system, lambda: system.cat_file(path))
        return read_bytes(data, shown(self.name))


@dataclass(frozen=True)
class _Bytes:
    data: bytes
    name: str

    def __call__(self) -> np.ndarray:
        return read_bytes(self.data, self.name)


@dataclass(frozen=True)
class _Failure:
    error: Exception

    def __call__(self) -> np.ndarray:
        raise self.error


# -------------------------------------------------------------------------------------- tar files


def _members(path: str, name: str) -> Iterator[Item]:
    """The samples of a tar file: files that follow each other with the same name but for endings.

    Its label is that of a `.cls` file, or "label" or "cls" in a `.json`. The file is read from its
    beginning to its end, so that it may lie in a store.
    """
    sample = 0
    base: str | None = None
    parts: dict[str, bytes] = {}
    system, at = resolved(path)
    try:
        with (
            file_of(system, at) as file,
            tarfile.open(fileobj=file, mode="r|*") as tar,
        ):
            for member in tar:
                tar.members.clear()  # type: ignore[attr-defined]  # it would hold all that were read
                if not member.isfile():
                    continue
                folder, slash, last = member.name.rpartition("/")
                stem, _, ending = last.partition(".")
                found = f"{folder}{slash}{stem}"
                if found != base:
                    for item in _sample(sample, name, base, parts):
                        sample += 1
                        yield item
                    base, parts = found, {}
                content = tar.extractfile(member)
                assert content is not None  # it is a file
                parts[f".{ending.lower()}"] = content.read()
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        for item in _sample(sample, name, base, parts):
            sample += 1
            yield item
        why = ValueError(f"{name}: cannot be read any further ({error})")
        yield Item(sample, shown(f"{name}#rest"), None, _Failure(why))
        return
    yield from _sample(sample, name, base, parts)


def _sample(sample: int, name: str, base: str | None, parts: Mapping[str, bytes]) -> Iterator[Item]:
    """One item, or none where a sample has no image."""
    images = [ending for ending in parts if ending.endswith(endings())]
    if base is None or not images:
        return
    key = shown(f"{name}#{base}{images[0]}")
    yield Item(sample, key, _tar_label(parts), _Bytes(parts[images[0]], key))


def _tar_label(parts: Mapping[str, bytes]) -> str | None:
    if ".cls" in parts:
        return parts[".cls"].decode("utf-8", "replace").strip()
    if ".json" in parts:
        try:
            about = json.loads(parts[".json"])
        except ValueError:
            return None
        for name in LABELS:
            if isinstance(about, dict) and name in about:
                return str(about[name])
    return None


# ------------------------------------------------------------------------------------ Parquet files


def _rows(path: str, shard: Shard, columns: Columns) -> Iterator[Item]:
    import pyarrow.parquet as pq

    assert shard.group is not None
    name = shard.names[0]
    system, at = resolved(path)
    with file_of(system, at) as file:
        # Read in this thread: Arrow's may abort a process that ends soon after (26.0.1).
        table = pq.ParquetFile(file, pre_buffer=False)
        before = sum(table.metadata.row_group(n).num_rows for n in range(shard.group))
        chosen = _columns(table.schema_arrow, columns, name)
        names = _class_names(table.schema_arrow, chosen.get("label"))
        wanted = list(dict.fromkeys(chosen.values()))
        sample = 0
        batches = table.iter_batches(
            ROWS, row_groups=[shard.group], columns=wanted, use_threads=False
        )
        try:
            for batch in batches:
                for row in batch.to_pylist():
                    key = f"{name}#{before + sample}"
                    if "key" in chosen and row[chosen["key"]] is not None:
                        key = str(row[chosen["key"]])
                    label = _class_name(row.get(chosen.get("label", "")), names)
                    yield Item(sample, shown(key), label, _of_cell(row[chosen["image"]], key))
                    sample += 1
        except (ValueError, OSError) as error:
            why = ValueError(f"{name}: row group {shard.group} cannot be read ({error})")
            for rest in range(sample, shard.items or sample + 1):
                yield Item(rest, shown(f"{name}#{before + rest}"), None, _Failure(why))


def _class_name(label: Any, names: list[str] | None) -> str | None:
    if label is None:
        return None
    if names is not None and isinstance(label, int) and 0 <= label < len(names):
        return names[label]
    return str(label)


def _of_cell(cell: Any, key: str) -> Callable[[], np.ndarray]:
    if isinstance(cell, Mapping):
        if cell.get("bytes") is None and cell.get("path"):
            return _Opener(cell["path"], cell["path"])
        cell = cell.get("bytes")
    if not isinstance(cell, bytes):
        return _Failure(ValueError(f"{key}: holds no image"))
    return _Bytes(cell, key)


def _columns(schema: Any, asked: Columns, name: str) -> dict[str, str]:
    """The columns to read, by what is in them; a ValueError where there is no such."""
    for what, column in asked.items():
        if what not in ("image", "label", "key"):
            raise ValueError(f'`columns` may name "image", "label" and "key", but names "{what}"')
        if column not in schema.names:
            raise ValueError(
                f'{name}: has no column "{column}"; its columns are {", ".join(schema.names)}'
            )
    found = dict(asked)
    if "image" not in found:
        images = [field.name for field in schema if _holds_images(field.type)]
        if len(images) != 1:
            raise ValueError(
                f"{name}: has {len(images)} columns that may hold images, of {schema.names}; name "
                'one, as in columns={"image": "photo"}'
            )
        found["image"] = images[0]
    for what, usual in (("key", KEYS), ("label", LABELS)):
        if what not in found:
            for column in usual:
                if column in schema.names:
                    found[what] = column
                    break
    return found


def _holds_images(kind: Any) -> bool:
    import pyarrow.types as types

    if types.is_struct(kind):
        return any(field.name == "bytes" for field in kind)
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _class_names(schema: Any, label: str | None) -> list[str] | None:
    """The names of classes that Hugging Face's data sets keep beside an integer label."""
    about = (schema.metadata or {}).get(b"huggingface")
    if label is None or about is None:
        return None
    try:
        feature = json.loads(about)["info"]["features"][label]
    except (ValueError, KeyError, TypeError):
        return None
    names = feature.get("names") if isinstance(feature, dict) else None
    return names if isinstance(names, list) else None


# ------------------------------------------------------------------------------------------ arrays


def _arrays(shard: Shard, source: Any) -> Iterator[Item]:
    start = int(shard.names[0])
    assert shard.items is not None
    for sample in range(shard.items):
        try:
            value = source[start + sample]
        except FAULTS as error:
            yield Item(sample, str(start + sample), None, _Failure(error))
            continue
        label = None
        if isinstance(value, tuple) and len(value) == 2:
            value, label = value
        label = None if label is None else str(to_numpy(label) if hasattr(label, "ndim") else label)
        yield Item(sample, str(start + sample), label, _Given(value))


@dataclass(frozen=True)
class _Given:
    value: Any

    def __call__(self) -> Any:
        if isinstance(self.value, bytes):
            return read_bytes(self.value, "image")
        if hasattr(self.value, "convert"):  # of Pillow
            return np.asarray(self.value.convert("RGB"))
        return self.value
