"""The results of benchmarks/study.py as a page and two pictures."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from common import table

from gradcam import benchmark, metrics

__all__ = ["EARLY", "Findings", "draw", "draw_checks", "page"]

EARLY = "grad-cam before the last ReLU6"
"""The name of Grad-CAM at that batch norm."""
BOUNDS = {"demo": 0.95, "mobilenet_v2": 0.85}
"""The least mean share of Grad-CAM that the study asks for, by network."""


@dataclass
class Findings:
    """The results for one network, by method.

    shares: (N, 2) for N collages, the shares of the left classes' maps on the left side, and of the
        right classes' maps on the right side.
    shuffled: (5,) for Grad-CAM and EARLY, the mean share with shuffled weights, for 5 seeds.
    times: over that of a forward pass.
    hits, on_object: (P,) for P photographs with masks, the pointing game, and the share on the
        object.
    jax_difference: the largest difference of a share between PyTorch and Flax.
    """

    shares: dict[str, np.ndarray]
    shuffled: dict[str, np.ndarray]
    times: dict[str, float]
    hits: dict[str, np.ndarray] = field(default_factory=dict)
    on_object: dict[str, np.ndarray] = field(default_factory=dict)
    jax_difference: float = 0.0


def page(results: dict[str, Findings], checks: list[Any], count: int, seconds: float) -> str:
    from importlib.metadata import version

    packages = ("gradcam", "torch", "torchvision", "jax", "flax")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    order = by_share(results)
    differences = []
    for network, findings in results.items():
        differences.append(
            f"{network}: the shares of Grad-CAM, HiRes-CAM and Layer-CAM differ by at most "
            f"{findings.jax_difference:.0e} between PyTorch and Flax."
        )
    lines = [
        f"{date.today().isoformat()}, {benchmark.machine()}; {versions}. `make study`, "
        f"{seconds:.0f} s.",
        "",
        f"{count} collages, of which two classes each are explained: {2 * count} maps for each "
        "method and network.",
        "",
        "![the share of each map on its own side](which-method.png)",
        "",
        *share_table(results, order),
        "",
        "Means with 95 % bootstrap intervals; of shuffled weights the mean and range over 5 seeds. "
        + " ".join(differences),
        "",
        *bound_table(results),
        "",
        "## Photographs with masks",
        "",
        "Of the map's positive part, the share on the object; and whether its highest point is "
        "there.",
        "",
        *mask_table(results, order),
        "",
        "## Sanity check",
        "",
        "![similarity as weights are randomised](sanity.png)",
        "",
        *sanity_table(checks),
        "",
    ]
    return "\n".join(lines)


def by_share(results: dict[str, Findings]) -> list[str]:
    """The methods, by their mean share over the networks, the largest first."""

    def mean_share(method: str) -> float:
        means = [np.nanmean(findings.shares[method]) for findings in results.values()]
        return float(np.nanmean(means))

    return sorted(results["demo"].shares, key=mean_share, reverse=True)


def share_table(results: dict[str, Findings], order: list[str]) -> list[str]:
    demo = results["demo"]
    rows = []
    for method in order:
        cells = [interval(findings.shares[method]) for findings in results.values()]
        rows.append((method, *cells, f"{demo.times[method]:.1f}"))
    rows.append(("*uniform map*", "0.50", "0.50", ""))
    for method in ("grad-cam", EARLY):
        cells = [value_range(findings.shuffled[method]) for findings in results.values()]
        rows.append((f"*{method}, weights shuffled*", *cells, ""))
    head = (
        "method",
        "demo: share on its side",
        "MobileNetV2",
        "time over a forward pass, demo",
    )
    return table(head, rows)


def bound_table(results: dict[str, Findings]) -> list[str]:
    rows = []
    for network, least in BOUNDS.items():
        findings = results[network]
        for method in ("grad-cam", EARLY):
            share = float(np.nanmean(findings.shares[method]))
            mean = float(findings.shuffled[method].mean())
            name = f"{network}, {method}"
            rows.append((name, f">= {least}", f"{share:.3f}", verdict(share >= least)))
            is_chance = 0.4 <= mean <= 0.6
            name = f"{network}, {method}, weights shuffled"
            rows.append((name, "0.4 to 0.6", f"{mean:.3f}", verdict(is_chance)))
    return table(("", "bound", "found", ""), rows)


def mask_table(results: dict[str, Findings], order: list[str]) -> list[str]:
    rows = []
    for method in (*order, "centre", "uniform"):
        cells = []
        for findings in results.values():
            pairs = zip(findings.hits[method], findings.on_object[method], strict=True)
            cells += [mask_cell(method, hit, share) for hit, share in pairs]
        name = method
        if method in ("centre", "uniform"):
            name = f"*{method} map*"
        rows.append((name, *cells))
    head = ("method", "demo: motorcycle", "quokka", "MobileNetV2: motorcycle", "quokka")
    return table(head, rows)


def mask_cell(method: str, hit: float, share: float) -> str:
    if method == "uniform":  # it has no highest point
        return f"{share:.2f}"
    if hit:
        return f"{share:.2f}, hit"
    return f"{share:.2f}, miss"


def sanity_table(checks: list[Any]) -> list[str]:
    rows = []
    for step, group in enumerate(checks[0].groups):
        name = group[0]
        if len(group) > 1:
            name = f"{group[0]} to {group[-1]}"
        cells = []
        for check in checks:
            cells.append(f"{check.rank[step].mean():.2f}, {check.structure[step].mean():.2f}")
        rows.append((name, *cells))
    columns = [f"{check.method}: rank, SSIM" for check in checks]
    return table(("layers randomised, from the top", *columns), rows)


def interval(values: np.ndarray) -> str:
    """The mean of shares, its 95 % bootstrap interval, and how many maps are blank."""
    result = metrics.Result("share", values, "higher")
    low, high = result.interval()
    text = f"{result.value:.2f} ({low:.2f}–{high:.2f})"
    blank = int(np.isnan(values).sum())
    if blank:
        text += f", {blank} blank"
    return text


def value_range(values: np.ndarray) -> str:
    return f"{values.mean():.2f} ({values.min():.2f}–{values.max():.2f})"


def verdict(is_met: bool) -> str:
    if is_met:
        return "met"
    return "**missed**"


# ------------------------------------------------------------------------------------ pictures


def draw(path: Path, results: dict[str, Findings]) -> None:
    from gradcam.pictures.charts import Interval, Panel, dots
    from gradcam.pictures.figure import png

    order = by_share(results)
    panels = []
    for network, findings in results.items():
        rows = []
        for method in order:
            result = metrics.Result("share", findings.shares[method], "higher")
            low, high = result.interval()
            rows.append(Interval(method, low, result.value, high))
        control = findings.shuffled["grad-cam"]
        means = (control.min(), control.mean(), control.max())
        rows.append(Interval("weights shuffled", *means, control=True))
        rows.append(Interval("uniform map", 0.5, 0.5, 0.5, control=True))
        panels.append(Panel(f"{network}: share on its own side", rows))
    path.write_bytes(png(dots(panels), 110))


def draw_checks(path: Path, checks: list[Any]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.4), layout="constrained")
    titles = {"rank": "rank correlation", "structure": "structural similarity"}
    for panel, name in zip(figure.subplots(1, 2), titles, strict=True):
        for check in checks:
            # Before the first step the similarity is 1.
            values = np.concatenate([np.ones((1, check.rank.shape[1])), getattr(check, name)])
            panel.plot(values.mean(1), "o-", label=check.method, markersize=4)
            panel.fill_between(range(len(values)), values.min(1), values.max(1), alpha=0.15)
        panel.set_title(titles[name], fontsize=9)
        panel.set_xlabel("randomised from the top: steps of 12", fontsize=8)
        panel.axhline(0, color="black", linewidth=0.6)
        panel.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)
