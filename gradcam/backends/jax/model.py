"""JAX behind the seam `gradcam.model`, for any `run(tap, values, inputs)` of an adapter.

Each method can be traced by JAX. `compile` makes of a function of the model one program, which is
shared by all models of equal structure, because weights, inputs and class indices are its
arguments.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from gradcam import targets
from gradcam._arrays import SHARDED
from gradcam._types import Array, Inputs, Outputs
from gradcam.backends.jax import guided
from gradcam.backends.jax.biases import Biases, biases_of
from gradcam.backends.jax.compiled import Compiled
from gradcam.backends.jax.double import InDouble
from gradcam.backends.jax.gradients import Lifted
from gradcam.backends.jax.program import ATTENTION_KIND, Run, flow, run_untapped, traced
from gradcam.backends.jax.scorer import variant_scorer
from gradcam.backends.jax.statics import hide_static
from gradcam.backends.jax.weights import NamedWeights, no_weights
from gradcam.inputs import first_array, with_first_array
from gradcam.model import INPUT, Capture, Layer, PooledAxes, Scorer

__all__ = ["Biases", "JaxModel", "Program", "run_program"]


@dataclass(frozen=True, eq=False)
class JaxModel:
    """A model of JAX as `gradcam.model` describes it, where the laws of each method are."""

    run: Run
    values: Any
    """The weights, as the adapter's `run` takes them."""
    channels_first: bool = False
    sharded: bool = False
    """Whether the inputs lie on several devices. Since `vmap` would gather them, loops are used."""
    named_weights: Callable[[], NamedWeights] | None = None
    """The adapter's knowledge of the user's own model, for `weights` and `with_weights`."""

    # -------------------------------------------------------------------------------- the two verbs

    def capture(
        self,
        inputs: Inputs,
        layers: Sequence[str],
        target: Callable[[Outputs], Array] | None,
        pooled: PooledAxes | None = None,
        at: Sequence[Array] | None = None,
        curvature: bool = False,
    ) -> Capture:
        """The gradients are never pooled here: it would save nothing in a compiled program."""
        inputs = hide_static(inputs)
        replaced = {} if at is None else dict(zip(layers, at, strict=True))
        trace = traced(self.run, self.values, inputs)
        lifted = Lifted(trace, self.values, inputs, layers, replaced)
        if target is not None:
            return lifted.capture(target, self.sharded, curvature)
        outputs, activations = lifted({})
        return Capture(outputs, None, tuple(map(activations.__getitem__, layers)), ())

    def replay(
        self, inputs: Inputs, layers: Sequence[str], activations: Sequence[Array]
    ) -> Outputs:
        replacements = dict(zip(layers, activations, strict=True))
        if INPUT in replacements:
            inputs = with_first_array(inputs, replacements.pop(INPUT))
        if not replacements:
            return run_untapped(self.run, self.values, inputs)
        args = self.values, hide_static(inputs)
        trace = traced(self.run, *args)
        return trace(args, tuple(replacements), lambda path, _: replacements[path])

    # ----------------------------------------------------------------------------------- its layers

    def layers(self, inputs: Inputs) -> list[Layer]:
        """The model is only traced: no array is computed."""
        return self._sites(inputs, attention=False)

    def attentions(self, inputs: Inputs) -> list[Layer]:
        return self._sites(inputs, attention=True)

    def _sites(self, inputs: Inputs, attention: bool) -> list[Layer]:
        layers = []
        for path, site in traced(self.run, self.values, hide_static(inputs)).table.items():
            if (site.kind == ATTENTION_KIND) == attention:
                layers.append(Layer(path, site.shape, site.kind))
        return layers

    def reach(
        self, inputs: Inputs, layers: Sequence[str], target: Callable[[Outputs], Array]
    ) -> tuple[Array, Sequence[Array]]:
        """JAX gives zeros for what the score does not depend on."""
        scores, gradients = self.compile(_Reach(tuple(layers)))(inputs, target)
        return scores, gradients

    def flow(self, inputs: Inputs, score: Callable[[Outputs], Array]) -> dict[str, int]:
        return flow(self.run, self.values, hide_static(inputs), score)

    def biases(self, inputs: Inputs) -> list[tuple[str, Array]]:
        return biases_of(self.run, self.values, hide_static(inputs))

    def weights(self) -> Mapping[str, Array]:
        return self._named_weights().arrays

    def with_weights(self, weights: Mapping[str, Array]) -> Any:
        return self._named_weights().rebuild(weights)

    def _named_weights(self) -> NamedWeights:
        if self.named_weights is None:
            raise no_weights(self.run)
        return self.named_weights()

    def state(self) -> tuple[str, dict[str, Array]]:
        leaves, structure = jax.tree_util.tree_flatten_with_path(self.values)
        arrays = {}
        for path, leaf in leaves:
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                leaf = jax.random.key_data(leaf)
            arrays[jax.tree_util.keystr(path)] = leaf
        return f"{self.run!r} {structure}", arrays

    # --------------------------------------------------------------------- faster, or other, passes

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(inputs: Inputs, target: Any, *arrays: Any) -> Any:
            indices, rest = targets.split(target)
            inputs = hide_static(inputs)
            _check_arrays(inputs)
            program = Program(function, self.run, self.channels_first, rest, is_sharded(inputs))
            return run_program(program, self.values, inputs, indices, arrays)

        return run

    def forward(self, inputs: Inputs) -> Outputs:
        return self.compile(_forward)(inputs, None)

    def scorer(self, inputs: Inputs, layer: str, target: Callable[[Outputs], Array]) -> Scorer:
        inputs = hide_static(inputs)
        return variant_scorer(self.run, self.values, inputs, layer, target, is_sharded(inputs))

    def input_gradients(
        self, inputs: Inputs, target: Callable[[Outputs], Array], rule: str, smooth: str
    ) -> Capture:
        inputs = hide_static(inputs)
        return guided.input_gradients(self.run, self.values, inputs, target, rule, smooth)

    @contextlib.contextmanager
    def float64(self, inputs: Inputs) -> Iterator[tuple[JaxModel, Inputs]]:
        """Double precision is switched on in this thread for as long as the context lasts."""

        def widened(leaf: Any) -> Any:
            is_floating = isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jnp.floating)
            return leaf.astype(jnp.float64) if is_floating else leaf

        # arrays can be converted only while double precision is on
        with jax.enable_x64(True):
            yield (
                replace(self, values=jax.tree.map(widened, self.values)),
                jax.tree.map(widened, inputs),
            )

    @contextlib.contextmanager
    def in_double(self, inputs: Inputs) -> Iterator[tuple[JaxModel, Inputs]]:
        with jax.enable_x64(True):
            yield replace(self, run=InDouble(self.run)), inputs

    def array(self, values: np.ndarray) -> Array:
        """An array that is bound to no device: JAX moves it to where the weights are."""
        return jnp.asarray(values)


