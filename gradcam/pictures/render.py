"""Colours, overlays, figures and boxes: matplotlib, Pillow and SciPy, imported when a picture is asked for."""

from __future__ import annotations

import importlib
import io
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gradcam import maps as maps_

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.Image import Image

    from gradcam.explaining.explanation import Explanation

__all__ = ["bars", "box", "colours", "dots", "figure", "overlay", "photographs", "plain", "png"]


def _need(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f'pictures need {package}: pip install "gradcam[images]"') from error


def colours(heat: np.ndarray, colormap: str) -> np.ndarray:
    """Values in [0, 1] as RGB in [0, 1]: (...) -> (..., 3)."""
    matplotlib = _need("matplotlib", "matplotlib")
    if colormap not in matplotlib.colormaps:
        raise ValueError(
            f'`colormap` "{colormap}" is none of matplotlib\'s; try "rainbow", "viridis" or "inferno"'
        )
    return np.asarray(matplotlib.colormaps[colormap](heat))[..., :3]


def overlay(
    photograph: np.ndarray, heat: np.ndarray, alpha: float = 0.6, colormap: str = "rainbow"
) -> Image:
    """The photograph (H, W, 3) in [0, 1] with the heat (H, W) over it, opaque in proportion to the heat."""
    image = _need("PIL.Image", "Pillow")
    opacity = alpha * np.sqrt(heat)[..., None]  # the root: faint evidence can still be seen
    mixed = (1 - opacity) * photograph + opacity * colours(heat, colormap)
    drawn: Image = image.fromarray(np.round(mixed * 255).astype(np.uint8))
    return drawn


def plain(explanation: Explanation, colormap: str = "rainbow") -> list[Any]:
    """The heatmaps in colour, with no photograph: N images, or N lists of K."""
    image = _need("PIL.Image", "Pillow")
    painted = np.round(colours(np.asarray(explanation.heatmaps()), colormap) * 255).astype(np.uint8)
    if explanation.scores.ndim == 1:
        return [image.fromarray(one) for one in painted]
    return [[image.fromarray(one) for one in row] for row in painted]


def photographs(photos: Any, count: int) -> list[np.ndarray]:
    """One or `count` photographs as arrays (H, W, 3) in [0, 1]."""
    single = (
        isinstance(photos, (str, os.PathLike))
        or hasattr(photos, "convert")
        or getattr(photos, "ndim", 4) < 4
    )
    several = [photos] if single and not isinstance(photos, (list, tuple)) else list(photos)
    if len(several) != count:
        raise ValueError(
            f"`photos` has {len(several)}, but the explanation has {count} samples; pass one for each"
        )
    return [_photograph(photo) for photo in several]


def _photograph(photo: Any) -> np.ndarray:
    if isinstance(photo, (str, os.PathLike)):
        from gradcam.pictures.images import read

        photo = read(photo)
    if hasattr(photo, "convert"):
        photo = photo.convert("RGB")
    array = np.asarray(photo)
    if array.ndim == 2:
        array = np.repeat(array[..., None], 3, axis=-1)
    if array.ndim != 3 or array.shape[-1] not in (3, 4):
        raise ValueError(
            f"a photograph must have the shape (H, W, 3) or (H, W), but has {array.shape}"
        )
    if array.dtype == np.uint8:
        return array[..., :3] / 255.0
    if array.dtype.kind != "f" or array.min() < 0 or array.max() > 1:
        raise ValueError(
            f"a photograph must be uint8, or floats in [0, 1], but is {array.dtype} from {array.min():.3g} to "
            f"{array.max():.3g}; pass the photograph itself, not the model's normalised input"
        )
    return array[..., :3].astype(np.float64)


def box(heat: np.ndarray, threshold: float) -> np.ndarray:
    """The box round the largest connected segment of at least `threshold`, of a map in [0, 1]; zeros for none."""
    ndimage = _need("scipy.ndimage", "SciPy")
    if not heat.any():
        return np.zeros(2 * heat.ndim, dtype=np.int64)
    segments, count = ndimage.label(heat >= threshold)
    largest = int(np.argmax(np.bincount(segments.ravel(), minlength=count + 1)[1:])) + 1
    slices = ndimage.find_objects(segments)[largest - 1]
    return np.array(
        [s.start for s in reversed(slices)] + [s.stop for s in reversed(slices)], dtype=np.int64
    )


