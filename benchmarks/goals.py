"""What we set out for: bounds on times and memory, and whether benchmarks/peers.py meets them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = ["OURS", "PEERS", "Row", "divided", "goals"]

Row = dict[str, Any]
"""One measurement: the model, framework, case, batch and library ("who"), and its numbers."""
OURS = {"torch": "gradcam", "jax": "gradcam (JAX)"}
PEERS = ("pytorch-grad-cam", "torchcam", "captum")

Goal = tuple[str, str, str, str]
"""What is bounded, the bound, the value that was found, and whether it is met."""

OUR_BOUNDS = (
    ("one class", 1, 1.10, "one class, batch 1"),
    ("one class", 8, 1.05, "one class, batch 8"),
    ("100 classes", 1, 1.2, "100 classes"),
    ("1000 classes", 1, 4.0, "1000 classes"),
    ("methods", 1, 1.25, "all methods"),
    ("eigen-cam", 1, 1.1, "Eigen-CAM"),
    ("ablation-cam", 1, 3.0, "Ablation-CAM"),
)
"""Case, batch, the largest ratio to a forward pass that is allowed on ResNet-50, and the name."""


def goals(rows: list[Row]) -> Iterator[Goal]:
    timed = {}
    for row in rows:
        if "method" not in row:
            timed[row["model"], row["case"], row["batch"], row["who"]] = row
    yield from ratio_goals(timed)
    yield from peer_goals(timed)
    yield from score_cam_goals(timed)
    yield from memory_goals(rows)


Timed = dict[tuple[str, str, int, str], Row]
"""Rows by model, case, batch and library."""


def ratio(timed: Timed, model: str, case: str, batch: int, who: str) -> float | None:
    row = timed.get((model, case, batch, who), {})
    value: float | None = row.get("ratio", row.get("at_least"))
    return value


def over_ours(timed: Timed, model: str, case: str, batch: int, peer: str) -> float | None:
    """A peer's time over ours, from calls of the same turn where there are any."""
    row = timed.get((model, case, batch, peer), {})
    if row.get("over_ours"):
        value: float = row["over_ours"]
        return value
    return divided(
        ratio(timed, model, case, batch, peer), ratio(timed, model, case, batch, "gradcam")
    )


def divided(numerator: float | None, denominator: float | None) -> float | None:
    """The quotient, or None where a number is missing."""
    if not numerator or not denominator:
        return None
    return numerator / denominator


def at_most(name: str, bound: float, value: float | None) -> Goal:
    if value is None:
        return name, f"<= {bound}", "not measured", ""
    return name, f"<= {bound}", f"{value:.2f}", verdict(value <= bound)


def at_least(name: str, bound: float, value: float | None) -> Goal:
    if value is None:
        return name, f">= {bound:g}", "not measured", ""
    return name, f">= {bound:g}", f"{value:.2f}", verdict(value >= bound)


def verdict(is_met: bool) -> str:
    if is_met:
        return "met"
    return "**missed**"


def ratio_goals(timed: Timed) -> Iterator[Goal]:
    for who in OURS.values():
        for case, batch, bound, name in OUR_BOUNDS:
            value = ratio(timed, "resnet50", case, batch, who)
            yield at_most(f"{who}, ResNet-50, {name}", bound, value)
        value = ratio(timed, "demo", "ablation-cam", 1, who)
        yield at_most(f"{who}, demo network, Ablation-CAM", 6, value)


def peer_goals(timed: Timed) -> Iterator[Goal]:
    """Each peer's time over ours for one class, where it is least."""
    for peer, bound in (("pytorch-grad-cam", 3.0), ("torchcam", 1.0), ("captum", 1.0)):
        least: tuple[float, str, int] | None = None
        for model, case, batch, who in timed:
            if case != "one class" or who != "gradcam":
                continue
            value = over_ours(timed, model, case, batch, peer)
            if value and (least is None or value < least[0]):
                least = (value, model, batch)
        if least is not None:
            value, model, batch = least
            name = f"one class: {peer}'s time over ours, the least ({model}, batch {batch})"
            yield at_least(name, bound, value)


def score_cam_goals(timed: Timed) -> Iterator[Goal]:
    for model in ("demo", "mobilenet_v3_small"):
        for peer in ("pytorch-grad-cam", "torchcam"):
            value = divided(1.0, over_ours(timed, model, "score-cam", 1, peer))
            yield at_most(f"Score-CAM, {model}: our time over {peer}'s", 0.7, value)


def memory_goals(rows: list[Row]) -> Iterator[Goal]:
    megabytes = {}
    for row in rows:
        if "megabytes" in row:
            megabytes[row["framework"], row["who"]] = row["megabytes"]
    for framework, who in OURS.items():
        forward = megabytes.get((framework, "forward pass"))
        value = divided(megabytes.get((framework, who)), forward)
        yield at_most(f"{who}, memory over a forward pass's, batch 16", 1.05, value)
    peers = [value for (_, who), value in megabytes.items() if who in PEERS]
    value = divided(min(peers, default=None), megabytes.get(("torch", "gradcam")))
    yield at_least("memory of the next best peer over ours, batch 16", 5, value)
