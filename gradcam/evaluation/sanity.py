"""Does a map depend on what the model has learned? Its similarity as weights are randomised.

Adebayo et al. 2018, Sanity checks for saliency maps, https://arxiv.org/abs/1810.03292. A map that
stays alike however many layers are randomised shows the image, and not the model.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np

from gradcam import backends
from gradcam._arrays import constant, to_numpy
from gradcam._numbers import check_whole
from gradcam._progress import Progress, tell
from gradcam._types import Array, Inputs, LayerLike
from gradcam._warnings import warn
from gradcam.backends import entry
from gradcam.classifier import Classifier
from gradcam.diagnosis import BlankMapWarning
from gradcam.explaining.explainer import Explainer
from gradcam.explaining.guided import guided_backprop, guided_grad_cam
from gradcam.explaining.prepare import NO_LAYER, prepare, unwrap
from gradcam.maps import scale
from gradcam.methods import MethodLike
from gradcam.metrics.result import mean
from gradcam.metrics.similarity import rank_correlation, structural_similarity
from gradcam.model import HasWeights
from gradcam.pictures.notebook import table_html
from gradcam.space.choice import listed
from gradcam.targets import TargetLike

__all__ = ["SanityCheck", "module_of", "randomised", "sanity_check"]

Order = Literal["cascading", "independent"]
How = Literal["shuffle", "normal"]
GUIDED = ("guided-backprop", "guided-grad-cam")


@dataclass(frozen=True, eq=False)
class SanityCheck:
    """How alike maps stay, (S, N) for S steps and N samples.

    groups: the layers that each step randomises, from the top down. In the order "cascading" those
        of all steps before stay randomised too.
    rank: Spearman's rank correlation with the original map, in [-1, 1]. 0 where a copy's map is
        flat, which has no ranks; NaN where the original is flat.
    structure: structural similarity (SSIM) with it, each map scaled by its maximum.
    maps: (S + 1, N, h, w), the original's first.
    """

    method: str
    order: Order
    groups: tuple[tuple[str, ...], ...]
    rank: np.ndarray
    structure: np.ndarray
    maps: np.ndarray

    def _steps(self) -> list[tuple[str, str, str]]:
        """Of each step the mean rank correlation, the mean SSIM, and what it randomises."""
        steps = []
        for group, rank, structure in zip(self.groups, self.rank, self.structure, strict=True):
            name = group[0]
            if len(group) > 1:
                name = f"{group[0]} .. {group[-1]}"
            steps.append((f"{mean(rank):6.3f}", f"{structure.mean():6.3f}", name))
        return steps

    def __str__(self) -> str:
        lines = [
            f"{self.method}, {self.order} randomisation: rank correlation, SSIM with the original "
            "map"
        ]
        lines += [f"  {rank} {structure}  {name}" for rank, structure, name in self._steps()]
        return "\n".join(lines)

    def _repr_html_(self) -> str | None:
        heads = ("rank correlation", "SSIM", "randomised")
        caption = f"{self.method}, {self.order} randomisation: likeness to the original map"
        return table_html(heads, self._steps(), caption)


@entry
def sanity_check(
    model: Any,
    inputs: Inputs,
    layer: LayerLike = None,
    target: TargetLike = None,
    method: MethodLike = "grad-cam",
    *,
    order: Order = "cascading",
    steps: int | None = 12,
    how: How = "shuffle",
    seed: int = 0,
    progress: Progress = False,
    **parameters: Any,
) -> SanityCheck:
    """Explain a model and its randomised copies, and say how alike the maps are.

    method: as in `gradcam.explain`, or "guided-backprop" (its magnitude, the largest over channels)
        or "guided-grad-cam". The classes are those of the model as it is, in every copy.
    order, steps, how, seed: as in `randomised`.
    progress: True prints what comes next; a function is told it.
    parameters: the method's own. The rest is that of `gradcam.explain`.

    Warns, `BlankMapWarning`, of samples whose original map is flat: they have no rank correlation.
    """
    _check(order, how, steps, seed)
    original = _explained(model, inputs, layer, target, method, parameters)
    maps = [original.maps]
    groups = []
    for group, copy in randomised(model, inputs, order=order, steps=steps, how=how, seed=seed):
        tell(progress, f"{original.method}: {group[-1]}")
        explained = _explained(copy, inputs, original.layer, original.classes, method, parameters)
        maps.append(explained.maps)
        groups.append(group)
    flat = np.ptp(original.maps, (1, 2)) == 0
    if flat.any():
        samples = ", ".join(map(str, np.flatnonzero(flat)))
        warn(
            f"the original map of sample {samples} is blank, of which nothing can be lost; "
            "leave it out",
            BlankMapWarning,
        )
    first = scale(original.maps, 2, "max")
    rank = []
    structure = []
    for copy_maps in maps[1:]:
        rank.append(_rank_correlation(original.maps, copy_maps, flat))
        structure.append(structural_similarity(first, scale(copy_maps, 2, "max")))
    return SanityCheck(
        original.method,
        order,
        tuple(groups),
        np.stack(rank),
        np.stack(structure),
        np.stack(maps),
    )


def _rank_correlation(original: np.ndarray, maps: np.ndarray, flat: np.ndarray) -> np.ndarray:
    """(N,): 0 where a map has no ranks, NaN where the original has none."""
    return np.where(flat, np.nan, np.nan_to_num(rank_correlation(original, maps)))


# ------------------------------------------------------------------------------- randomised copies


def randomised(
    model: Any,
    inputs: Inputs,
    *,
    order: Order = "cascading",
    steps: int | None = 12,
    how: How = "shuffle",
    seed: int = 0,
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Copies of a model with randomised layers, from the top down: (paths of the layers, copy).

    model: of PyTorch, flax.nnx, flax.linen, Equinox or Haiku, or a `gradcam.Classifier` of one. It
        is not changed.
    order: "cascading": in each copy the layers of all copies before it are randomised too;
        "independent": only its own.
    steps: how many copies; neighbouring layers share one. None: one for each layer that has
        weights.
    how: "shuffle" each weight's values, which keeps their distribution, or draw them from a
        "normal" of the same mean and deviation. Running statistics stay as they are.
    """
    _check(order, how, steps, seed)
    user_model, classifier = unwrap(model)
    trained, with_weights = _weights_of(user_model, inputs)
    modules = _from_the_top(user_model, inputs, list(trained))
    changed: dict[str, Array] = {}
    for group in _grouped(modules, steps):
        if order == "independent":
            changed = {}  # the layers of the copies before have their own weights again
        for name, weight in trained.items():
            if module_of(name) in group:
                changed[name] = _random(weight, name, how, seed)
        copy = with_weights(changed)
        yield group, _in_classifier(copy, classifier)


