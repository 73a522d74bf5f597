"""The result: raw maps and what they explain. Everything shown of it is derived when asked."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gradcam import maps as maps_
from gradcam._arrays import to_numpy
from gradcam._numbers import check_real, check_whole
from gradcam._types import Array, Inputs, Shape
from gradcam.backends import entry, versions
from gradcam.diagnosis import Diagnosis, Source, diagnose
from gradcam.explaining import loading, looking, saving
from gradcam.explaining.naming import layer_name, map_names
from gradcam.explaining.saving import Contents
from gradcam.maps import Scaling
from gradcam.metrics.boxes import largest_boxes_of
from gradcam.pictures.colours import ALPHA
from gradcam.pictures.figure import png
from gradcam.pictures.notebook import Showing
from gradcam.pictures.panels import Look
from gradcam.pictures.shown import Shown
from gradcam.pictures.words import WordMap
from gradcam.space.axes import LayerAxes
from gradcam.space.choice import LayerChoice

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Explanation"]


@dataclass(frozen=True, eq=False)
class Explanation:
    """Where a model looked to give a score.

    maps: raw, (N, *grid), or (N, K, *grid) for K targets per sample: the method's own scale, at the
        layer's own resolution, in the model's framework, on its device.
    scores: what was explained, (N,) or (N, K).
    target: the classes that they belong to, an int, (N,), (1, K) or (N, K) ints, or the function
        that was passed.
    outputs: all that the model returned.
    size: the input's spatial size, which pictures are resized to; None where it has no space.
    layer: its path, or the paths of those that were fused.
    method, model: the names of the method and of the model's type.
    labels: the class names, by index, where they are known.
    versions: of Python and packages, where the explanation was loaded; else empty.
    axes: where samples, channels and positions are in the layer's output, and how that was told;
        one for each layer.
    choice: where no layer was named, why this one was taken.
    """

    maps: Array
    scores: Array
    target: Any = None
    outputs: Any = field(default=None, repr=False)
    size: Shape | None = None
    layer: str | tuple[str, ...] = ""
    method: str = ""
    model: str = ""
    axes: LayerAxes | tuple[LayerAxes, ...] | None = field(default=None, repr=False)
    choice: LayerChoice | None = field(default=None, repr=False)
    labels: Sequence[str] | None = field(default=None, repr=False)
    _source: Source | None = field(default=None, repr=False)
    _probabilities: np.ndarray | None = field(default=None, repr=False)
    versions: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def origin(self) -> str:
        """Method, model and layer."""
        return f"{self.method} of {self.model} at {self._layers!r}"

    @property
    def _layers(self) -> str:
        return layer_name(self.layer)

    def __getstate__(self) -> dict[str, Any]:
        # a pickle holds neither the model nor its inputs
        return {**self.__dict__, "_source": None}

    def __repr__(self) -> str:
        scores = np.array2string(to_numpy(self.scores), precision=4, threshold=8)
        return f"Explanation({self.origin}: maps {tuple(self.maps.shape)}, scores {scores})"

    def __len__(self) -> int:
        """N, the number of samples."""
        return int(self.scores.shape[0])

    @entry
    def __getitem__(self, index: int | slice) -> Explanation:
        """The explanation of one sample, or of some; N stays the first axis. It has no outputs."""
        if isinstance(index, slice):
            part = index
        else:
            check_whole("index", index)
            if not -len(self) <= index < len(self):
                raise IndexError(f"there are {len(self)} samples, and none of number {index}")
            part = slice(index % len(self), index % len(self) + 1)
        target = self.target
        if getattr(target, "ndim", 0) and target.shape[0] == len(self):
            target = target[part]
        return replace(
            self,
            maps=self.maps[part],
            scores=self.scores[part],
            target=target,
            outputs=None,
            _source=None,
            _probabilities=None if self.probabilities is None else self.probabilities[part],
        )

    @entry
    def numpy(self) -> Explanation:
        """The same explanation with NumPy arrays, on the host."""
        target = self.target
        if target is not None and not callable(target):
            target = to_numpy(target)
        return replace(self, maps=to_numpy(self.maps), scores=to_numpy(self.scores), target=target)

    @entry
    def diagnose(self, inputs: Inputs = None) -> Diagnosis:
        """Why a map is blank, flat or NaN.

        Print the result, or go through its findings; it is empty where nothing is wrong.
        Each finding has a `reason`, one of `gradcam.diagnosis.REASONS`, the `sample`, and a
        `message` that says what to do. Nothing runs while every map shows something. Otherwise the
        model runs again, a few passes, with the weights that it has now. Where that gives another
        score, the finding is "changed".

        inputs: what was explained, where the explanation no longer has it. An explanation keeps its
            inputs and model only where it was seen to be blank (`check=True`), so that many
            explanations can be collected. One that was loaded, or made by hand, says what its maps
            alone tell, and takes no inputs.
        """
        return diagnose(
            self.maps, self.scores, self.outputs, self.target, self._layers, self._source, inputs
        )

    # -------------------------------------------------------------------------------------- derived

    @entry
    def heatmaps(
        self, size: Sequence[int] | None = None, how: Scaling = "max", joint: bool = False
    ) -> Array:
        """Maps resized and scaled to [0, 1]: (N, *size) or (N, K, *size).

        `size` is the input's unless another is passed.
        `how` is "max" (0 stays "no evidence"), "minmax", or "signed" to [-1, 1]. With `joint` all
        maps share one scale.
        """
        resized = maps_.resize(self.maps, self._size(size))
        return maps_.scale(resized, self._grid_ndim, how, joint)

    @entry
    def boxes(self, threshold: float = 0.15, size: Sequence[int] | None = None) -> np.ndarray:
        """The box round each map's largest segment of at least `threshold` of its maximum.

        (N, 4) or (N, K, 4) ints x0, y0, x1, y1 in pixels of `size`, x1 and y1 exclusive; in other
        dimensions the starts and then the stops, last axis first. Cells connect along axes, not
        diagonals. A blank map has no box: all zeros. Selvaraju et al. 2017, section 4.1,
        https://arxiv.org/abs/1610.02391
        """
        check_real("threshold", threshold)
        if not 0 < threshold <= 1:
            raise ValueError(
                f"`threshold` is a share of the maximum, in (0, 1], but is {threshold}"
            )
        return largest_boxes_of(to_numpy(self.heatmaps(size)), self._grid_ndim, threshold)

    @entry
    def names(self) -> list[list[str]]:
        """What each map is of, N lists of K: class names where known, "class 3", or "score"."""
        return map_names(self.target, self.labels, tuple(self.scores.shape))

    @property
    def _grid_ndim(self) -> int:
        return int(self.maps.ndim - self.scores.ndim)

    def _size(self, size: Sequence[int] | None) -> Shape:
        """`size`, or else the input's, or the maps' grid where the input has other axes."""
        if size is not None:
            return looking.picture_size(size, self._grid_ndim, self.axes)
        if self.size is not None and len(self.size) == self._grid_ndim:
            return self.size
        return tuple(int(n) for n in self.maps.shape[-self._grid_ndim :])

    # -------------------------------------------------------------------------------------- shown

    @property
    def probabilities(self) -> np.ndarray | None:
        """The softmax of the outputs at the classes explained, (N,) or (N, K).

        Outputs that are probabilities already stay as they are. None where the target is no class
        or the outputs are not those of a classifier, (N, C).
        """
        if self._probabilities is not None:
            return self._probabilities
        return looking.probabilities(self.outputs, self.target, tuple(self.scores.shape))

    @entry
    def shown(self) -> list[list[Shown]]:
        """Each map with what a reader has to know of it: N lists of K, on the host."""
        result = self.numpy()
        return looking.shown(
            result.maps,
            result.scores,
            result.names(),
            result.probabilities,
            method=result.method,
            layer=result._layers,
            model=result.model,
            size=result.size,
        )

    @entry
    def overlay(self, photos: Any, alpha: float = ALPHA, colormap: str | None = None) -> list[Any]:
        """The maps in colour over the photographs: N PIL images, or N lists of K of them.

        photos: one or N photographs, as file names, PIL images, or arrays (H, W, 3), (H, W) of
            uint8 or of floats in [0, 1]. Each map is resized to its photograph.
        alpha: the colour's opacity where the map is 1; where it is 0 the photograph is unchanged.
        colormap: of matplotlib. None takes "inferno", which is as bright as the evidence is strong,
            and "RdBu_r" for maps with evidence against the score, which is blue.
        """
        return self._like_scores(looking.overlays(self.shown(), photos, alpha, colormap))

    @entry
    def figure(
        self,
        photos: Any = None,
        colormap: str | None = None,
        *,
        joint: bool = False,
        contours: Sequence[float] = (0.5,),
        boxes: float | None = None,
        mask: float | None = None,
        together: bool = False,
    ) -> Figure:
        """A matplotlib figure: a row for each sample, with a panel for each target.

        Each panel has the class, its score and softmax, and a bar with the map's own values. A map
        without contrast is said to have none.

        photos: as of `overlay`; for maps over one axis N signals (L,) or (C, L); over three axes
            N volumes (D, H, W).
        joint: whether all maps share one scale, so that their strengths can be compared.
        contours: shares of the maximum at which lines are drawn; dashed ones are round evidence
            against the score.
        boxes: a share of the maximum, whose box is drawn: see `boxes()`.
        mask: a share of the maximum, below which the photograph is dark. It replaces the colours.
        together: whether a sample's targets are in one picture, each in its own colour.
        """
        look = Look(colormap, joint, tuple(contours), boxes, mask, together)
        return looking.showing(self.shown(), photos, look).figure()

    @entry
    def show(self, photos: Any = None) -> Showing:
        """As the last line of a notebook's cell: the maps with a slider of their opacity."""
        return looking.showing(self.shown(), photos)

    def _repr_html_(self) -> str | None:
        return self.show()._repr_html_()

    @entry
    def over_words(self, tokens: Sequence[str], sample: int = 0, target: int = 0) -> WordMap:
        """A map over one axis with the token of each position, to print or show in a notebook.

        tokens: those of the model's tokeniser, one for each position.
        """
        return looking.over_words(self.shown(), tokens, sample, target)

    @entry
    def film(
        self,
        path: str | os.PathLike[str],
        photo: Any = None,
        sample: int = 0,
        target: int = 0,
        axis: int = 0,
        per_second: float = 8.0,
        colormap: str | None = None,
    ) -> Path:
        """Write a map over three axes as a film along one: a .gif, or a .mp4 (extra `video`).

        photo: the volume (D, H, W), or the frames (T, H, W) or (T, H, W, 3) in [0, 1].
        """
        return looking.film(self.shown(), path, photo, sample, target, axis, per_second, colormap)

    @entry
    def nifti(
        self,
        path: str | os.PathLike[str],
        scan: Any,
        sample: int = 0,
        target: int = 0,
        axes: Sequence[int] = (0, 1, 2),
    ) -> Path:
        """Write a raw map over three axes as NIfTI, at the scan's size and with its affine.

        scan: the file that the input was made of, or a nibabel image. axes: for each of the input's
            axes, the axis of the scan that it shows. Needs the extra `medical`.
        """
        return looking.nifti(self.shown(), path, scan, sample, target, axes)

    def _repr_png_(self) -> bytes:
        return png(self.figure())

    def _like_scores(self, rows: list[list[Any]]) -> list[Any]:
        """N lists of K; for one target their N items."""
        if self.scores.ndim == 2:
            return rows
        return [row[0] for row in rows]

    # -------------------------------------------------------------------------------------- saved

    @entry
    def save(
        self,
        directory: str | os.PathLike[str],
        photos: Any = None,
        *,
        overwrite: bool = False,
        figure: bool = False,
    ) -> Path:
        """Write `maps.npy`, `heatmaps.npy`, pictures, and a `manifest.json` that describes them.

        With `photos` the pictures are overlays, and the photographs are kept beside them; with
        `figure` there is `figure.png` too. The folder appears complete or not at all. A folder that
        holds anything is kept, and a FileExistsError, unless `overwrite=True` and it holds an
        explanation saved earlier and no other file.
        `Explanation.load` reads the folder back; docs/saving.md has the format, and docs/files.md
        what happens at a crash.
        """
        result = self.numpy()
        contents = Contents(
            maps=result.maps,
            scores=result.scores,
            target=result.target,
            names=result.names(),
            size=result.size,
            layer=result.layer,
            method=result.method,
            model=result.model,
            labels=result.labels,
            versions=result.versions or versions(),
            probabilities=result.probabilities,
            axes=looking.axes_in_words(result.axes),
            choice=None if result.choice is None else str(result.choice),
        )
        drawn = None
        if figure:
            drawn = png(result.figure(photos), dpi=120)
        pictures = result._pictures(photos)
        kept = looking.images(photos, len(self)) if pictures and photos is not None else []
        return saving.save(
            contents, result.heatmaps(), pictures, Path(directory), overwrite, drawn, kept
        )

    def _pictures(self, photos: Any) -> list[Any]:
        """N images, or N lists of K, overlays where there are photographs.

        Maps over other than two axes have none.
        """
        if self._grid_ndim != 2:
            return []
        if photos is not None:
            return self.overlay(photos)
        return self._like_scores(looking.coloured(self.shown()))

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> Explanation:
        """An explanation that `save` wrote: all of `numpy()` but the model's outputs.

        A target that was a function comes back as its name alone, and cannot be called. Raises
        FileNotFoundError or ValueError, in a sentence that names the file and the field, where
        anything is missing, cut short or changed. Pictures and `heatmaps.npy` are not read.
        """
        contents = loading.load(Path(directory))
        return cls(
            maps=contents.maps,
            scores=contents.scores,
            target=contents.target,
            size=contents.size,
            layer=contents.layer,
            method=contents.method,
            model=contents.model,
            labels=contents.labels,
            versions=contents.versions,
            _probabilities=contents.probabilities,
        )
