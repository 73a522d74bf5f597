"""An explanation written to a folder: arrays, pictures, and a manifest that says what they are.

    maps.npy                   the raw maps, (N, *grid) or (N, K, *grid)
    heatmaps.npy               the same, resized and scaled to [0, 1]
    0000.png, 0000-00.png ...  a picture for each sample, or for each sample and target
    manifest.json              all that is no array: docs/saving.md has each field

`loading.py` reads the first and the last; the others can be made from them. A reader has to know
the version of the format, `SCHEMA`: it grows by one where a field is added that reading needs, or
changes its meaning.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from gradcam._types import Shape

__all__ = ["MANIFEST", "MAPS", "SCHEMA", "Contents", "digest", "save"]

SCHEMA = 2
"""1 had neither "dtypes", "input_size", "labels" nor "sha256"."""

MAPS = "maps.npy"
HEATMAPS = "heatmaps.npy"
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Contents:
    """What a folder keeps of an explanation, as NumPy arrays and text.

    maps: (N, *grid) or (N, K, *grid); scores: (N,) or (N, K).
    target: class indices; a function, of which the name and the text are kept; None.
    names: N lists of K, what each map is of. The other fields are those of `Explanation`.
    """

    maps: np.ndarray
    scores: np.ndarray
    target: np.ndarray | Callable[..., Any] | None
    names: Sequence[Sequence[str]]
    size: Shape | None
    layer: str | tuple[str, ...]
    method: str
    model: str
    labels: Sequence[str] | None = None
    versions: Mapping[str, str] = field(default_factory=dict)


def save(
    contents: Contents,
    heatmaps: np.ndarray,
    pictures: Sequence[Any],
    directory: Path,
    overwrite: bool,
) -> Path:
    """Write the folder `directory`: completely, or not at all.

    pictures: N Pillow images, or N lists of K. Raises FileExistsError where the folder holds
    anything, unless with `overwrite` it holds an earlier explanation.
    """
    _check_free(directory, overwrite)
    directory.parent.mkdir(parents=True, exist_ok=True)
    # written beside its place, so that the last step is a rename on the same disk
    partial = directory.parent / f".{directory.name}.{uuid.uuid4().hex[:8]}.partial"
    partial.mkdir()
    try:
        np.save(partial / MAPS, contents.maps)
        np.save(partial / HEATMAPS, heatmaps)
        names = _save_pictures(pictures, partial)
        files = {"maps": MAPS, "heatmaps": HEATMAPS, "pictures": names}
        manifest = _manifest(contents, heatmaps, files, digest(partial / MAPS))
        text = json.dumps(manifest, indent=2, ensure_ascii=False, allow_nan=False)
        (partial / MANIFEST).write_text(text + "\n", encoding="utf-8")
        _swap(partial, directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return directory


def _check_free(directory: Path, overwrite: bool) -> None:
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return
    if not overwrite:
        advice = "is not empty; pass overwrite=True to replace it"
    elif not (directory / MANIFEST).is_file():
        advice = "holds no earlier explanation"
    else:
        return
    raise FileExistsError(f"`directory` {str(directory)!r} {advice}")


def _save_pictures(pictures: Sequence[Any], folder: Path) -> list[str]:
    """The names of the files written: by sample, or by sample and target."""
    images: dict[str, Any] = {}
    for n, row in enumerate(pictures):
        if isinstance(row, list):
            images |= {f"{n:04d}-{k:02d}.png": image for k, image in enumerate(row)}
        else:
            images[f"{n:04d}.png"] = row
    for name, image in images.items():
        image.save(folder / name)
    return list(images)


def _manifest(
    contents: Contents, heatmaps: np.ndarray, files: Mapping[str, Any], sha256: str
) -> dict[str, Any]:
    target: Any = contents.target
    target_dtype = None
    if callable(target):
        target = repr(target)
    elif target is not None:
        target_dtype = str(target.dtype)
        target = target.tolist()
    labels = contents.labels
    if labels is not None:
        labels = list(labels)
    return {
        "schema": SCHEMA,
        "model": contents.model,
        "layer": contents.layer,
        "method": contents.method,
        "target": target,
        "names": contents.names,
        "scores": _json_numbers(contents.scores.tolist()),
        "shape": contents.maps.shape,
        "size": heatmaps.shape[contents.scores.ndim :],
        "input_size": contents.size,
        "dtypes": {
            "scores": str(contents.scores.dtype),
            "target": target_dtype,
        },
        "files": files,
        "sha256": {MAPS: sha256},
        "versions": dict(contents.versions),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "labels": labels,
    }


def _json_numbers(values: Any) -> Any:
    """Nested lists of floats, with "nan", "inf" and "-inf" for those that JSON cannot write."""
    if isinstance(values, list):
        return [_json_numbers(value) for value in values]
    if np.isfinite(values):
        return values
    return str(values)


def digest(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _swap(new: Path, directory: Path) -> None:
    """Rename the finished folder into place, then delete the one it replaces."""
    if not directory.exists():
        new.rename(directory)
        return
    old = new.with_suffix(".old")
    directory.rename(old)
    try:
        new.rename(directory)
    except BaseException:
        old.rename(directory)
        raise
    shutil.rmtree(old, ignore_errors=True)
