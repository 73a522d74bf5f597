"""The main job, end to end: real photographs, a real network, two frameworks, checked (`make demo`).

Leaves one picture, photograph, map in PyTorch, map in Flax and their difference, and one table.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import gradcam
from gradcam.pictures.overlay import overlay
from gradcam.zoo import efficientnet_lite0

PHOTOGRAPHS = ("chelsea", "coffee", "camera", "rocket")
"""scikit-image's; chelsea, coffee and camera are CC0, rocket is in the public domain."""


@dataclass(frozen=True)
class Row:
    photograph: str
    name: str
    score: float
    logit_difference: float
    map_difference: float
    torch_error: float
    flax_error: float


def photograph(name: str) -> np.ndarray:
    """A photograph of scikit-image, RGB uint8."""
    from skimage import data

    picture = np.asarray(getattr(data, name)())
    return np.repeat(picture[..., None], 3, axis=-1) if picture.ndim == 2 else picture


def price(bare: Callable[[], Any], explained: Callable[[], Any], repeats: int = 15) -> float:
    """The median of the ratios of an explanation's time to that of a bare forward pass, timed in turn."""
    ratios = []
    for _ in range(2):
        bare(), explained()
    for _ in range(repeats):
        start = time.perf_counter()
        bare()
        middle = time.perf_counter()
        explained()
        ratios.append((time.perf_counter() - middle) / (middle - start))
    return statistics.median(ratios)


def prices(
    torch_net: gradcam.Classifier, flax_net: gradcam.Classifier, seen: np.ndarray
) -> dict[str, float]:
    """Time of an explanation over that of a bare forward pass: under inference_mode, and jitted."""
    import jax
    import torch
    from flax import nnx

    assert torch_net.preprocess is not None
    assert flax_net.preprocess is not None
    inputs, arrays = torch_net.preprocess([seen]), flax_net.preprocess([seen])
    explainer, flax_explainer = gradcam.Explainer(torch_net), gradcam.Explainer(flax_net)
    graphdef, state = nnx.split(flax_net.model)
    jitted = jax.jit(lambda state, x: nnx.merge(graphdef, state)(x))

    def bare() -> None:
        with torch.inference_mode():
            torch_net.model(inputs)

    return {
        "torch": price(bare, lambda: explainer(inputs)),
        "flax": price(
            lambda: jax.block_until_ready(jitted(state, arrays)),
            lambda: jax.block_until_ready(flax_explainer(arrays).maps),
        ),
    }


def run(folder: Path, names: Sequence[str] = PHOTOGRAPHS) -> tuple[list[Row], dict[str, float]]:
    """Explain each photograph in both frameworks; write `demo.png`, `demo.json`; give the rows of the table."""
    from matplotlib.figure import Figure

    nets = {"torch": efficientnet_lite0("torch"), "flax": efficientnet_lite0("jax")}
    folder.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(12, 3.15 * len(names)), layout="constrained")
    rows = []
    for name, panels in zip(names, figure.subplots(len(names), 4, squeeze=False), strict=True):
        seen = _view(nets["torch"], photograph(name))
        found, errors = {}, {}
        for framework, net in nets.items():
            assert net.preprocess is not None
            inputs = net.preprocess([seen])
            found[framework] = gradcam.explain(net, inputs).numpy()
            errors[framework] = gradcam.verify(net, inputs, directions=4, channels=4)
            errors[framework].assert_passed()
        torch_, flax = found["torch"], found["flax"]
        peak = float(torch_.maps.max())
        rows.append(
            Row(
                photograph=name,
                name=torch_.names()[0][0],
                score=float(torch_.scores[0]),
                logit_difference=float(
                    np.abs(np.asarray(torch_.outputs) - np.asarray(flax.outputs)).max()
                ),
                map_difference=float(np.abs(torch_.maps - flax.maps).max()) / peak,
                torch_error=errors["torch"].error,
                flax_error=errors["flax"].error,
            )
        )
        _draw(figure, panels, seen, torch_, flax, rows[-1])
    figure.savefig(folder / "demo.png", dpi=90)
    ratios = prices(nets["torch"], nets["flax"], seen)
    table = {"rows": [asdict(row) for row in rows], "explanation over forward pass": ratios}
    (folder / "demo.json").write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
    return rows, ratios


def _view(net: gradcam.Classifier, picture: np.ndarray) -> np.ndarray:
    assert net.view is not None
    return net.view(picture)


def _draw(figure: Any, panels: Any, seen: np.ndarray, torch_: Any, flax: Any, row: Row) -> None:
    heat = {"PyTorch": torch_.heatmaps()[0], "Flax": flax.heatmaps()[0]}
    for panel in panels:
        panel.set_axis_off()
    panels[0].imshow(seen)
    panels[0].set_title(row.photograph)
    for panel, (framework, one) in zip(panels[1:], heat.items(), strict=False):
        panel.imshow(overlay(seen / 255, one))
        panel.set_title(f"{framework}: {row.name} {row.score:.2f}")
    shown = panels[3].imshow(np.abs(heat["PyTorch"] - heat["Flax"]), cmap="magma")
    panels[3].set_title("their difference")
    figure.colorbar(shown, ax=panels[3], shrink=0.8, format="%.0e")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo-out"))
    folder = parser.parse_args().out
    rows, ratios = run(folder)
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
    console = Console()
    console.print(table)
    console.print("gradients against central differences, in float64: relative errors", style="dim")
    console.print(
        f"an explanation takes {ratios['torch']:.2f} times a forward pass in PyTorch, {ratios['flax']:.2f} in Flax "
        "(medians of ratios, in this run)"
    )
    console.print(f"the picture: {folder / 'demo.png'}", style="bold")


if __name__ == "__main__":
    main()
