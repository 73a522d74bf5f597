"""How long an evaluation takes, and where: 8 methods by 10 measures on 8 photographs with the demo network.

    .venv-bench/bin/python benchmarks/evaluation.py [--framework jax]

Prints the whole time, and how much of it was spent in the model, explaining and predicting.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from skimage import data

import gradcam
from gradcam.evaluation import run
from gradcam.zoo import efficientnet_lite0
from gradcam.zoo.demo import photograph

METHODS = (
    "grad-cam", "grad-cam++", "hires-cam", "layer-cam", "eigen-cam", "eigen-grad-cam", "fem", "ablation-cam",
)  # fmt: skip
MEASURES = (
    "average-drop", "increase-in-confidence", "average-gain", "insertion", "deletion", "road", "adcc", "infidelity",
    "max-sensitivity", "occlusion-correlation",
)  # fmt: skip


def photographs() -> dict[str, np.ndarray]:
    found = {name: photograph(name) for name in ("chelsea", "coffee", "camera", "rocket")}
    found["motorcycle"] = np.asarray(data.stereo_motorcycle()[0])
    mirrored = {
        f"{name}, mirrored": np.ascontiguousarray(found[name][:, ::-1]) for name in list(found)[:3]
    }
    return found | mirrored


class Clock:
    """Adds up the time that functions take; what one spends in another is counted once."""

    def __init__(self) -> None:
        self.seconds, self.depth = 0.0, 0

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            self.depth += 1
            try:
                return function(*args, **kwargs)
            finally:
                self.depth -= 1
                if not self.depth:
                    self.seconds += time.perf_counter() - start

        return timed


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--framework", choices=["torch", "jax"], default="torch")
    parser.add_argument("--photographs", type=int, default=8)
    parser.add_argument(
        "--profile", action="store_true", help="what takes the time, function by function"
    )
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    net = efficientnet_lite0(options.framework)
    some = dict(list(photographs().items())[: options.photographs])
    model = Clock()
    predictor = run.predictor
    run.predictor = lambda *args: model(predictor(*args))
    gradcam.Explainer.__call__ = model(gradcam.Explainer.__call__)  # type: ignore[method-assign]
    profile = cProfile.Profile()
    if options.profile:
        profile.enable()
    start = time.perf_counter()
    found = gradcam.evaluate(net, some, METHODS, MEASURES, batch=32)
    whole = time.perf_counter() - start
    profile.disable()
    print(
        f"{len(METHODS)} methods and {len(found.controls)} controls, {len(MEASURES)} measures, {len(some)} photographs"
    )
    print(
        f"{whole:.0f} s, of which {model.seconds:.0f} s ({model.seconds / whole:.0%}) in the model"
    )
    failed = [row for row in found.rows if row["failed"]]
    print(f"{len(failed)} rows failed")
    if options.profile:
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
