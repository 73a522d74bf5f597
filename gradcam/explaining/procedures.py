"""Methods that run the model in their own way: what they run. The array math is in `gradcam.methods`.

A procedure takes a `Run`, the model as a few plain functions of arrays, and its own parameters. It returns raw maps
(N, *grid) or (N, K, *grid), and the capture of the inputs as they are, for its outputs and scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from gradcam import layouts, methods
from gradcam import maps as maps_
from gradcam._arrays import array_namespace, constant, to_numpy, widen
from gradcam._types import Array, Inputs, Shape
from gradcam.inputs import first_array, with_first_array
from gradcam.inputs import noise as noise_
from gradcam.layouts import Layout
from gradcam.model import INPUT, Capture, Model, Scorer, compiled, input_channels_first, scorer
from gradcam.targets import Target

__all__ = ["PROCEDURES", "Procedure", "Run", "contributions"]


Explained = tuple[Array, Capture]
Procedure = Callable[..., Explained]


@dataclass(frozen=True)
class _Captured:
    """A capture as a function that a backend may compile."""

    layers: tuple[str, ...]
    scored: bool = True

    def __call__(self, model: Model, inputs: Inputs, target: Any, *at: Array) -> dict[str, Any]:
        options: dict[str, Any] = {"at": at} if at else {}
        found = model.capture(inputs, self.layers, target if self.scored else None, **options)
        scores = found.scores if self.scored else target(found.outputs)
        return {"found": (found.outputs, scores, found.activations, found.gradients)}


@dataclass(frozen=True)
class Run:
    """A model at one layer, on one batch, for one target: what a procedure may ask for."""

    model: Model
    inputs: Inputs
    path: str
    layout_of: Callable[[str, Shape], Layout]
    target: Any
    size: Shape | None
    chunk: int
    track: Callable[[Sequence[int], str], Iterable[int]]

    def capture(
        self,
        inputs: Inputs = None,
        layers: tuple[str, ...] = (),
        at: Array | None = None,
        scored: bool = True,
    ) -> Capture:
        inputs = self.inputs if inputs is None else inputs
        run = compiled(self.model, _Captured(layers or (self.path,), scored))
        try:
            found = run(inputs, self.target, *(() if at is None else (at,)))["found"]
        except TypeError as error:
            if at is not None and "at" in str(error):
                raise TypeError(
                    f"this method needs gradients at other activations, which {type(self.model).__name__}.capture does "
                    "not give: it has no option `at`"
                ) from error
            raise
        return Capture(*found)

    def scorer(self, layer: str) -> Scorer:
        return scorer(self.model, self.inputs, layer, self.target)

    @cached_property
    def first(self) -> Capture:
        """Activations, gradients and scores of the inputs as they are; the target's top classes are settled here."""
        return self.capture()

    @cached_property
    def unscored(self) -> Capture:
        """Activations and scores of the inputs as they are, without gradients."""
        return self.capture(scored=False)

    def settled(self, capture: Capture) -> Run:
        """The same run, for the classes that are on top of the inputs as they are."""
        target = self.target
        if isinstance(target, Target):
            target.check(capture.outputs)
            target = target.resolve(capture.outputs)
        return replace(self, target=target)

    def layout(self, capture: Capture) -> Layout:
        return self.layout_of(self.path, tuple(int(n) for n in capture.activations[0].shape[1:]))

    def score(
        self,
        run: Callable[[Array], Array],
        variants: Callable[[np.ndarray], Array],
        count: int,
        what: str,
        chunk: int | None = None,
    ) -> Array:
        """Scores (N, [K,] M) of M = `count` variants, which `variants(indices)` makes (m, N, ...) at a time."""
        chunk, found = min(chunk or self.chunk, count), []
        for start in self.track(range(0, count, chunk), what):
            # a last chunk of another size would be another program
            index = np.minimum(np.arange(start, start + chunk), count - 1)
            scores = run(variants(index))
            found.append(widen(scores[: min(chunk, count - start)]))
        xp = array_namespace(*found)
        return xp.moveaxis(xp.concat(found, axis=0), 0, -1)

    def noisy(self, samples: int, noise: float, seed: int) -> Iterator[Inputs]:
        """Copies of the inputs with Gaussian noise, `noise` times each sample's range: the same noise for each."""
        array, random = first_array(self.inputs), np.random.default_rng(seed)
        for _ in range(samples):
            added = noise_(
                self.inputs, input_channels_first(self.model, self.inputs), noise, random
            )
            yield with_first_array(self.inputs, array + added)


