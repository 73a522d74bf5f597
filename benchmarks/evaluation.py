"""How long an evaluation takes, and how much of that the model takes.

    .venv-bench/bin/python benchmarks/evaluation.py [--framework jax]

It evaluates 8 methods by 10 measures on 8 photographs with the demo network. Prints the total time,
and the part that was spent in the model, explaining and predicting.
"""

from __future__ import annotations

import cProfile
import pstats
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from common import argument_parser
from skimage import data

import gradcam
from gradcam.evaluation import run
from gradcam.zoo import efficientnet_lite0
from gradcam.zoo.demo import photograph

METHODS = (
    "grad-cam",
    "grad-cam++",
    "hires-cam",
    "layer-cam",
    "eigen-cam",
    "eigen-grad-cam",
    "fem",
    "ablation-cam",
)
MEASURES = (
    "average-drop",
    "increase-in-confidence",
    "average-gain",
    "insertion",
    "deletion",
    "road",
    "adcc",
    "infidelity",
    "max-sensitivity",
    "occlusion-correlation",
)


def photographs() -> dict[str, np.ndarray]:
    """Five photographs, and three of them mirrored."""
    images = {name: photograph(name) for name in ("chelsea", "coffee", "camera", "rocket")}
    images["motorcycle"] = np.asarray(data.stereo_motorcycle()[0])
    for name in list(images)[:3]:
        images[f"{name}, mirrored"] = np.ascontiguousarray(images[name][:, ::-1])
    return images


class Clock:
    """Adds up the time that functions take. Time in a call within a call counts once."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.depth = 0

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
    parser = argument_parser(__doc__, frameworks=("torch", "jax"))
    parser.add_argument("--photographs", type=int, default=8)
    parser.add_argument("--profile", action="store_true", help="print the time of each function")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    net = efficientnet_lite0(options.framework)
    images = dict(list(photographs().items())[: options.photographs])
    model = Clock()
    predictor = run.predictor
    run.predictor = lambda *args: model(predictor(*args))
    gradcam.Explainer.__call__ = model(gradcam.Explainer.__call__)  # type: ignore[method-assign]
    profile = cProfile.Profile()
    if options.profile:
        profile.enable()
    start = time.perf_counter()
    result = gradcam.evaluate(net, images, METHODS, MEASURES, batch=32)
    total = time.perf_counter() - start
    profile.disable()
    print(
        f"{len(METHODS)} methods and {len(result.controls)} controls, {len(MEASURES)} measures, "
        f"{len(images)} photographs"
    )
    share = model.seconds / total
    print(f"{total:.0f} s, of which {model.seconds:.0f} s ({share:.0%}) in the model")
    failed = [row for row in result.rows if row["failed"]]
    print(f"{len(failed)} rows failed")
    if options.profile:
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
