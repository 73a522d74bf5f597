"""What a method may ask of a model where one capture is not enough.

Such a method has a procedure, a function `procedure(run, **parameters)`. It gets a `Run`, one model at one layer on
one batch for one target, and returns raw maps and the capture of the inputs as they are. The array math stays in
pure functions beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np

from gradcam._types import Array, Inputs, Outputs, Shape
from gradcam.layouts import Layout

__all__ = ["Captured", "Explained", "Procedure", "Run", "Scores"]


class Captured(Protocol):
    """What a forward pass, and a backward pass to the layers, found: see `gradcam.model.Capture`."""

    @property
    def outputs(self) -> Outputs: ...
    @property
    def scores(self) -> Array: ...
    @property
    def activations(self) -> tuple[Array, ...]: ...
    @property
    def gradients(self) -> tuple[Array, ...]: ...


class Scores(Protocol):
    """The score as a function of variants (M, N, ...): see `gradcam.model.Scorer`."""

    @property
    def run(self) -> Callable[[Array], Array]: ...
    @property
    def value(self) -> Array | None: ...
    @property
    def axes(self) -> tuple[int, ...]: ...
    @property
    def averaged(self) -> Callable[[Array], Array] | None: ...


class Run(Protocol):
    """One model at one layer, on one batch of inputs, for one target."""

    path: str
    """The layer."""
    size: Shape | None
    """The input's spatial size; None where it has none."""
    batch: int
    """How many variants run at a time."""

    def capture(
        self,
        inputs: Inputs = None,
        layers: tuple[str, ...] = (),
        at: Array | None = None,
        scored: bool = True,
    ) -> Captured:
        """Activations, gradients (where `scored`) and scores: of these inputs and layers, or of the run's own.

        With `at`, gradients at these activations in place of the layer's own.
        """

    @property
    def first(self) -> Captured:
        """Activations, gradients and scores of the inputs as they are."""

    @property
    def unscored(self) -> Captured:
        """Activations and scores of the inputs as they are, without gradients."""

    def settled(self, capture: Captured) -> Run:
        """The same run for the classes that were on top in this capture."""

    def layout(self, capture: Captured) -> Layout:
        """Where the channels and positions of the layer are."""

    def layout_of(self, path: str, sample: Shape) -> Layout:
        """The same for samples of another layer, of that shape."""

    @property
    def input_array(self) -> Array:
        """The array among the inputs that has space, (N, ...)."""

    @property
    def input_layout(self) -> Layout | None:
        """Where its channels and positions are; None where it has no such axes."""

    def scorer(self) -> Scores:
        """Scores of variants of the layer's activations."""

    def input_scorer(self) -> Scores:
        """Scores of variants of the input array."""

    def score(
        self,
        scores: Callable[[Array], Array],
        variants: Callable[[np.ndarray], Array],
        count: int,
        doing: str,
        batch: int | None = None,
    ) -> Array:
        """Scores (N, [K,] M) of M = `count` variants, which `variants(indices)` makes (m, N, ...) at a time."""

    def noisy(self, samples: int, noise: float, seed: int) -> Iterator[Inputs]:
        """Copies of the inputs with Gaussian noise, `noise` times each sample's range."""

    def track(self, steps: Sequence[Any], doing: str) -> Iterable[Any]:
        """The steps, with a bar where the user asked for one."""

    def biases(self) -> Sequence[tuple[str, Array]]:
        """(path, output at zero) of every affine layer; a TypeError where the model does not give them."""

    def attentions(self) -> tuple[str, ...]:
        """The paths of all attention weights; a ValueError where there are none."""


Explained: TypeAlias = tuple[Array, Captured]
"""Raw maps (N, *grid) or (N, K, *grid), and the capture of the inputs as they are."""

Procedure: TypeAlias = Callable[..., Explained]
"""`procedure(run, **parameters)`."""
