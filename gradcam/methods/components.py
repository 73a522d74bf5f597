"""Principal components whose sign does not depend on the library that computed them.

A decomposition leaves the sign of a component open, and libraries choose differently. Here each
component is turned to agree with a reference (`oriented`), mostly the sum over channels.
"""

from __future__ import annotations

from gradcam._arrays import array_namespace, eigh, matmul
from gradcam._types import Array
from gradcam.maps import relu

__all__ = [
    "beyond_rounding",
    "channel_sum",
    "first_component",
    "first_kernel_component",
    "oriented",
]


def _largest_eigenpair(gram: Array) -> tuple[Array, Array]:
    """The largest eigenvalue (..., 1) and its unit vector (..., n, 1) of matrices (..., n, n)."""
    values, vectors = eigh(gram)
    return values[..., -1:], vectors[..., -1:]


def beyond_rounding(value: Array, size: Array, terms: int) -> Array:
    """`value`, and exactly 0 where it may be rounding: that of `terms` numbers of size `size`."""
    xp = array_namespace(value, size)
    rounding = terms * float(xp.finfo(value.dtype).eps) * size
    return xp.where(xp.abs(value) <= rounding, xp.zeros_like(value), value)


def channel_sum(values: Array) -> Array:
    """The sum over channels: (..., C, P) -> (..., P).

    It is exactly 0 where the channels cancel, as they do behind layer normalisation.
    """
    xp = array_namespace(values)
    total = xp.sum(values, axis=-2)
    return beyond_rounding(total, xp.sum(xp.abs(values), axis=-2), int(values.shape[-2]))


def oriented(component: Array, reference: Array) -> Array:
    """The component or its negative, whichever agrees with the reference: (..., P) both.

    The sign is that of their inner product. Where that is 0, the entry of largest magnitude is
    positive.
    """
    xp = array_namespace(component, reference)
    agreement = xp.sum(component * reference, axis=-1, keepdims=True)
    low = xp.min(component, axis=-1, keepdims=True)
    high = xp.max(component, axis=-1, keepdims=True)
    is_reversed = xp.where(agreement == 0, -low > high, agreement < 0)
    return xp.where(is_reversed, -component, component)


def first_component(values: Array) -> Array:
    r"""The projection of each position on the first right singular vector: (..., C, P) -> (..., P).

    $\sigma_1 u_1$ of the matrix positions by channels, not centred, through the eigenvectors of the
    smaller of its two Gram matrices. It is turned to agree with the sum over channels. Where all
    values have one sign, the component has that sign too.
    """
    xp = array_namespace(values)
    size = xp.max(xp.abs(values), axis=(-2, -1), keepdims=True)
    # Scaled to 1 at most, because squares of small numbers would underflow.
    unit = values / xp.where(size == 0, xp.ones_like(size), size)
    transposed = xp.matrix_transpose(unit)
    if values.shape[-1] <= values.shape[-2]:
        # The Gram matrix over positions has sigma_1^2 and u_1, (..., P, 1).
        squared, left = _largest_eigenpair(matmul(transposed, unit))
        component = left[..., 0] * xp.sqrt(relu(squared))
    else:
        # The Gram matrix over channels has v_1, (..., C, 1), and sigma_1 u_1 = A^T v_1.
        _, right = _largest_eigenpair(matmul(unit, transposed))
        component = matmul(transposed, right)[..., 0]
    return oriented(component, channel_sum(unit)) * size[..., 0]


def first_kernel_component(kernel: Array, reference: Array) -> Array:
    r"""The first component of kernel principal component analysis: (..., P, P) -> (..., P).

    $\sqrt{\lambda_1} u_1$ of the kernel, centred in feature space and turned to agree with the
    reference. It is 0 where $\lambda_1$ is not positive, or no more than the kernel's rounding.
    """
    xp = array_namespace(kernel)
    positions = int(kernel.shape[-1])
    rows = xp.mean(kernel, axis=-1, keepdims=True)
    centred = kernel - rows - xp.matrix_transpose(rows) + xp.mean(rows, axis=-2, keepdims=True)
    values, vectors = eigh(centred)
    kernel_size = xp.max(xp.abs(kernel), axis=(-2, -1))[..., None]
    largest = beyond_rounding(values[..., -1:], kernel_size, positions)
    # The component is centred, so the reference is too. Its rounding must not choose the sign.
    deviation = reference - xp.mean(reference, axis=-1, keepdims=True)
    reference_size = xp.max(xp.abs(reference), axis=-1, keepdims=True)
    deviation = beyond_rounding(deviation, reference_size, positions)
    return oriented(vectors[..., -1] * xp.sqrt(relu(largest)), deviation)
