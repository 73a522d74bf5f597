"""The weights of a user's model by name, and a copy of the model with others.

    (module, {"params": {"conv": {"kernel": k, "bias": b}}})  ->  {"conv/kernel": k, "conv/bias": b}

An adapter gives `JaxModel` a function that returns `NamedWeights`. For a model that JAX sees as a
tree, which all but flax.nnx modules are, it is `tree_weights`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradcam._types import Array

__all__ = ["NamedWeights", "no_weights", "tree_weights"]

_STATISTICS = {"batch_stats", "state"}
"""Collections of Flax and fields of Equinox whose arrays are not trained."""


class NamedWeights(NamedTuple):
    """The trained arrays of a model, without running statistics."""

    arrays: dict[str, Array]
    """By names that begin with the path of their layer."""
    rebuild: Callable[[Mapping[str, Array]], Any]
    """From some new arrays, by name, a copy of the user's own model."""


def tree_weights(model: Any) -> NamedWeights:
    """The weights of a module that is a tree, or of a pair such as (module, variables).

    Raises TypeError where no leaf of the tree is an array of floating point.
    """
    in_pair = isinstance(model, tuple)
    arrays = {}
    for keys, leaf in jax.tree_util.tree_flatten_with_path(model)[0]:
        if (name := _weight_name(keys, leaf, in_pair)) is not None:
            arrays[name] = leaf
    if not arrays:
        raise no_weights(model)

    def rebuild(new: Mapping[str, Array]) -> Any:
        def replaced(keys: Any, leaf: Any) -> Any:
            name = _weight_name(keys, leaf, in_pair)
            return leaf if name is None else new.get(name, leaf)

        return jax.tree_util.tree_map_with_path(replaced, model)

    return NamedWeights(arrays, rebuild)


def no_weights(model: Any) -> TypeError:
    """The error for a model whose weights have no names."""
    return TypeError(
        f"the weights of a {type(model).__name__} cannot be found: it is no tree of JAX arrays; "
        "pass a module, or the pair (module, variables)"
    )


def _weight_name(keys: tuple[Any, ...], leaf: Any, in_pair: bool) -> str | None:
    """The name of a leaf; None if it is not trained. In a pair, the first key is its index."""
    if not isinstance(leaf, jax.Array) or not jnp.issubdtype(leaf.dtype, jnp.floating):
        return None
    parts = list(map(_key_name, keys))
    if not _STATISTICS.isdisjoint(parts):
        return None
    if in_pair:
        del parts[0]
    # Flax keeps its weights in the collection "params", which is no part of a layer's path
    if "params" in parts:
        parts.remove("params")
    return "/".join(parts).replace("/[", "[")


def _key_name(key: Any) -> str:
    for attribute in ("key", "name"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    if hasattr(key, "idx"):
        return f"[{key.idx}]"
    return str(key)
