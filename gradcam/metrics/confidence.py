"""The confidence where only the map's part of the input is shown: Average Drop, ADCC."""

from __future__ import annotations

from typing import Any

import numpy as np

from gradcam._arrays import to_numpy
from gradcam.metrics.complexity import complexity
from gradcam.metrics.result import Result
from gradcam.metrics.subject import Baseline, Explain, Subject

__all__ = [
    "adcc",
    "adcc_parts",
    "average_drop",
    "average_gain",
    "confidence_measures",
    "increase_in_confidence",
]

_ROUNDING = 1e-5
"""How far outside [0, 1] single precision may put a probability."""


def average_drop(
    subject: Subject, maps: Any, *, baseline: Baseline = "zero", seed: int = 0
) -> Result:
    r"""Average Drop: the share of the confidence that is lost where only the map is shown.

    $\max(0, Y - O) / Y$, where $Y$ is the confidence in the class for $x$, and $O$ for the
    explanation map $x \odot M + b \odot (1 - M)$: `maps` (N, h, w) as `Subject.masks`, $M \in [0,
    1]$, and the `baseline` $b$, which in the paper is 0. Chattopadhyay et al. 2018,
    https://arxiv.org/abs/1710.11063, section 4.1.

    In [0, 1], as a share and not in per cent; lower is better. NaN where $Y = 0$. A map of zeros
    hides all of the input. A flat positive map shows all of it, and drops nothing: read this
    together with a complexity, as `adcc` does.
    """
    return confidence_measures(subject, maps, baseline=baseline, seed=seed)["average-drop"]


def increase_in_confidence(
    subject: Subject, maps: Any, *, baseline: Baseline = "zero", seed: int = 0
) -> Result:
    r"""Increase in Confidence: whether the confidence is higher where only the map is shown.

    $[Y < O]$, with $Y$ and $O$ of `average_drop`. Chattopadhyay et al. 2018,
    https://arxiv.org/abs/1710.11063.

    0 or 1 for each sample; higher is better. A tie is no increase.
    """
    return confidence_measures(subject, maps, baseline=baseline, seed=seed)[
        "increase-in-confidence"
    ]


def average_gain(
    subject: Subject, maps: Any, *, baseline: Baseline = "zero", seed: int = 0
) -> Result:
    r"""Average Gain: the share of the missing confidence gained where only the map is shown.

    $\max(0, O - Y) / (1 - Y)$, with $Y$ and $O$ of `average_drop`, whose mirror image it is.
    Zhang et al. 2023, Opti-CAM, https://arxiv.org/abs/2301.07002.

    In [0, 1]; higher is better. 0 where $Y = 1$, since there is nothing to gain.
    """
    return confidence_measures(subject, maps, baseline=baseline, seed=seed)["average-gain"]


def confidence_measures(
    subject: Subject, maps: Any, *, baseline: Baseline = "zero", seed: int = 0
) -> dict[str, Result]:
    """`average_drop`, `increase_in_confidence` and `average_gain`, from one pass.

    Keys "average-drop", "increase-in-confidence" and "average-gain". Confidences must lie in [0,
    1]; a ValueError says so where `confidence="outputs"` gives others. Only the "noise" baseline
    depends on `seed`.
    """
    shown = _masked(subject, subject.masks(maps), baseline, seed)
    return _changes(subject, shown, _settings(subject, baseline, seed))


def adcc(
    subject: Subject, maps: Any, explain: Explain, *, baseline: Baseline = "zero", seed: int = 0
) -> Result:
    r"""ADCC: the harmonic mean of coherency, 1 - complexity and 1 - drop.

    $$ 3 \left( \frac{1}{\mathrm{coherency}} + \frac{1}{1 - \mathrm{complexity}}
       + \frac{1}{1 - \mathrm{drop}} \right)^{-1} $$

    for each sample, of the parts that `adcc_parts` gives. Poppi et al. 2021,
    https://arxiv.org/abs/2104.10252.

    In [0, 1]; higher is better. 0 where one of the three is 0; a flat map has a coherency of 0.
    Else NaN where the drop is NaN.
    """
    return adcc_parts(subject, maps, explain, baseline=baseline, seed=seed)["adcc"]


