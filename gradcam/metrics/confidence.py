"""What the map alone is worth: the model's confidence in the input seen through its explanation."""

from __future__ import annotations

from typing import Any

import numpy as np

from gradcam._arrays import to_numpy
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

_ROUNDING = 1e-5  # how far a probability that a framework computed in single precision may lie outside [0, 1]


def average_drop(
    subject: Subject, maps: Any, *, baseline: Baseline = "zero", seed: int = 0
) -> Result:
    r"""Average Drop: the share of the confidence that is lost when the input is seen through its map.

    $\max(0, Y - O) / Y$, where $Y$ is the confidence in the class for $x$, and $O$ for the explanation map
    $x \odot M + b \odot (1 - M)$: `maps` (N, h, w) as `Subject.masks`, $M \in [0, 1]$, and the `baseline` $b$, which
    in the paper is 0. Chattopadhyay et al. 2018, https://arxiv.org/abs/1710.11063, section 4.1.

    In [0, 1], as a share and not in per cent; lower is better. A map of zeros hides all of the input. NaN where
    $Y = 0$. A map that shows everything, as a flat one does, drops nothing: read it together with a complexity, as
    `adcc` does.
    """
    return confidence_measures(subject, maps, baseline=baseline, seed=seed)["average-drop"]


def increase_in_confidence(
    subject: Subject, maps: Any, *, baseline: Baseline = "zero", seed: int = 0
) -> Result:
    r"""Increase in Confidence: how often the model is surer of the input seen through its map than of the input.

    $[Y < O]$, with $Y$ and $O$ of `average_drop`. Chattopadhyay et al. 2018, https://arxiv.org/abs/1710.11063.

    0 or 1 for each sample; higher is better. A tie is no increase.
    """
    return confidence_measures(subject, maps, baseline=baseline, seed=seed)[
        "increase-in-confidence"
    ]


def average_gain(
    subject: Subject, maps: Any, *, baseline: Baseline = "zero", seed: int = 0
) -> Result:
    r"""Average Gain: the share of the doubt that is gone when the input is seen through its map.

    $\max(0, O - Y) / (1 - Y)$, with $Y$ and $O$ of `average_drop`, whose mirror image it is.
    Zhang et al. 2023, Opti-CAM, https://arxiv.org/abs/2301.07002.

    In [0, 1]; higher is better. 0 where $Y = 1$: there is nothing to gain.
    """
    return confidence_measures(subject, maps, baseline=baseline, seed=seed)["average-gain"]


def confidence_measures(
    subject: Subject, maps: Any, *, baseline: Baseline = "zero", seed: int = 0
) -> dict[str, Result]:
    """`average_drop`, `increase_in_confidence` and `average_gain`, from one pass over the masked inputs.

    Keys "average-drop", "increase-in-confidence" and "average-gain". Confidences must lie in [0, 1]; a ValueError says
    so where `confidence="outputs"` gives others. Only the "noise" baseline depends on `seed`.
    """
    shown = _through(subject, subject.masks(maps), baseline, seed)
    return _changes(subject, shown, _settings(subject, baseline, seed))


def adcc(
    subject: Subject, maps: Any, explain: Explain, *, baseline: Baseline = "zero", seed: int = 0
) -> Result:
    r"""ADCC: the harmonic mean of coherency, simplicity and the confidence that is kept.

    $$ 3 \left( \frac{1}{\mathrm{coherency}} + \frac{1}{1 - \mathrm{complexity}}
       + \frac{1}{1 - \mathrm{drop}} \right)^{-1} $$

    for each sample, of the parts that `adcc_parts` gives. Poppi et al. 2021, https://arxiv.org/abs/2104.10252.

    In [0, 1]; higher is better. 0 where one of the three is 0, as it is for a flat map, which has no coherency; else
    NaN where the drop is.
    """
    return adcc_parts(subject, maps, explain, baseline=baseline, seed=seed)["adcc"]


