"""The scores in a model's outputs, and the rule by which a target's values fit the samples.

A target holds values: class indices, masks, boxes, embeddings, tokens. One value, an item, has the
shape S: () for a class, (H, W) for a mask. The target may hold one item, N, K or N K of them, as
the table in `gradcam.targets` says. The functions below apply that table once for all targets:

    as_numbers, as_integers    what the user passed, as an array
    check_shapes, check_range  errors where the values do not fit the outputs
    expand, expand_indices     (1 or N, K, *S), so that one formula covers all rows of the table
    gather                     the scores at such indices
    squeeze                    scores (N, K) back to (N,) where no value asked for K

An array comes with the names of its item's axes, such as ("H", "W"), which messages show.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from array_api_compat import is_array_api_obj, is_jax_namespace

from gradcam._arrays import array_namespace, constant, to_numpy, widen
from gradcam._types import Array, Outputs

__all__ = [
    "as_integers",
    "as_numbers",
    "check_range",
    "check_shapes",
    "class_scores",
    "expand",
    "expand_indices",
    "gather",
    "log_softmax",
    "logits",
    "squeeze",
]


def logits(outputs: Outputs) -> Array:
    """The array of the outputs that holds the scores.

    It is an array itself, `.logits` of an object, "logits" of a mapping, "out" as in torchvision's
    segmentation models, or the first of a tuple or list. Anything else is a TypeError.
    """
    if is_array_api_obj(outputs):
        return outputs
    if getattr(outputs, "logits", None) is not None:
        return outputs.logits
    keys = ""
    if isinstance(outputs, Mapping):
        for key in ("logits", "out"):
            if key in outputs:
                return outputs[key]
        keys = f" with keys {list(outputs)}"
    if isinstance(outputs, (tuple, list)) and len(outputs) > 0 and is_array_api_obj(outputs[0]):
        return outputs[0]
    raise TypeError(
        f"no class scores were found in the model's outputs, a {type(outputs).__name__}{keys}; "
        "pass `target` as a function of the outputs that returns scores of shape (N,), such as "
        'lambda outputs: outputs["scores"][:, 3]'
    )


def class_scores(outputs: Outputs) -> Array:
    """The `logits` of a classifier, (N, K). Those of another shape are a ValueError."""
    scores = logits(outputs)
    if scores.ndim == 2:
        return scores
    example = "lambda outputs: outputs"
    if scores.ndim != 1:
        spatial_axes = tuple(range(2 - scores.ndim, 0))
        example = f"lambda outputs: outputs[:, 3].mean({spatial_axes})"
    raise ValueError(
        "a class index needs outputs of shape (N, K), but the model returned "
        f"{tuple(scores.shape)}; pass `target` as a function, such as {example}"
    )


def log_softmax(scores: Array) -> Array:
    """The logarithm of the softmax over the last axis, in float32 at least.

    It is exact where the probabilities themselves underflow.
    """
    scores = widen(scores)
    xp = array_namespace(scores)
    below_largest = scores - xp.max(scores, axis=-1, keepdims=True)
    return below_largest - xp.log(xp.sum(xp.exp(below_largest), axis=-1, keepdims=True))


# ------------------------------------------------------------------------ values from the user


def as_numbers(value: Any, name: str, item: tuple[str, ...] | None = None) -> Array:
    """A user's value as an array. A framework's array stays as it is; anything else is copied.

    name: that of the argument, for messages.
    item: the names of the axes of one item; None where only the outputs know them.
    """
    # Integers become float64, so that 2 and 2.5 are arguments of the same compiled program.
    return _as_array(value, name, item, kinds="fiub", noun="numbers", integers=np.float64)


def as_integers(value: Any, name: str, item: tuple[str, ...] = ()) -> Array:
    """A user's class indices or tokens as an array: `as_numbers` of integers alone."""
    return _as_array(value, name, item, kinds="iu", noun="ints", integers=np.int32)


def _as_array(
    value: Any, name: str, item: tuple[str, ...] | None, kinds: str, noun: str, integers: type
) -> Array:
    """`as_numbers` of the kinds of dtype that are allowed; `integers` is the dtype for integers."""
    if is_array_api_obj(value) and not isinstance(value, (np.ndarray, np.generic)):
        return value
    try:
        array = np.array(value)
    except ValueError as error:
        raise ValueError(
            f"`{name}` {value!r} is ragged: every sample needs as many {noun}"
        ) from error
    if array.dtype.kind not in kinds:
        raise TypeError(f"`{name}` must be {noun}, or an array of them, but is {value!r}")
    if array.size == 0:
        raise ValueError(f"`{name}` is empty")
    if item is not None and not len(item) <= array.ndim <= len(item) + 2:
        raise ValueError(f"`{name}` of shape {array.shape} is not {_allowed_shapes(item)}")
    if array.dtype.kind in "iu":
        return array.astype(integers)
    return array


