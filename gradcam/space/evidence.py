"""The passes that ask a network where space is.

A batch of two copies of one sample runs through the model: once as it is, once with all of the
second copy disturbed, which tells where the samples are, and once for each pattern, with the odd
stripes of the first copy and the even stripes of the second disturbed by the same noise. For an
image these are six passes, each of a batch of two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradcam._arrays import array_namespace, constant, is_traced, to_numpy
from gradcam._types import Array, Inputs, Shape
from gradcam.inputs import Focused, InputKey, Packed, arrays_of, first_array, packed, with_array
from gradcam.layouts import Samples
from gradcam.model import Model, compiled
from gradcam.space.patterns import Pattern, patterns_of
from gradcam.space.readings import Reading, Response, sample_arrangements
from gradcam.targets import TopClass

__all__ = [
    "REFUSALS",
    "CannotAskError",
    "Evidence",
    "LayerEvidence",
    "TracedError",
    "ask",
    "disturbed",
    "paired",
]

REFUSALS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What a model raises that takes no batch of two, or no such input. Other errors are the user's."""

COPIES = 2
"""Samples in the batch that is asked."""


class CannotAskError(RuntimeError):
    """The model cannot be asked where space is: it takes no batch of two, or no other input."""


class TracedError(CannotAskError):
    """JAX is tracing the call, so that there are no numbers yet."""


@dataclass(frozen=True)
class _Activations:
    """The layers' outputs, as a function that a backend may compile."""

    layers: tuple[str, ...]

    def __call__(self, model: Model, inputs: Inputs, target: Any) -> tuple[Array, ...]:
        try:
            return model.capture(inputs, self.layers, None).activations
        except TypeError:  # an object of the user's own whose capture always calls the target
            return model.capture(inputs, self.layers, TopClass()).activations


@dataclass(frozen=True)
class LayerEvidence:
    """How much each element of one layer's array, for the batch of two, changed: squared changes.

    second_copy: when all of the second copy was disturbed. by_pattern: for each pattern.
    """

    shape: Shape
    second_copy: np.ndarray
    by_pattern: tuple[tuple[Pattern, np.ndarray], ...]

    @property
    def answers(self) -> bool:
        """Whether the layer depends on the input at all."""
        return bool(self.second_copy.any())

    def samples(self) -> Samples | None:
        """Where the samples are: where the second copy's elements changed and the first's did not;
        None: nowhere.
        """
        total = float(self.second_copy.sum())
        if not total > 0:
            return None
        for arrangement in sample_arrangements(self.shape, COPIES):
            first, _ = arrangement.arrange(self.second_copy)
            if float(first.sum()) <= 1e-6 * total:
                return arrangement
        return None

    def sample_shape(self, samples: Samples) -> Shape:
        """The shape of one sample, with its frames in front where some were folded into the
        samples' axis.
        """
        return tuple(samples.arrange(self.second_copy).shape[1:])

    def frames(self, samples: Samples, reading: Reading) -> int | None:
        """How many frames a sample has in this reading; None where it has no such axis."""
        sample = self.sample_shape(samples)
        return sample[0] if len(sample) > reading.layout.sample_ndim else None

    def responses(self, samples: Samples) -> list[Response]:
        responses = []
        for pattern, change in self.by_pattern:
            odd, even = samples.arrange(change)
            responses.append(Response(pattern, even, odd))
        return responses


@dataclass(frozen=True)
class Evidence:
    """What was seen, by layer, and the input that was disturbed.

    pictures: of packed pictures what they are; `input_shape` is then that of their squares.
    """

    layers: Mapping[str, LayerEvidence]
    input_key: InputKey
    input_shape: Shape
    passes: int
    pictures: Packed | None = None


def ask(
    model: Model,
    inputs: Inputs,
    layers: Sequence[str],
    input_axes: Callable[[InputKey], Sequence[int]],
) -> Evidence:
    """Disturb the input and see which elements of the layers answer.

    input_axes: for the input that the layers answer to, the axes along which it is disturbed.
    """
    pictures = packed(inputs)
    copies = paired(inputs)
    activations = compiled(model, _Activations(tuple(layers)))
    passes = 0

    def run(changed: Inputs) -> list[np.ndarray]:
        nonlocal passes
        passes += 1
        try:
            arrays = activations(changed, None)
        except REFUSALS as error:
            raise CannotAskError(str(error)) from error
        if any(map(is_traced, arrays)):
            raise TracedError(
                f'where the positions of layer "{layers[-1]}" are must be asked of the network, '
                "which cannot be done inside jit, grad or vmap: say it with `layout`, or explain "
                "once outside of them"
            )
        return [to_numpy(array).astype(np.float64) for array in arrays]

    base = run(copies)

    def changes(key: InputKey, masks: Array) -> list[np.ndarray]:
        array = arrays_of(copies)[key]
        changed = disturbed(_as_images(array, key, pictures), masks)
        changed = array_namespace(array).reshape(changed, tuple(array.shape))
        after = run(with_array(copies, key, changed))
        return [_change(a, b) for a, b in zip(after, base, strict=True)]

    key, second_copy = _answering_input(copies, first_array(inputs), pictures, changes)
    is_packed = pictures is not None and key == pictures.key
    shape = tuple(int(n) for n in _as_images(arrays_of(copies)[key], key, pictures).shape)
    axes = tuple(range(1, len(shape) - 1)) if is_packed else input_axes(key)
    by_pattern = []
    for pattern in patterns_of(shape, axes):
        mask = pattern.broadcast(shape)
        by_pattern.append((pattern, changes(key, np.stack([mask, 1 - mask]))))
    evidence = {}
    for n, path in enumerate(layers):
        responses = tuple((pattern, change[n]) for pattern, change in by_pattern)
        evidence[path] = LayerEvidence(tuple(base[n].shape), second_copy[n], responses)
    return Evidence(evidence, key, shape, passes, pictures if is_packed else None)