def _shared(view: Array, scores: Array) -> Array:
    """Activations (N, C, P) as (N, 1, C, P) where there are K targets."""
    return array_namespace(view).expand_dims(view, axis=1) if scores.ndim == 2 else view


def _spread(scores: Array, alive: np.ndarray, channels: int) -> Array:
    """Scores (..., M) of the channels `alive` as those of all channels; what follows stands for the others."""
    place = np.full(channels, len(alive))
    place[alive] = np.arange(len(alive))
    xp = array_namespace(scores)
    return xp.take(scores, constant(place, like=scores, dtype=xp.int32), axis=-1)


def _positive(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"`{name}` must be at least 1, but is {value}")


# ---------------------------------------------------------------------------------------------- at the layer


def cam(run: Run, tolerance: float = 1e-3) -> Explained:
    """Where the gradient is the same at all positions, and stays so as activations change sign: a linear head."""
    capture = run.first
    run = run.settled(capture)
    layout = run.layout(capture)
    gradients = layout.view(widen(capture.gradients[0]))
    elsewhere = layout.view(widen(run.capture(at=-capture.activations[0]).gradients[0]))
    xp = array_namespace(gradients)
    size = xp.max(xp.abs(gradients))
    uneven = xp.max(xp.abs(gradients - xp.mean(gradients, axis=-1, keepdims=True)))
    bent = xp.max(xp.abs(gradients - elsewhere))
    if float(xp.maximum(uneven, bent)) > tolerance * float(size):
        why = (
            "differs between positions"
            if float(uneven) > tolerance * float(size)
            else "depends on the activations"
        )
        raise ValueError(
            f'CAM needs global average pooling and one linear layer behind layer "{run.path}", but the gradient there '
            f'{why}; use method="grad-cam", which is CAM where there is one, or the layer in front of the pooling'
        )
    view = _shared(layout.view(widen(capture.activations[0])), capture.scores)
    return layout.maps(methods.cam(view, gradients)), capture


def integrated_grad_cam(run: Run, steps: int = 32) -> Explained:
    """Grad-CAM whose gradients are means as the activations grow from zero: `steps` midpoints of the way."""
    _positive("steps", steps)
    capture = run.first
    run = run.settled(capture)
    layout, total = run.layout(capture), None
    for step in run.track(range(steps), "integrating"):
        found = run.capture(at=capture.activations[0] * ((step + 0.5) / steps))
        gradients = layout.view(widen(found.gradients[0]))
        total = gradients if total is None else total + gradients
    assert total is not None
    view = _shared(layout.view(widen(capture.activations[0])), capture.scores)
    return layout.maps(methods.grad_cam(view, total / steps)), capture


