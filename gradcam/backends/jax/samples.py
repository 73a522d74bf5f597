"""Models of one sample, mapped over the batch.

With images (N, 3, H, W) and a key for dropout, `per_sample(model, inputs, tap)` is

    jax.vmap(lambda image: model(image, key=key), axis_name="batch")(images)

Arrays whose first axis is as long as the batch are mapped; all others, and a single random key, are
for all samples.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gradcam._types import Inputs, Outputs
from gradcam.backends.jax.biases import Biases
from gradcam.backends.jax.program import Tap
from gradcam.backends.jax.tapped import active
from gradcam.inputs import arguments, first_array

__all__ = ["per_sample"]


def per_sample(model: Callable[..., Outputs], inputs: Inputs, tap: Tap) -> Outputs:
    """The outputs of all samples, with `tap` active while the model runs.

    If it collects biases, each sample has biases of its own, which leave the `vmap` beside the
    outputs.
    """
    samples = first_array(inputs).shape[0]
    leaves, treedef = jax.tree.flatten(arguments(inputs))
    mapped = [i for i, leaf in enumerate(leaves) if _has_batch(leaf, samples)]
    # strings cannot leave a vmap, so they are kept while it is traced
    paths: list[str] = []

    def run(rows: list[Any]) -> tuple[Outputs, list[Any]]:
        one_sample = list(leaves)
        for i, row in zip(mapped, rows, strict=True):
            one_sample[i] = row  # the others are the same for all samples, and may be no arrays
        args, kwargs = treedef.unflatten(one_sample)
        biases = Biases()
        with active(biases if isinstance(tap, Biases) else tap):
            output = model(*args, **kwargs)
        paths[:] = biases.paths
        return output, biases.arrays

    outputs, arrays = jax.vmap(run, axis_name="batch")([leaves[i] for i in mapped])
    if isinstance(tap, Biases):
        tap.paths += paths
        tap.arrays += arrays
    return outputs


def _has_batch(leaf: Any, samples: int) -> bool:
    shape = getattr(leaf, "shape", ())
    if len(shape) == 0 or shape[0] != samples:
        return False
    # a key of `jax.random.PRNGKey` has the shape (2,), which could be that of a batch of two
    return not (shape == (2,) and leaf.dtype == jnp.uint32)
