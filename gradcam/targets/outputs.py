"""What targets read of the outputs, and the one rule by which their values fit the samples (see `gradcam.targets`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from array_api_compat import is_array_api_obj, is_jax_namespace

from gradcam._arrays import array_namespace, constant, to_numpy, widen
from gradcam._types import Array, Outputs

__all__ = [
    "check_range",
    "check_shapes",
    "class_scores",
    "columns",
    "each",
    "gathered",
    "indices",
    "integers",
    "log_softmax",
    "logits",
    "numbers",
]


def logits(outputs: Outputs) -> Array:
    """The one array of the outputs that has the scores.

    An array itself, `.logits` of an object, "logits" of a mapping, or "out" as in torchvision's segmentation models,
    the first of a tuple or list.
    """
    if is_array_api_obj(outputs):
        return outputs
    if getattr(outputs, "logits", None) is not None:
        return outputs.logits
    if isinstance(outputs, Mapping):
        for key in ("logits", "out"):
            if key in outputs:
                return outputs[key]
    if isinstance(outputs, (tuple, list)) and len(outputs) > 0 and is_array_api_obj(outputs[0]):
        return outputs[0]
    keys = f" with keys {list(outputs)}" if isinstance(outputs, Mapping) else ""
    raise TypeError(
        f"no class scores were found in the model's outputs, a {type(outputs).__name__}{keys}; pass `target` as a "
        'function of the outputs that returns scores of shape (N,), such as lambda outputs: outputs["scores"][:, 3]'
    )


def class_scores(outputs: Outputs) -> Array:
    """`logits` of a classifier, (N, K)."""
    scores = logits(outputs)
    if scores.ndim != 2:
        raise ValueError(
            f"a class index needs outputs of shape (N, K), but the model returned {tuple(scores.shape)}; pass `target` "
            "as a function, such as "
            + (
                "lambda outputs: outputs"
                if scores.ndim == 1
                else f"lambda outputs: outputs[:, 3].mean({tuple(range(-(scores.ndim - 2), 0))})"
            )
        )
    return scores


def log_softmax(scores: Array) -> Array:
    """Of the last axis, in float32 at least; exact where probabilities underflow."""
    xp, scores = array_namespace(scores), widen(scores)
    below = scores - xp.max(scores, axis=-1, keepdims=True)
    return below - xp.log(xp.sum(xp.exp(below), axis=-1, keepdims=True))


# ------------------------------------------------------------------------------------------ values for samples


def numbers(
    value: Any, name: str, item: tuple[str, ...] | None = None, kinds: str = "fiub"
) -> Array:
    """A user's value as an array: a framework's own as it is, anything else a copy as NumPy.

    `item` names the axes of one sample's; None where the outputs alone tell.
    """
    if is_array_api_obj(value) and not isinstance(value, (np.ndarray, np.generic)):
        return value
    what = "ints" if kinds == "iu" else "numbers"
    try:
        array = np.array(value)
    except ValueError as error:
        raise ValueError(
            f"`{name}` {value!r} is ragged: every sample needs as many {what}"
        ) from error
    if array.dtype.kind not in kinds:
        raise TypeError(f"`{name}` must be {what}, or an array of them, but is {value!r}")
    if array.size == 0:
        raise ValueError(f"`{name}` is empty")
    if item is not None and not len(item) <= array.ndim <= len(item) + 2:
        raise ValueError(f"`{name}` of shape {array.shape} is not {_spelled(item)}")
    if array.dtype.kind not in "iu":
        return array
    # one dtype, so that 2 and 2.5 are arguments of the same compiled program
    return array.astype(np.int32 if kinds == "iu" else np.float64)


def integers(value: Any, name: str, item: tuple[str, ...] = ()) -> Array:
    """A user's class indices or tokens as an array."""
    return numbers(value, name, item, "iu")


def check_shapes(samples: int, **values: tuple[Array, tuple[str, ...]]) -> None:
    """Raise where a value, an array with the names of one item's axes, is for other samples, or another K."""
    counts = {}
    for name, (value, item) in values.items():
        shape = tuple(int(n) for n in value.shape)
        lead = shape[: len(shape) - len(item)]
        if len(shape) < len(item) or len(lead) > 2:
            raise ValueError(f"`{name}` of shape {shape} is not {_spelled(item)}")
        if lead and lead[0] != samples and not (len(lead) == 2 and lead[0] == 1):
            raise ValueError(
                f"`{name}` of shape {shape} is for {lead[0]} samples, but the batch has {samples}; pass "
                f"{_spelled(item)} for K maps per sample"
            )
        if len(lead) == 2:
            counts[name] = lead[1]
    if len(set(counts.values())) > 1:
        found = ", ".join(f"`{name}` {count}" for name, count in counts.items())
        raise ValueError(f"the values of a target must be as many for each sample, but are {found}")


def _spelled(item: tuple[str, ...]) -> str:
    def shape(*axes: str) -> str:
        return f"({', '.join(axes)})" if len(axes) > 1 else f"({axes[0]},)"

    one = shape(*item) if item else "one"
    several = f"{shape('1', 'K', *item)} or {shape('N', 'K', *item)}"
    return f"{one} for all samples, {shape('N', *item)}, one for each, or {several}"


def check_range(
    value: Array, count: int, name: str, what: str, low: int = 0, ignore: int | None = None
) -> None:
    """Raise where an index does not lie in `low` to `count - 1`."""
    if not isinstance(value, np.ndarray):
        return  # found in the outputs, or known to the running program alone
    wrong = value[
        ((value < low) | (value >= count)) & (value != ignore if ignore is not None else True)
    ]
    if wrong.size:
        raise IndexError(
            f"`{name}` {int(wrong[0])} is no {what}: the model's outputs have {count}, {low} to {count - 1}"
        )


def each(value: Array, item: tuple[str, ...], like: Array, dtype: Any = None) -> Array:
    """A value as (1 or N, K, *item), in the place and dtype of the outputs; K is 1 unless there are several."""
    xp = array_namespace(like)
    dtype = like.dtype if dtype is None else dtype
    if isinstance(value, np.ndarray) or array_namespace(value) is not xp:
        value = constant(to_numpy(value), like, dtype)
    value = value if value.dtype == dtype else xp.astype(value, dtype)
    lead = value.ndim - len(item)
    return (
        value
        if lead == 2
        else xp.expand_dims(value, axis=1)
        if lead == 1
        else value[None, None, ...]
    )


def indices(value: Array, like: Array, item: tuple[str, ...] = ()) -> Array:
    """`each` of class indices."""
    xp = array_namespace(like)
    # torch gathers with no other indices than int64, JAX has none by default
    return each(value, item, like, xp.int32 if is_jax_namespace(xp) else xp.int64)


def gathered(values: Array, index: Array) -> Array:
    """Values (N, ..., C) at index (1 or N, ..., K) of their last axis -> (N, ..., K)."""
    xp = array_namespace(values, index)
    return xp.take_along_axis(
        values, xp.broadcast_to(index, (*values.shape[:-1], index.shape[-1])), axis=-1
    )


def columns(scores: Array, *values: tuple[Array, tuple[str, ...]]) -> Array:
    """Scores (N, K) as they are where any of the values is K for each sample, else the one column, (N,)."""
    return scores if any(value.ndim == len(item) + 2 for value, item in values) else scores[:, 0]