def adcc_parts(
    subject: Subject, maps: Any, explain: Explain, *, baseline: Baseline = "zero", seed: int = 0
) -> dict[str, Result]:
    r"""`adcc` and what it is made of, from one pass over the masked inputs and one further explanation of them.

    Keys, with $M$ the map of $x$ and $M'$ that of $x \odot M + b \odot (1 - M)$ for the same class, both as
    `Subject.masks`:

    - "coherency": $(1 + \rho) / 2$, the Pearson correlation $\rho$ of $M$ and $M'$ brought to [0, 1]; higher is better,
      and 1/2 is chance. 0, the worst, where $M$ or $M'$ is flat and has no correlation, so that no method gains by
      saying nothing.
    - "complexity": the mean of $M$, which is its L1 norm for each pixel; in [0, 1], lower is better, 1 for a flat map.
    - "average-drop": see `average_drop`.
    - "adcc": see `adcc`.

    Poppi et al. 2021, https://arxiv.org/abs/2104.10252. `explain` is given `Subject.batch` inputs at most, and must be
    the method that made `maps`, or coherency is about something else.
    """
    settings = _settings(subject, baseline, seed)
    masks = subject.masks(maps)
    shown = _through(subject, masks, baseline, seed)
    drop = _changes(subject, shown, settings)["average-drop"]
    coherency = (1 + _correlation(masks, subject.masks(_explained(subject, explain, shown)))) / 2
    complexity = masks.mean((1, 2))
    return {
        "coherency": Result("coherency", coherency, "higher", settings),
        "complexity": Result("complexity", complexity, "lower", settings),
        "average-drop": drop,
        "adcc": Result(
            "adcc", _harmonic(coherency, 1 - complexity, 1 - drop.values), "higher", settings
        ),
    }


def _settings(subject: Subject, baseline: Baseline, seed: int) -> dict[str, Any]:
    return {"baseline": baseline, "seed": seed, "confidence": subject.confidence}


def _through(subject: Subject, masks: np.ndarray, baseline: Baseline, seed: int) -> np.ndarray:
    """The inputs where the masks are 1, the baseline where they are 0."""
    if (
        subject.inputs.dtype.kind != "f"
    ):  # a mask in the dtype of an integer input would be rounded to 0
        raise ValueError(
            f"`inputs` must be floats to be multiplied by a map, but have dtype {subject.inputs.dtype}; "
            "pass inputs.astype(np.float32), and let `predict` undo it"
        )
    weights = subject.spread(masks)
    return np.asarray(subject.inputs * weights + subject.baseline(baseline, seed) * (1 - weights))


def _changes(subject: Subject, shown: np.ndarray, settings: dict[str, Any]) -> dict[str, Result]:
    before, after = _probabilities(subject.clean), _probabilities(subject.scores(shown))
    unknown = np.isnan(before) | np.isnan(after)
    none, sure = before == 0, before == 1
    drop = np.where(none, np.nan, np.maximum(0, before - after) / np.where(none, 1, before))
    increase = np.where(unknown, np.nan, before < after)
    gain = np.maximum(0, after - before) / np.where(sure, 1, 1 - before)
    return {
        "average-drop": Result("average-drop", drop, "lower", settings),
        "increase-in-confidence": Result("increase-in-confidence", increase, "higher", settings),
        "average-gain": Result("average-gain", gain, "higher", settings),
    }


def _probabilities(confidence: np.ndarray) -> np.ndarray:
    outside = confidence[(confidence < -_ROUNDING) | (confidence > 1 + _ROUNDING)]
    if outside.size:
        raise ValueError(
            f"a change of `confidence` is a share of what lies between 0 and 1, but the outputs gave {outside[0]:.6g}; "
            'make the `Subject` with confidence="softmax" or "sigmoid"'
        )
    return np.array(np.clip(confidence, 0, 1))


def _explained(subject: Subject, explain: Explain, inputs: np.ndarray) -> np.ndarray:
    parts = []
    for start in range(0, len(inputs), subject.batch):
        some = slice(start, start + subject.batch)
        found = to_numpy(explain(inputs[some], subject.classes[some])).astype(np.float64)
        count = len(inputs[some])
        if found.ndim != 3 or len(found) != count:
            raise ValueError(
                f"`explain` must give maps (M, h, w) for {count} inputs, but gave {found.shape}"
            )
        if not np.isfinite(found).all():
            raise ValueError(
                "`explain` gave NaN or infinite values of masked inputs; give 0 where a map is undefined"
            )
        parts.append(found)
    return np.concatenate(parts)


def _correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson's, of each map (N, H, W) with its like: (N,); -1 where either is flat."""
    flat = (np.ptp(a, (1, 2)) == 0) | (np.ptp(b, (1, 2)) == 0)
    a, b = a - a.mean((1, 2), keepdims=True), b - b.mean((1, 2), keepdims=True)
    norms = np.sqrt((a**2).sum((1, 2)) * (b**2).sum((1, 2)))
    return np.where(flat, -1, np.clip((a * b).sum((1, 2)) / np.where(flat, 1, norms), -1, 1))


def _harmonic(*parts: np.ndarray) -> np.ndarray:
    zero = np.any([part == 0 for part in parts], axis=0)
    return np.where(zero, 0, len(parts) / sum(1 / np.where(zero, 1, part) for part in parts))
