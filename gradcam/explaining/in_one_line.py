"""Explaining in one line: an explainer that is made, called once and forgotten."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from inspect import signature
from typing import Any, Never, Unpack

from gradcam import layouts
from gradcam._progress import Progress
from gradcam._types import Inputs, LayerLike
from gradcam.backends import entry
from gradcam.explaining.comparison import Comparison
from gradcam.explaining.explainer import Explainer
from gradcam.explaining.explanation import Explanation
from gradcam.explaining.smoothing import Smoothing
from gradcam.inputs import InputKey
from gradcam.maps import Fusion
from gradcam.methods import MethodLike, MethodParameters
from gradcam.targets import TargetLike

__all__ = ["compare", "explain"]


@entry
def explain(
    model: Any,
    inputs: Inputs,
    layer: LayerLike = None,
    target: TargetLike = None,
    method: MethodLike = "grad-cam",
    *,
    relu: bool = True,
    layout: layouts.Spec = None,
    input_key: InputKey | None = None,
    fusion: Fusion = "mean",
    smoothing: Smoothing | None = None,
    batch: int = 32,
    progress: Progress = False,
    check: bool = True,
    allow_training: bool = False,
    **parameters: Unpack[MethodParameters],
) -> Explanation:
    """Where did the model look to give this score? One line; see `Explainer` for all that it takes.

    `maps` of the result are (N, *grid), or (N, K, *grid) for (N, K) targets: raw, in the model's
    own framework. A JAX program is compiled once for models of equal structure, also over many
    calls of this function.
    """
    explainer = Explainer(
        model,
        layer,
        method,
        relu=relu,
        layout=layout,
        input_key=input_key,
        fusion=fusion,
        smoothing=smoothing,
        batch=batch,
        progress=progress,
        check=check,
        allow_training=allow_training,
        **parameters,
    )
    return explainer(inputs, target)


@entry
def compare(
    model: Any,
    inputs: Inputs,
    layer: LayerLike = None,
    target: TargetLike = None,
    methods: Sequence[MethodLike] = ("grad-cam",),
    *,
    relu: bool = True,
    layout: layouts.Spec = None,
    input_key: InputKey | None = None,
    fusion: Fusion = "mean",
    smoothing: Smoothing | None = None,
    batch: int = 32,
    progress: Progress = False,
    check: bool = True,
    allow_training: bool = False,
    **unknown: Never,
) -> Comparison:
    """Several methods on one layer from one forward and one backward pass: {method: Explanation}.

    methods: names, functions, or pairs `("layer-cam", {"gamma": 2.0})`, which are named with their
        parameters.
    The rest is that of `Explainer`.
    """
    for name in unknown:
        near = difflib.get_close_matches(name, signature(compare).parameters, n=1)
        hint = "give a method's own parameters with it, "
        hint += f'as in methods=[("layer-cam", {{"{name}": ...}})]'
        if near:
            hint = f"did you mean `{near[0]}`?"
        raise TypeError(f"`{name}` is no option of gradcam.compare; {hint}")
    explainer = Explainer(
        model,
        layer,
        relu=relu,
        layout=layout,
        input_key=input_key,
        fusion=fusion,
        smoothing=smoothing,
        batch=batch,
        progress=progress,
        check=check,
        allow_training=allow_training,
    )
    return explainer.compare(inputs, target, methods)
