"""A saved explanation read back from its folder, with everything checked.

`maps.npy` and `manifest.json` are read, both as data alone: no pickle, no code. Whatever is
missing, cut short, changed since, or at odds with the rest is a FileNotFoundError or a ValueError
that names the file and the field:

    out/manifest.json: the field "scores" must be numbers of shape (N,) or (N, K), but is "high"

Folders of schema 1 lack some fields. Their input size is that of the heatmaps, their scores are
float64, and of the class names there are those that were used.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from gradcam._types import Outputs, Shape
from gradcam.explaining.naming import class_table, map_names
from gradcam.explaining.saving import MANIFEST, MAPS, SCHEMA, Contents, digest, recover

__all__ = ["SavedFunction", "load"]

T = TypeVar("T")

MAX_LABELS = 100_000
"""Names of schema 1 are put in a list as long as the highest class index: up to so many."""


@dataclass(frozen=True)
class SavedFunction:
    """Stands for a target that was a function, of which only name and text were saved."""

    name: str
    text: str

    @property
    def __name__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return self.text

    def __call__(self, outputs: Outputs) -> Any:
        raise TypeError(
            f"the target {self.text} was a function, which a saved explanation does not keep; pass "
            "the function itself"
        )


def load(directory: Path) -> Contents:
    """What `saving.save` wrote; a target that was a function is a `SavedFunction`."""
    recover(directory)
    manifest = _read_manifest(directory / MANIFEST)
    scores = _read_scores(manifest)
    maps = _read_maps(directory / MAPS, manifest, scores)
    target: Any = _read_target(manifest, scores)
    names = _read_names(manifest, scores)
    labels = _read_labels(manifest, target, names)
    if isinstance(target, str):
        target = SavedFunction(_function_name(names), target)
    if map_names(target, labels, scores.shape) != names:
        raise manifest.fault("names", 'is not what "target" and "labels" say')
    return Contents(
        maps=maps,
        scores=scores,
        target=target,
        names=names,
        size=_read_size(manifest, maps.ndim - scores.ndim),
        layer=_read_layer(manifest),
        method=manifest.field("method", "a string", _text),
        model=manifest.field("model", "a string", _text),
        labels=labels,
        versions=manifest.field("versions", "an object of strings", _texts_by_name),
        probabilities=_read_probabilities(manifest, scores),
    )


# ------------------------------------------------------------------------------------- the manifest


@dataclass(frozen=True)
class _Manifest:
    """The manifest's fields, and how one is asked for."""

    path: Path
    fields: dict[str, Any]

    @property
    def schema(self) -> int:
        return int(self.fields["schema"])

    def field(self, name: str, expected: str, convert: Callable[[Any], T]) -> T:
        """The field as `convert` makes it. Where that raises, a ValueError of what is expected."""
        if name not in self.fields:
            raise ValueError(f'{self.path}: the field "{name}" is missing')
        value = self.fields[name]
        try:
            return convert(value)
        except (TypeError, ValueError, OverflowError, LookupError, AttributeError) as error:
            raise self.fault(name, f"must be {expected}, but is {_shown(value)}") from error

    def fault(self, name: str, problem: str) -> ValueError:
        return ValueError(f'{self.path}: the field "{name}" {problem}')


def _read_manifest(path: Path) -> _Manifest:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; pass a folder that Explanation.save has written"
        )
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: is not JSON, or was cut short ({error})") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{path}: must be a JSON object, but is {_shown(fields)}")
    manifest = _Manifest(path, fields)
    schema = manifest.field("schema", "an integer", _integer)
    if not 1 <= schema <= SCHEMA:
        raise manifest.fault(
            "schema",
            f"is {schema}, but this version of gradcam reads 1 to {SCHEMA}; update gradcam",
        )
    return manifest


def _shown(value: Any) -> str:
    text = json.dumps(value)
    if len(text) > 60:
        text = text[:57] + "..."
    return text