def figure(explanation: Explanation, photos: Any = None, colormap: str = "rainbow") -> Figure:
    """A panel for each sample (rows) and target (columns), after the photograph where there is one."""
    figures = _need("matplotlib.figure", "matplotlib")
    samples, names = int(explanation.maps.shape[0]), explanation.names()
    pictures = photographs(photos, samples) if photos is not None else None
    columns = len(names[0]) + (pictures is not None)
    drawn = figures.Figure(figsize=(3.2 * columns, 3.5 * samples), layout="constrained")
    panels = drawn.subplots(samples, columns, squeeze=False)
    scores = np.asarray(explanation.scores).reshape(samples, -1)
    heat = explanation.heatmaps().reshape(samples, scores.shape[1], *explanation._size(None))
    for n, row in enumerate(panels):
        for panel in row:
            panel.set_axis_off()
        if pictures is not None:
            row[0].imshow(pictures[n])
        for k, panel in enumerate(row[columns - scores.shape[1] :]):
            _panel(panel, heat[n, k], None if pictures is None else pictures[n], colormap)
            panel.set_title(f"{names[n][k]}  {scores[n, k]:.4g}", fontsize=9)
    return drawn  # type: ignore[no-any-return]


def _panel(panel: Axes, heat: np.ndarray, picture: np.ndarray | None, colormap: str) -> None:
    if heat.ndim == 1:
        panel.set_axis_on()
        panel.fill_between(np.arange(len(heat)), heat, step="mid", color="tab:red", alpha=0.6)
        panel.set_ylim(0, 1)
        return
    while heat.ndim > 2:  # the plane with the most heat
        heat = heat[int(np.argmax(heat.reshape(len(heat), -1).sum(axis=1)))]
    if picture is None:
        panel.imshow(heat, cmap=colormap, vmin=0, vmax=1)
        return
    resized = maps_.scale(maps_.resize(heat, picture.shape[:2]), 2)
    panel.imshow(overlay(picture, resized, colormap=colormap))


def bars(
    names: Sequence[str], found: Sequence[tuple[str, tuple[float, float, float]]], label: str
) -> Figure:
    """Values with their lower and upper ends, a line each, coloured by kind, on a logarithmic axis."""
    figures = _need("matplotlib.figure", "matplotlib")
    drawn = figures.Figure(figsize=(8, 0.28 * len(names) + 1.4), layout="constrained")
    panel = drawn.subplots()
    kinds = list(dict.fromkeys(kind for kind, _ in found))
    for kind in kinds:
        rows = [row for row, (one, _) in enumerate(found) if one == kind]
        low, middle, high = (np.array([found[row][1][i] for row in rows]) for i in range(3))
        panel.errorbar(
            middle,
            rows,
            xerr=(middle - low, high - middle),
            fmt="o",
            capsize=3,
            markersize=5,
            label=kind,
        )
    panel.set_yticks(range(len(names)), names, fontsize=8)
    panel.invert_yaxis()
    panel.set_xscale("log")
    panel.axvline(1, color="black", linewidth=0.8)
    panel.grid(axis="x", which="both", alpha=0.2)
    panel.set_xlabel(label)
    if kinds:
        drawn.legend(loc="outside upper center", ncols=len(kinds), frameon=False)
    return drawn  # type: ignore[no-any-return]


def dots(
    panels: Sequence[tuple[str, Sequence[tuple[str, tuple[float, float, float], bool]]]],
) -> Figure:
    """Panels of (title, rows), a row being a name, a value between its ends, and whether it is a control, in grey."""
    figures = _need("matplotlib.figure", "matplotlib")
    columns = min(3, max(len(panels), 1))
    lines = -(-len(panels) // columns) if panels else 1
    tall = max((len(rows) for _, rows in panels), default=1)
    drawn = figures.Figure(
        figsize=(4.2 * columns, (0.24 * tall + 0.9) * lines), layout="constrained"
    )
    axes = drawn.subplots(lines, columns, squeeze=False).reshape(-1)
    for panel in axes[len(panels) :]:
        panel.set_axis_off()
    for panel, (title, rows) in zip(axes, panels, strict=False):
        for at, (_, (low, middle, high), control) in enumerate(rows):
            colour = "0.6" if control else "#1b6ac9"
            panel.plot([low, high], [at, at], color=colour, linewidth=1.5)
            panel.plot(middle, at, "o", color=colour, markersize=4)
        panel.set_yticks(range(len(rows)), [name for name, _, _ in rows], fontsize=7)
        panel.invert_yaxis()
        panel.set_title(title, fontsize=8)
        panel.tick_params(axis="x", labelsize=7)
        panel.grid(axis="x", alpha=0.2)
    return drawn  # type: ignore[no-any-return]


def png(drawn: Figure, dpi: int = 100) -> bytes:
    """A figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()
