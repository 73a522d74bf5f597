"""What the array API standard leaves to each framework: exact products, constants in place, half precision."""

from __future__ import annotations

import sys
from contextvars import ContextVar
from typing import Any

import array_api_compat
import numpy as np
from array_api_compat import device, is_jax_namespace, is_torch_array

from gradcam._types import Array

__all__ = [
    "SPREAD",
    "array_namespace",
    "compiles_each_shape",
    "constant",
    "eigh",
    "matmul",
    "quotient",
    "to_numpy",
    "widen",
]

_NAMESPACES: dict[tuple[type, ...], Any] = {}


def array_namespace(*arrays: Any) -> Any:
    """`array_api_compat.array_namespace`, remembered for each combination of types: it is asked for a lot."""
    kinds = tuple(map(type, arrays))
    found = _NAMESPACES.get(kinds)
    if found is None:
        found = _NAMESPACES[kinds] = array_api_compat.array_namespace(*arrays)
    return found


def compiles_each_shape(array: Array) -> bool:
    """Whether functions of such arrays are compiled anew for each shape, as JAX does."""
    return bool(is_jax_namespace(array_namespace(array)))


def matmul(a: Array, b: Array) -> Array:
    """The matrix product in the arrays' own precision: JAX would take less of float32 on an accelerator, and PyTorch
    under the caller's autocast."""
    xp = array_namespace(a, b)
    if is_jax_namespace(xp):
        return xp.matmul(a, b, precision="highest")
    if is_torch_array(a) and (torch := sys.modules["torch"]).is_autocast_enabled(a.device.type):
        with torch.autocast(a.device.type, enabled=False):
            return xp.matmul(a, b)
    return xp.matmul(a, b)


def eigh(array: Array) -> tuple[Array, Array]:
    """Eigenvalues (..., n), ascending, and vectors (..., n, n) of symmetric matrices (..., n, n).

    JAX on one CPU is given them one at a time. Of a batch, jaxlib's kernel hands parts to the pool of threads that it
    runs on itself, and waits: where as many run at once as there are threads, as methods compared in one program do,
    all wait for ever (jaxlib 0.10.2, two cores: Eigen-CAM and KPCA-CAM of 8 maps in one `compare`). A batch that
    is known to lie on several devices stays there, and is one batch on each.
    """
    xp = array_namespace(array)
    if not is_jax_namespace(xp) or array.ndim < 3 or SPREAD.get() or _lies_spread(array):
        values, vectors = xp.linalg.eigh(array)
        return values, vectors
    jax = sys.modules["jax"]

    def in_turn(flat: Array) -> tuple[Array, Array]:
        return tuple(jax.lax.map(lambda one: tuple(xp.linalg.eigh(one)), flat))

    def at_once(flat: Array) -> tuple[Array, Array]:
        return tuple(xp.linalg.eigh(flat))

    flat = array.reshape(-1, *array.shape[-2:])
    values, vectors = jax.lax.platform_dependent(flat, cpu=in_turn, default=at_once)
    return values.reshape(array.shape[:-1]), vectors.reshape(array.shape)


SPREAD: ContextVar[bool] = ContextVar("SPREAD", default=False)
"""Whether the batch that a JAX program is traced for lies on several devices, which its tracers do not always tell."""


def _lies_spread(array: Array) -> bool:
    jax = sys.modules["jax"]
    if isinstance(array, jax.core.Tracer):
        return any(axis is not None for axis in jax.typeof(array).sharding.spec)
    return len(array.sharding.device_set) > 1


def quotient(numerator: Array, denominator: Array) -> Array:
    """numerator / denominator, and 0 where the denominator is 0: nothing is added to it."""
    xp = array_namespace(numerator, denominator)
    zero = denominator == 0
    found = numerator / xp.where(zero, xp.ones_like(denominator), denominator)
    return xp.where(zero, xp.zeros_like(found), found)


def constant(value: np.ndarray, like: Array, dtype: Any = None) -> Array:
    """`value` in the namespace and place of `like`, and in its dtype unless told."""
    xp = array_namespace(like)
    dtype = like.dtype if dtype is None else dtype
    if is_jax_namespace(xp):
        # the device of a sharded array is a sharding, of another shape than this constant's
        return xp.asarray(value, dtype=dtype)
    return xp.asarray(value, dtype=dtype, device=device(like))


def widen(array: Array) -> Array:
    """Half precision as float32, so that sums over positions keep their digits; anything else as it is."""
    xp = array_namespace(array)
    if "float16" in str(array.dtype):  # float16 and bfloat16, in every framework's spelling
        return xp.astype(array, xp.float32)
    return array


def to_numpy(array: Array) -> np.ndarray:
    """On the host, as NumPy: bfloat16, which NumPy lacks, as float32."""
    array = widen(array) if "bfloat16" in str(getattr(array, "dtype", "")) else array
    if is_torch_array(array):
        return np.asarray(array.detach().cpu())
    return np.asarray(array)
