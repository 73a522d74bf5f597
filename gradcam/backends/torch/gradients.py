"""Gradients of scores at activations, by an autograd graph that starts at the activations.

Scores (N,) give gradients of the activations' shapes (N, ...). Scores (N, K) of K targets give
(N, K, ...), from one batched backward pass. For example, activations (2, 12, 8, 10) and scores
(2, 60) give gradients (2, 60, 12, 8, 10).

Grad-CAM uses the gradients' mean over space alone. It says so with `pooled`, and the gradients of
the example come averaged, (2, 60, 12, 1, 1), in one of two ways:

- If the head reads nothing but that same mean, as global average pooling does, the backward pass
  ends at the mean's own node of the graph. The gradient has one value for each channel there, and
  no gradient of the layer's full size is made.
- Otherwise a few targets at a time are differentiated and averaged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.autograd.graph import Node

from gradcam._arrays import widen
from gradcam.model import PooledAxes

__all__ = [
    "POOLED_VALUES",
    "Gradients",
    "UnreachedError",
    "check_scores",
    "detached",
    "reach_gradients",
    "score_curvatures",
    "score_gradients",
]

Gradients = tuple[torch.Tensor, ...]
"""One tensor for each layer."""

POOLED_VALUES = 2**22
"""How many values of gradients that will be averaged are in memory at a time.

