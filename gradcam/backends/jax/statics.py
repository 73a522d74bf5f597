"""Leaves that are no arrays, such as the flag in `{"x": images, "train": False}`.

A program of JAX takes arrays; to it a flag would be one more array, on whose value the model could
not branch. `hide_static` makes such leaves part of the structure of the tree instead, and
`restore_static` brings them back before the user's model is called:

    {"x": images, "train": False}  ->  {"x": images, "train": Static(False)}    one leaf: `images`

`jax.jit` compares structures, so each value of the flag has a compiled program of its own.
"""

from __future__ import annotations

from typing import Any

import jax

__all__ = ["hide_static", "restore_static"]


@jax.tree_util.register_pytree_node_class
class Static:
    """A value that is a node without leaves, so that JAX never traces it."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def tree_flatten(self) -> tuple[tuple[()], Static]:
        return (), self

    @classmethod
    def tree_unflatten(cls, aux: Static, _: Any) -> Static:
        return aux

    def __eq__(self, other: object) -> bool:
        # the types are compared too: True equals 1, but a program may tell them apart
        return (
            isinstance(other, Static)
            and type(self.value) is type(other.value)
            and self.value == other.value
        )

    def __hash__(self) -> int:
        return hash((type(self.value), self.value))


def hide_static(tree: Any) -> Any:
    """The tree (inputs or weights) with every leaf that is no array made part of its structure.

    A second call changes nothing. Raises TypeError for a leaf that is neither an array nor
    hashable.
    """
    return jax.tree.map(_hidden, tree, is_leaf=_is_static)


def restore_static(tree: Any) -> Any:
    """The tree as it was before `hide_static`, as the user's model expects it."""

    def restored(leaf: Any) -> Any:
        return leaf.value if isinstance(leaf, Static) else leaf

    return jax.tree.map(restored, tree, is_leaf=_is_static)


def _hidden(leaf: Any) -> Any:
    if isinstance(leaf, Static) or hasattr(leaf, "dtype"):
        return leaf
    try:
        hash(leaf)
    except TypeError:
        raise TypeError(
            f"the model is called with a {type(leaf).__name__}, which is neither an array nor "
            "hashable, so JAX cannot compile a program for it; bind it beforehand, or give its "
            "class a __hash__"
        ) from None
    return Static(leaf)


def _is_static(leaf: Any) -> bool:
    return isinstance(leaf, Static)
