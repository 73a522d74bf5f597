"""The biases of a model's layers, which full-grad needs: each layer's output for an input of zeros.

The model runs with `Biases` in the place of a tap. An adapter that sees it calls every affine layer
a second time, on zeros, and adds what comes out:

    tap("conv", output)            ->  output
    tap.add("conv", conv(zeros))   ->  kept as ("conv", ...); the layer's second call is "conv#1"
"""

from __future__ import annotations

from typing import Any

import jax

from gradcam._types import Array, Inputs
from gradcam.backends.jax.program import Run, numbered, run_model

__all__ = ["Biases", "biases_of"]


class Biases:
    """A tap that leaves values as they are, and collects the biases that an adapter adds."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.arrays: list[Array] = []

    def __call__(self, path: str, value: Any, kind: str = "", is_leaf: Any = None) -> Any:
        return value

    def add(self, path: str, value: Array) -> None:
        """Add the output at zero of a layer; of a tuple (output, state), its first item."""
        if isinstance(value, tuple):
            path, value = f"{path}[0]", value[0]
        self.paths.append(path)
        self.arrays.append(value)


def biases_of(run: Run, values: Any, inputs: Inputs) -> list[tuple[str, Array]]:
    """(path, output at zero) of each affine layer, in the order in which they run.

    Raises ValueError if there is none.
    """
    # strings cannot be results of a compiled function, so they are kept while it is traced
    paths: list[str] = []

    @jax.jit
    def arrays_of(values: Any, inputs: Inputs) -> list[Array]:
        biases = Biases()
        run_model(run, biases, values, inputs)
        paths.extend(biases.paths)
        return biases.arrays

    try:
        arrays = arrays_of(values, inputs)
    except jax.errors.UnexpectedTracerError as error:
        # inside a transformation a layer's output is a tracer that must not leave it
        raise ValueError(
            "the biases of layers inside jit, remat, vmap or scan cannot be read; call the layers "
            "outside of them"
        ) from error
    if not arrays:
        raise ValueError(
            "no biases were found: the layers of Flax, Equinox, Haiku and Keras modules are known, "
            "no others"
        )
    return list(zip(numbered(paths), arrays, strict=True))
