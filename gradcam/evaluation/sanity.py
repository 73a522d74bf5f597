"""Does a map depend on what the model has learned? Its similarity to the original as weights are randomised.

Adebayo et al. 2018, Sanity checks for saliency maps, https://arxiv.org/abs/1810.03292. A method whose maps stay alike
however many layers forget what they know shows the image, and not the model.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from gradcam import maps as maps_
from gradcam._arrays import constant, to_numpy
from gradcam._types import Inputs
from gradcam.backends.weights import module_of, replaced, weights
from gradcam.classifier import Classifier
from gradcam.diagnosis import BlankMapWarning
from gradcam.explaining.explainer import Explainer
from gradcam.explaining.explanation import Explanation
from gradcam.explaining.guided import guided_backprop, guided_grad_cam
from gradcam.metrics.result import mean
from gradcam.metrics.similarity import rank_correlation, structural_similarity
from gradcam.space.choice import layers

__all__ = ["SanityCheck", "randomised", "sanity_check"]

Order = Literal["cascading", "independent"]
How = Literal["shuffle", "normal"]
GUIDED = ("guided-backprop", "guided-grad-cam")


@dataclass(frozen=True, eq=False)
class SanityCheck:
    """How alike maps stay, (S, N) for S steps and N samples.

    groups: what each step randomises, layers from the top down; of order "cascading" also all that came before.
    rank: Spearman's rank correlation with the original map, in [-1, 1]; 0 where a copy's map is flat, which has no
        ranks, and NaN where the original is: it has nothing to lose.
    structure: structural similarity (SSIM) with it, each map scaled by its maximum.
    maps: (S + 1, N, h, w), the original's first.
    """

    method: str
    order: Order
    groups: tuple[tuple[str, ...], ...]
    rank: np.ndarray
    structure: np.ndarray
    maps: np.ndarray

    def __str__(self) -> str:
        lines = [
            f"{self.method}, {self.order} randomisation: rank correlation, SSIM with the original map"
        ]
        for group, rank, structure in zip(self.groups, self.rank, self.structure, strict=True):
            name = group[0] if len(group) == 1 else f"{group[0]} .. {group[-1]}"
            lines.append(f"  {mean(rank):6.3f} {structure.mean():6.3f}  {name}")
        return "\n".join(lines)


def randomised(
    model: Any,
    inputs: Inputs,
    *,
    order: Order = "cascading",
    steps: int | None = 12,
    how: How = "shuffle",
    seed: int = 0,
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Copies of a model whose layers have forgotten what they know, and which layers these are, from the top down.

    model: of PyTorch, flax.nnx, flax.linen, Equinox or Haiku, or a `gradcam.Classifier` of one. It is not changed.
    order: "cascading": in each copy the layers of all copies before as well; "independent": its own alone.
    steps: how many copies; layers that follow each other share one. None: one for each layer that has weights.
    how: "shuffle" each weight's values, which keeps their distribution, or draw them from a "normal" of the same mean
        and deviation. Running statistics stay.
    """
    _check(order, how, steps)
    bare = model.model if isinstance(model, Classifier) else model
    known = weights(bare)
    groups = _grouped(_from_the_top(bare, inputs, list(known)), steps)
    forgotten: dict[str, Any] = {}
    for group in groups:
        names = {name for name in known if module_of(name) in group}
        fresh = {name: _random(known[name], name, how, seed) for name in names}
        forgotten = {**forgotten, **fresh} if order == "cascading" else fresh
        twin = replaced(bare, forgotten)
        yield group, _with_model(model, twin)


