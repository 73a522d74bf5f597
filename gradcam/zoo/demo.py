"""The main job, end to end (`make demo`): real photographs, a real network, two frameworks.

It leaves one table and one picture: photographs, maps in PyTorch, maps in Flax, their difference.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table

import gradcam
from gradcam import benchmark
from gradcam.pictures.figure import draw_map, png
from gradcam.pictures.panels import Cell
from gradcam.zoo import efficientnet_lite0

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["main", "photograph"]

PHOTOGRAPHS = ("chelsea", "coffee", "camera", "rocket")
"""scikit-image's; chelsea, coffee and camera are CC0, rocket is in the public domain."""

REPEATS = 15


@dataclass(frozen=True)
class Row:
    """One photograph in both frameworks.

    name, score: of the top class.
    logit_difference: the largest difference of the outputs between the frameworks.
    map_difference: the same of the maps, over the map's maximum.
    torch_error, flax_error: relative errors of the gradients, against central differences.
    """

    photograph: str
    name: str
    score: float
    logit_difference: float
    map_difference: float
    torch_error: float
    flax_error: float


@dataclass(frozen=True)
class Explained:
    """A photograph explained in one framework, and the error of the gradients behind it."""

    explanation: gradcam.Explanation
    error: float


def photograph(name: str) -> np.ndarray:
    """A photograph of scikit-image, RGB uint8."""
    from skimage import data

    picture = np.asarray(getattr(data, name)())
    if picture.ndim == 2:
        return np.repeat(picture[..., None], 3, axis=-1)
    return picture


def run(folder: Path, names: Sequence[str] = PHOTOGRAPHS) -> tuple[list[Row], dict[str, float]]:
    """Explain each photograph in both frameworks, and write `demo.png` and `demo.json`.

    Gives the rows of the table, and by framework the time of an explanation over that of a forward
    pass.
    """
    from matplotlib.figure import Figure

    torch_net = efficientnet_lite0("torch")
    flax_net = efficientnet_lite0("jax")
    folder.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(12, 3.15 * len(names)), layout="constrained")
    rows = []
    for name, panels in zip(names, figure.subplots(len(names), 4, squeeze=False), strict=True):
        seen = _view(torch_net, photograph(name))
        in_torch = _explained(torch_net, seen)
        in_flax = _explained(flax_net, seen)
        rows.append(_row(name, in_torch, in_flax))
        _draw(figure, panels, seen, in_torch, in_flax, rows[-1])
    (folder / "demo.png").write_bytes(png(figure, dpi=90))
    first = _view(torch_net, photograph(names[0]))
    ratios = {"torch": _price(torch_net, first), "flax": _price(flax_net, first)}
    table = {"rows": [asdict(row) for row in rows], "explanation over forward pass": ratios}
    (folder / "demo.json").write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
    return rows, ratios


def _view(net: gradcam.Classifier, picture: np.ndarray) -> np.ndarray:
    assert net.view is not None
    return net.view(picture)


def _inputs(net: gradcam.Classifier, seen: np.ndarray) -> Any:
    assert net.preprocess is not None
    return net.preprocess([seen])


def _explained(net: gradcam.Classifier, seen: np.ndarray) -> Explained:
    inputs = _inputs(net, seen)
    report = gradcam.verify(net, inputs, directions=4, channels=4)
    report.assert_passed()
    return Explained(gradcam.explain(net, inputs).numpy(), report.error)


def _row(name: str, in_torch: Explained, in_flax: Explained) -> Row:
    torch_, flax = in_torch.explanation, in_flax.explanation
    logits = np.asarray(torch_.outputs) - np.asarray(flax.outputs)
    return Row(
        photograph=name,
        name=torch_.names()[0][0],
        score=float(torch_.scores[0]),
        logit_difference=float(np.abs(logits).max()),
        map_difference=float(np.abs(torch_.maps - flax.maps).max()) / float(torch_.maps.max()),
        torch_error=in_torch.error,
        flax_error=in_flax.error,
    )


def _price(net: gradcam.Classifier, seen: np.ndarray) -> float:
    """The time of an explanation over that of a bare forward pass: the median ratio."""
    inputs = _inputs(net, seen)
    bare = benchmark.forward(net, inputs)
    explained = benchmark.explained(net, None, "grad-cam", inputs, 1)
    for _ in range(2):  # compiles, and warms up
        bare()
        explained()
    times = benchmark.pairs(bare, explained, REPEATS)
    return benchmark.quartiles(benchmark.ratios(times)).middle


def _draw(
    figure: Figure,
    panels: Sequence[Axes],
    seen: np.ndarray,
    in_torch: Explained,
    in_flax: Explained,
    row: Row,
) -> None:
    for panel in panels:
        panel.set_axis_off()
    original, torch_panel, flax_panel, difference = panels
    original.imshow(seen)
    original.set_title(row.photograph, fontsize=9)
    for panel, found, name in (
        (torch_panel, in_torch, "PyTorch"),
        (flax_panel, in_flax, "Flax"),
    ):
        shown = found.explanation.shown()[0][0]
        draw_map(figure, panel, Cell(shown, f"{name}: {shown.caption}"), seen / 255)
    torch_heat = in_torch.explanation.heatmaps()[0]
    flax_heat = in_flax.explanation.heatmaps()[0]
    image = difference.imshow(np.abs(torch_heat - flax_heat), cmap="magma")
    difference.set_title("their difference\n(of maps scaled to 1)", fontsize=9)
    bar = figure.colorbar(image, ax=difference, shrink=0.8, pad=0.02, aspect=18, format="%.0e")
    bar.ax.tick_params(labelsize=7)


def main() -> None:
    """Run the demo and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo-out"))
    folder = parser.parse_args().out
    rows, ratios = run(folder)
    console = Console()
    console.print(_table(rows))
    console.print("gradients against central differences, in float64: relative errors", style="dim")
    console.print(
        f"an explanation takes {ratios['torch']:.2f} times a forward pass in PyTorch, "
        f"{ratios['flax']:.2f} in Flax "
        "(medians of ratios, in this run)"
    )
    console.print(f"the picture: {folder / 'demo.png'}", style="bold")


def _table(rows: Sequence[Row]) -> Table:
    table = Table(
        "photograph", "class", "score", "maps differ by", "torch gradient", "flax gradient"
    )
    for row in rows:
        table.add_row(
            row.photograph,
            row.name,
            f"{row.score:.3f}",
            f"{row.map_difference:.1e} of the peak",
            f"off by {row.torch_error:.0e}",
            f"off by {row.flax_error:.0e}",
        )
    return table


if __name__ == "__main__":
    main()
