"""A model's weights by name, and a copy with others: for checks that randomise them."""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Mapping
from typing import Any

from gradcam import backends
from gradcam._types import Array

__all__ = ["module_of", "replaced", "weights"]


def weights(model: Any) -> dict[str, Array]:
    """The trained arrays, without running statistics, by names that begin with their path."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(model, torch.nn.Module):
        return {name: parameter.detach() for name, parameter in model.named_parameters()}
    return dict(_jax_model(model).weights())


def replaced(model: Any, new: Mapping[str, Array]) -> Any:
    """A copy of the model with some weights replaced; the model itself stays as it is."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(model, torch.nn.Module):
        twin = copy.deepcopy(model)
        with torch.no_grad():
            for name, parameter in twin.named_parameters():
                if name in new:
                    parameter.copy_(new[name])
        return twin
    return _jax_model(model).with_weights(new)


def _jax_model(model: Any) -> Any:
    jax = sys.modules.get("jax")
    if jax is None:
        raise TypeError(
            f"the weights of a {type(model).__name__} cannot be found; pass a PyTorch or JAX model"
        )
    # of functions the inputs tell the framework
    return backends.adapt(model, inputs=jax.numpy.zeros((1, 1)))


def module_of(name: str) -> str:
    """The path of the module that a weight is in."""
    return re.split(r"[./](?=[^./]*$)", name)[0] if re.search(r"[./]", name) else ""
