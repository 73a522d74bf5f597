"""An explanation written to a folder: arrays, pictures, and a manifest that says what they are.

    maps.npy                   the raw maps, (N, *grid) or (N, K, *grid)
    heatmaps.npy               the same, resized and scaled to [0, 1]
    0000.png, 0000-00.png ...  a picture for each sample, or for each sample and target
    photo-0000.png             where there are photographs, each as it was passed
    figure.png                 where it was asked for, all of them with their names and scores
    manifest.json              all that is no array: docs/saving.md has each field

The folder is written beside its place and renamed. What is replaced is renamed first, and deleted
last, so that a run that is killed at any instant leaves one of the two explanations whole; the next
call, also of `load`, puts it in its place.

`loading.py` reads the first and the last; the others can be made from them. A reader has to know
the version of the format, `SCHEMA`: it grows by one where a field is added that reading needs, or
changes its meaning.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from gradcam._files import held, not_written
from gradcam._types import Shape

__all__ = ["MANIFEST", "MAPS", "SCHEMA", "Contents", "digest", "recover", "save"]

SCHEMA = 2
"""1 had neither "dtypes", "input_size", "labels" nor "sha256"."""

MAPS = "maps.npy"
HEATMAPS = "heatmaps.npy"
MANIFEST = "manifest.json"
FIGURE = "figure.png"

OF_FILE_BROWSERS = {".DS_Store", "Thumbs.db", "desktop.ini"}
"""Files that appear where a folder is looked at: they are replaced with the rest."""


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
    probabilities: np.ndarray | None = None
    axes: Sequence[str] = ()
    choice: str | None = None


def save(
    contents: Contents,
    heatmaps: np.ndarray,
    pictures: Sequence[Any],
    directory: Path,
    overwrite: bool,
    figure: bytes | None = None,
    photographs: Sequence[Any] = (),
) -> Path:
    """Write the folder `directory`: completely, or not at all.

    pictures: N Pillow images, or N lists of K. photographs: none, or N Pillow images. figure: a PNG
    file. Raises FileExistsError where the folder holds anything, unless with `overwrite` it holds
    an earlier explanation and nothing else.
    """
    beside = _Beside.of(directory)
    _check_free(beside.place, directory, overwrite)
    try:
        beside.place.parent.mkdir(parents=True, exist_ok=True)
        with held(beside.lock, wait=True):
            beside.clear()
            _check_free(beside.place, directory, overwrite)
            partial = beside.partial
            partial.mkdir()
            try:
                _write(contents, heatmaps, pictures, partial, figure, photographs)
                beside.swap(lambda old: _check_free(old, directory, overwrite))
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except FileExistsError:
        raise
    except OSError as error:
        raise not_written(directory, error) from error
    return directory


def _write(
    contents: Contents,
    heatmaps: np.ndarray,
    pictures: Sequence[Any],
    folder: Path,
    figure: bytes | None,
    photographs: Sequence[Any],
) -> None:
    _save_array(folder / MAPS, contents.maps)
    _save_array(folder / HEATMAPS, heatmaps)
    files: dict[str, Any] = {"maps": MAPS, "heatmaps": HEATMAPS}
    files["pictures"] = _save_pictures(pictures, folder)
    if photographs:
        files["photographs"] = [f"photo-{n:04d}.png" for n in range(len(photographs))]
        for name, photograph in zip(files["photographs"], photographs, strict=True):
            photograph.save(folder / name)
    if figure is not None:
        (folder / FIGURE).write_bytes(figure)
        files["figure"] = FIGURE
    manifest = _manifest(contents, heatmaps, files, digest(folder / MAPS))
    text = json.dumps(manifest, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def _save_array(path: Path, array: np.ndarray) -> None:
    with path.open("wb") as file:
        # Not the file itself: NumPy would write to it by `tofile`, which does not notice that the
        # last bytes found no place on a full disk.
        np.lib.format.write_array(SimpleNamespace(write=file.write), array, allow_pickle=False)


# ----------------------------------------------------------------------------- what may be replaced


def _check_free(place: Path, directory: Path, overwrite: bool) -> None:
    """Raise a FileExistsError where `place` holds what must not be replaced.

    directory: what the user calls it.
    """
    what = f"`directory` {str(directory)!r}"
    if not place.exists():
        return
    if not place.is_dir():
        raise FileExistsError(f"{what} is a file; choose another name")
    if place.samefile(os.curdir):
        raise FileExistsError(
            f"{what} is the folder that the program runs in; choose another, such as one in it"
        )
    found = sorted(place.iterdir())
    if not found:
        return
    if not overwrite:
        raise FileExistsError(f"{what} is not empty; pass overwrite=True to replace it")
    ours = _listed(place / MANIFEST)
    if not ours:
        raise FileExistsError(f"{what} holds no earlier explanation; choose another folder")
    for file in found:
        if file.name not in ours or (file.is_dir() and not file.is_symlink()):
            raise FileExistsError(
                f"{what} holds {file.name!r}, which is not of the explanation that was saved "
                "there; move it, or choose another folder"
            )


def _listed(path: Path) -> set[str]:
    """The names of the files that a manifest of ours lists; none where it is no such manifest."""
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        files = manifest["files"]
        pictures = [*files["pictures"], *files.get("photographs", [])]
        known = isinstance(manifest["schema"], int) and 1 <= manifest["schema"] <= SCHEMA
        if not known or (files["maps"], files["heatmaps"]) != (MAPS, HEATMAPS):
            return set()
        return {MANIFEST, MAPS, HEATMAPS, files.get("figure"), *pictures, *OF_FILE_BROWSERS}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return set()


# ----------------------------------------------------------------------------------- written beside


@dataclass(frozen=True)
class _Beside:
    """The names beside a folder's place that are used while it is written.

    place: the folder itself, where links lead. lock: held by the one process that writes.
    partial: the new folder. old: the one it replaces, until the new one is there. waste: the same,
    while it is deleted.
    """

    place: Path
    lock: Path
    partial: Path
    old: Path
    waste: Path

    @classmethod
    def of(cls, directory: Path) -> _Beside:
        place = Path(os.path.realpath(directory))
        # Of the same length whatever the folder's name, which may be as long as names can be.
        key = hashlib.sha256(os.fsencode(place.name)).hexdigest()[:16]
        endings = ("lock", "partial", "old", "waste")
        return cls(place, *(place.parent / f".gradcam-{key}.{ending}" for ending in endings))

    def clear(self) -> None:
        """Put right what a run that was killed has left."""
        for folder in (self.partial, self.waste):
            shutil.rmtree(folder, ignore_errors=True)
        if self.old.exists() and not self.place.exists():
            self.old.rename(self.place)
        elif self.old.exists():
            self._delete_old()

    def swap(self, check: Callable[[Path], None]) -> None:
        """Rename the new folder into its place, then delete the one it replaces.

        check: raises where the folder that is replaced holds more by now.
        """
        if self.place.exists():
            self.place.rename(self.old)
        try:
            check(self.old)
            self.partial.rename(self.place)
        except BaseException:
            if self.old.exists():
                self.old.rename(self.place)
            raise
        if self.old.exists():
            self._delete_old()

    def _delete_old(self) -> None:
        """In two steps: a folder that is half deleted is not taken for the one it was."""
        self.old.rename(self.waste)
        shutil.rmtree(self.waste, ignore_errors=True)


def recover(directory: Path) -> None:
    """Put an explanation in its place that a run which was killed has left beside it."""
    beside = _Beside.of(directory)
    if beside.old.exists() and not beside.place.exists():
        with held(beside.lock, wait=True):
            beside.clear()


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
        "probabilities": None
        if contents.probabilities is None
        else contents.probabilities.tolist(),
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
        "axes": list(contents.axes),
        "choice": contents.choice,
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
