"""The subject of a measure: inputs, the class explained, and the model as a plain function."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from gradcam._arrays import to_numpy
from gradcam._progress import Progress, track
from gradcam.maps import resize

__all__ = [
    "Baseline",
    "Confidence",
    "Explain",
    "Predict",
    "Subject",
    "confidences",
    "relative_heat",
]

Predict = Callable[[np.ndarray], Any]
"""inputs (M, ...) -> outputs (M, K), of any framework or remote service."""
Explain = Callable[[np.ndarray, np.ndarray], Any]
"""(inputs (M, ...), target (M,)) -> maps (M, h, w), for measures that explain again."""
Confidence = Literal["softmax", "sigmoid", "outputs"]
Baseline = Literal["zero", "mean", "blur", "noise"]


@dataclass(frozen=True, eq=False)
class Subject:
    """Inputs, and a model that can be asked about changed ones.

    predict: inputs (M, ...) as NumPy -> outputs (M, K). Arrays of another framework are converted.
    inputs: (N, C, H, W), or (N, H, W, C) with `channel_axis=-1`.
    target: the class that was explained, (N,) ints or one int. None: each sample's top class.
    confidence: the "softmax" or "sigmoid" of the outputs, or the "outputs" themselves.
    batch: how many inputs `predict` is given at most.
    progress: True shows a bar over the batches; a function is told what comes next.
    """

    predict: Predict
    inputs: np.ndarray
    target: Any = None
    channel_axis: int = 1
    confidence: Confidence = "softmax"
    batch: int = 32
    progress: Progress = False

    def __post_init__(self) -> None:
        if self.inputs.ndim != 4 or len(self.inputs) == 0:
            raise ValueError(
                f"`inputs` must be (N, C, H, W) or (N, H, W, C), but have shape {self.inputs.shape}"
            )
        if self.channel_axis not in (1, -1, 3):
            raise ValueError(f"`channel_axis` must be 1 or -1, but is {self.channel_axis}")
        if self.batch < 1:
            raise ValueError(f"`batch` must be at least 1, but is {self.batch}")

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        vertical, horizontal = self._space
        return self.inputs.shape[vertical], self.inputs.shape[horizontal]

    @property
    def channel_axis_of_sample(self) -> int:
        """The axis of channels in one sample, (C, H, W) or (H, W, C)."""
        if self.channel_axis == 1:
            return 0
        return -1

    @property
    def _space(self) -> tuple[int, int]:
        """The axes of height and width."""
        if self.channel_axis == 1:
            return 2, 3
        return 1, 2

    @cached_property
    def outputs(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """(N, K): the model's outputs for the inputs as they are."""
        return self._run(self.inputs)

    @cached_property
    def classes(self) -> np.ndarray:
        """(N,): the class measured for each sample."""
        if self.target is None:
            return np.array(self.outputs.argmax(-1))
        classes = np.broadcast_to(np.asarray(self.target), (len(self.inputs),))
        if classes.dtype.kind not in "iu":
            raise TypeError(f"`target` must be ints, one or (N,), but has dtype {classes.dtype}")
        count = self.outputs.shape[-1]
        if ((classes < 0) | (classes >= count)).any():
            raise ValueError(
                f"`target` must be classes 0 to {count - 1}, but is {np.unique(classes).tolist()}"
            )
        return np.array(classes)

    @cached_property
    def clean(self) -> np.ndarray:
        """(N,): the confidence in each sample's class for the inputs as they are."""
        return np.array(
            confidences(self.outputs, self.confidence)[np.arange(len(self.inputs)), self.classes]
        )

    def scores(self, variants: np.ndarray, samples: np.ndarray | None = None) -> np.ndarray:
        """(M,): the confidence for variants (M, ...) of the inputs.

        samples: (M,), the sample of each variant, whose class it is; 0, 1, ... where it is None.
        """
        count = np.arange(len(variants))
        if samples is None:
            samples = count
        return np.array(
            confidences(self._run(variants), self.confidence)[count, self.classes[samples]]
        )

    def stream(
        self, variants: Iterable[np.ndarray], samples: Sequence[int], doing: str = "predicting"
    ) -> np.ndarray:
        """As `scores`, for variants that are made one at a time: no more than a batch is in memory.

        doing: the name of the bar that `progress` shows.
        """
        scores = [np.zeros(0)]
        batch: list[tuple[np.ndarray, int]] = []
        pairs = zip(variants, samples, strict=True)
        for pair in track(self.progress, pairs, doing, len(samples)):
            batch.append(pair)
            if len(batch) == self.batch:
                scores.append(self._batch_scores(batch))
                batch = []
        if batch:
            scores.append(self._batch_scores(batch))
        return np.concatenate(scores)

    def heat(self, maps: Any) -> np.ndarray:
        """(N, H, W): maps (N, h, w) resized to the input, and not scaled."""
        return np.asarray(resize(self._checked(maps), self.size))

    def _checked(self, maps: Any) -> np.ndarray:
        array = to_numpy(maps).astype(np.float64)
        if array.ndim != 3 or len(array) != len(self.inputs):
            raise ValueError(
                f"`maps` must be (N, h, w) for {len(self.inputs)} inputs, "
                f"but have shape {array.shape}"
            )
        if not np.isfinite(array).all():
            raise ValueError("`maps` are NaN or infinite somewhere; leave these samples out")
        return array

    def masks(self, maps: Any) -> np.ndarray:
        """(N, H, W) in [0, 1]: the positive part of `heat` over its maximum.

        A flat positive map is 1 everywhere, and one that is nowhere positive 0.
        """
        return relative_heat(self._checked(maps), self.size)

    def with_channel_axis(self, weights: np.ndarray) -> np.ndarray:
        """Weights (..., H, W) with an axis of one channel, in the inputs' dtype."""
        axis = -1
        if self.channel_axis == 1:
            axis = -3
        return np.expand_dims(weights, axis).astype(self.inputs.dtype)

    def spread(self, weights: np.ndarray) -> np.ndarray:
        """The old name of `with_channel_axis`."""
        message = "`Subject.spread` is now `with_channel_axis`; the old name goes in 0.3"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        return self.with_channel_axis(weights)

    def baseline(self, kind: Baseline, seed: int = 0) -> np.ndarray:
        """The values that removed pixels get, in the shape of the inputs.

        "zero": 0 in the inputs' own units.
        "mean": each channel's mean over the sample.
        "blur": the sample under a Gaussian with a standard deviation of a twentieth of the longer
            side, which is 11 pixels of 224. Needs SciPy.
        "noise": normal, with each channel's mean and deviation, drawn from `seed`.
        """
        if kind == "zero":
            return np.zeros_like(self.inputs)
        if kind == "blur":
            return self._blurred()
        means = self.inputs.mean(self._space, keepdims=True)
        if kind == "mean":
            return np.array(np.broadcast_to(means, self.inputs.shape).astype(self.inputs.dtype))
        if kind == "noise":
            deviations = self.inputs.std(self._space, keepdims=True)
            normal = np.random.default_rng(seed).standard_normal(self.inputs.shape)
            return np.array((means + normal * deviations).astype(self.inputs.dtype))
        raise ValueError(f'`baseline` must be "zero", "mean", "blur" or "noise", but is {kind!r}')

    def _blurred(self) -> np.ndarray:
        try:
            from scipy.ndimage import gaussian_filter
        except ImportError as error:
            raise ImportError(
                'a blurred `baseline` needs SciPy: pip install "gradcam[images]"'
            ) from error
        deviations = np.zeros(4)  # none over samples and channels
        deviations[list(self._space)] = max(self.size) / 20
        return np.asarray(gaussian_filter(self.inputs, deviations))

    def _batch_scores(self, batch: list[tuple[np.ndarray, int]]) -> np.ndarray:
        variants, samples = zip(*batch, strict=True)
        return self.scores(np.stack(variants), np.array(samples))

    def _run(self, variants: np.ndarray) -> np.ndarray:
        parts = []
        for start in range(0, len(variants), self.batch):
            batch = variants[start : start + self.batch]
            outputs = to_numpy(self.predict(batch)).astype(np.float64)
            if outputs.ndim != 2 or len(outputs) != len(batch):
                raise ValueError(
                    f"`predict` must give outputs (M, K) for {len(batch)} inputs, "
                    f"but gave {outputs.shape}"
                )
            parts.append(outputs)
        return np.concatenate(parts)


