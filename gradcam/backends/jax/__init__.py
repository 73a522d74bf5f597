"""JAX, and the libraries whose models are JAX programs.

program     a model as a jaxpr in which every layer's output has a name
model       the two verbs and the rest of the seam, for any such program
guided      guided backpropagation
tapped      subclasses that pass on what layers return (flax.nnx, Equinox)
linen, nnx, equinox, haiku    an adapter for each library: how its models are run
"""

from __future__ import annotations

from gradcam.backends.jax.model import Biases, Function, JaxModel, SplitRun

__all__ = ["Biases", "Function", "JaxModel", "SplitRun"]
