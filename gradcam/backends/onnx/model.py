"""`model.Model` for an ONNX graph: its values are the layers, and gradients are differences."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import onnx

from gradcam._types import Array, Inputs, Outputs, Shape
from gradcam._warnings import warn
from gradcam.backends.differences import Grid, PooledTokens, RoughGradientsWarning, slopes
from gradcam.backends.errors import unknown_layer
from gradcam.backends.onnx.feeds import feeds_of, first_size, kind_of
from gradcam.backends.onnx.graph import FLOATS, Graph
from gradcam.backends.onnx.reach import reached
from gradcam.backends.onnx.sessions import Sessions
from gradcam.backends.proof import Together
from gradcam.inputs import with_first_array
from gradcam.layouts import ChannelOrder
from gradcam.model import INPUT, Capture, Layer, PooledAxes, merged_scores
from gradcam.targets import Target

__all__ = ["OnnxModel"]

_LOG = logging.getLogger("gradcam")

ROUGH = 0.05
"""The share of gradients that may be open without a warning."""

AT_ONCE = 256
"""Rows that the head sees in one run, where the batch may have any size."""


class OnnxModel:
    """An ONNX model. It is not changed, and holds the sessions that its parts need.

    An input with a fixed number of samples is served too: batches are cut, and filled up with
    copies.
    """

    channels_first = True

    def __init__(self, graph: Graph, sessions: Sessions, name: str) -> None:
        self._graph = graph
        self._sessions = sessions
        self.name = name
        self._float_inputs = [one for one in graph.inputs if kind_of(one) in FLOATS]
        sizes = {first_size(one) for one in self._float_inputs or graph.inputs} - {None}
        self._fixed = sizes.pop() if len(sizes) == 1 else None

    @property
    def metadata(self) -> dict[str, str]:
        """What the file says of itself, such as "labels" or "preprocess" for the command line."""
        return {entry.key: entry.value for entry in self._graph.model.metadata_props}

    # ------------------------------------------------------------------------------------ the verbs

    def capture(
        self,
        inputs: Inputs,
        layers: Sequence[str],
        target: Callable[[Outputs], Array] | None,
        pooled: PooledAxes | None = None,
        at: Sequence[Array] | None = None,
        curvature: bool = False,
    ) -> Capture:
        if curvature:
            raise ValueError(
                "second derivatives of an ONNX model have no digits left in finite differences; "
                "choose a method that needs gradients alone, such as grad-cam"
            )
        values = self._run(inputs, self._with_beside(layers))
        activations = tuple(map(np.asarray, at or map(values.__getitem__, layers)))
        if at is not None:
            values = {**values, **self._behind(layers, activations, values)}
        outputs = self._outputs(values)
        if target is None:
            return Capture(outputs, None, activations, ())
        target = target.resolve(outputs) if isinstance(target, Target) else target
        scores = np.asarray(target(outputs))
        gradients = []
        for path, array in zip(layers, activations, strict=True):
            axes = _axes_of(pooled, array.shape[1:])
            gradients.append(self._gradient(path, array, values, target, axes))
        return Capture(outputs, scores, activations, tuple(gradients))

    def _gradient(
        self,
        path: str,
        array: np.ndarray,
        values: Mapping[str, np.ndarray],
        target: Callable[[Outputs], Array],
        axes: Mapping[int, slice],
    ) -> np.ndarray:
        """The scores' gradient at one layer, averaged over `axes`.

        Where the head takes the mean alone, it is asked behind it: of that, all positions have the
        same share, and there are as many times fewer numbers to hand over.
        """
        mean = self._graph.mean_of(path, array.ndim)
        if mean is not None and self._graph.is_quantised and not self._graph.grid(mean.name):
            mean = None  # of the layer's own integers more is known
        if mean is None or (axes and axes != dict.fromkeys(mean.axes, slice(None))):
            return self._slopes(path, array, values, target, axes)
        kept = array.mean(axis=mean.axes, keepdims=True, dtype=np.float64).astype(array.dtype)
        handed = kept if mean.keeps else kept.squeeze(mean.axes)
        found = self._slopes(mean.name, handed, values, target, {})
        lead = found.shape[: 1 + found.ndim - handed.ndim]
        share = found.reshape(*lead, *kept.shape[1:]) / (array.size // kept.size)
        return share if axes else np.broadcast_to(share, (*lead, *array.shape[1:])).copy()

    def _slopes(
        self,
        path: str,
        array: np.ndarray,
        values: Mapping[str, np.ndarray],
        target: Callable[[Outputs], Array],
        axes: Mapping[int, slice],
    ) -> np.ndarray:
        # what passes a mean by has passed the layer in front of it
        values = {**values, path: array}
        grid = self._graph.grid(path)
        if grid is None and self._graph.is_quantised:  # rounded further on: steps that surely show
            unit = float(np.sqrt(np.mean(np.square(array, dtype=np.float64)))) / 16
            grid = Grid(unit, -np.inf, np.inf) if unit > 0 else None
        found = slopes(self._score((path,), values, target), array, axes, grid)
        _LOG.debug(
            'gradients at "%s": %d evaluations of the head, of which %d together; what is left '
            "open is %.0e of them",
            path, found.evaluations, max(1, AT_ONCE // len(array)), found.doubt,
        )  # fmt: skip
        if found.doubt > ROUGH:
            warn(
                f'the gradients at "{path}" are known to about {found.doubt:.0%}: the model rounds '
                "its scores; compare with a method that needs none, such as ablation-cam",
                RoughGradientsWarning,
            )
        return found.values

    def replay(
        self, inputs: Inputs, layers: Sequence[str], activations: Sequence[Array]
    ) -> Outputs:
        if not layers:
            return self._outputs(self._run(inputs, ()))
        values = self._run(inputs, self._with_beside(layers))
        found = self._behind(layers, [*map(np.asarray, activations)], values)
        return self._outputs({**values, **found})

    # ------------------------------------------------------------------------------ optional powers

    def layers(self, inputs: Inputs) -> list[Layer]:
        """The values of more axes than one, but for the model's outputs."""
        names = [name for name in self._graph.values if name not in self._graph.outputs]
        values = self._run(inputs, names)
        listed = []
        for name in names:
            shape = np.shape(values[name])
            if len(shape) > 1:
                listed.append(Layer(name, shape, self._graph.kind(name)))
        return listed

    def scorer(
        self, inputs: Inputs, layer: str, target: Callable[[Outputs], Array]
    ) -> Callable[[np.ndarray], np.ndarray]:
        if layer == INPUT:

            def run(array: np.ndarray) -> Outputs:
                return self.replay(with_first_array(inputs, array), (), ())

            return Together(
                lambda variant: np.asarray(target(run(variant))),
                lambda variants: merged_scores(run, target, variants),
            )
        return self._score((layer,), self._run(inputs, self._with_beside((layer,))), target)

    def flow(
        self, inputs: Inputs, score: Callable[[Outputs], Array]
    ) -> Mapping[str, Hashable] | None:
        outputs = self._outputs(self._run(inputs, ()))
        watched = _Watched(outputs) if isinstance(outputs, dict) else None
        score(outputs if watched is None else watched)
        used = self._graph.outputs if watched is None else sorted(watched.used)
        return self._graph.gates(used) or None

    def reach(
        self, inputs: Inputs, layers: Sequence[str], target: Callable[[Outputs], Array]
    ) -> tuple[Array, Sequence[Array]]:
        """Not the gradient, but where there is some: places along each axis are disturbed."""
        values = self._run(inputs, self._with_beside(layers))
        outputs = self._outputs(values)
        target = target.resolve(outputs) if isinstance(target, Target) else target
        scores = np.asarray(target(outputs))
        found = []
        for path in layers:
            score = self._score((path,), values, target)
            found.append(reached(score, np.asarray(values[path]), scores, self._graph.is_quantised))
        return scores, found

    def channel_order_at(self, path: str) -> ChannelOrder | None:
        return self._graph.channel_order(path)

    def state(self) -> tuple[str, Mapping[str, Array]]:
        graph = self._graph.model.graph
        nodes = [node.SerializeToString(deterministic=True).hex() for node in graph.node]
        arrays = {}
        for name, tensor in self._graph.weights.items():
            arrays[name] = self._sessions.array(tensor)
        return "\n".join(nodes), arrays

    def forward(self, inputs: Inputs) -> Outputs:
        return self._outputs(self._run(inputs, ()))

    def array(self, values: np.ndarray) -> np.ndarray:
        kind = kind_of((self._float_inputs or self._graph.inputs)[0])
        return np.asarray(values, onnx.helper.tensor_dtype_to_np_dtype(kind))

    # ------------------------------------------------------------------------------------- running

    def _with_beside(self, layers: Sequence[str]) -> tuple[str, ...]:
        """The layers, and what passes each of them by."""
        known = set(self._graph.values)
        names = dict.fromkeys(layers)
        for path in layers:
            if path not in known:
                raise unknown_layer(path, self._graph.values)
        for path in layers:
            names.update(dict.fromkeys(self._graph.head((path,)).beside))
        if len(layers) > 1:
            names.update(dict.fromkeys(self._graph.head(layers).beside))
        return tuple(names)

    def _run(self, inputs: Inputs, names: Sequence[str]) -> dict[str, np.ndarray]:
        """The inputs, the outputs, and these values."""
        feeds = feeds_of(self._graph.inputs, inputs)
        made = tuple(sorted(set(names) - set(feeds)))
        make = partial(self._graph.with_outputs, made)
        return {**feeds, **self._by_rows(("all", made), make, feeds)}

    def _behind(
        self, layers: Sequence[str], arrays: Sequence[np.ndarray], values: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """The outputs that depend on these layers, with other activations there."""
        replaced = dict(zip(layers, arrays, strict=True))
        head = self._graph.head(tuple(layers))
        found = {name: replaced[name] for name in self._graph.outputs if name in replaced}
        if head.model is None:
            return found
        model = head.model
        samples = len(next(iter(values.values())))
        times = len(arrays[0]) // samples
        feeds = {name: array.astype(values[name].dtype) for name, array in replaced.items()}
        for name in head.beside:
            value = values[name]
            if times > 1 and value.shape[:1] == (samples,):
                value = np.concatenate([value] * times)
            feeds[name] = value
        return {**found, **self._by_rows(("head", tuple(layers)), lambda: model, feeds)}

    def _score(
        self,
        layers: tuple[str, ...],
        values: Mapping[str, np.ndarray],
        target: Callable[[Outputs], Array],
    ) -> Together:
        """The score of variants of one layer's activations; nothing below runs again."""
        samples = len(next(iter(values.values())))

        def run(array: np.ndarray) -> Outputs:
            found = self._behind(layers, [array], values)
            others = {}
            for name in self._graph.outputs:
                if name not in found:
                    times = len(array) // samples
                    others[name] = np.concatenate([values[name]] * times)
            return self._outputs({**others, **found})

        return Together(
            lambda variant: np.asarray(target(run(variant))),
            lambda variants: merged_scores(run, target, variants),
            lambda: max(1, AT_ONCE // samples),
        )

    def _outputs(self, values: Mapping[str, np.ndarray]) -> Outputs:
        names = self._graph.outputs
        outputs = dict(zip(names, map(values.__getitem__, names), strict=True))
        return next(iter(outputs.values())) if len(outputs) == 1 else outputs

    def _by_rows(
        self,
        key: Hashable,
        make: Callable[[], onnx.ModelProto],
        feeds: Mapping[str, np.ndarray],
    ) -> dict[str, np.ndarray]:
        """One run; several, filled up, where the model takes a fixed number of samples alone."""
        fixed = self._fixed
        count = max((len(array) for array in feeds.values() if array.ndim), default=0)
        if fixed is None or count == fixed:
            return self._sessions.run(key, make, feeds)
        parts = []
        for start in range(0, count, fixed):
            part = {}
            for name, array in feeds.items():
                if array.shape[:1] == (count,):
                    array = array[start : start + fixed]
                    missing = fixed - len(array)
                    array = np.concatenate([array, *[array[-1:]] * missing])
                part[name] = array
            parts.append(self._sessions.run(key, make, part))
        joined = {}
        for name, first in parts[0].items():
            joined[name] = first
            if first.shape[:1] == (fixed,):
                joined[name] = np.concatenate([part[name] for part in parts])[:count]
        return joined


def _axes_of(pooled: PooledAxes | None, sample: Shape) -> Mapping[int, slice]:
    """The axes over which the mean gradient is enough, and the part of each that counts."""
    if pooled is None:
        return {}
    by_tokens: PooledTokens | None = pooled if hasattr(pooled, "tokens") else None  # type: ignore
    tokens = None if by_tokens is None else by_tokens.tokens(sample)
    if tokens is not None:
        return {tokens[0]: tokens[1]}
    return dict.fromkeys(pooled(sample), slice(None))


class _Watched(dict[str, Any]):
    """Outputs that note which of them are asked for."""

    def __init__(self, outputs: Mapping[str, Any]) -> None:
        super().__init__(outputs)
        self.used: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.used.add(key)
        return super().__getitem__(key)

    def values(self) -> Any:
        self.used.update(self)
        return super().values()

    def items(self) -> Any:
        self.used.update(self)
        return super().items()

    def get(self, key: str, default: Any = None) -> Any:
        self.used.add(key)
        return super().get(key, default)