def ablation_cam(run: Run) -> Explained:
    """Each channel set to 0 in turn, at all positions; only the layer's head runs again."""
    capture = run.unscored
    run = run.settled(capture)
    layout, activations = run.layout(capture), capture.activations[0]
    view = layout.view(widen(activations))
    channels = int(view.shape[-2])
    axis = -len(layout.grid) - 1 if layout.kind == "channels_first" else -1
    score = run.scorer(run.path)
    replayed, chunk = score.run, run.chunk
    if score.averaged is not None and layout.kind != "tokens":
        # a mean over positions of what has a channel less is that of the whole, with a channel less
        xp = array_namespace(activations)
        positions = int(np.prod([activations.shape[axis] for axis in score.axes]))
        activations = xp.mean(activations, axis=score.axes, keepdims=True)
        replayed, chunk = score.averaged, run.chunk * positions

    def without(index: np.ndarray) -> Array:
        shape = [len(index), *(1,) * activations.ndim]
        shape[axis] = channels
        kept = np.ones((len(index), channels), dtype=np.float32)
        kept[np.arange(len(index)), index] = 0
        return activations * constant(kept.reshape(shape), like=activations)

    # without a channel that is 0 everywhere the score stays what it is
    xp = array_namespace(view)
    alive = np.flatnonzero(to_numpy(xp.any(xp.any(view != 0, axis=-1), axis=0)))
    known = widen(capture.scores)[..., None]
    if len(alive):
        found = run.score(
            replayed, lambda index: without(alive[index]), len(alive), "ablating channels", chunk
        )
        known = xp.concat([found, known], axis=-1)
    ablated = _spread(known, alive, channels)
    drops = methods.ablation_cam(_shared(view, capture.scores), widen(capture.scores), ablated)
    return layout.maps(drops), capture


# ---------------------------------------------------------------------------------------------- at the input


def _strongest(view: Array, count: int | None) -> Array:
    """(N, C, P) -> (N, count, P): each sample's channels of largest variance over positions, largest first."""
    channels = int(view.shape[-2])
    if count is None or count >= channels:
        return view
    _positive("channels", count)
    xp = array_namespace(view)
    order = xp.argsort(-xp.var(view, axis=-1), axis=-1, stable=True)[:, :count, None]
    return xp.take_along_axis(
        view, xp.broadcast_to(order, (*order.shape[:-1], view.shape[-1])), axis=1
    )


Blur = Callable[[Array, np.ndarray], Array]
"""From maps (N, m, *grid) of the channels of m variants, and the variants' numbers, to these maps changed."""