# ----------------------------------------------------------------------- conversions of JSON values


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _texts(value: Any) -> list[str]:
    if not isinstance(value, list):
        raise TypeError
    return [_text(item) for item in value]


def _texts_by_name(value: Any) -> dict[str, str]:
    return {name: _text(item) for name, item in value.items()}


def _integer(value: Any) -> int:
    if type(value) is not int:  # True is an int as well
        raise TypeError
    return value


def _shape(value: Any) -> Shape:
    if not isinstance(value, list):
        raise TypeError
    shape = tuple(_integer(item) for item in value)
    if any(n < 1 for n in shape):
        raise ValueError
    return shape


def _real(value: Any) -> float:
    """A number of JSON, or one of the strings that stand for what JSON has no number for."""
    if value in ("nan", "inf", "-inf"):
        return float(value)
    if type(value) not in (int, float) or not np.isfinite(value):
        raise TypeError
    return float(value)


def _array(value: Any, convert: Callable[[Any], Any], dtype: np.dtype[Any]) -> np.ndarray:
    """Nested lists as an array, each value through `convert`. ValueError for ragged lists."""

    def converted(item: Any) -> Any:
        if isinstance(item, list):
            return [converted(inner) for inner in item]
        return convert(item)

    return np.array(converted(value), dtype=dtype)


# ---------------------------------------------------------------------------------------- each part


def _dtype(manifest: _Manifest, part: str, default: str, kinds: str) -> np.dtype[Any]:
    """The dtype that a part was saved in, of one of NumPy's `kinds`.

    The default is for schema 1, and for a target that is no array.
    """
    if manifest.schema == 1:
        return np.dtype(default)

    def convert(dtypes: Any) -> np.dtype[Any]:
        if dtypes[part] is None:
            return np.dtype(default)
        dtype = np.dtype(_text(dtypes[part]))
        if dtype.kind not in kinds:
            raise TypeError
        return dtype

    return manifest.field("dtypes", f'dtypes of numbers, also for "{part}"', convert)


def _read_scores(manifest: _Manifest) -> np.ndarray:
    dtype = _dtype(manifest, "scores", "float64", "fiu")
    number: Callable[[Any], float] = _real
    if manifest.schema == 1:
        number = float  # schema 1 wrote NaN and Infinity as Python spells them

    def convert(value: Any) -> np.ndarray:
        scores = _array(value, number, dtype)
        if scores.ndim not in (1, 2):
            raise ValueError
        return scores

    return manifest.field("scores", "numbers of shape (N,) or (N, K)", convert)


def _read_probabilities(manifest: _Manifest, scores: np.ndarray) -> np.ndarray | None:
    """None where the manifest is of a version that did not keep them."""
    if manifest.fields.get("probabilities") is None:
        return None

    def convert(value: Any) -> np.ndarray:
        found = _array(value, _real, np.dtype(np.float64))
        if found.shape != scores.shape or not ((found >= 0) & (found <= 1)).all():
            raise ValueError
        return found

    expected = f"null or numbers from 0 to 1 of shape {scores.shape}"
    return manifest.field("probabilities", expected, convert)


def _read_maps(path: Path, manifest: _Manifest, scores: np.ndarray) -> np.ndarray:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file, but {manifest.path.name} belongs to it")
    try:
        with path.open("rb") as file:
            maps: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
    except (ValueError, EOFError, MemoryError) as error:
        raise ValueError(
            f"{path}: is no .npy file of numbers, or was cut short ({error})"
        ) from error
    shape = manifest.field("shape", "a list of positive integers", _shape)
    if maps.shape != shape:
        raise ValueError(
            f'{path}: has the shape {maps.shape}, but the field "shape" of {manifest.path.name} is '
            f"{shape}"
        )
    if maps.ndim <= scores.ndim or maps.shape[: scores.ndim] != scores.shape:
        raise manifest.fault(
            "scores", f"has the shape {scores.shape}, which {shape} of the maps does not begin with"
        )
    _check_content(path, manifest, maps)
    return maps