def _as_images(array: Array, key: InputKey, pictures: Packed | None) -> Array:
    """The input with space axes of its own, also where it has the patches of packed pictures."""
    return array if pictures is None or key != pictures.key else pictures.images(array)


def _change(after: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Squared changes relative to the largest, so that none overflows; 0 where one is not a
    number.
    """
    with np.errstate(all="ignore"):
        difference = np.nan_to_num(after - before, nan=0.0, posinf=0.0, neginf=0.0)
    largest = np.abs(difference).max(initial=0.0)
    if largest > 0:
        difference = (difference / largest) ** 2
    return np.asarray(difference)


def _answering_input(
    copies: Inputs,
    first: Array,
    pictures: Packed | None,
    changes: Callable[[InputKey, Array], list[np.ndarray]],
) -> tuple[InputKey, list[np.ndarray]]:
    """The input that the last of the layers answers to, and the changes when its second copy is
    disturbed.

    Inputs with three or more axes are asked first, as in `first_array`; where none is answered to,
    the first. Of inputs of which one is named, that one alone.
    """
    images = {key: _as_images(a, key, pictures) for key, a in arrays_of(copies).items()}
    arrays = {key: a for key, a in images.items() if a.ndim > 1 and a.shape[0] == COPIES}
    if isinstance(copies, Focused):
        arrays = {key: array for key, array in arrays.items() if key == copies.key}
    if not arrays:
        raise CannotAskError(f"no input is a batch of arrays, but one of {tuple(first.shape)}")
    ordered = sorted(arrays, key=lambda k: arrays[k].ndim < 3)
    answer: tuple[InputKey, list[np.ndarray]] | None = None
    for key in ordered:
        ndim = arrays[key].ndim
        second_copy = np.array([0.0, 1.0]).reshape(COPIES, *(1,) * (ndim - 1))
        change = changes(key, second_copy)
        if answer is None or change[-1].any():
            answer = key, change
        if change[-1].any():
            break
    assert answer is not None
    return answer


def paired(inputs: Inputs) -> Inputs:
    """The first sample twice, in every array that holds as many samples as the batch, or as many
    packed pictures.
    """
    samples = int(first_array(inputs).shape[0])
    pictures = packed(inputs)
    patches = None if pictures is None else arrays_of(inputs)[pictures.key]

    def pair(value: Any) -> Any:
        if isinstance(value, Focused):
            return Focused(pair(value.inputs), value.key)
        if isinstance(value, Mapping):
            return {key: pair(inner) for key, inner in value.items()}
        if isinstance(value, (tuple, list)):
            return type(value)(pair(inner) for inner in value)
        length = 1 if patches is None or value is not patches else len(patches) // samples
        if len(getattr(value, "shape", ())) == 0 or int(value.shape[0]) != samples * length:
            return value
        xp = array_namespace(value)
        return xp.concat([value[:length], value[:length]], axis=0)

    return pair(inputs)


def disturbed(array: Array, masks: np.ndarray) -> Array:
    """The batch of two with the same noise in both copies, where the masks (2, ...) are 1.

    The noise is normal, of the sample's own deviation. Of integers, such as token ids, each is
    replaced by another that the sample holds.
    """
    random = np.random.default_rng(0)
    sample = to_numpy(array[:1])
    if sample.dtype.kind in "iub":
        drawn = random.permutation(sample.reshape(-1)).reshape(sample.shape)
        values = np.where(np.broadcast_to(masks, array.shape) > 0, drawn, sample)
        return constant(values, like=array)
    with np.errstate(all="ignore"):
        deviation = float(sample.astype(np.float64).std())
    if not 0 < deviation < np.inf:
        deviation = 1.0
    noise = random.standard_normal(sample.shape) * deviation
    return array + constant(noise * np.broadcast_to(masks, array.shape), like=array)
