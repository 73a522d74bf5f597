"""Every operation in double precision, whatever dtypes a model asks for.

`module.double()` converts parameters alone. A model that goes on in a dtype of its own choice, as
with `x.float().softmax(-1)` or a Keras policy, loses the digits again:

    x.double().float().softmax(-1)                             float32
    with InDouble():
        x.float().softmax(-1)                                  float64: `float` is not obeyed
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._pytree import tree_map

from gradcam._types import Inputs, Outputs
from gradcam.backends.torch.modes import DispatchMode, undisturbed

__all__ = ["double_copy", "in_double", "widened"]


class InDouble(DispatchMode):
    """While it is on, floating-point operands, and dtypes that are asked for, become float64.

    What an operation writes into a tensor that exists, such as a buffer, is rounded to its dtype.
    """

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        wide_args, wide_kwargs = tree_map(widened, (args, dict(kwargs or {})))
        result = func(*wide_args, **wide_kwargs)
        written = [
            (given, wide)
            for argument, given, wide in _pairs(func, args, kwargs or {}, wide_args, wide_kwargs)
            if argument.alias_info is not None and argument.alias_info.is_write
        ]
        if not written:
            return tree_map(widened, result)  # a new array, such as that of `torch.zeros`
        for given, wide in written:
            if given is not wide:
                given.copy_(wide)
                if result is wide:
                    result = given
        return result


@undisturbed
def double_copy(module: torch.nn.Module) -> torch.nn.Module | None:
    """A copy with parameters and buffers in float64, if the module can be copied."""
    try:
        return copy.deepcopy(module).double()
    except Exception:  # whatever the user's modules raise when they are copied
        return None


def in_double(call: Callable[[torch.nn.Module, Inputs], Outputs]) -> Callable[..., Outputs]:
    """`call(module, inputs)` with every operation in float64."""

    def called(module: torch.nn.Module, inputs: Inputs) -> Outputs:
        with InDouble():
            return call(module, inputs)

    return called


def widened(value: Any) -> Any:
    """A floating-point tensor or dtype as float64, anything else as it is."""
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        return value.double()
    if isinstance(value, torch.dtype) and value.is_floating_point:
        return torch.float64
    return value


def _pairs(
    func: Any,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    wide_args: Sequence[Any],
    wide_kwargs: Mapping[str, Any],
) -> list[tuple[Any, Any, Any]]:
    """(argument of the schema, value as given, value as used) of all that were given."""
    pairs = []
    for i, argument in enumerate(func._schema.arguments):
        if i < len(args):
            pairs.append((argument, args[i], wide_args[i]))
        elif argument.name in kwargs:
            pairs.append((argument, kwargs[argument.name], wide_kwargs[argument.name]))
    return pairs