def _weights_of(
    model: Any, inputs: Inputs
) -> tuple[Mapping[str, Array], Callable[[Mapping[str, Array]], Any]]:
    """The trained arrays by name, and a function that gives a copy of the model with others."""
    adapted = backends.adapt(model, inputs, allow_training=True)
    weights = adapted.weights() if isinstance(adapted, HasWeights) else {}
    if not isinstance(adapted, HasWeights) or not weights:
        raise TypeError(
            f"the weights of a {type(model).__name__} cannot be found; pass a PyTorch or JAX model"
        )
    return weights, adapted.with_weights


def module_of(name: str) -> str:
    """The path of the module that a weight is in."""
    parts = re.split(r"[./](?=[^./]*$)", name)
    return parts[0] if len(parts) > 1 else ""


def _in_classifier(copy: Any, classifier: Classifier | None) -> Any:
    if classifier is None:
        return copy
    return replace(classifier, model=copy)


def _check(order: str, how: str, steps: int | None, seed: int) -> None:
    check_whole("seed", seed, 0)
    if order not in ("cascading", "independent"):
        raise ValueError(f'`order` must be "cascading" or "independent", but is {order!r}')
    if how not in ("shuffle", "normal"):
        raise ValueError(f'`how` must be "shuffle" or "normal", but is {how!r}')
    if steps is not None:
        check_whole("steps", steps, 1)


