"""The interface through which a method runs a model, where one capture is not enough.

Such a method has a procedure, a function `procedure(run, **parameters)`. Its `run` is a `Run`: one
model at one layer, on one batch, for one target. The procedure returns the raw maps and the capture
of the unchanged inputs. The array math stays in pure functions (`gradcam.methods.gradients` and the
modules beside it). A procedure looks like this:

    def my_cam(run: Run, steps: int = 8) -> Explained:
        capture = run.first                          # one forward and one backward pass
        run = run.settled(capture)                   # later passes explain the same classes
        layout = run.layout(capture)
        view = layout.view(capture.activations[0])   # (N, C, P), whatever the channel order
        ...                                          # run.capture(at=...), run.score(...)
        return layout.maps(positions), capture       # (N, P) -> (N, *grid)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np

from gradcam._types import Array, Inputs, Outputs, Shape
from gradcam.layouts import Layout

__all__ = ["Captured", "Explained", "Procedure", "Run", "Scores"]


class Captured(Protocol):
    """The result of a forward and a backward pass: see `gradcam.model.Capture`."""

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
    def axes(self) -> tuple[int, ...]: ...
    @property
    def averaged(self) -> Callable[[Array], Array] | None: ...


class Run(Protocol):
    """One model at one layer, on one batch of inputs, for one target."""

    path: str
    """The path of the layer."""
    size: Shape | None
    """The input's spatial size; None where it has no spatial axes."""
    batch: int
    """The number of variants that run at a time."""

    def capture(
        self,
        inputs: Inputs = None,
        layers: tuple[str, ...] = (),
        at: Array | None = None,
        scored: bool = True,
    ) -> Captured:
        """Activations, scores and, if `scored`, gradients.

        inputs, layers: None and () take those of the run.
        at: activations to put in place of the layer's own before the gradients are taken.
        """
        ...

    @property
    def first(self) -> Captured:
        """Activations, gradients and scores of the unchanged inputs."""
        ...

    @property
    def unscored(self) -> Captured:
        """Activations and scores of the unchanged inputs, without gradients."""
        ...

    def settled(self, capture: Captured) -> Run:
        """The same run, whose target is settled by this capture's outputs.

        A target such as the top class could choose another class when the inputs change.
        """
        ...

    def layout(self, capture: Captured) -> Layout:
        """The axes of the layer's activations: which are channels, and which positions."""
        ...

    def layout_of(self, path: str, sample: Shape) -> Layout:
        """The same for another layer, whose samples have the shape `sample`."""
        ...

    def layout_of_same_input(self, path: str, sample: Shape) -> Layout | None:
        """The same; None where the layer's positions are of another input than `input_array`."""
        ...

    @property
    def input_array(self) -> Array:
        """The array among the inputs that has space, (N, ...): `gradcam.inputs.first_array`."""
        ...

    @property
    def input_layout(self) -> Layout | None:
        """The axes of that array; None where it has no channels and positions."""
        ...

    def scorer(self) -> Scores:
        """A function from variants of the layer's activations to scores."""
        ...

    def input_scorer(self) -> Scores:
        """A function from variants of the input array to scores."""
        ...

    def score(
        self,
        scores: Callable[[Array], Array],
        variants: Callable[[np.ndarray], Array],
        count: int,
        doing: str,
        batch: int | None = None,
    ) -> Array:
        """The scores (N, [K,] M) of M = `count` variants.

        scores: the `run` of a `Scores`, from variants (m, N, ...) to (m, N, [K]).
        variants: makes the variants of m indices, (m, N, ...).
        doing: what the progress bar says.
        batch: variants run at a time; None takes `Run.batch`.
        """
        ...

    def noisy(self, samples: int, noise: float, seed: int) -> Iterator[Inputs]:
        """Copies of the inputs with Gaussian noise of `noise` times each sample's range."""
        ...

    def track(self, steps: Sequence[Any], doing: str) -> Iterable[Any]:
        """The steps, with a progress bar where the user asked for one."""
        ...

    def biases(self) -> Sequence[tuple[str, Array]]:
        """(path, output at an input of zeros) of every affine layer.

        A TypeError where the backend offers no biases.
        """
        ...

    def attentions(self) -> tuple[str, ...]:
        """The paths of all attention weights. A ValueError where the model has none."""
        ...


Explained: TypeAlias = tuple[Array, Captured]
"""Raw maps (N, *grid) or (N, K, *grid), and the capture of the unchanged inputs."""

Procedure: TypeAlias = Callable[..., Explained]
"""`procedure(run, **parameters)`."""
