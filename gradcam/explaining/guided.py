r"""Gradients at the input itself, with ReLUs that pass evidence for the target alone: fine detail
for a coarse map.

Where a ReLU $y = \max(x, 0)$ lies on the way back from the score, what comes in, $R_\text{out}$,
goes on as

- guided backpropagation: $R_\text{in} = R_\text{out} \, [x > 0] \, [R_\text{out} > 0]$
  (Springenberg et al. 2014, section 3.4, https://arxiv.org/abs/1412.6806)
- deconvnet: $R_\text{in} = R_\text{out} \, [R_\text{out} > 0]$
  (Zeiler and Fergus 2013, section 2.1, https://arxiv.org/abs/1311.2901)

and all other layers as in the gradient. The model stays as it is; ReLUs are found in what it
computes. In both frameworks these are the module, function, method and in-place forms of ReLU,
ReLU6 and hardtanh from 0, a clamp or maximum at 0 and `where(x > 0, x, 0)`. One that is multiplied
out, `x * (x > 0)`, or hidden in an autograd function of your own, passes its plain derivative.

GELU, SiLU, Softplus, ELU, LeakyReLU and their kind are no ReLUs. With `smooth="plain"` they pass
their derivative; with `smooth="guided"` a smooth activation $f$ follows the generalised rule
$R_\text{in} = f'(x) \, R_\text{out} \, [x > 0] \, [R_\text{out} > 0]$, or for deconvnet the same
rule as a ReLU.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, Unpack, get_args

from gradcam import layouts
from gradcam import maps as map_math
from gradcam._arrays import to_numpy
from gradcam._progress import Progress
from gradcam._types import Array, Inputs, LayerLike, Outputs
from gradcam.backends import entry
from gradcam.explaining.in_one_line import explain
from gradcam.explaining.prepare import NO_LAYER, Prepared, prepare, settle, shown_target, unwrap
from gradcam.explaining.smoothing import Smoothing
from gradcam.inputs import InputKey, check_floating, first_array
from gradcam.maps import Fusion
from gradcam.methods import MethodLike, MethodParameters
from gradcam.model import HasInputGradients
from gradcam.space.input_axes import input_layout
from gradcam.targets import TargetLike

__all__ = ["Guided", "guided_backprop", "guided_grad_cam"]

Rule = Literal["guided", "deconvnet"]
Smooth = Literal["plain", "guided"]


@dataclass(frozen=True, eq=False)
class Guided:
    """The result of `guided_backprop` and `guided_grad_cam`, in the model's own framework.

    gradients: signed, in the input's shape (N, ...), or (N, K, ...) for K targets.
    scores: what was explained, (N,) or (N, K).
    target: whose scores these are: class indices, or the function that was passed.
    """

    gradients: Array
    scores: Array
    target: Any

    @entry
    def numpy(self) -> Guided:
        """The same with NumPy arrays."""
        target = to_numpy(self.target) if hasattr(self.target, "shape") else self.target
        return Guided(to_numpy(self.gradients), to_numpy(self.scores), target)


@dataclass(frozen=True)
class _Backward:
    """What a backend that compiles may compile."""

    rule: Rule
    smooth: Smooth

    def __call__(self, model: Any, inputs: Inputs, target: Any) -> tuple[Array, Array, Outputs]:
        capture = model.input_gradients(inputs, target, self.rule, self.smooth)
        return capture.gradients[0], capture.scores, capture.outputs


@entry
def guided_backprop(
    model: Any,
    inputs: Inputs,
    target: TargetLike = None,
    *,
    rule: Rule = "guided",
    smooth: Smooth = "plain",
    input_key: InputKey | None = None,
    allow_training: bool = False,
) -> Guided:
    """Guided backpropagation, or the deconvnet, from the score of `target` to the input.

    See the module `gradcam.guided` for the equations, the papers, and what is found to be a ReLU.

    model, target: as in `gradcam.Explainer`; the model is one of PyTorch or JAX.
    inputs: what the model is called with. Of several arrays the gradient is that of the one that
        `input_key` names, or of the first with three or more axes, else of the first; it must be of
        floating point: for token ids, pass embeddings to the layers behind them.
    rule: "guided" or "deconvnet".
    smooth: what activations such as GELU do: "plain", their derivative, or "guided".
    allow_training: take a PyTorch model that is in training mode all the same.

    Every ReLU between the input and the score follows the rule, those of a target function too. It
    is an error where there is none (or only smooth activations, and these are plain): it would be
    the gradient by another name.
    """
    _check_choice("rule", rule, Rule)
    _check_choice("smooth", smooth, Smooth)
    prepared = _prepared(model, inputs, target, input_key, allow_training)
    gradients, scores, outputs = prepared.run(_Backward(rule, smooth))
    return Guided(gradients, scores, shown_target(settle(prepared.target, outputs)))


@entry
def guided_grad_cam(
    model: Any,
    inputs: Inputs,
    layer: LayerLike = None,
    target: TargetLike = None,
    method: MethodLike = "grad-cam",
    *,
    rule: Rule = "guided",
    smooth: Smooth = "plain",
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
) -> Guided:
    """Guided Grad-CAM: guided backpropagation times the Grad-CAM map, resized to the input.

    Selvaraju et al. 2017, section 3.2, https://arxiv.org/abs/1610.02391. The map is raw and ReLU'd,
    and interpolated linearly, as in the paper: its amplitude stays in the product. All channels of
    the input share it.

    rule, smooth: as in `guided_backprop`. The rest is that of `gradcam.Explainer`, but the input
        must have channels and as many spatial axes as the map.
    """
    _prepared(model, inputs, target, input_key, allow_training)
    explanation = explain(
        model,
        inputs,
        layer,
        target,
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
    axes = explanation.axes[0] if isinstance(explanation.axes, tuple) else explanation.axes
    if axes is not None and axes.input is not None:
        input_key = axes.input
    prepared = _prepared(model, inputs, target, input_key, allow_training)
    array = first_array(prepared.inputs)
    positions = input_layout(axes, prepared.model, prepared.inputs)
    backward = guided_backprop(
        unwrap(model)[0],
        inputs,
        explanation.target,
        rule=rule,
        smooth=smooth,
        input_key=input_key,
        allow_training=allow_training,
    )
    grid = tuple(explanation.maps.shape[explanation.scores.ndim :])
    if positions is None or len(grid) != len(positions.grid):
        raise ValueError(
            "Guided Grad-CAM needs `inputs` with channels and as many spatial axes as the map, but "
            f"they have shape {tuple(array.shape)} and the map's grid is {grid}"
        )
    resized = map_math.resize(explanation.maps, positions.grid)
    return replace(backward, gradients=backward.gradients * positions.broadcast(resized))


def _prepared(
    model: Any,
    inputs: Inputs,
    target: TargetLike,
    input_key: InputKey | None,
    allow_training: bool,
) -> Prepared:
    """The prepared model, if its backend can do this and its input has a gradient."""
    prepared = prepare(
        model, inputs, NO_LAYER, target, input_key=input_key, allow_training=allow_training
    )
    if not isinstance(prepared.model, HasInputGradients):
        raise TypeError(
            "guided backpropagation changes how ReLUs are differentiated, which "
            f"{type(prepared.model).__name__} cannot: it has no `input_gradients`; pass a "
            "PyTorch or JAX model"
        )
    check_floating(prepared.inputs, "guided backpropagation needs a gradient at the input")
    return prepared


def _check_choice(name: str, value: str, choices: Any) -> None:
    if value not in get_args(choices):
        known = " or ".join(f'"{choice}"' for choice in get_args(choices))
        raise ValueError(f"`{name}` must be {known}, but is {value!r}")