def _from_the_top(model: Any, inputs: Inputs, names: list[str]) -> list[str]:
    """The modules that have weights, the last that runs first.

    A module whose path is no layer's comes where the module before it, by its weights, does.
    """
    calls: dict[str, int] = {}
    prepared = prepare(model, inputs, NO_LAYER)
    for n, layer in enumerate(listed(prepared.model, inputs)):
        calls[layer.path.split("#")[0]] = n  # the last call counts
    positions: dict[str, int] = {}
    position = -1
    for module in dict.fromkeys(map(module_of, names)):
        position = calls.get(module, position)
        positions[module] = position
    # A stable sort, read backwards: of modules with the same position the last comes first.
    return sorted(positions, key=positions.__getitem__)[::-1]


def _grouped(modules: Sequence[str], steps: int | None) -> list[tuple[str, ...]]:
    """Groups of about equal size; the topmost module alone, since it tells classes apart."""
    if steps is None or steps >= len(modules):
        return [(module,) for module in modules]
    if steps == 1:
        return [tuple(modules)]
    bounds = np.linspace(1, len(modules), steps).round().astype(int)
    starts = [0, *bounds[:-1]]
    return [tuple(modules[start:stop]) for start, stop in zip(starts, bounds, strict=True)]


def _random(weight: Array, name: str, how: How, seed: int) -> Array:
    """Seeded by the weight's name, so a weight is randomised alike in every copy."""
    random = np.random.default_rng([seed, *name.encode()])
    values = to_numpy(weight)
    if how == "shuffle":
        drawn = random.permutation(values.reshape(-1)).reshape(values.shape)
    else:
        drawn = random.normal(values.mean(), values.std(), values.shape)
    return constant(drawn, like=weight)


# -------------------------------------------------------------------------------------------- maps


class _Explained(NamedTuple):
    """Maps (N, h, w), the method's name, and the layer and the classes that they are of."""

    maps: np.ndarray
    method: str
    layer: LayerLike
    classes: Any


def _explained(
    model: Any,
    inputs: Inputs,
    layer: LayerLike,
    target: Any,
    method: MethodLike,
    parameters: dict[str, Any],
) -> _Explained:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BlankMapWarning)  # randomised models give blank maps
        if method in GUIDED:
            explained = _guided(model, inputs, layer, target, str(method), parameters)
        else:
            explainer = Explainer(model, layer, method, check=False, **parameters)
            explanation = explainer(inputs, target)
            explained = _Explained(
                to_numpy(explanation.maps),
                explanation.method,
                explanation.layer,
                explanation.target,
            )
    maps = explained.maps
    if maps.ndim != 3:
        raise ValueError(
            "a sanity check needs one map over two axes for each sample, "
            f"but `maps` are {maps.shape}"
        )
    return explained._replace(maps=np.nan_to_num(maps.astype(np.float64)))


def _guided(
    model: Any,
    inputs: Inputs,
    layer: LayerLike,
    target: Any,
    method: str,
    parameters: dict[str, Any],
) -> _Explained:
    if method == "guided-backprop":
        result = guided_backprop(model, inputs, target, **parameters)
    else:
        result = guided_grad_cam(model, inputs, layer, target, **parameters)
    magnitude = np.abs(to_numpy(result.gradients))
    # The channels are the shortest axis: there are fewer of them than pixels a side.
    channels = int(np.argmin(magnitude.shape[1:])) + 1
    return _Explained(magnitude.max(channels), method, layer, result.target)
