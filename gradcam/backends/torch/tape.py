"""The operations of one forward pass behind a layer, to run them alone, for many variants at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from gradcam.model import Scorer

__all__ = ["Tape"]


class _Slot:
    """In a recorded argument: the place of a tensor that depends on the layer."""

    def __init__(self, index: int) -> None:
        self.index = index


class Tape(TorchDispatchMode):
    """Records every operation that depends on the layer's output; what does not is kept as the tensor that it was.

    Run again under `torch.vmap`, so what was recorded for N samples runs for M variants of them: shapes in the model's
    code stay those of N.
    """

    def __init__(self) -> None:
        super().__init__()
        self.started = False
        self._steps: list[tuple[Any, Any, Any, list[int]]] = []
        self._slots: dict[int, int] = {}
        self._alive: list[torch.Tensor] = []  # so that no identity is used twice
        self._outputs: tuple[list[Any], Any] = ([], None)
        self._sound, self._writes = True, False

    def start(self, value: torch.Tensor) -> torch.Tensor:
        self.started = True
        self._slot(value)
        return value

    def _slot(self, tensor: torch.Tensor) -> int:
        if id(tensor) not in self._slots:
            self._slots[id(tensor)] = len(self._alive)
            self._alive.append(tensor)
        return self._slots[id(tensor)]

    def _recorded(self, value: Any) -> Any:
        known = isinstance(value, torch.Tensor) and id(value) in self._slots
        return _Slot(self._slots[id(value)]) if known else value

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if not self._slots:
            return result
        leaves = tree_flatten((args, kwargs))[0]
        if any(isinstance(leaf, torch.Tensor) and id(leaf) in self._slots for leaf in leaves):
            recorded = tree_map(self._recorded, args), tree_map(self._recorded, kwargs)
            results = tree_flatten(result)[0]
            if func._schema.is_mutable:
                self._writes = True
                self._sound &= (
                    id(leaves[0]) in self._slots
                )  # else something kept would be overwritten
            if any(not isinstance(one, torch.Tensor) and one is not None for one in results):
                self._sound = False  # a number that the model's code may have branched on
            slots = [self._slot(one) if isinstance(one, torch.Tensor) else -1 for one in results]
            self._steps.append((func, *recorded, slots))
        return result

    def end(self, outputs: Any) -> None:
        leaves, spec = tree_flatten(outputs)
        self._outputs = [self._recorded(leaf) for leaf in leaves], spec
        self._first = self._alive[0]
        self._alive = self._alive[:1]
        self._slots = {}

    def _mean(self) -> tuple[Any, tuple[int, ...], bool] | None:
        """The first step, its axes, and whether they are kept, if all that the head takes of the layer is a mean."""

        def takes(leaves: list[Any]) -> bool:
            return any(isinstance(leaf, _Slot) and leaf.index == 0 for leaf in leaves)

        users = [step for step in self._steps if takes(tree_flatten((step[1], step[2]))[0])]
        if len(users) != 1 or takes(self._outputs[0]) or users[0][0] is not torch.ops.aten.mean.dim:
            return None
        _, args, kwargs, _ = users[0]
        if kwargs or len(args) < 2 or not args[1]:  # another type, or over all axes
            return None
        axes = tuple(sorted(axis % self._first.ndim for axis in args[1]))
        return None if 0 in axes else (users[0], axes, len(args) > 2 and bool(args[2]))

    def _run(self, value: torch.Tensor, instead: Any = None) -> Any:
        """The outputs for another value of the layer's output; or of what the step `instead` made of it."""
        found: dict[int, Any] = {
            instead[3][0] if instead else 0: value.clone() if self._writes else value
        }

        def given(leaf: Any) -> Any:
            return found[leaf.index] if isinstance(leaf, _Slot) else leaf

        for step in self._steps:
            if step is instead:
                continue
            func, args, kwargs, slots = step
            results = tree_flatten(func(*tree_map(given, args), **tree_map(given, kwargs)))[0]
            found.update(zip(slots, results, strict=True))
        leaves, spec = self._outputs
        return tree_unflatten([given(leaf) for leaf in leaves], spec)

    def scorer(
        self,
        target: Callable[[Any], torch.Tensor],
        otherwise: Callable[[torch.Tensor], torch.Tensor],
    ) -> Scorer:
        """Variants (M, N, ...) -> scores (M, N) or (M, N, K); `otherwise` where the tape cannot be trusted."""
        usable = [self._sound]

        def batched(
            run: Callable[[torch.Tensor], Any], instead: Callable[[torch.Tensor], torch.Tensor]
        ) -> Any:
            many = torch.vmap(lambda value: target(run(value)))

            def score(variants: torch.Tensor) -> torch.Tensor:
                if usable[0]:
                    try:
                        with torch.no_grad():
                            return many(variants)
                    except (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError):
                        usable[0] = False  # an operation or a target that cannot be batched
                return instead(variants)

            return score

        whole = batched(self._run, otherwise)
        mean = self._mean() if self._sound else None
        if mean is None:
            return Scorer(whole)
        step, axes, kept = mean

        def averaged(value: torch.Tensor) -> Any:
            return self._run(value if kept else value.squeeze(axes), step)

        def spread(variants: torch.Tensor) -> torch.Tensor:  # what has that mean, at every position
            return otherwise(variants.expand(-1, *self._first.shape))

        return Scorer(whole, None, axes, batched(averaged, spread))