def check_shapes(samples: int, **values: tuple[Array, tuple[str, ...]]) -> None:
    """Raise a ValueError where values do not fit the batch, or have different K.

    samples: N, the size of the batch.
    values: by the argument's name, its array and the names of the axes of one item.
    """
    counts = {}
    for name, (value, item) in values.items():
        shape = tuple(int(n) for n in value.shape)
        leading = shape[: len(shape) - len(item)]
        if len(shape) < len(item) or len(leading) > 2:
            raise ValueError(f"`{name}` of shape {shape} is not {_allowed_shapes(item)}")
        if len(leading) == 2:
            counts[name] = leading[1]
        # A leading 1 means "the same for all samples", but only in front of K.
        if leading and leading[0] != samples and not (len(leading) == 2 and leading[0] == 1):
            raise ValueError(
                f"`{name}` of shape {shape} is for {leading[0]} samples, but the batch has "
                f"{samples}; pass {_allowed_shapes(item)} for K maps per sample"
            )
    if len(set(counts.values())) > 1:
        listing = ", ".join(f"`{name}` {count}" for name, count in counts.items())
        raise ValueError(
            f"the values of a target must be as many for each sample, but are {listing}"
        )


def _allowed_shapes(item: tuple[str, ...]) -> str:
    """The rows of the table in `gradcam.targets`, for items with these axes, as a message has them.

    >>> _allowed_shapes(("D",))
    '(D,) for all samples, (N, D), one for each, or (1, K, D) or (N, K, D)'
    """
    common = "one"
    if item:
        common = _shape_text(*item)
    per_sample = _shape_text("N", *item)
    several = f"{_shape_text('1', 'K', *item)} or {_shape_text('N', 'K', *item)}"
    return f"{common} for all samples, {per_sample}, one for each, or {several}"


def _shape_text(*axes: str) -> str:
    if len(axes) == 1:
        return f"({axes[0]},)"
    return f"({', '.join(axes)})"


def check_range(
    value: Array, count: int, name: str, noun: str, low: int = 0, ignore: int | None = None
) -> None:
    """Raise an IndexError where an index does not lie in `low` to `count - 1`.

    ignore: an index that is allowed all the same.
    """
    if not isinstance(value, np.ndarray):
        # It was found in the outputs, or only the running program knows it.
        return
    is_wrong = (value < low) | (value >= count)
    if ignore is not None:
        is_wrong &= value != ignore
    if is_wrong.any():
        raise IndexError(
            f"`{name}` {int(value[is_wrong][0])} is no {noun}: the model's outputs have {count}, "
            f"{low} to {count - 1}"
        )


# ---------------------------------------------------------------------- values for the outputs


def expand(value: Array, item: tuple[str, ...], like: Array, dtype: Any = None) -> Array:
    """A value as (1 or N, K, *item), in the framework and on the device of `like`.

    K is 1 where the value has no K. dtype: None takes that of `like`.
    """
    xp = array_namespace(like)
    if dtype is None:
        dtype = like.dtype
    if isinstance(value, np.ndarray) or array_namespace(value) is not xp:
        value = constant(to_numpy(value), like, dtype)
    if value.dtype != dtype:
        value = xp.astype(value, dtype)
    leading = value.ndim - len(item)
    if leading == 0:
        return value[None, None, ...]
    if leading == 1:
        return xp.expand_dims(value, axis=1)
    return value


def expand_indices(value: Array, like: Array, item: tuple[str, ...] = ()) -> Array:
    """`expand` for indices, in the integer type that the framework gathers with."""
    xp = array_namespace(like)
    # PyTorch gathers with int64 alone. JAX has no int64 by default.
    dtype = xp.int64
    if is_jax_namespace(xp):
        dtype = xp.int32
    return expand(value, item, like, dtype)


def gather(values: Array, index: Array) -> Array:
    """Values (N, ..., C) at an index (1 or N, ..., K) of their last axis -> (N, ..., K)."""
    xp = array_namespace(values, index)
    index = xp.broadcast_to(index, (*values.shape[:-1], index.shape[-1]))
    return xp.take_along_axis(values, index, axis=-1)


def squeeze(scores: Array, *values: tuple[Array, tuple[str, ...]]) -> Array:
    """Scores (N, K) where any of the values has K items for each sample; else (N,), as K is 1.

    values: arrays with the names of their item's axes.
    """
    for value, item in values:
        if value.ndim == len(item) + 2:
            return scores
    return scores[:, 0]
