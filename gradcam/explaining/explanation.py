"""The result: raw maps and what they explain. Everything shown of it is derived when asked."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gradcam import maps as maps_
from gradcam._arrays import to_numpy
from gradcam._types import Array, Inputs, Shape
from gradcam.diagnosis import Diagnosis, Source, diagnose
from gradcam.maps import Scaling
from gradcam.pictures import figure, overlay
from gradcam.pictures.boxes import largest_box
from gradcam.targets import Target

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Explanation"]


@dataclass(frozen=True, eq=False)
class Explanation:
    """Where a model looked to give a score.

    maps: raw, (N, *grid), or (N, K, *grid) for K targets per sample: the method's own scale, at the layer's own
        resolution, in the model's framework, on its device.
    scores: what was explained, (N,) or (N, K).
    target: the classes that they belong to, an int, (N,), (1, K) or (N, K) ints, or the function that was passed.
    outputs: all that the model returned.
    size: the input's spatial size, which pictures are resized to; None where the input has no space.
    """

    maps: Array
    scores: Array
    target: Any = None
    outputs: Any = field(default=None, repr=False)
    size: Shape | None = None
    layer: str | tuple[str, ...] = ""
    method: str = ""
    model: str = ""
    labels: Sequence[str] | None = field(default=None, repr=False)
    _source: Source | None = field(default=None, repr=False)

    @property
    def origin(self) -> str:
        """Method, model and layer."""
        return f"{self.method} of {self.model} at {self._layer!r}"

    @property
    def _layer(self) -> str:
        return self.layer if isinstance(self.layer, str) else " + ".join(self.layer)

    def __getstate__(self) -> dict[str, Any]:
        return {
            **self.__dict__,
            "_source": None,
        }  # neither model nor inputs are part of a copy on disk

    def __repr__(self) -> str:
        return (
            f"Explanation({self.origin}: maps {tuple(self.maps.shape)}, "
            f"scores {np.array2string(to_numpy(self.scores), precision=4, threshold=8)})"
        )

    @property
    def _grid_ndim(self) -> int:
        return int(self.maps.ndim - self.scores.ndim)

    def _size(self, size: Sequence[int] | None) -> Shape:
        if size is not None:
            return tuple(int(n) for n in size)
        if self.size is not None and len(self.size) == self._grid_ndim:
            return self.size
        return tuple(int(n) for n in self.maps.shape[-self._grid_ndim :])

    def numpy(self) -> Explanation:
        """The same explanation with NumPy arrays, on the host."""
        target = (
            self.target if callable(self.target) or self.target is None else to_numpy(self.target)
        )
        return replace(self, maps=to_numpy(self.maps), scores=to_numpy(self.scores), target=target)

    def diagnose(self, inputs: Inputs = None) -> Diagnosis:
        """Why is a map blank, flat or NaN? Print the result, or go through its findings; it is empty where none is.

        Each finding has a `reason`, one of `gradcam.diagnosis.REASONS`, the `sample`, and a `message` that says what to
        do. Nothing runs while every map shows something. Else the model runs again, a few passes, with the weights that
        it has now: where that gives another score, the finding is "changed".

        inputs: what was explained, where it is gone: an explanation keeps its inputs and model only where it was seen
            to be blank (`check=True`), so that many of them can be collected. One that was loaded, or made by hand,
            says what its maps alone tell.
        """
        return diagnose(
            self.maps, self.scores, self.outputs, self.target, self._layer, self._source, inputs
        )

    def heatmaps(
        self, size: Sequence[int] | None = None, how: Scaling = "max", joint: bool = False
    ) -> Array:
        """Maps resized (to the input, unless told) and scaled to [0, 1]: (N, *size) or (N, K, *size).

        `how` is "max" (0 stays "no evidence"), "minmax", or "signed" to [-1, 1]; with `joint` all share one scale.
        """
        resized = maps_.resize(self.maps, self._size(size))
        return maps_.scale(resized, self._grid_ndim, how, joint)

    def boxes(self, threshold: float = 0.15, size: Sequence[int] | None = None) -> np.ndarray:
        """The box round each map's largest connected segment of at least `threshold` of its maximum.

        (N, 4) or (N, K, 4) ints x0, y0, x1, y1 in pixels of `size`, x1 and y1 exclusive; in other dimensions the
        starts and then the stops, last axis first. Cells connect along axes, not diagonals. A blank map has no box:
        all zeros. Selvaraju et al. 2017, section 4.1, https://arxiv.org/abs/1610.02391
        """
        if not 0 < threshold <= 1:
            raise ValueError(
                f"`threshold` is a share of the maximum, in (0, 1], but is {threshold}"
            )
        heat = to_numpy(self.heatmaps(size))
        ndim = self._grid_ndim
        flat = heat.reshape(-1, *heat.shape[-ndim:])
        edges = np.stack([largest_box(one_map, threshold) for one_map in flat])
        return edges.reshape(*heat.shape[:-ndim], 2 * ndim)

    def names(self) -> list[list[str]]:
        """What each map is of, N lists of one or K: class names where known, else "class 3", else "score"."""
        scores = to_numpy(self.scores)
        rows, columns = scores.shape[0], 1 if scores.ndim == 1 else scores.shape[1]
        if callable(self.target) or self.target is None:
            name = getattr(self.target, "__name__", "score")
            if isinstance(self.target, Target):
                name = (
                    repr(self.target)
                    if len(repr(self.target)) <= 40
                    else type(self.target).__name__
                )
            name = "score" if name.startswith("<") else name
            return [
                [name if columns == 1 else f"{name} {k}" for k in range(columns)]
                for _ in range(rows)
            ]
        index = to_numpy(self.target)
        index = index.reshape(-1, 1) if index.ndim < 2 else index
        index = np.broadcast_to(index, (rows, columns))
        return [
            [self.labels[i] if self.labels is not None else f"class {i}" for i in row]
            for row in index
        ]

    def overlay(self, photos: Any, alpha: float = 0.6, colormap: str = "rainbow") -> list[Any]:
        """The maps in colour over the photographs: N PIL images, or N lists of K of them.

        photos: one or N photographs, as file names, PIL images, or arrays (H, W, 3), (H, W) of uint8 or of floats in
        [0, 1]. Each map is resized to its photograph. `alpha` is the colour's opacity where the map is 1; where it
        is 0 the photograph stays as it is.
        """
        pictures = overlay.photographs(photos, int(self.maps.shape[0]))
        if self._grid_ndim != 2:
            raise ValueError(
                f"an overlay needs maps over two axes, but these have {self._grid_ndim}; use .figure()"
            )
        drawn = []
        for maps, picture in zip(self._by_target(self.maps), pictures, strict=True):
            heat = to_numpy(maps_.scale(maps_.resize(maps, picture.shape[:2]), 2))
            drawn.append([overlay.overlay(picture, plane, alpha, colormap) for plane in heat])
        return self._as_scores(drawn)

    def figure(self, photos: Any = None, colormap: str = "rainbow") -> Figure:
        """A matplotlib figure with a panel for each sample and target, titled with its name and score."""
        photographs = None
        if photos is not None:
            photographs = overlay.photographs(photos, int(self.maps.shape[0]))
        result = self.numpy()
        scores = self._by_target(result.scores)
        titles = [
            [f"{name}  {score:.4g}" for name, score in zip(names, row, strict=True)]
            for names, row in zip(self.names(), scores, strict=True)
        ]
        heatmaps = self._by_target(result.heatmaps())
        return figure.figure(heatmaps, titles, photographs, colormap)

    def _repr_png_(self) -> bytes:
        return figure.png(self.figure())

    def _by_target(self, array: Array) -> Array:
        """An array (N, ...) or (N, K, ...), laid out as the scores are, as (N, K, ...): K is 1 for one target."""
        return array if self.scores.ndim == 2 else array[:, None]

    def _as_scores(self, rows: list[list[Any]]) -> list[Any]:
        """N lists of K, as the scores are laid out: for one target, its N items."""
        return rows if self.scores.ndim == 2 else [row[0] for row in rows]

    def save(
        self, directory: str | os.PathLike[str], photos: Any = None, *, overwrite: bool = False
    ) -> Path:
        """Write `heatmaps.npy`, `maps.npy`, pictures, and `manifest.json`, which says what they are.

        With `photos` the pictures are overlays. All is written to a folder beside, which then takes the name
        `directory`: whole or not at all. A folder that holds anything is kept, and an error, unless `overwrite=True`
        and it is an explanation that was saved before.
        """
        directory = Path(directory)
        taken = directory.exists() and (not directory.is_dir() or any(directory.iterdir()))
        if taken and not (overwrite and (directory / "manifest.json").is_file()):
            advice = (
                "holds no earlier explanation"
                if overwrite
                else "is not empty; pass overwrite=True to replace it"
            )
            raise FileExistsError(f"`directory` {str(directory)!r} {advice}")
        directory.parent.mkdir(parents=True, exist_ok=True)
        partial = directory.parent / f".{directory.name}.{uuid.uuid4().hex[:8]}.partial"
        partial.mkdir()
        try:
            files = self._write(partial, photos)
            manifest = json.dumps(self._manifest(files), indent=2, ensure_ascii=False)
            (partial / "manifest.json").write_text(manifest + "\n", encoding="utf-8")
            _swap(partial, directory)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return directory

    def _write(self, folder: Path, photos: Any) -> dict[str, Any]:
        result = self.numpy()
        np.save(folder / "maps.npy", result.maps)
        np.save(folder / "heatmaps.npy", result.heatmaps())
        pictures: list[str] = []
        if self._grid_ndim == 2:
            drawn = result.overlay(photos) if photos is not None else result._coloured()
            for n, images in enumerate(drawn):
                for k, image in enumerate(images if isinstance(images, list) else [images]):
                    name = f"{n:04d}.png" if self.scores.ndim == 1 else f"{n:04d}-{k:02d}.png"
                    image.save(folder / name)
                    pictures.append(name)
        return {"maps": "maps.npy", "heatmaps": "heatmaps.npy", "pictures": pictures}

    def _coloured(self) -> list[Any]:
        heatmaps = self._by_target(self.heatmaps())
        return self._as_scores([[overlay.coloured(heat) for heat in row] for row in heatmaps])

    def _manifest(self, files: dict[str, Any]) -> dict[str, Any]:
        result = self.numpy()
        index = None if callable(result.target) or result.target is None else result.target.tolist()
        return {
            "schema": 1,
            "model": self.model,
            "layer": self.layer if isinstance(self.layer, str) else list(self.layer),
            "method": self.method,
            "target": index
            if index is not None
            else (repr(self.target) if self.target is not None else None),
            "names": self.names(),
            "scores": result.scores.tolist(),
            "shape": list(result.maps.shape),
            "size": list(self._size(None)),
            "files": files,
            "versions": versions(),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }


def versions() -> dict[str, str]:
    """The versions of Python, of this library, and of what is loaded that made the result."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for name in ("gradcam", "numpy", "torch", "jax", "flax"):
        if name in sys.modules:
            try:
                found[name] = version(name)
            except PackageNotFoundError:
                found[name] = str(getattr(sys.modules[name], "__version__", "unknown"))
    return found


def _swap(new: Path, directory: Path) -> None:
    """Give the finished folder its name; what had it before goes only after that."""
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
