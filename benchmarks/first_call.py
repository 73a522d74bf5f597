"""What it costs to find the layer and its axes: the first call and later ones, in forward passes.

    python -m benchmarks.first_call [--batch 32] [--device cuda]

Of each of timm's networks, with random weights: how many forward passes the two calls make, and the
median, over runs in turn with a plain forward pass, of how many times as long they take.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import timm
import torch

import gradcam
from gradcam.space.memory import forget

NETWORKS = ("resnet50", "vit_base_patch16_224", "swin_tiny_patch4_window7_224")
RUNS = 7


def seconds(function: Callable[[], object], device: str) -> float:
    start = time.perf_counter()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def row(name: str, batch: int, device: str) -> str:
    torch.manual_seed(0)
    model = timm.create_model(name).eval().to(device)
    images = torch.randn(batch, 3, 224, 224, device=device)
    passes: list[int] = []
    hook = model.register_forward_pre_hook(lambda module, inputs: passes.append(1))
    axes = gradcam.explain(model, images).axes
    first = len(passes)
    gradcam.explain(model, images)
    second = len(passes) - first
    hook.remove()

    def plain() -> None:
        with torch.inference_mode():
            model(images)

    def anew() -> None:
        forget(model)
        gradcam.explain(model, images)

    explainer = gradcam.Explainer(model)
    explainer(images)
    ratios: dict[str, list[float]] = {"first": [], "later": []}
    for _ in range(RUNS):
        forward = seconds(plain, device)
        ratios["first"].append(seconds(anew, device) / forward)
        ratios["later"].append(seconds(lambda: explainer(images), device) / forward)
    times = {call: statistics.median(values) for call, values in ratios.items()}
    return f"| {name} | {axes} | {first} | {times['first']:.1f} | {second} | {times['later']:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.first_call", description=__doc__)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()
    name = torch.cuda.get_device_name() if given.device == "cuda" else "CPU"
    print(f"{name}, PyTorch {torch.__version__}, batches of {given.batch}\n")
    print("| network | layer and axes | passes, first call | time | passes, later | time |")
    print("|---|---|---:|---:|---:|---:|")
    for network in NETWORKS:
        print(row(network, given.batch, given.device), flush=True)


if __name__ == "__main__":
    main()