def sanity_check(
    model: Any,
    inputs: Inputs,
    layer: Any = None,
    target: Any = None,
    method: str = "grad-cam",
    *,
    order: Order = "cascading",
    steps: int | None = 12,
    how: How = "shuffle",
    seed: int = 0,
    progress: Callable[[str], Any] = lambda _: None,
    **parameters: Any,
) -> SanityCheck:
    """Explain a model and its randomised copies, and say how alike the maps are.

    method: a name in `gradcam.METHODS`, "guided-backprop" (its magnitude, the largest over channels) or
        "guided-grad-cam". The class is that of the model as it is, in every copy.
    parameters: the method's own. The rest is that of `randomised` and of `gradcam.explain`.
    """
    _check(order, how, steps)
    original, path, classes = _explained(model, inputs, layer, target, method, parameters)
    every, groups = [original], []
    for group, twin in randomised(model, inputs, order=order, steps=steps, how=how, seed=seed):
        progress(f"{method}: {group[-1]}")
        every.append(_explained(twin, inputs, path, classes, method, parameters)[0])
        groups.append(group)
    scaled = [maps_.scale(one, 2, "max") for one in every]
    flat = np.ptp(original, (1, 2)) == 0
    if flat.any():
        blank = ", ".join(map(str, np.flatnonzero(flat)))
        warnings.warn(
            f"the original map of sample {blank} is blank, of which nothing can be lost; leave it out",
            BlankMapWarning,
            stacklevel=2,
        )
    rank = np.stack(
        [
            np.where(flat, np.nan, np.nan_to_num(rank_correlation(original, one)))
            for one in every[1:]
        ]
    )
    structure = np.stack([structural_similarity(scaled[0], one) for one in scaled[1:]])
    return SanityCheck(method, order, tuple(groups), rank, structure, np.stack(every))


def _check(order: str, how: str, steps: int | None) -> None:
    if order not in ("cascading", "independent"):
        raise ValueError(f'`order` must be "cascading" or "independent", but is {order!r}')
    if how not in ("shuffle", "normal"):
        raise ValueError(f'`how` must be "shuffle" or "normal", but is {how!r}')
    if steps is not None and steps < 1:
        raise ValueError(f"`steps` must be at least 1, or None for every layer, but is {steps}")


def _with_model(model: Any, twin: Any) -> Any:
    if not isinstance(model, Classifier):
        return twin
    return Classifier(twin, model.preprocess, model.view, model.labels, model.layer)


def _from_the_top(model: Any, inputs: Inputs, names: list[str]) -> list[str]:
    """The modules that have weights, the last that runs first."""
    modules = list(dict.fromkeys(map(module_of, names)))
    runs = [found.path.split("#")[0] for found in layers(model, inputs)]
    place = {path: n for n, path in enumerate(runs)}  # of the last call
    # a module that no layer is named after keeps its place behind the one before it
    last, at = -1, {}
    for module in modules:
        last = at[module] = place.get(module, last)
    return sorted(modules, key=lambda module: (at[module], modules.index(module)), reverse=True)


def _grouped(modules: Sequence[str], steps: int | None) -> list[tuple[str, ...]]:
    """About equally many modules in each; the topmost alone, for it is what tells classes apart."""
    if steps is None or steps >= len(modules):
        return [(module,) for module in modules]
    if steps == 1:
        return [tuple(modules)]
    bounds = np.linspace(1, len(modules), steps).round().astype(int)
    starts = [0, *bounds[:-1]]
    return [tuple(modules[start:stop]) for start, stop in zip(starts, bounds, strict=True)]


def _random(array: Any, name: str, how: How, seed: int) -> Any:
    """The same for a weight in every copy: its seed is of its name."""
    random = np.random.default_rng([seed, *name.encode()])
    values = to_numpy(array)
    if how == "shuffle":
        drawn = random.permutation(values.reshape(-1)).reshape(values.shape)
    else:
        drawn = random.normal(values.mean(), values.std(), values.shape)
    return constant(drawn, like=array)


def _explained(
    model: Any, inputs: Inputs, layer: Any, target: Any, method: str, parameters: dict[str, Any]
) -> tuple[np.ndarray, Any, Any]:
    """Maps (N, h, w), and the layer and the classes that they are of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BlankMapWarning)  # what a model that forgot may well give
        if method in GUIDED:
            found: Any
            if method == "guided-backprop":
                found = guided_backprop(model, inputs, target, **parameters)
            else:
                found = guided_grad_cam(model, inputs, layer, target, **parameters)
            gradients = np.abs(to_numpy(found.gradients))
            axis = (
                int(np.argmin(gradients.shape[1:])) + 1
            )  # the channels: fewer than the pixels of a side
            maps, path = gradients.max(axis), layer
        else:
            found = Explainer(model, layer, method, check=False, **parameters)(inputs, target)
            maps, path = (
                to_numpy(found.maps),
                found.layer if isinstance(found, Explanation) else layer,
            )
    if maps.ndim != 3:
        raise ValueError(
            f"a sanity check needs one map over two axes for each sample, but `maps` are {maps.shape}"
        )
    return np.nan_to_num(maps.astype(np.float64)), path, found.target
