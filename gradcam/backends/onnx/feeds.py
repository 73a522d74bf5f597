"""What a session is fed with: NumPy arrays by the names of the model's inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx

from gradcam._types import Inputs
from gradcam.backends.onnx.files import names_of
from gradcam.inputs import arguments

__all__ = ["feeds_of", "first_size", "kind_of"]


def feeds_of(takes: Sequence[onnx.ValueInfoProto], inputs: Inputs) -> dict[str, np.ndarray]:
    """The user's inputs by name; errors say what the model takes."""
    args, named = arguments(inputs)
    names = names_of(takes)
    listed = ", ".join(map(_described, takes))
    given = {**dict(zip(names, args, strict=False)), **named}
    if len(args) > len(names) or set(given) != set(names):
        raise TypeError(f"the model takes {listed}, but was given {sorted(given) or 'nothing'}")
    feeds = {}
    for one in takes:
        feeds[one.name] = _fed(one, given[one.name], listed)
    return feeds


def kind_of(value: onnx.ValueInfoProto) -> int:
    return int(value.type.tensor_type.elem_type)


def first_size(value: onnx.ValueInfoProto) -> int | None:
    """The number of samples that an input says it takes, where it says one."""
    dims = value.type.tensor_type.shape.dim
    return int(dims[0].dim_value) if len(dims) > 1 and dims[0].dim_value > 0 else None


def _described(value: onnx.ValueInfoProto) -> str:
    dims = [dim.dim_param or dim.dim_value or "?" for dim in value.type.tensor_type.shape.dim]
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind_of(value))
    return f'"{value.name}" ({", ".join(map(str, dims))}) {dtype}'


def _fed(value: onnx.ValueInfoProto, given: Any, listed: str) -> np.ndarray:
    """An input as the model takes it; floats of another precision are converted."""
    if not isinstance(given, (np.ndarray, np.generic)):
        kind = f"{type(given).__module__}.{type(given).__qualname__}"
        raise TypeError(
            f'input "{value.name}" is of type {kind}; an ONNX model takes NumPy arrays: pass '
            "numpy.asarray(inputs)"
        )
    array = np.asarray(given)
    wanted = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind_of(value)))
    dims = value.type.tensor_type.shape.dim
    known = value.type.tensor_type.HasField("shape")
    fits = len(dims) == array.ndim and all(
        n == 0 or dim.dim_value in (0, array.shape[n]) for n, dim in enumerate(dims)
    )
    if known and not fits:
        raise ValueError(
            f'input "{value.name}" has shape {array.shape}, but the model takes {listed}'
        )
    if array.dtype == wanted:
        return array
    floats = "fV"  # bfloat16 is of kind V
    if (array.dtype.kind in floats and wanted.kind in floats) or (
        array.dtype.kind in "iu" and wanted.kind in "iu"
    ):
        return array.astype(wanted)
    raise TypeError(f'input "{value.name}" is of {array.dtype}, but the model takes {listed}')