def adcc_parts(
    subject: Subject, maps: Any, explain: Explain, *, baseline: Baseline = "zero", seed: int = 0
) -> dict[str, Result]:
    r"""`adcc` and its parts, from one pass over the masked inputs and one explanation of them.

    Keys, with $M$ the map of $x$ and $M'$ that of $x \odot M + b \odot (1 - M)$ for the same class,
    both as `Subject.masks`:

    - "coherency": $(1 + \rho) / 2$, with the Pearson correlation $\rho$ of $M$ and $M'$; in [0, 1],
      higher is better, and 1/2 is chance. A flat $M$ or $M'$ has no correlation; its coherency is
      0, the worst, so that no method gains by flat maps.
    - "complexity": the mean of $M$; see `complexity`.
    - "average-drop": see `average_drop`.
    - "adcc": see `adcc`.

    Poppi et al. 2021, https://arxiv.org/abs/2104.10252. `explain` must be the method that made
    `maps`. It is given at most `Subject.batch` inputs at a time.
    """
    settings = _settings(subject, baseline, seed)
    masks = subject.masks(maps)
    shown = _masked(subject, masks, baseline, seed)
    drop = _changes(subject, shown, settings)["average-drop"]
    masks_again = subject.masks(_explained(subject, explain, shown))
    coherency = (1 + _correlation(masks, masks_again)) / 2
    extent = complexity(masks, size=subject.size).values
    combined = _harmonic_mean(coherency, 1 - extent, 1 - drop.values)
    return {
        "coherency": Result("coherency", coherency, "higher", settings),
        "complexity": Result("complexity", extent, "lower", settings),
        "average-drop": drop,
        "adcc": Result("adcc", combined, "higher", settings),
    }


def _settings(subject: Subject, baseline: Baseline, seed: int) -> dict[str, Any]:
    return {"baseline": baseline, "seed": seed, "confidence": subject.confidence}


def _masked(subject: Subject, masks: np.ndarray, baseline: Baseline, seed: int) -> np.ndarray:
    """The inputs where masks (N, H, W) are 1, the baseline where they are 0, mixed between."""
    if subject.inputs.dtype.kind != "f":
        # A mask in the dtype of an integer input would be rounded to 0.
        raise ValueError(
            "`inputs` must be floats to be multiplied by a map, but have dtype "
            f"{subject.inputs.dtype}; pass inputs.astype(np.float32), and let `predict` undo it"
        )
    weights = subject.with_channel_axis(masks)
    hidden = subject.baseline(baseline, seed) * (1 - weights)
    return np.asarray(subject.inputs * weights + hidden)


def _changes(subject: Subject, shown: np.ndarray, settings: dict[str, Any]) -> dict[str, Result]:
    """The measures of the confidence before and after all but the map's part is hidden, by name."""
    before = _probabilities(subject.clean)
    after = _probabilities(subject.scores(shown))
    undefined = np.isnan(before) | np.isnan(after)
    lost = np.maximum(0, before - after)
    gained = np.maximum(0, after - before)
    drop = np.where(before == 0, np.nan, lost / np.where(before == 0, 1, before))
    increase = np.where(undefined, np.nan, before < after)
    gain = gained / np.where(before == 1, 1, 1 - before)
    return {
        "average-drop": Result("average-drop", drop, "lower", settings),
        "increase-in-confidence": Result("increase-in-confidence", increase, "higher", settings),
        "average-gain": Result("average-gain", gain, "higher", settings),
    }


def _probabilities(confidence: np.ndarray) -> np.ndarray:
    outside = confidence[(confidence < -_ROUNDING) | (confidence > 1 + _ROUNDING)]
    if outside.size:
        raise ValueError(
            "a change of `confidence` is a share of a range from 0 to 1, but the outputs gave "
            f'{outside[0]:.6g}; make the `Subject` with confidence="softmax" or "sigmoid"'
        )
    return np.array(np.clip(confidence, 0, 1))


def _explained(subject: Subject, explain: Explain, inputs: np.ndarray) -> np.ndarray:
    """Maps (N, h, w) of other inputs, for the same classes."""
    parts = []
    for start in range(0, len(inputs), subject.batch):
        rows = slice(start, start + subject.batch)
        maps = to_numpy(explain(inputs[rows], subject.classes[rows])).astype(np.float64)
        count = len(inputs[rows])
        if maps.ndim != 3 or len(maps) != count:
            raise ValueError(
                f"`explain` must give maps (M, h, w) for {count} inputs, but gave {maps.shape}"
            )
        if not np.isfinite(maps).all():
            raise ValueError(
                "`explain` gave NaN or infinite values of masked inputs; "
                "give 0 where a map is undefined"
            )
        parts.append(maps)
    return np.concatenate(parts)


def _correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson's correlation of maps a[n] and b[n], (N, H, W): (N,); -1 where either is flat."""
    flat = (np.ptp(a, (1, 2)) == 0) | (np.ptp(b, (1, 2)) == 0)
    a = a - a.mean((1, 2), keepdims=True)
    b = b - b.mean((1, 2), keepdims=True)
    norms = np.sqrt((a**2).sum((1, 2)) * (b**2).sum((1, 2)))
    correlation = (a * b).sum((1, 2)) / np.where(flat, 1, norms)
    return np.where(flat, -1, np.clip(correlation, -1, 1))


def _harmonic_mean(*parts: np.ndarray) -> np.ndarray:
    """Of parts (N,) each: (N,); 0 where one of them is 0."""
    stack = np.stack(parts)
    zero = (stack == 0).any(0)
    inverse = (1 / np.where(zero, 1, stack)).sum(0)
    return np.where(zero, 0, len(parts) / inverse)
