"""JAX, and the libraries whose models are JAX programs.

walk         reading and running a jaxpr: the one walk and the one interpreter (begin here)
program      a model as a jaxpr in which every layer's output has a name
statics      leaves of inputs and weights that are no arrays
attention    softmaxes of self-attention
bottlenecks  the layers of a function that names none
compiled     the compiled programs that are kept
model        what `gradcam.model` asks of a model, for any such program
gradients, scorer, biases, guided, weights    what each of these powers needs
double       the same program with every operation in float64, for `verify`
function     plain functions, and `gradcam.Split`
tapped       private copies of modules that pass on what layers return (flax.nnx, Equinox, Keras)
linen, nnx, equinox, haiku    an adapter for each library: how its models are run
"""

from __future__ import annotations

import jax

from gradcam._types import Constant
from gradcam.backends.jax.biases import Biases
from gradcam.backends.jax.function import Function, SplitRun
from gradcam.backends.jax.model import JaxModel
from gradcam.inputs import Focused

__all__ = ["Biases", "Function", "JaxModel", "SplitRun"]

jax.tree_util.register_pytree_node(
    Focused,
    lambda focused: ((focused.inputs,), focused.key),
    lambda key, trees: Focused(*trees, key),
)
jax.tree_util.register_pytree_node(
    Constant, lambda constant: ((), constant.value), lambda value, _: Constant(value)
)