def _check_arrays(inputs: Inputs) -> None:
    """Raise a TypeError for arrays that JAX does not take."""
    for leaf in jax.tree.leaves(inputs):
        if not isinstance(leaf, (jax.Array, np.ndarray, np.generic)):
            raise TypeError(
                f"`inputs` hold a {type(leaf).__module__}.{type(leaf).__qualname__}, which is no "
                "array of JAX or NumPy; pass jax.numpy.asarray(...) of it"
            )


@dataclass(frozen=True)
class _Reach:
    """Scores and gradients at these layers, as a function to compile."""

    layers: tuple[str, ...]

    def __call__(
        self, model: JaxModel, inputs: Inputs, target: Any
    ) -> tuple[Array, tuple[Array, ...]]:
        capture = model.capture(inputs, self.layers, target)
        return capture.scores, capture.gradients


def _forward(model: JaxModel, inputs: Inputs, target: Any) -> Outputs:
    return model.replay(inputs, (), ())


# -------------------------------------------------------------------------------- compiled programs


@dataclass(frozen=True)
class Program:
    """All but the arrays that a compiled program depends on."""

    function: Callable[..., Any]
    run: Run
    channels_first: bool
    target: Any
    """What `targets.split` leaves beside the class indices."""
    sharded: bool = False


@Compiled
def run_program(
    program: Program,
    values: Any,
    inputs: Inputs,
    indices: Sequence[Array],
    arrays: Sequence[Any],
) -> Any:
    """`function(model, inputs, target, *arrays)`, compiled once for each program and shape."""
    model = JaxModel(program.run, values, program.channels_first, program.sharded)
    target = targets.join(indices, program.target)
    outer = SHARDED.get()
    try:
        # tracers do not say where an array lies; array math asks this variable
        SHARDED.set(program.sharded)
        return program.function(model, inputs, target, *arrays)
    finally:
        SHARDED.set(outer)


def is_sharded(inputs: Inputs) -> bool:
    """Whether the inputs lie on several devices. Tracers do not tell, and count as on one."""
    array = first_array(inputs)
    if isinstance(array, Tracer) or not isinstance(array, jax.Array):
        return False
    return len(array.sharding.device_set) > 1
