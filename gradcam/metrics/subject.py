"""What is measured against: a model as a plain function of NumPy arrays, its inputs, and the class explained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from gradcam import maps as maps_
from gradcam._arrays import to_numpy

__all__ = ["Baseline", "Confidence", "Explain", "Predict", "Subject"]

Predict = Callable[[np.ndarray], Any]
"""inputs (M, ...) -> outputs (M, K): any framework, any remote service."""
Explain = Callable[[np.ndarray, np.ndarray], Any]
"""(inputs (M, ...), target (M,)) -> maps (M, h, w), for measures that explain again."""
Confidence = Literal["softmax", "sigmoid", "outputs"]
Baseline = Literal["zero", "mean", "blur", "noise"]


@dataclass(frozen=True, eq=False)
class Subject:
    """Inputs, and a model that can be asked again about changed ones.

    predict: inputs (M, ...) as NumPy -> outputs (M, K), of any framework or service; an array of its own is converted.
    inputs: (N, C, H, W), or (N, H, W, C) with `channel_axis=-1`.
    target: (N,) ints or one int: the class that was explained. None: each sample's top class.
    confidence: what a class's confidence is: the "softmax" or "sigmoid" of the outputs, or the "outputs" themselves.
    batch: how many inputs `predict` is given at most. progress: show a bar over the batches.
    """

    predict: Predict
    inputs: np.ndarray
    target: Any = None
    channel_axis: int = 1
    confidence: Confidence = "softmax"
    batch: int = 32
    progress: bool = False

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
        height, width = self.inputs.shape[2:] if self.channel_axis == 1 else self.inputs.shape[1:3]
        return height, width

    @cached_property
    def outputs(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """(N, K), of the inputs as they are."""
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
        """(N,): the confidence in each sample's class, of the inputs as they are."""
        return np.array(self._confidence(self.outputs)[np.arange(len(self.inputs)), self.classes])

    def scores(self, variants: np.ndarray, samples: np.ndarray | None = None) -> np.ndarray:
        """(M,): the confidence for variants (M, ...), each in the class of its sample: `samples` (M,), or 0, 1, ..."""
        samples = np.arange(len(variants)) if samples is None else samples
        return np.array(
            self._confidence(self._run(variants))[np.arange(len(variants)), self.classes[samples]]
        )

    def stream(
        self, variants: Iterable[np.ndarray], samples: Sequence[int], what: str = "predicting"
    ) -> np.ndarray:
        """As `scores`, of variants made one at a time, so that no more than a batch is held."""
        found, held = [], []
        steps: Iterable[Any] = zip(variants, samples, strict=True)
        if self.progress:
            steps = _bar(steps, len(samples), what)
        for one in steps:
            held.append(one)
            if len(held) == self.batch:
                found.append(self._some(held))
                held = []
        if held:
            found.append(self._some(held))
        return np.concatenate(found) if found else np.zeros(0)

    def heat(self, maps: Any) -> np.ndarray:
        """(N, H, W): maps (N, h, w) resized to the input, as they are otherwise."""
        array = to_numpy(maps).astype(np.float64)
        if array.ndim != 3 or len(array) != len(self.inputs):
            raise ValueError(
                f"`maps` must be (N, h, w) for {len(self.inputs)} inputs, but have shape {array.shape}"
            )
        if not np.isfinite(array).all():
            raise ValueError("`maps` are NaN or infinite somewhere; leave these samples out")
        return np.asarray(maps_.resize(array, self.size))

    def masks(self, maps: Any) -> np.ndarray:
        """(N, H, W) in [0, 1]: `heat`, its positive part over its maximum, 1 where it is flat; 0 where that is 0."""
        heat = np.maximum(self.heat(maps), 0)
        top = heat.max((1, 2), keepdims=True)
        return np.where(top > 0, heat / np.where(top > 0, top, 1), 0)

    def spread(self, weights: np.ndarray) -> np.ndarray:
        """Weights (..., H, W) with an axis of channels, to multiply inputs by, in the inputs' dtype."""
        return np.expand_dims(weights, -3 if self.channel_axis == 1 else -1).astype(
            self.inputs.dtype
        )

    def baseline(self, kind: Baseline, seed: int = 0) -> np.ndarray:
        """What a pixel that is taken away becomes, in the shape of the inputs.

        "zero": 0 in the inputs' own units. "mean": each channel's mean over the sample. "blur": the sample blurred,
        a Gaussian with a standard deviation of a twentieth of the longer side (11 pixels of 224; needs SciPy). "noise":
        normal, with each channel's mean and deviation, of `seed`.
        """
        space = (2, 3) if self.channel_axis == 1 else (1, 2)
        means = self.inputs.mean(space, keepdims=True)
        if kind == "zero":
            return np.zeros_like(self.inputs)
        if kind == "mean":
            return np.array(np.broadcast_to(means, self.inputs.shape).astype(self.inputs.dtype))
        if kind == "noise":
            drawn = np.random.default_rng(seed).standard_normal(self.inputs.shape)
            return np.array(
                (means + drawn * self.inputs.std(space, keepdims=True)).astype(self.inputs.dtype)
            )
        if kind == "blur":
            try:
                from scipy.ndimage import gaussian_filter
            except ImportError as error:
                raise ImportError(
                    'a blurred `baseline` needs SciPy: pip install "gradcam[images]"'
                ) from error
            deviation = max(self.size) / 20
            return np.asarray(
                gaussian_filter(
                    self.inputs, [deviation if axis in space else 0 for axis in range(4)]
                )
            )
        raise ValueError(f'`baseline` must be "zero", "mean", "blur" or "noise", but is {kind!r}')

    def _some(self, held: list[tuple[np.ndarray, int]]) -> np.ndarray:
        return self.scores(
            np.stack([one for one, _ in held]), np.array([sample for _, sample in held])
        )

    def _run(self, variants: np.ndarray) -> np.ndarray:
        parts = []
        for start in range(0, len(variants), self.batch):
            some = variants[start : start + self.batch]
            found = to_numpy(self.predict(some)).astype(np.float64)
            if found.ndim != 2 or len(found) != len(some):
                raise ValueError(
                    f"`predict` must give outputs (M, K) for {len(some)} inputs, but gave {found.shape}"
                )
            parts.append(found)
        return np.concatenate(parts)

    def _confidence(self, outputs: np.ndarray) -> np.ndarray:
        if self.confidence == "softmax":
            if outputs.shape[-1] == 1:
                raise ValueError(
                    'a "softmax" of one output is always 1; pass confidence="sigmoid", or "outputs" where the model '
                    "gives probabilities"
                )
            powers = np.exp(outputs - outputs.max(-1, keepdims=True))
            return np.asarray(powers / powers.sum(-1, keepdims=True))
        if self.confidence == "sigmoid":
            return np.asarray(0.5 * (1 + np.tanh(outputs / 2)))
        if self.confidence == "outputs":
            return outputs
        raise ValueError(
            f'`confidence` must be "softmax", "sigmoid" or "outputs", but is {self.confidence!r}'
        )


def _bar(steps: Iterable[Any], total: int, what: str) -> Iterable[Any]:
    try:
        from rich.progress import track
    except ImportError as error:
        raise ImportError('`progress` needs rich: pip install "gradcam[cli]"') from error
    return track(steps, description=what, total=total, transient=True)
