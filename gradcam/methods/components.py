"""Principal components with a sign that does not depend on the library that computed them."""

from __future__ import annotations

from gradcam._arrays import array_namespace, eigh, matmul
from gradcam._types import Array
from gradcam.maps import relu

__all__ = ["channel_sum", "first_component", "first_kernel_component", "oriented"]


def _largest_eigenpair(gram: Array) -> tuple[Array, Array]:
    """(..., n, n) symmetric -> the largest eigenvalue (..., 1), and its vector (..., n, 1), of unit length."""
    values, vectors = eigh(gram)
    return values[..., -1:], vectors[..., -1:]


def _beyond_rounding(value: Array, size: Array, terms: int) -> Array:
    """`value`, and 0 where it is no more than rounding leaves of `terms` numbers of this size that cancel."""
    xp = array_namespace(value, size)
    rounding = terms * float(xp.finfo(value.dtype).eps) * size
    return xp.where(xp.abs(value) <= rounding, xp.zeros_like(value), value)


def channel_sum(values: Array) -> Array:
    """The sum over channels, exactly 0 where they cancel, as behind layer normalisation: (..., C, P) -> (..., P)."""
    xp = array_namespace(values)
    return _beyond_rounding(
        xp.sum(values, axis=-2), xp.sum(xp.abs(values), axis=-2), int(values.shape[-2])
    )


def oriented(component: Array, reference: Array) -> Array:
    """The component or its negative, whichever agrees with the reference: (..., P) both.

    The sign is that of their inner product; where that is 0, the entry of largest magnitude is positive.
    """
    xp = array_namespace(component, reference)
    agreement = xp.sum(component * reference, axis=-1, keepdims=True)
    low, high = xp.min(component, axis=-1, keepdims=True), xp.max(component, axis=-1, keepdims=True)
    negative = xp.where(agreement == 0, -low > high, agreement < 0)
    return xp.where(negative, -component, component)


def first_component(values: Array) -> Array:
    r"""The projection of each position on the first right singular vector: (..., C, P) -> (..., P).

    $\sigma_1 u_1$ of the matrix positions by channels, not centred, through the eigenvectors of the smaller of its two
    Gram matrices. Turned to agree with the sum over channels; of values of one sign it then has that sign.
    """
    xp = array_namespace(values)
    size = xp.max(xp.abs(values), axis=(-2, -1), keepdims=True)
    unit = values / xp.where(
        size == 0, xp.ones_like(size), size
    )  # squares of small numbers would underflow
    transposed = xp.matrix_transpose(unit)
    if values.shape[-1] <= values.shape[-2]:
        squared, left = _largest_eigenpair(
            matmul(transposed, unit)
        )  # sigma_1^2 and u_1, (..., P, 1)
        component = left[..., 0] * xp.sqrt(relu(squared))
    else:
        component = matmul(transposed, _largest_eigenpair(matmul(unit, transposed))[1])[..., 0]
    return oriented(component, channel_sum(unit)) * size[..., 0]


def first_kernel_component(kernel: Array, reference: Array) -> Array:
    r"""The projection on the first component of kernel principal component analysis: (..., P, P) -> (..., P).

    $\sqrt{\lambda_1} u_1$ of the kernel, centred in feature space; turned to agree with the reference. 0 where
    $\lambda_1$ is not positive, or no more than the rounding of the kernel.
    """
    xp = array_namespace(kernel)
    positions = int(kernel.shape[-1])
    rows = xp.mean(kernel, axis=-1, keepdims=True)
    centred = kernel - rows - xp.matrix_transpose(rows) + xp.mean(rows, axis=-2, keepdims=True)
    values, vectors = eigh(centred)
    largest = _beyond_rounding(
        values[..., -1:], xp.max(xp.abs(kernel), axis=(-2, -1))[..., None], positions
    )
    spread = reference - xp.mean(reference, axis=-1, keepdims=True)
    spread = _beyond_rounding(spread, xp.max(xp.abs(reference), axis=-1, keepdims=True), positions)
    return oriented(vectors[..., -1] * xp.sqrt(relu(largest)), spread)
