"""What the array API standard leaves to each framework.

Exact matrix products, stable eigenvectors, constants on the right device, and half precision.
"""

from __future__ import annotations

import sys
from contextvars import ContextVar
from typing import Any

import array_api_compat
import numpy as np
from array_api_compat import device, is_jax_namespace, is_torch_array

from gradcam._types import Array

__all__ = [
    "SHARDED",
    "agree",
    "array_namespace",
    "compiles_each_shape",
    "constant",
    "eigh",
    "is_traced",
    "matmul",
    "quotient",
    "to_numpy",
    "widen",
]

_NAMESPACES: dict[tuple[type, ...], Any] = {}


def array_namespace(*arrays: Any) -> Any:
    """`array_api_compat.array_namespace`, with a cache.

    The namespace depends on the arrays' types alone, and every function here asks for it.
    """
    types = tuple(map(type, arrays))
    namespace = _NAMESPACES.get(types)
    if namespace is None:
        namespace = array_api_compat.array_namespace(*arrays)
        _NAMESPACES[types] = namespace
    return namespace


def compiles_each_shape(array: Array) -> bool:
    """Whether functions of such arrays are compiled anew for each shape, as JAX does."""
    return bool(is_jax_namespace(array_namespace(array)))


def matmul(a: Array, b: Array) -> Array:
    """The matrix product in the arrays' own precision.

    On an accelerator JAX would multiply float32 with fewer digits by default, and so would PyTorch
    under the caller's autocast.
    """
    xp = array_namespace(a, b)
    if is_jax_namespace(xp):
        return xp.matmul(a, b, precision="highest")
    if is_torch_array(a):
        torch = sys.modules["torch"]
        kind = a.device.type
        # Entering autocast costs time, so it is entered only where there is one to switch off.
        if torch.is_autocast_enabled(kind):
            with torch.autocast(kind, enabled=False):
                return xp.matmul(a, b)
    return xp.matmul(a, b)


def eigh(array: Array) -> tuple[Array, Array]:
    """Eigenvalues (..., n), ascending, and vectors (..., n, n) of symmetric matrices (..., n, n).

    JAX decomposes a batch on one CPU one matrix at a time, because jaxlib's batched kernel can
    deadlock. The kernel hands parts of the batch to the thread pool that it runs on itself, and
    waits for them. Where as many kernels run at once as the pool has threads, all of them wait for
    ever. Methods compared in one program do that (jaxlib 0.10.2, two cores: Eigen-CAM and KPCA-CAM
    of 8 maps in one `compare`). A batch that is sharded over several devices stays sharded, and is
    decomposed as one batch on each device.
    """
    xp = array_namespace(array)
    if not is_jax_namespace(xp) or array.ndim < 3 or SHARDED.get() or _is_sharded(array):
        values, vectors = xp.linalg.eigh(array)
        return values, vectors
    jax = sys.modules["jax"]

    def one_matrix(matrix: Array) -> tuple[Array, Array]:
        return tuple(xp.linalg.eigh(matrix))

    def in_turn(matrices: Array) -> tuple[Array, Array]:
        return tuple(jax.lax.map(one_matrix, matrices))

    def at_once(matrices: Array) -> tuple[Array, Array]:
        return tuple(xp.linalg.eigh(matrices))

    matrices = array.reshape(-1, *array.shape[-2:])
    values, vectors = jax.lax.platform_dependent(matrices, cpu=in_turn, default=at_once)
    return values.reshape(array.shape[:-1]), vectors.reshape(array.shape)


SHARDED: ContextVar[bool] = ContextVar("SHARDED", default=False)
"""Whether a JAX program is being traced for a batch that is sharded over several devices.

The tracers of such a batch do not always know it themselves.
"""


def _is_sharded(array: Array) -> bool:
    jax = sys.modules["jax"]
    if isinstance(array, jax.core.Tracer):
        return any(axis is not None for axis in jax.typeof(array).sharding.spec)
    return len(array.sharding.device_set) > 1


def is_traced(array: Array) -> bool:
    """Whether JAX is tracing the array, inside jit, grad or vmap: then it has no numbers yet."""
    jax = sys.modules.get("jax")
    return jax is not None and isinstance(array, jax.core.Tracer)


def quotient(numerator: Array, denominator: Array) -> Array:
    """numerator / denominator, and 0 where the denominator is 0. No epsilon is added to it."""
    xp = array_namespace(numerator, denominator)
    is_zero = denominator == 0
    # Dividing by 1 there, and not by 0, keeps NaN out of the derivative as well.
    ratio = numerator / xp.where(is_zero, xp.ones_like(denominator), denominator)
    return xp.where(is_zero, xp.zeros_like(ratio), ratio)


def constant(value: np.ndarray, like: Array, dtype: Any = None) -> Array:
    """`value` as an array of the framework of `like`, on its device.

    dtype: that of the result; None takes that of `like`.
    """
    xp = array_namespace(like)
    if dtype is None:
        dtype = like.dtype
    if is_jax_namespace(xp):
        # The `device` of a sharded array is a sharding, which fits its own shape and not this one.
        return xp.asarray(value, dtype=dtype)
    return xp.asarray(value, dtype=dtype, device=device(like))


def widen(array: Array) -> Array:
    """Half precision as float32, so that sums over positions keep their digits.

    An array of any other dtype is returned as it is.
    """
    xp = array_namespace(array)
    # The substring covers float16 and bfloat16 in every framework's spelling.
    if "float16" in str(array.dtype):
        return xp.astype(array, xp.float32)
    return array


def to_numpy(array: Array) -> np.ndarray:
    """The array as NumPy, on the host. bfloat16, which NumPy lacks, becomes float32."""
    if is_traced(array):
        raise TypeError(
            "numbers are needed here, but inside jit, grad or vmap JAX has none yet: do this "
            "outside, with the arrays that the traced function returns"
        )
    if "bfloat16" in str(getattr(array, "dtype", "")):
        array = widen(array)
    if is_torch_array(array):
        return np.asarray(array.detach().cpu())
    return np.asarray(array)


def agree(fast: Array, slow: Array) -> bool:
    """Whether scores are equal up to rounding, relative to the largest of them.

    Two ways through a deep network may differ by more than the precision e of their dtype, and are
    allowed e^(2/3): 4e-11 in float64, 2e-5 in float32, 1e-2 in float16. An accelerator may multiply
    float32 with the 10 bits of TF32, and is allowed 1e-2.
    """
    precision = float(array_namespace(slow).finfo(slow.dtype).eps)
    if "cpu" not in str(getattr(slow, "device", "cpu")).lower():
        precision = max(precision, 2.0**-10)
    fast_scores, slow_scores = (to_numpy(scores).astype(np.float64) for scores in (fast, slow))
    if fast_scores.shape != slow_scores.shape:
        return False
    finite = np.abs(slow_scores[np.isfinite(slow_scores)])
    limit = precision ** (2 / 3) * max(finite, default=0.0)
    return bool(np.allclose(fast_scores, slow_scores, rtol=0, atol=limit, equal_nan=True))
