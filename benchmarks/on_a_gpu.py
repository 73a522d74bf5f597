"""Explanations on a GPU against the same on the CPU, and their price there.

    python -m benchmarks.on_a_gpu [--framework torch|jax] [--out out/gpu.json]

For the demo network in PyTorch and in JAX, and torchvision's ResNet-50 with random weights: the
largest difference between the maps of every method on the two devices, over the map's maximum, with
full float32 products and with the device's own (TF32); what `verify` says there; whether maps stay
on the device; and the time and memory of an explanation over those of a forward pass.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import numpy as np
import torch

import gradcam
from gradcam.methods import TABLE
from gradcam.zoo import efficientnet_lite0
from gradcam.zoo.demo import photograph

METHODS = [spec.name for spec in TABLE if spec.needs != "attention"]
SLOW = {"score-cam": {"channels": 64}, "ss-cam": {"channels": 16}, "is-cam": {"channels": 16}}
NAMES = ("chelsea", "coffee")
REPEATS = 21


def photographs(net: gradcam.Classifier) -> Any:
    assert net.view is not None
    assert net.preprocess is not None
    return net.preprocess([net.view(photograph(name)) for name in NAMES])


def differences(here: Callable[[str], Any], there: Callable[[str], Any]) -> dict[str, Any]:
    """By method, the largest difference of two devices' maps over the maximum; or the error."""
    found: dict[str, Any] = {}
    for method in METHODS:
        try:
            ours, theirs = (np.asarray(call(method).numpy().maps) for call in (here, there))
            largest = np.abs(ours).max()
            found[method] = float(np.abs(ours - theirs).max() / (largest or 1))
        except Exception as error:  # whatever is wrong with one, the others are compared
            found[method] = f"{type(error).__name__}: {error}"[:200]
    return found


def ratio(bare: Callable[[], Any], call: Callable[[], Any]) -> list[float]:
    """The quartiles of the ratios of two times, taken in turn."""
    for _ in range(3):
        bare()
        call()
    ratios = []
    for _ in range(REPEATS):
        times = []
        for run in (bare, call):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        ratios.append(times[1] / times[0])
    return [round(value, 3) for value in statistics.quantiles(ratios, n=4)]


# ------------------------------------------------------------------------------------------ PyTorch


def in_torch(name: str, model: torch.nn.Module, layer: str | None, inputs: Any) -> dict[str, Any]:
    on_cpu = model.eval()
    on_gpu = copy.deepcopy(model).cuda().eval()
    there = inputs.cuda()

    def explained(which: torch.nn.Module, x: Any) -> Callable[[str], Any]:
        return lambda method: gradcam.explain(
            which, x, layer, method=method, check=False, **SLOW.get(method, {})
        )

    found: dict[str, Any] = {"network": name, "framework": f"torch {torch.__version__}"}
    for precision, tf32 in (("float32", False), ("TF32", True)):
        torch.backends.cuda.matmul.allow_tf32 = tf32
        torch.backends.cudnn.allow_tf32 = tf32
        found[f"differences, {precision}"] = differences(
            explained(on_cpu, inputs), explained(on_gpu, there)
        )
        found[f"verify, {precision}"] = said(gradcam.verify(on_gpu, there, layer=layer))
        found[f"verify in its own precision, {precision}"] = said(
            gradcam.verify(on_gpu, there, layer=layer, float64=False)
        )
    e = gradcam.explain(on_gpu, there, layer)
    found["device of the maps"] = str(e.maps.device)
    try:
        gradcam.explain(on_gpu, inputs, layer)
        found["inputs on the CPU"] = "explained"
    except Exception as error:
        found["inputs on the CPU"] = f"{type(error).__name__}: {error}"[:300]
    explainer = gradcam.Explainer(on_gpu, layer, check=False)
    for batch in (1, 8, 64):
        x = there[:1].expand(batch, *there.shape[1:]).contiguous()

        def bare(x: Any = x) -> None:
            with torch.inference_mode():
                on_gpu(x)
            torch.cuda.synchronize()

        def call(x: Any = x) -> None:
            explainer(x, 3)
            torch.cuda.synchronize()

        found[f"time over a forward pass, {batch}"] = ratio(bare, call)
        found[f"memory over a forward pass, {batch}"] = round(peak(call) / peak(bare), 3)
    return found


def demo_network() -> dict[str, Any]:
    net = efficientnet_lite0("torch")
    return in_torch("EfficientNet-Lite0", net.model, net.layer, photographs(net))


def resnet() -> dict[str, Any]:
    import torchvision

    images = torch.randn(2, 3, 224, 224)
    return in_torch("ResNet-50, random weights", torchvision.models.resnet50(), "layer4", images)


def peak(call: Callable[[], None]) -> int:
    """The device's memory that a call takes at most, above what was taken before."""
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    return torch.cuda.max_memory_allocated() - before


def said(report: gradcam.Verification) -> str:
    return f"{report.verdict}, error {report.error:.1e}, tolerance {report.tolerance:.0e}"


# ---------------------------------------------------------------------------------------------- JAX


def in_jax() -> dict[str, Any]:
    import jax
    from flax import nnx

    net = efficientnet_lite0("jax")
    inputs = photographs(net)
    cpu, gpu = jax.devices("cpu")[0], jax.devices()[0]
    found: dict[str, Any] = {
        "network": "EfficientNet-Lite0",
        "framework": f"jax {jax.__version__} on {gpu.device_kind}",
    }
    graph, state = nnx.split(net.model)

    def explained(device: Any) -> Callable[[str], Any]:
        model = nnx.merge(graph, jax.device_put(state, device))
        x = jax.device_put(np.asarray(inputs), device)
        return lambda method: gradcam.explain(
            model, x, net.layer, method=method, check=False, **SLOW.get(method, {})
        )

    for precision in ("highest", "default"):
        with jax.default_matmul_precision(precision):
            found[f"differences, {precision}"] = differences(explained(cpu), explained(gpu))
            model = nnx.merge(graph, jax.device_put(state, gpu))
            x = jax.device_put(np.asarray(inputs), gpu)
            found[f"verify, {precision}"] = said(gradcam.verify(model, x, layer=net.layer))
            found[f"verify in its own precision, {precision}"] = said(
                gradcam.verify(model, x, layer=net.layer, float64=False)
            )
    e = gradcam.explain(model, x, net.layer)
    found["device of the maps"] = str(next(iter(e.maps.devices())))
    explainer = gradcam.Explainer(model, net.layer, check=False)
    forward = jax.jit(lambda state, x: nnx.merge(graph, state)(x))
    placed = jax.device_put(state, gpu)
    for batch in (1, 8, 64):
        many = jax.numpy.repeat(x[:1], batch, 0)
        found[f"time over a forward pass, {batch}"] = ratio(
            lambda many=many: jax.block_until_ready(forward(placed, many)),
            lambda many=many: jax.block_until_ready(explainer(many, 3).maps),
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/gpu.json"))
    parser.add_argument("--framework", choices=("torch", "jax"), help="both where it is not given")
    given = parser.parse_args()
    path: Path = given.out
    warnings.simplefilter("ignore")

    results: list[dict[str, Any]] = [{"device": torch.cuda.get_device_name()}]
    torch.manual_seed(0)
    plans = {"torch": (demo_network, resnet), "jax": (in_jax,)}
    for plan in plans.get(given.framework, (*plans["torch"], *plans["jax"])):
        try:
            results.append(plan())
        except Exception as error:
            results.append({"failed": repr(error), "at": traceback.format_exc()})
        print(json.dumps(results[-1], indent=1), flush=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
