"""What is captured of one pass: layers' outputs, with a graph from them to the scores or without.

`run(tap)` is the pass, in which the outputs of the layers alone go through `tap`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch

from gradcam._types import Array, Outputs
from gradcam.backends.torch.gradients import Gradients
from gradcam.backends.torch.modes import IgnoreNoGrad
from gradcam.backends.torch.taps import Tap

__all__ = ["activations_alone", "in_place_of", "scored"]

Run: TypeAlias = Callable[[Tap], Outputs]


def scored(
    run: Run,
    layers: Sequence[str],
    replaced: Mapping[str, torch.Tensor],
    target: Callable[[Outputs], Array],
) -> tuple[Outputs, Gradients, Any]:
    """The outputs, activations and scores of a pass whose graph leads from layers to scores.

    replaced: activations to put in place of layers' own.
    """
    outputs, activations = _with_graph(run, layers, replaced)
    torch.set_grad_enabled(True)
    scores = target(outputs)
    if isinstance(scores, torch.Tensor) and not scores.requires_grad:
        # The model ran this part under torch.no_grad(), so there is no graph: run again with
        # those blocks ignored from the layer on.
        torch.set_grad_enabled(False)
        with IgnoreNoGrad() as blocks:
            outputs, activations = _with_graph(run, layers, replaced, blocks)
            scores = target(outputs)
    return outputs, activations, scores


def activations_alone(
    run: Run, layers: Sequence[str], replaced: Mapping[str, torch.Tensor]
) -> tuple[Outputs, Gradients]:
    """The outputs and activations of a pass that makes no graph."""
    activations = {}

    def tap(path: str, value: torch.Tensor) -> torch.Tensor:
        if path in replaced:
            value = in_place_of(value, replaced[path])
        activations[path] = value.detach().clone()  # the model may write in place into `value`
        return value

    outputs = run(tap)
    return outputs, tuple(activations[path] for path in layers)


def _with_graph(
    run: Run,
    layers: Sequence[str],
    replaced: Mapping[str, torch.Tensor],
    blocks: IgnoreNoGrad | None = None,
) -> tuple[Outputs, Gradients]:
    """The outputs and activations of a pass whose graph starts at the first of the layers.

    blocks: the mode in which the model's own no_grad blocks are ignored from there on.
    """
    activations = {}

    def tap(path: str, value: torch.Tensor) -> torch.Tensor:
        if torch.is_inference_mode_enabled():
            raise RuntimeError(
                f'layer "{path}" runs inside a torch.inference_mode() block of the model, '
                "where nothing can be differentiated; use torch.no_grad() there"
            )
        captured = replaced.get(path, value)
        if not value.requires_grad or path in replaced:
            # The first layer, or one beside it: the graph starts here.
            captured = captured.detach().requires_grad_()
        activations[path] = captured
        torch.set_grad_enabled(True)
        if blocks is not None:
            blocks.on = True
        if path in replaced:
            return in_place_of(value, captured)
        return captured.clone()  # a clone, for layers that then write in place

    outputs = run(tap)
    return outputs, tuple(activations[path] for path in layers)


def in_place_of(value: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """`other`, for a model to go on with in place of `value`.

    Where the model itself differentiates through `value`, its derivatives pass through.
    """
    if value.requires_grad:
        return other + (value - value.detach())
    return other.clone()
