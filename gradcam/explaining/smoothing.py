"""The mean of a method's maps over changed inputs, each mapped back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from gradcam._arrays import array_namespace
from gradcam._checks import check_integer
from gradcam._types import Array, Inputs
from gradcam.inputs import check_floating, first_array, noise, with_first_array
from gradcam.layouts import Layout

__all__ = ["Smoothing"]


@dataclass(frozen=True)
class Smoothing:
    """Explain flips, scalings and noisy copies of the inputs too, and give the mean of the signed
    maps.

    flips: also each input mirrored left to right; its map is mirrored back, which is exact.
    scales: factors of the inputs' values (1 is the input as it is).
    noise: standard deviation of Gaussian noise, relative to each sample's range; 0 adds none.
    samples: noisy copies of each flip and scaling.
    seed: of the noise, which is the same for every sample of a batch and in every framework.

    Integers, such as uint8 images, can be flipped alone: a TypeError for noise and scales.
    Of `flips` x `scales` x `samples` variants each is one more explanation. SmoothGrad: Smilkov et
    al. 2017, https://arxiv.org/abs/1706.03825
    """

    flips: bool = True
    scales: tuple[float, ...] = (1.0,)
    noise: float = 0.0
    samples: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        check_integer("samples", self.samples)
        check_integer("seed", self.seed, least=0)
        if not self.scales or self.samples < 1 or self.noise < 0:
            raise ValueError(
                "`scales` and `samples` must leave something to average, and `noise` be >= 0: "
                f"{self}"
            )

    def variants(
        self, inputs: Inputs, layout: Layout | None
    ) -> Iterator[tuple[Inputs, Callable[[Array], Array]]]:
        """Each changed input, with the way back for maps (..., *grid).

        layout: that of a sample of the input with space.
        """
        array = first_array(inputs)
        xp = array_namespace(array)
        if layout is None:
            raise ValueError(
                "smoothing needs an input with channels and space, but it has shape "
                f"{tuple(array.shape)}"
            )
        if self.noise or set(self.scales) != {1}:
            check_floating(inputs, "noise and scales change the inputs' values by fractions")
        last = -1 if layout.kind == "channels_first" else -2
        random = np.random.default_rng(self.seed)
        for mirrored in (False, True) if self.flips else (False,):
            for factor in self.scales:
                for _ in range(self.samples):
                    changed = array if factor == 1 else array * factor
                    if self.noise:
                        changed = changed + noise(array, layout, self.noise, random)
                    changed = xp.flip(changed, axis=last) if mirrored else changed
                    yield with_first_array(inputs, changed), _mirror if mirrored else _same


def _same(maps: Array) -> Array:
    return maps


def _mirror(maps: Array) -> Array:
    return array_namespace(maps).flip(maps, axis=-1)