def confidences(outputs: np.ndarray, kind: Confidence) -> np.ndarray:
    """The confidence in every class, (M, K), from the outputs (M, K)."""
    if kind == "softmax":
        if outputs.shape[-1] == 1:
            raise ValueError(
                'a "softmax" of one output is always 1; pass confidence="sigmoid", '
                'or "outputs" where the model gives probabilities'
            )
        # Less the highest output, which changes no quotient, so that no power overflows.
        powers = np.exp(outputs - outputs.max(-1, keepdims=True))
        return np.asarray(powers / powers.sum(-1, keepdims=True))
    if kind == "sigmoid":
        # 1 / (1 + exp(-x)) in a form that cannot overflow.
        return np.asarray(0.5 * (1 + np.tanh(outputs / 2)))
    if kind == "outputs":
        return outputs
    raise ValueError(f'`confidence` must be "softmax", "sigmoid" or "outputs", but is {kind!r}')


def relative_heat(maps: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Maps (N, h, w) at `size`, their positive parts over their maxima: (N, H, W) in [0, 1].

    A flat positive map is 1 everywhere, where `gradcam.maps.scale` would make it 0: its box is the
    whole picture.
    """
    if len(size) != 2:
        raise ValueError(f"`size` must be (H, W), but is {tuple(size)}")
    heat = np.maximum(np.asarray(resize(maps, tuple(size))), 0)
    highest = heat.max((1, 2), keepdims=True)
    return np.where(highest > 0, heat / np.where(highest > 0, highest, 1), 0)