def _check_content(path: Path, manifest: _Manifest, maps: np.ndarray) -> None:
    """That the numbers are those that were saved, as far as the manifest can tell."""
    if maps.dtype.kind not in "fiu":
        raise ValueError(f"{path}: must hold real numbers, but holds {maps.dtype}")
    if manifest.schema == 1:
        return
    saved = manifest.field(
        "sha256", f'an object with a string for "{MAPS}"', lambda sums: _text(sums[MAPS])
    )
    if digest(path) != saved:
        problem = "was changed after it was saved"
        if np.isnan(maps).any():
            problem += ", and has NaN now"
        raise ValueError(
            f'{path}: {problem}: the field "sha256" of {manifest.path.name} is of another file'
        )


def _read_target(manifest: _Manifest, scores: np.ndarray) -> np.ndarray | str | None:
    """Class indices, the text of a function, or None."""
    dtype = _dtype(manifest, "target", "int64", "iu")

    def convert(value: Any) -> np.ndarray | str | None:
        if value is None or isinstance(value, str):
            return value
        index = _array(value, _integer, dtype)
        if (class_table(index, scores.shape) < 0).any():
            raise ValueError
        return index

    expected = f"class indices for scores of shape {scores.shape}, a string or null"
    return manifest.field("target", expected, convert)


def _read_names(manifest: _Manifest, scores: np.ndarray) -> list[list[str]]:
    columns = int(np.prod(scores.shape[1:]))

    def convert(value: Any) -> list[list[str]]:
        names = [_texts(row) for row in value]
        if [len(row) for row in names] != [columns] * len(scores):
            raise ValueError
        return names

    return manifest.field("names", f"{len(scores)} lists of {columns} strings", convert)


def _read_labels(
    manifest: _Manifest, target: np.ndarray | str | None, names: list[list[str]]
) -> list[str] | None:
    if manifest.schema == 1:
        return _labels_of_names(target, names)

    def convert(value: Any) -> list[str] | None:
        if value is None:
            return None
        labels = _texts(value)
        if isinstance(target, np.ndarray) and target.size and target.max() >= len(labels):
            raise ValueError
        return labels

    return manifest.field("labels", 'null or strings, one for each class of "target"', convert)


def _labels_of_names(target: np.ndarray | str | None, names: list[list[str]]) -> list[str] | None:
    """Class names as far as schema 1 tells them: those of the classes that were explained."""
    if not isinstance(target, np.ndarray) or not target.size or target.max() >= MAX_LABELS:
        return None
    classes = class_table(target, (len(names), len(names[0])))
    plain = [f"class {k}" for k in range(int(target.max()) + 1)]
    labels = list(plain)
    for row, row_names in zip(classes, names, strict=True):
        for k, name in zip(row, row_names, strict=True):
            labels[k] = name
    if labels == plain:
        return None
    return labels


def _read_size(manifest: _Manifest, ndim: int) -> Shape | None:
    """The input's spatial size; None where it has none."""
    if manifest.schema == 1:
        size = manifest.field("size", "a list of positive integers", _shape)
        if len(size) != ndim:
            raise manifest.fault("size", f"has {len(size)} axes, but the maps have {ndim}")
        return size

    def convert(value: Any) -> Shape | None:
        if value is None:
            return None
        return _shape(value)

    return manifest.field("input_size", "null or a list of positive integers", convert)


def _read_layer(manifest: _Manifest) -> str | tuple[str, ...]:
    def convert(value: Any) -> str | tuple[str, ...]:
        if isinstance(value, str):
            return value
        return tuple(_texts(value))

    return manifest.field("layer", "a string or a list of strings", convert)


def _function_name(names: list[list[str]]) -> str:
    """The name of a target whose maps are called "name", or "name 0", "name 1" and so on."""
    if not names:
        return "score"
    first = names[0][0]
    if len(names[0]) > 1:
        return first.removesuffix(" 0")
    return first
