"""`gradcam.model.Model` for any `nn.Module`, unmodified: its hooks last for one call."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils._pytree import tree_map

from gradcam._types import Array, Inputs, Outputs
from gradcam.backends.torch import channels, guided
from gradcam.backends.torch.attention import ATTENTION
from gradcam.backends.torch.biases import collected_biases
from gradcam.backends.torch.captures import activations_alone, in_place_of, scored
from gradcam.backends.torch.conventions import PYTORCH, Conventions
from gradcam.backends.torch.double import double_copy, in_double, widened
from gradcam.backends.torch.exported import Exported
from gradcam.backends.torch.flow import Graph
from gradcam.backends.torch.gradients import (
    Gradients,
    UnreachedError,
    detached,
    reach_gradients,
    score_curvatures,
    score_gradients,
)
from gradcam.backends.torch.modes import IgnoreNoGrad, normal_tensors, undisturbed
from gradcam.backends.torch.passes import needs_graph, outputs_of, passed
from gradcam.backends.torch.sessions import EAGER, SAME_RANDOM_STATE, ProcessSwitch, Session
from gradcam.backends.torch.tape import Tape
from gradcam.backends.torch.taps import Tap, tapped
from gradcam.backends.torch.variants import input_scorer
from gradcam.backends.torch.wrappers import check_model, obstacle, unwrapped
from gradcam.inputs import first_array, with_first_array
from gradcam.layouts import ChannelOrder
from gradcam.model import INPUT, Capture, Layer, PooledAxes, Scorer

__all__ = ["TorchModel"]

T = TypeVar("T")


def _untapped(path: str, value: torch.Tensor) -> torch.Tensor:
    return value


@dataclass(frozen=True, eq=False)
class TorchModel:
    """`model.Model` for an `nn.Module`, and every optional power. The laws are stated there."""

    module: torch.nn.Module
    allow_training: bool = False
    channels_first: bool = True
    conventions: Conventions = PYTORCH
    as_passed: torch.nn.Module = field(init=False)
    """The user's own module, compiled or parallel as it may be; `module` is the one inside."""

    def __post_init__(self) -> None:
        module = unwrapped(self.module)
        check_model(module)
        object.__setattr__(self, "as_passed", self.module)
        object.__setattr__(self, "module", module)

    # ------------------------------------------------------------------ the model and its layers

    @property
    def trains(self) -> bool:
        """Whether it is in training mode, which is not allowed."""
        return not self.allow_training and self.conventions.trains(self.module)

    def _run(self, inputs: Inputs) -> Outputs:
        return outputs_of(self.conventions.call, self.module, inputs)

    def channel_order_at(self, path: str) -> ChannelOrder | None:
        if path == INPUT:
            return channels.input_order(self.module)
        return channels.layer_order(self.module, self.conventions.name_in(self.module, path))

    def layers(self, inputs: Inputs) -> list[Layer]:
        modules = self.conventions.layers(self.module)
        return self._listed(inputs, {name: type(module).__name__ for name, module in modules})

    def attentions(self, inputs: Inputs) -> list[Layer]:
        return self._listed(inputs, {ATTENTION: "attention"})

    @undisturbed
    def _listed(self, inputs: Inputs, kinds: Mapping[str, str]) -> list[Layer]:
        """The outputs of these layers in the order in which they run."""
        outputs: list[Layer] = []

        def tap(path: str, value: torch.Tensor) -> torch.Tensor:
            name = self.conventions.name_in(self.module, path)
            outputs.append(Layer(path, tuple(value.shape), kinds[name]))
            return value

        def run() -> None:
            outputs.clear()
            with self._session(list(kinds), tap):
                self._run(inputs)

        self._passed(run)
        return outputs

    # ----------------------------------------------------------------------------- tapped passes

    def _passed(self, run: Callable[[], T]) -> T:
        """See `passes.passed`."""
        return passed(run, self._renew)

    def _renew(self) -> bool:
        """Go on with a copy, whose tensors are normal ones; False if it is one or cannot be."""
        if self.module is not unwrapped(self.as_passed):
            return False
        try:
            with torch.inference_mode(False):
                module = copy.deepcopy(self.module)
        except Exception:  # whatever the user's modules raise when they are copied
            return False
        object.__setattr__(self, "module", module)
        return True

    @property
    def _switches(self) -> tuple[ProcessSwitch, ...]:
        """Settings of the process that a pass of this model needs, beside those of taps."""
        return (SAME_RANDOM_STATE,) if self.allow_training else ()

    def _session(self, paths: Sequence[str] = (), tap: Tap = _untapped) -> Session:
        """A session in which every output of these modules passes through `tap`."""
        if self.trains:
            raise ValueError(
                "the model is in training mode, where samples of a batch depend on each other and "
                "on chance; call model.eval() first, or pass allow_training=True"
            )
        modules = {}
        for path in paths:
            if path not in (ATTENTION, INPUT):
                modules[path] = self.conventions.layer(self.module, path)
        return tapped(modules, tap, *self._switches, attention=ATTENTION in paths)

    def _run_tapped(self, inputs: Inputs, layers: Sequence[str], tap: Tap) -> Outputs:
        """The outputs of a pass in which the outputs of these layers alone pass through `tap`."""
        return self._passed(lambda: self._run_once(inputs, layers, tap))

    def _run_once(self, inputs: Inputs, layers: Sequence[str], tap: Tap) -> Outputs:
        reached = set()

        def chosen(path: str, value: torch.Tensor) -> torch.Tensor:
            if path not in layers:  # another call, or another item, of the same module
                return value
            reached.add(path)
            return tap(path, value)

        if INPUT in layers:
            inputs = with_first_array(inputs, chosen(INPUT, first_array(inputs)))
        names = [self.conventions.name_in(self.module, path) for path in layers]
        with self._session(names, chosen):
            outputs = self._run(inputs)
        for path in layers:
            if path not in reached:
                raise self._never_ran(path)
        return outputs

    def _never_ran(self, path: str) -> RuntimeError:
        return RuntimeError(
            f'layer "{path}" gave no floating-point tensor in this forward pass: it did not run, '
            "or not that often, or returns a collection, whose items have paths of their own; "
            "gradcam.layers(model, inputs) lists what ran" + obstacle(self.module)
        )

    # ----------------------------------------------------------------------------- the two verbs

    @undisturbed
    def capture(
        self,
        inputs: Inputs,
        layers: Sequence[str],
        target: Callable[[Outputs], Array] | None,
        pooled: PooledAxes | None = None,
        at: Sequence[Array] | None = None,
        curvature: bool = False,
    ) -> Capture:
        inputs = normal_tensors(inputs)
        replaced = {}
        if at is not None:
            replaced = dict(zip(layers, normal_tensors(list(at)), strict=True))
        run = partial(self._run_tapped, inputs, layers)
        if target is None:
            outputs, activations = activations_alone(run, layers, replaced)
            return Capture(tree_map(detached, outputs), None, activations, ())
        samples = int(first_array(inputs).shape[0])

        def differentiated() -> tuple[Outputs, Gradients, Any, tuple[Gradients, Gradients]]:
            outputs, activations, scores = scored(run, layers, replaced, target)
            try:
                found = _gradients(scores, activations, layers, pooled, curvature, samples)
            except UnreachedError:
                # Let the target raise its own, clearer error, as when nothing was detected.
                getattr(target, "resolve", lambda _: None)(outputs)
                raise
            return outputs, activations, scores, found

        try:
            outputs, activations, scores, found = self._passed(differentiated)
        except UnreachedError as error:
            raise RuntimeError(f"{error}{obstacle(self.module)}") from None
        return Capture(
            tree_map(detached, outputs),
            detached(scores),
            tuple(activation.detach() for activation in activations),
            *found,
        )

    @undisturbed
    def replay(
        self, inputs: Inputs, layers: Sequence[str], activations: Sequence[Array]
    ) -> Outputs:
        replaced = dict(zip(layers, activations, strict=True))

        def tap(path: str, value: torch.Tensor) -> torch.Tensor:
            return in_place_of(value, replaced[path])

        return tree_map(detached, self._run_tapped(inputs, layers, tap))

    # --------------------------------------------------------------------------- optional powers

    @undisturbed
    def reach(
        self, inputs: Inputs, layers: Sequence[str], target: Callable[[Outputs], Array]
    ) -> tuple[torch.Tensor, Gradients]:
        inputs = normal_tensors(inputs)
        run = partial(self._run_tapped, inputs, layers)
        _, activations, scores = scored(run, layers, {}, target)
        samples = int(first_array(inputs).shape[0])
        return detached(scores), reach_gradients(scores, activations, layers, samples)

    @undisturbed
    def flow(self, inputs: Inputs, score: Callable[[Outputs], Array]) -> dict[str, int] | None:
        """The model's own `no_grad` blocks are ignored: what passes through them is used too."""
        paths = [path for path, _ in self.conventions.layers(self.module)]

        def run() -> dict[str, int] | None:
            graph = Graph()
            with IgnoreNoGrad() as blocks, self._session(paths, graph.tap):
                blocks.on = True
                return graph.gates(score(self._run(tree_map(graph.start, inputs))))

        inputs = normal_tensors(inputs)
        torch.set_grad_enabled(True)
        return self._passed(run)

    @undisturbed
    def biases(self, inputs: Inputs) -> list[tuple[str, torch.Tensor]]:
        if isinstance(self.module, Exported):
            raise ValueError(
                "full-grad needs the biases of layers, but an exported program has operators "
                "alone; pass the model that it was exported from"
            )

        def run() -> list[tuple[str, torch.Tensor]]:
            layers = self.conventions.affine(self.module)
            with self._session() as session:
                return collected_biases(layers, session, lambda: self._run(inputs))

        return self._passed(run)

    @undisturbed
    def forward(self, inputs: Inputs) -> Outputs:
        """The outputs of the module as it was passed, under `torch.inference_mode`.

        With a graph where the model differentiates something itself.
        """
        with Session(*self._switches):
            try:
                with torch.inference_mode():
                    return self.conventions.call(self.as_passed, inputs)
            except RuntimeError as error:
                if not needs_graph(error):
                    raise
        with Session(*self._switches), torch.enable_grad():
            return tree_map(detached, self.conventions.call(self.as_passed, inputs))

    def array(self, values: np.ndarray) -> torch.Tensor:
        """NumPy values as a tensor on the device of the model's first parameter.

        Floating-point values get that parameter's type, because PyTorch mixes no types. Integers
        keep theirs, and so does everything if the model has no parameters.
        """
        tensor = torch.tensor(np.ascontiguousarray(values))
        first = next(self.module.parameters(), None)
        if first is None:
            return tensor
        if tensor.is_floating_point() and first.is_floating_point():
            return tensor.to(first.device, first.dtype)
        return tensor.to(first.device)

    def weights(self) -> dict[str, torch.Tensor]:
        return {
            path: parameter.detach() for path, parameter in self.conventions.parameters(self.module)
        }

    @undisturbed
    def with_weights(self, weights: Mapping[str, Array]) -> torch.nn.Module:
        """A copy of the module as it was passed, with some of `weights()` replaced."""
        twin = copy.deepcopy(self.as_passed)
        for path, parameter in self.conventions.parameters(unwrapped(twin)):
            if path in weights:
                parameter.copy_(weights[path])
        return twin

    def state(self) -> tuple[str, dict[str, torch.Tensor]]:
        """Running statistics are among the arrays."""
        text = ""
        if self.conventions is PYTORCH:  # Keras numbers its layers, from one model to the next
            text = repr(self.module)
        arrays = dict(self.module.named_parameters()) | dict(self.module.named_buffers())
        return text, {name: array.detach() for name, array in arrays.items()}

    @undisturbed
    def scorer(self, inputs: Inputs, layer: str, target: Callable[[Outputs], Array]) -> Scorer:
        """Variants of the input run in few batches; variants of a layer run the head alone."""
        if layer == INPUT:

            def run(inputs: Inputs) -> Outputs:
                with Session(EAGER, *self._switches):
                    return tree_map(detached, self._passed(lambda: self._run(inputs)))

            return input_scorer(self.module, run, inputs, target)

        @undisturbed
        def replayed(variants: torch.Tensor) -> torch.Tensor:
            scores = [target(self.replay(inputs, (layer,), (value,))) for value in variants]
            return torch.stack(scores)

        def recorded() -> Tape:
            tape = Tape()
            with tape:
                outputs = self._run_once(inputs, (layer,), lambda _, value: tape.start(value))
            tape.end(outputs)
            return tape

        try:
            tape = self._passed(recorded)
        except (NotImplementedError, RuntimeError, TypeError):
            # Some operators fail in a dispatch mode. A model's own error comes again.
            return Scorer(replayed)
        return tape.scorer(target, replayed)

    @undisturbed
    def input_gradients(
        self, inputs: Inputs, target: Callable[[Outputs], Array], rule: str, smooth: str
    ) -> Capture:
        def run(inputs: Inputs) -> Outputs:
            with self._session():
                return self._run(inputs)

        return self._passed(lambda: guided.input_gradients(run, inputs, target, rule, smooth))

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function as it is: PyTorch runs it eagerly."""

        return undisturbed(partial(function, self))

    def float64(self, inputs: Inputs) -> AbstractContextManager[tuple[TorchModel, Inputs]]:
        copied = double_copy(self.module) if self.conventions.has_float64 else None
        if copied is None:
            return contextlib.nullcontext((self, inputs))
        return contextlib.nullcontext((replace(self, module=copied), tree_map(widened, inputs)))

    def in_double(self, inputs: Inputs) -> AbstractContextManager[tuple[TorchModel, Inputs]]:
        # In a copy, since some operators want operands of one dtype before a mode sees them.
        double, wide = self.float64(inputs).__enter__()
        call = in_double(self.conventions.call)
        double = replace(double, conventions=replace(self.conventions, call=call))
        return contextlib.nullcontext((double, wide))


def _gradients(
    scores: Any,
    activations: Gradients,
    layers: Sequence[str],
    pooled: PooledAxes | None,
    curvature: bool,
    samples: int,
) -> tuple[Gradients, Gradients]:
    if curvature:
        return score_curvatures(scores, activations, layers, samples)
    return score_gradients(scores, activations, layers, pooled, samples), ()
