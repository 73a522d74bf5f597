"""One pass of a model, made again where PyTorch allows it in another way alone.

A pass starts without a graph. That fails for two kinds of models, and PyTorch says so by an error:

- The model differentiates something itself, such as an energy for forces, in the grad mode that it
  is called in; or it writes into a view that was made before the layers. Then the graph has to
  start with the model.
- Some of its tensors were made under `inference_mode`, such as anchors that it keeps from an
  earlier call, and no graph can hold those. A copy of the model has normal tensors.

A model in training mode is changed by each pass, so that a copy of it makes all of them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch

from gradcam._types import Inputs, Outputs
from gradcam.backends.torch.modes import undisturbed
from gradcam.inputs import first_array

__all__ = ["needs_graph", "outputs_of", "passed", "training_copy"]

T = TypeVar("T")

_NEEDS_GRAPH = (
    "no_grad mode",
    "does not require grad",
    "to not have been used in the graph",
    "by a differentiable path",  # our own: in torch.func.grad the grad mode is that of its start
)
_NEEDS_COPY = "nference tensor"
_ELSEWHERE = ("same device", "different devices", "weight type", "MPS device")


def passed(run: Callable[[], T], renew: Callable[[], bool]) -> T:
    """`run()`, a pass, and again with a graph or after `renew()` where that is what it needs.

    renew: makes `run` use a copy of the model, if there is one that it did not use yet.
    """
    has_graph = torch.is_grad_enabled()
    try:
        return run()
    except RuntimeError as error:
        is_renewed = _NEEDS_COPY in str(error) and renew()
        if not is_renewed and (has_graph or not needs_graph(error)):
            raise
    torch.set_grad_enabled(has_graph)  # as it was when the pass began
    with torch.set_grad_enabled(has_graph or not is_renewed):
        return passed(run, renew)


def outputs_of(
    call: Callable[[torch.nn.Module, Inputs], Outputs], module: torch.nn.Module, inputs: Inputs
) -> Outputs:
    """`call(module, inputs)`. Raises ValueError for tensors without values, and TypeError for NumPy
    arrays that the module does not take. Also raises ValueError where the inputs are on another
    device than the weights, and the module does not move them.
    """
    array = first_array(inputs)
    if getattr(array, "is_meta", False) or type(array).__name__ == "FakeTensor":
        raise ValueError("`inputs` are meta or fake tensors, which have no values to explain")
    try:
        return call(module, inputs)
    except RuntimeError as error:
        weight = next(module.parameters(), None)
        here = getattr(array, "device", None)
        is_elsewhere = any(words in str(error) for words in _ELSEWHERE)
        if not is_elsewhere or weight is None or weight.device == here:
            raise
        raise ValueError(
            f"`inputs` are on {here}, and the model's weights on {weight.device}: pass "
            f'inputs.to("{weight.device}") ({error})'
        ) from error
    except (AttributeError, TypeError) as error:
        if not isinstance(array, np.ndarray):
            raise
        raise TypeError(
            "`inputs` are NumPy arrays, which this model does not take: pass tensors, as "
            f"torch.from_numpy(array) makes them ({error})"
        ) from error


def needs_graph(error: RuntimeError) -> bool:
    """Whether a model raised this because nothing is recorded for autograd."""
    return any(reason in str(error) for reason in _NEEDS_GRAPH)


@undisturbed
def training_copy(module: torch.nn.Module) -> torch.nn.Module:
    """A copy with buffers of its own, such as the statistics that batch norm changes in training.

    It shares the parameters, and tensors that were computed of them, which could not be copied.
    """
    shared: list[torch.Tensor] = list(module.parameters())
    for part in module.modules():
        for value in vars(part).values():
            if isinstance(value, torch.Tensor) and not value.is_leaf:
                shared.append(value)
    try:
        return copy.deepcopy(module, {id(tensor): tensor for tensor in shared})
    except Exception as error:  # whatever the user's modules raise when they are copied
        raise TypeError(
            "a model in training mode changes in each pass, so allow_training=True explains a copy "
            f"of it, but this one cannot be copied ({error}); call model.eval() first"
        ) from error