def _masked(
    run: Run,
    channels: int | None,
    samples: int,
    before: Blur | None = None,
    after: Blur | None = None,
) -> Explained:
    """The inputs seen through each channel's map, `samples` times each: scores are means over these.

    H = scaled(resized(A)), as the paper has it: first to the input's size, then from minimum to maximum.
    """
    _positive("samples", samples)
    capture = run.unscored
    run = run.settled(capture)
    layout = run.layout(capture)
    array = first_array(run.inputs)
    input_layout = layouts.input_layout(array.shape, input_channels_first(run.model, run.inputs))
    if run.size is None or input_layout is None or len(run.size) != len(layout.grid):
        raise ValueError(
            f"this method shows the model its input through the maps of layer {run.path!r}, and so needs an input with "
            f"channels and as many spatial axes as the layer, but they have shapes {tuple(array.shape)} and "
            f"{tuple(capture.activations[0].shape)}"
        )
    size = run.size
    view = _strongest(layout.view(widen(capture.activations[0])), channels)
    xp = array_namespace(view)
    # a flat channel shows nothing of the input, and one such stands for all
    uneven_each = xp.max(view, axis=-1, keepdims=True) != xp.min(view, axis=-1, keepdims=True)
    uneven = to_numpy(xp.any(uneven_each[..., 0], axis=0))
    alive, flat = np.flatnonzero(uneven), np.flatnonzero(~uneven)
    used = np.concatenate([alive, flat[:1]])
    shown = xp.where(
        uneven_each, view, xp.zeros_like(view)
    )  # resized, a constant is one up to rounding alone
    grids = xp.take(layout.maps(shown), constant(used, like=view, dtype=xp.int32), axis=1)
    score = run.scorer(INPUT)
    array = array if score.value is None else score.value

    def seen(index: np.ndarray) -> Array:
        chosen = xp.take(grids, constant(index // samples, like=grids, dtype=xp.int32), axis=1)
        chosen = (
            chosen
            if before is None
            else before(chosen, used[index // samples] * samples + index % samples)
        )
        masks = maps_.scale(maps_.resize(chosen, size), len(size), "minmax")
        masks = masks if after is None else after(masks, index)
        masks = xp.astype(xp.moveaxis(masks, 1, 0), array.dtype)
        return array * input_layout.broadcast(masks)

    scores = run.score(score, seen, len(used) * samples, "masking the input")
    means = xp.mean(xp.reshape(scores, (*scores.shape[:-1], len(used), samples)), axis=-1)
    masked = _spread(means, alive, len(uneven))
    return layout.maps(methods.score_cam(_shared(view, capture.scores), masked)), capture


def score_cam(run: Run, channels: int | None = None) -> Explained:
    """Score-CAM; with `channels` only those of largest variance (Faster Score-CAM)."""
    return _masked(run, channels, 1)


def ss_cam(
    run: Run, channels: int | None = None, samples: int = 8, noise: float = 0.2, seed: int = 0
) -> Explained:
    """Smoothed Score-CAM: mean scores over maps with Gaussian noise of `noise` times their range.

    Naidu and Michael 2020, section 3, smooth on the feature map, https://arxiv.org/abs/2006.14255. The paper takes 35
    samples of standard deviation 2, on the map's own scale, which no two layers share.
    """

    def before(chosen: Array, index: np.ndarray) -> Array:
        xp = array_namespace(chosen)
        axes = tuple(range(2, chosen.ndim))
        spread = xp.max(chosen, axis=axes, keepdims=True) - xp.min(chosen, axis=axes, keepdims=True)
        drawn = np.stack(
            [
                np.random.default_rng((seed, int(i))).standard_normal(tuple(chosen.shape[2:]))
                for i in index
            ]
        )
        return chosen + spread * noise * constant(drawn[None], like=chosen)

    return _masked(run, channels, samples, before=before)


def is_cam(run: Run, channels: int | None = None, samples: int = 10) -> Explained:
    """Integrated Score-CAM: mean scores as each mask grows from 1/S of itself to the whole.

    Naidu et al. 2020, eqs. 3 and 4, https://arxiv.org/abs/2010.03023
    """

    def after(masks: Array, index: np.ndarray) -> Array:
        shape = (1, len(index), *(1,) * (masks.ndim - 2))
        return masks * constant(((index % samples + 1) / samples).reshape(shape), like=masks)

    return _masked(run, channels, samples, after=after)


def smooth_grad_cam_pp(run: Run, samples: int = 16, noise: float = 0.1, seed: int = 0) -> Explained:
    """Captures of `samples` noisy copies of the input; noise is relative to each sample's range."""
    _positive("samples", samples)
    capture = run.unscored
    run = run.settled(capture)
    layout, several = run.layout(capture), capture.scores.ndim == 2
    views, gradients = [], []
    copies = list(run.noisy(samples, noise, seed))
    for n in run.track(range(samples), "noisy copies"):
        found = run.capture(copies[n])
        view = layout.view(widen(found.activations[0]))
        views.append(array_namespace(view).expand_dims(view, axis=1) if several else view)
        gradients.append(layout.view(widen(found.gradients[0])))
    xp = array_namespace(*views)
    return layout.maps(methods.smooth_grad_cam_pp(xp.stack(views), xp.stack(gradients))), capture


def contributions(run: Run) -> tuple[Capture, list[tuple[str, Layout | None, Array]]]:
    """What the input and each bias contribute to the score: (path, layout, (N, [K,] *sample)), the input's first.

    Of a network that is linear piece by piece they sum to the score.
    """
    biases = getattr(run.model, "biases", None)
    if biases is None:
        raise TypeError(
            f"full-grad needs a network's biases, which {type(run.model).__name__} does not give"
        )
    found = list(biases(run.inputs))
    paths = (INPUT, *(path for path, _ in found))
    capture = run.capture(layers=paths)
    several = capture.scores.ndim == 2
    array = first_array(run.inputs)
    xp = array_namespace(array)
    each = [array, *(bias for _, bias in found)]
    values = [xp.expand_dims(value, axis=1) for value in each] if several else each
    places: list[Layout | None] = [
        layouts.input_layout(array.shape, input_channels_first(run.model, run.inputs))
    ]
    for path, gradient in zip(paths[1:], capture.gradients[1:], strict=True):
        shape = tuple(int(n) for n in gradient.shape[1 + several :])
        places.append(run.layout_of(path, shape) if len(shape) > 1 else None)
    products = [value * gradient for value, gradient in zip(values, capture.gradients, strict=True)]
    return capture, list(zip(paths, places, products, strict=True))


def full_grad(run: Run) -> Explained:
    """The input's and the biases' contributions as one picture of the input's size."""
    capture, found = contributions(run)
    if run.size is None or found[0][1] is None:
        raise ValueError("full-grad needs an input with channels and space")
    spatial = [(layout, product) for _, layout, product in found if layout is not None]
    images = [layout.maps(layout.view(widen(product))) for layout, product in spatial]
    return methods.full_grad(images, run.size), capture


# ---------------------------------------------------------------------------------------------- attention


def _attentions(run: Run) -> tuple[str, ...]:
    listing = getattr(run.model, "attentions", None)
    found = tuple(layer.path for layer in listing(run.inputs)) if listing is not None else ()
    if not found:
        raise ValueError(
            f"no attention weights of self-attention, (N, heads, T, T), were found in this "
            f"{type(run.model).__name__}: PyTorch's scaled_dot_product_attention and MultiheadAttention, and a softmax "
            "that is spelled out, are seen in both frameworks; a kernel of its own is not, and a model without "
            'attention has none. Methods such as "grad-cam" work on its tokens all the same'
        )
    return found


def _token_maps(tokens: Array, layout: Layout) -> Array:
    """(..., T) -> (..., *grid): the spatial ones."""
    stop = layout.prefix + int(np.prod(layout.grid))
    return layout.maps(tokens[..., layout.prefix : stop])


def attention_rollout(run: Run) -> Explained:
    """All attention weights of one forward pass, rolled out from the class token where there is one."""
    capture = run.capture(layers=_attentions(run), scored=False)
    layout = run.layout_of("<attention>", (int(capture.activations[0].shape[-1]), 1))
    rolled = methods.attention_rollout(
        [widen(a) for a in capture.activations], 0 if layout.prefix else None
    )
    maps = _token_maps(rolled, layout)
    xp = array_namespace(maps)
    if capture.scores.ndim == 2:  # it looks at no class
        maps = xp.broadcast_to(xp.expand_dims(maps, axis=1), (*capture.scores.shape, *layout.grid))
    return maps, capture


def legrad(run: Run) -> Explained:
    """The gradients of all attention weights, from one forward and one backward pass."""
    capture = run.capture(layers=_attentions(run))
    layout = run.layout_of("<attention>", (int(capture.gradients[0].shape[-1]), 1))
    return _token_maps(methods.legrad([widen(g) for g in capture.gradients]), layout), capture


PROCEDURES: dict[str, Procedure] = {
    "cam": cam,
    "integrated-grad-cam": integrated_grad_cam,
    "ablation-cam": ablation_cam,
    "score-cam": score_cam,
    "ss-cam": ss_cam,
    "is-cam": is_cam,
    "smooth-grad-cam++": smooth_grad_cam_pp,
    "full-grad": full_grad,
    "attention-rollout": attention_rollout,
    "legrad": legrad,
}
"""What runs for the methods of `gradcam.methods.TABLE` that one capture is not enough for."""