It is a few megabytes, which a CPU's cache holds.
"""


class UnreachedError(RuntimeError):
    """No differentiable path leads from the score to a layer."""

    def __init__(self, layer: str) -> None:
        super().__init__(
            f'the score does not depend on layer "{layer}" by a differentiable path: the layer\'s '
            "output is not used, or is detached (.detach(), .data, .numpy(), argmax) on the way; "
            "choose another layer or target"
        )


def detached(value: Any) -> Any:
    """A tensor without its graph; any other value as it is."""
    return value.detach() if isinstance(value, torch.Tensor) else value


def score_gradients(
    scores: Any,
    activations: Gradients,
    layers: Sequence[str],
    pooled: PooledAxes | None = None,
    samples: int | None = None,
) -> Gradients:
    """The gradients of each sample's scores: (N, ...) of scores (N,), (N, K, ...) of scores (N, K).

    samples: N, where the activations' first axis may be another.
    pooled: says over which axes only the mean will be used; those may have size 1 in the result.
    Raises UnreachedError, which names a layer, if no path of the graph leads to its activations.
    """
    check_scores(scores, layers, activations[0].shape[0] if samples is None else samples)
    if scores.ndim == 1:
        gradients = torch.autograd.grad(scores.sum(), activations, allow_unused=True)
        return _reached(gradients, layers)
    axes: list[tuple[int, ...]] = [()] * len(activations)
    if pooled is not None:
        axes = [pooled(tuple(activation.shape[1:])) for activation in activations]
    if len(activations) == 1 and axes[0]:
        mean = _mean_node(scores, activations[0], axes[0])
        if mean is not None:
            return (_gradient_through_mean(scores, mean, activations[0], axes[0]),)
    return _batched_gradients(scores, activations, layers, axes)


def score_curvatures(
    scores: Any,
    activations: Gradients,
    layers: Sequence[str],
    samples: int | None = None,
) -> tuple[Gradients, Gradients]:
    """`score_gradients`, and the products of the layers' Hessians with their activations.

    Both have the same shapes.
    """
    check_scores(scores, layers, activations[0].shape[0] if samples is None else samples)
    if scores.ndim == 1:
        return _gradients_and_curvatures(scores.sum(), activations, layers)
    gradients, curvatures = [], []
    for column in scores.unbind(dim=1):
        first, second = _gradients_and_curvatures(column.sum(), activations, layers)
        gradients.append(first)
        curvatures.append(second)
    return _stacked(gradients), _stacked(curvatures)


def reach_gradients(
    scores: Any, activations: Gradients, layers: Sequence[str], samples: int
) -> Gradients:
    """`score_gradients` without pooling, but zeros at layers that the score does not depend on.

    Of scores (N, K), one gradient (N, 1, ...) of their sum over the targets.
    """
    check_scores(scores, layers, samples)
    gradients = torch.autograd.grad(
        scores.sum(), activations, allow_unused=True, materialize_grads=True
    )
    if scores.ndim == 1:
        return gradients
    return tuple(gradient.unsqueeze(1) for gradient in gradients)


def check_scores(scores: Any, layers: Sequence[str], samples: int) -> None:
    """Raise unless the scores are (N,) or (N, K) tensors with a graph."""
    returned: Any = type(scores).__name__
    if isinstance(scores, torch.Tensor):
        returned = tuple(scores.shape)
        fits = scores.ndim in (1, 2) and scores.shape[0] == samples
    else:
        fits = False
    if not fits:
        raise ValueError(
            f"`target` must return scores of shape (N,) or (N, K) for N = {samples} samples, "
            f"but returned {returned}"
        )
    if not scores.requires_grad:
        raise UnreachedError(layers[0])


def _reached(gradients: Sequence[torch.Tensor | None], layers: Sequence[str]) -> Gradients:
    """The gradients, where autograd found all of them."""
    reached = []
    for layer, gradient in zip(layers, gradients, strict=True):
        if gradient is None:
            raise UnreachedError(layer)
        reached.append(gradient)
    return tuple(reached)


# ---------------------------------------------------------------------------------- many targets


def _one_hot(scores: torch.Tensor) -> torch.Tensor:
    """Output gradients (K, N, K) that select one target of scores (N, K) each, in every sample."""
    samples, count = scores.shape
    identity = torch.eye(count, dtype=scores.dtype, device=scores.device)
    return identity[:, None].expand(-1, samples, -1)


def _batched_gradients(
    scores: torch.Tensor,
    activations: Gradients,
    layers: Sequence[str],
    axes: Sequence[tuple[int, ...]],
) -> Gradients:
    """Gradients (N, K, ...) by batched backward passes, averaged over each layer's axes."""
    count = scores.shape[1]
    at_once = count
    if all(axes):
        # only averages are kept, so a few targets at a time need little memory
        largest = max(activation.numel() for activation in activations)
        at_once = max(1, POOLED_VALUES // largest)
    parts: list[list[torch.Tensor]] = [[] for _ in activations]
    for start in range(0, count, at_once):
        gradients = torch.autograd.grad(
            scores,
            activations,
            _one_hot(scores)[start : start + at_once],
            is_grads_batched=True,
            allow_unused=True,
            retain_graph=start + at_once < count,
        )
        for part, gradient, over in zip(parts, _reached(gradients, layers), axes, strict=True):
            part.append(_averaged(gradient, over))
    return tuple(torch.cat(part, dim=0).movedim(0, 1) for part in parts)


def _averaged(gradients: torch.Tensor, axes: Sequence[int]) -> torch.Tensor:
    return widen(gradients).mean(axes, keepdim=True) if axes else gradients


# -------------------------------------------------------------------------------- through a mean


def _mean_node(scores: torch.Tensor, activations: torch.Tensor, axes: Sequence[int]) -> Node | None:
    """The node of the mean over these axes, if no other operation reads the activations."""
    users = _users(scores, activations)
    if len(users) != 1:
        return None
    (node,) = users
    if node.name() != "MeanBackward1" or node._saved_dim is None:
        return None
    ndim = activations.ndim
    averaged = set()
    for dim in node._saved_dim:
        # the graph keeps negative axes as unsigned 64-bit numbers
        signed = dim - 2**64 if dim >= 2**63 else dim
        averaged.add(signed % ndim)
    return node if averaged == {axis % ndim for axis in axes} else None


def _users(scores: torch.Tensor, activations: torch.Tensor) -> list[Any]:
    """The nodes that read the activations: those above the clone that the tap handed on."""
    waiting: list[Any] = [scores.grad_fn]
    visited = set()
    users = []
    while waiting:
        node = waiting.pop()
        for below, _ in node.next_functions:
            if below is None:
                continue
            if below.name() == "CloneBackward0" and _cloned(below) is activations:
                users.append(node)
            if below not in visited:
                visited.add(below)
                waiting.append(below)
    return users


def _cloned(clone: Any) -> torch.Tensor | None:
    """The leaf of the graph that a clone was made of, if it was a leaf."""
    return getattr(clone.next_functions[0][0], "variable", None)


def _gradient_through_mean(
    scores: torch.Tensor, mean: Node, activations: torch.Tensor, axes: Sequence[int]
) -> torch.Tensor:
    """The averaged gradient (N, K, ...), of size 1 over the axes.

    It is the gradient in the mean, divided by the number of positions.
    """
    samples, count = scores.shape
    edge = torch.autograd.graph.GradientEdge(mean, 0)
    (gradient,) = torch.autograd.grad(scores, [edge], _one_hot(scores), is_grads_batched=True)
    shape = list(activations.shape)
    positions = math.prod(shape[axis] for axis in axes)
    for axis in axes:
        shape[axis] = 1
    return widen(gradient).reshape(count, samples, *shape[1:]).movedim(0, 1) / positions


# ------------------------------------------------------------------------------------- curvature


def _gradients_and_curvatures(
    score: torch.Tensor, activations: Gradients, layers: Sequence[str]
) -> tuple[Gradients, Gradients]:
    """The gradient g of one score at each layer, and H A, the product of its Hessian with A.

    H A is the gradient of the sum of g A, where A is held constant.
    """
    gradients = _reached(
        torch.autograd.grad(score, activations, allow_unused=True, create_graph=True), layers
    )
    curvatures = []
    for activation, gradient in zip(activations, gradients, strict=True):
        curvature = None
        along = (gradient * activation.detach()).sum()
        if along.requires_grad:  # else the score is linear in this layer
            (curvature,) = torch.autograd.grad(
                along, activation, allow_unused=True, retain_graph=True
            )
        curvatures.append(torch.zeros_like(activation) if curvature is None else curvature)
    return tuple(gradient.detach() for gradient in gradients), tuple(curvatures)


def _stacked(columns: Sequence[Gradients]) -> Gradients:
    """Of K targets one tuple each: one tensor (N, K, ...) for each layer."""
    return tuple(torch.stack(layer, dim=1) for layer in zip(*columns, strict=True))
