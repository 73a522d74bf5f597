"""How fast the confidence falls as the map's pixels go, or rises as they come: areas under curves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from gradcam.metrics.result import Result
from gradcam.metrics.subject import Baseline, Subject

__all__ = ["Ties", "deletion", "insertion", "tie_order"]

Ties = Literal["random", "rows"]


def deletion(
    subject: Subject,
    maps: Any,
    *,
    steps: int = 20,
    baseline: Baseline = "zero",
    seed: int = 0,
    ties: Ties = "random",
) -> Result:
    r"""Deletion: the area under the confidence as pixels turn into the baseline, the map's highest first.

    $\int_0^1 f_c(x_{-\phi}) \, d\phi$, where $x_{-\phi}$ is $x$ with the share $\phi$ of its pixels that is highest in
    the map replaced by the `baseline`, in all channels; by the trapezoidal rule. Petsiuk et al. 2018, RISE,
    https://arxiv.org/abs/1806.07421.

    maps: (N, h, w), resized to the input. Only the order of the resized pixels counts: a rising function of a map at
    the input's resolution changes nothing.
    steps: into how many shares the pixels are parted: `ceil(H * W / steps)` in each, and what is left in the last. So
    there may be fewer than `steps` of them. The default of 20 costs 20 predictions a sample; `steps=H` takes away as
    many pixels as a row has, as the authors' code does.
    baseline: 0, as in the authors' code: the mean colour of standardised inputs. `Subject.baseline` lists the others.
    ties: pixels of the same value go in a "random" order, of `seed` and the same for every sample, so that a flat map
    is a random order; or as they lie in "rows", from the top left corner.

    In [0, 1] unless the confidence is "outputs"; lower is better. A flat map scores as chance does. `Result.curves` has
    "fraction" (S,), from 0 to 1, and "confidence" (N, S). NaN where a prediction is.
    """
    return _area("deletion", subject, maps, steps, baseline, seed, ties)


def insertion(
    subject: Subject,
    maps: Any,
    *,
    steps: int = 20,
    baseline: Baseline = "blur",
    seed: int = 0,
    ties: Ties = "random",
) -> Result:
    r"""Insertion: the area under the confidence as the baseline turns into the input, the map's highest pixels first.

    As `deletion`, but of $x_{+\phi}$: the baseline, in which the share $\phi$ of the pixels that is highest in the map
    is the input's. Petsiuk et al. 2018, RISE, https://arxiv.org/abs/1806.07421.

    baseline: the blurred input, as in the paper, for pixels put on a plain colour make edges, which are evidence of
    their own; it needs SciPy.

    In [0, 1] unless the confidence is "outputs"; higher is better. With one baseline for both, the `insertion` of a map
    without ties is the `deletion` of the negative map, read from its end, where `steps` divides the pixels.
    """
    return _area("insertion", subject, maps, steps, baseline, seed, ties)


def _area(
    name: Literal["deletion", "insertion"],
    subject: Subject,
    maps: Any,
    steps: int,
    baseline: Baseline,
    seed: int,
    ties: Ties,
) -> Result:
    if not isinstance(steps, (int, np.integer)) or steps < 1:
        raise ValueError(f"`steps` must be a whole number of at least 1, but is {steps!r}")
    heat = subject.heat(maps)
    pixels = heat[0].size
    counts = [*range(0, pixels, -(-pixels // int(steps))), pixels]
    confidence = np.empty((len(heat), len(counts)))
    # one end of the curve is the input itself, whose confidence is known
    known, asked = (0, slice(1, None)) if name == "deletion" else (-1, slice(-1))
    confidence[:, known] = subject.clean
    samples = np.repeat(np.arange(len(heat)), len(counts) - 1).tolist()
    variants = _variants(
        name,
        subject,
        heat,
        counts[asked],
        subject.baseline(baseline, seed),
        tie_order(pixels, ties, seed),
    )
    confidence[:, asked] = subject.stream(variants, samples, name).reshape(len(heat), -1)
    fraction = np.array(counts) / pixels
    area = ((confidence[:, 1:] + confidence[:, :-1]) / 2 * np.diff(fraction)).sum(-1)
    return Result(
        name,
        area,
        "lower" if name == "deletion" else "higher",
        {
            "steps": int(steps),
            "baseline": baseline,
            "seed": seed,
            "ties": ties,
            "confidence": subject.confidence,
        },
        {"fraction": fraction, "confidence": confidence},
    )


def tie_order(pixels: int, ties: Ties, seed: int) -> np.ndarray:
    """(P,): the pixels in the order in which they go where the map does not say."""
    if ties == "random":
        return np.random.default_rng(seed).permutation(pixels)
    if ties == "rows":
        return np.arange(pixels)
    raise ValueError(f'`ties` must be "random" or "rows", but is {ties!r}')


def _variants(
    name: Literal["deletion", "insertion"],
    subject: Subject,
    heat: np.ndarray,
    counts: list[int],
    absent: np.ndarray,
    first: np.ndarray,
) -> Iterator[np.ndarray]:
    """For each sample, for each of `counts`: the input with as many of the map's highest pixels gone, or as come."""
    for one, input_, gone in zip(heat, subject.inputs, absent, strict=True):
        ranks = np.empty(first.size, int)
        ranks[first[np.argsort(-one.ravel()[first], kind="stable")]] = np.arange(first.size)
        for count in counts:
            highest = subject.spread(ranks.reshape(one.shape) < count) != 0
            yield (
                np.where(highest, gone, input_)
                if name == "deletion"
                else np.where(highest, input_, gone)
            )
