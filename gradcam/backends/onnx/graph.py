"""An ONNX graph as one thinks of it: values, which nodes make them, and how it is cut in two.

A layer is a value. Cut there, the lower half makes the value, and the upper half, the head, goes on
from it. Where a connection passes by, its value is made below too, and handed to the head. Numbers
that are no floats, such as shapes, are made anew in the head, so that they fit a batch of another
size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import onnx

from gradcam.backends.differences import Grid
from gradcam.backends.onnx.files import names_of
from gradcam.layouts import ChannelOrder

__all__ = ["FLOATS", "Graph", "Head", "Mean"]

CHANNELS_FIRST = frozenset((
    "AveragePool", "BatchNormalization", "Conv", "ConvInteger", "ConvTranspose", "DepthToSpace",
    "GlobalAveragePool", "GlobalMaxPool", "InstanceNormalization", "LRN", "LpPool", "MaxPool",
    "QLinearConv", "SpaceToDepth", "GroupNormalization",
))  # fmt: skip
"""Operators whose results are (N, C, ...), by the standard."""

ELEMENTWISE = frozenset((
    "Abs", "Add", "Cast", "Clip", "DequantizeLinear", "Div", "Dropout", "Elu", "Erf", "Exp",
    "Gelu", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Max", "Min", "Mish", "Mul",
    "Neg", "PRelu", "Pow", "QuantizeLinear", "Relu", "Selu", "Sigmoid", "Softplus", "Sqrt",
    "Sub", "Swish", "Tanh", "ThresholdedRelu", "Where",
))  # fmt: skip
"""Operators that leave each element where it is."""

SAME_NUMBERS = ("Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
"""Operators that leave all numbers as they are, in another shape."""

FLOATS = {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16}
FLOATS |= {onnx.TensorProto.BFLOAT16}
SMALL = {onnx.TensorProto.INT8, onnx.TensorProto.UINT8, onnx.TensorProto.INT4}
SMALL |= {onnx.TensorProto.UINT4, onnx.TensorProto.FLOAT8E4M3FN, onnx.TensorProto.FLOAT8E5M2}
"""Of quantised values, which carry what floats do."""


@dataclass(frozen=True)
class Head:
    """What runs behind some values: a model whose inputs are these, and others that pass them by.

    model: None where an output itself was replaced, and nothing runs.
    beside: the values that the head needs besides, which lie below.
    outputs: those of the whole model that depend on the values.
    """

    model: onnx.ModelProto | None
    beside: tuple[str, ...]
    outputs: tuple[str, ...]


class Mean(NamedTuple):
    """A mean that is taken of a value: its name, the axes from the end, and whether they stay."""

    name: str
    axes: tuple[int, ...]
    keeps: bool


class Graph:
    """A model's graph. Values within control flow (If, Loop, Scan) are not values of it."""

    def __init__(self, model: onnx.ModelProto) -> None:
        if model.functions:
            model = onnx.inliner.inline_local_functions(model)
        self.model = model
        graph = model.graph
        self.weights = dict(zip(names_of(graph.initializer), graph.initializer, strict=True))
        self.inputs = [value for value in graph.input if value.name not in self.weights]
        self.outputs = names_of(graph.output)
        self.maker: dict[str, int] = {}
        self.needs: list[tuple[str, ...]] = []
        for n, node in enumerate(graph.node):
            self.needs.append(tuple(dict.fromkeys((*filter(None, node.input), *_outer(node)))))
            for name in filter(None, node.output):
                self.maker[name] = n

    # -------------------------------------------------------------------------------------- types

    @cached_property
    def types(self) -> Mapping[str, onnx.TypeProto]:
        """The types of values, as far as the graph tells them."""
        try:
            model = onnx.shape_inference.infer_shapes(self.model, data_prop=True)
        except Exception:  # operators that it does not know; what is missing is found by a run
            model = self.model
        graph = model.graph
        types = {}
        for value in (*graph.value_info, *graph.input, *graph.output):
            types[value.name] = value.type
        return types

    def is_float(self, name: str) -> bool:
        """Whether a value is an array of floats, or may be."""
        if name in self.weights:
            return self.weights[name].data_type in FLOATS
        kind = self.types.get(name)
        if kind is None or not kind.WhichOneof("value"):
            return True
        return bool(kind.tensor_type.elem_type in (*FLOATS, 0))

    def carries(self, name: str) -> bool:
        """Whether a value holds activations: floats, or small numbers that stand for some."""
        kind = self.types.get(name)
        small = kind is not None and kind.tensor_type.elem_type in SMALL
        return name not in self.weights and (small or self.is_float(name))

    @cached_property
    def fed(self) -> frozenset[str]:
        """The values that depend on an input."""
        return self._behind(names_of(self.inputs))

    @cached_property
    def values(self) -> list[str]:
        """The floats that nodes make of the inputs, in the order in which they run."""
        return [*filter(self.is_float, filter(self.fed.__contains__, self.maker))]

    def kind(self, name: str) -> str:
        """The operator that makes a value."""
        return str(self.model.graph.node[self.maker[name]].op_type)

    @cached_property
    def _orders(self) -> dict[str, bool]:
        """The values whose channels are known to come first."""
        known: dict[str, bool] = {}
        for n, node in enumerate(self.model.graph.node):
            told = node.op_type in ELEMENTWISE and not known.keys().isdisjoint(self.needs[n])
            if told or node.op_type in CHANNELS_FIRST:
                known.update(dict.fromkeys(filter(None, node.output), True))
        return known

    def channel_order(self, name: str) -> ChannelOrder | None:
        """What the operators say of a value's channels, if anything."""
        return ChannelOrder(True, sure=True) if self._orders.get(name) else None

    # --------------------------------------------------------------------------------------- ways

    def _behind(self, names: Iterable[str]) -> frozenset[str]:
        """The values that depend on any of these, and these."""
        found = set(names)
        for n, node in enumerate(self.model.graph.node):
            if not found.isdisjoint(self.needs[n]):
                found.update(filter(None, node.output))
        return frozenset(found)

    def gates(self, outputs: Sequence[str]) -> dict[str, str]:
        """The values through which every way from the inputs to the outputs leads, in order.

        With the values in the order in which they are made, one is a gate where no edge jumps over
        it. Values that are the same, but for their name, have one name.
        """
        alive = self._used_by(outputs)
        starts = [*filter(alive.__contains__, names_of(self.inputs))]
        order = [*starts, *filter((alive & self.fed).__contains__, self.maker)]
        place = dict(zip(order, range(len(order)), strict=True))
        jumped = np.zeros(len(order) + 2, int)
        for name in order[len(starts) :]:
            for need in self.needs[self.maker[name]]:
                if need in place:  # from this one, over all between
                    jumped[place[need] + 1] += 1
                    jumped[place[name]] -= 1
        for name in starts:  # all inputs begin at once
            jumped[0] += 1
            jumped[place[name]] -= 1
        for name in outputs:
            if name in place:  # and all outputs end at once
                jumped[place[name] + 1] += 1
                jumped[len(order)] -= 1
        over = np.cumsum(jumped)
        return {name: self._same(name) for name in order if over[place[name]] == 0}

    def _used_by(self, outputs: Sequence[str]) -> set[str]:
        """The values that carry something to the outputs, and these."""
        alive = set(outputs)
        for n in reversed(range(len(self.needs))):
            if not alive.isdisjoint(self.model.graph.node[n].output):
                alive.update(filter(self.carries, self.needs[n]))
        return {*filter(self.carries, alive)}

    def _same(self, name: str) -> str:
        while name in self.maker and self.kind(name) in ("Identity", "Dropout"):
            name = self.needs[self.maker[name]][0]
        return name

    # ---------------------------------------------------------------------------------------- cut

    def with_outputs(self, names: Sequence[str]) -> onnx.ModelProto:
        """The model with these values among its outputs."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        del model.graph.output[:]
        for name in dict.fromkeys((*names, *self.outputs)):
            model.graph.output.append(self._info(name))
        return model

    def head(self, names: Sequence[str]) -> Head:
        """The part of the graph behind these values."""
        behind = self._behind(names) - set(names)
        outputs = tuple(filter(behind.__contains__, self.outputs))
        nodes: set[int] = set()
        beside: dict[str, None] = {}
        waiting = list(outputs)
        while waiting:
            name = waiting.pop()
            if name in names or name in self.weights or name in beside:
                continue
            below = name not in behind and name in self.fed and self.is_float(name)
            if below or name not in self.maker:  # an input that is no float, too
                beside[name] = None
            elif self.maker[name] not in nodes:
                nodes.add(self.maker[name])
                waiting.extend(self.needs[self.maker[name]])
        if not outputs:
            return Head(None, (), ())
        return Head(self._part(sorted(nodes), (*names, *beside), outputs), tuple(beside), outputs)

    def _part(
        self, nodes: Sequence[int], inputs: Sequence[str], outputs: Sequence[str]
    ) -> onnx.ModelProto:
        model = onnx.ModelProto()
        model.ir_version = self.model.ir_version
        model.opset_import.extend(self.model.opset_import)
        graph = model.graph
        graph.name = "head"
        used: set[str] = set()
        for n in nodes:
            graph.node.add().CopyFrom(self.model.graph.node[n])
            used.update(self.needs[n])
        for name in filter(used.__contains__, self.weights):
            graph.initializer.append(self.weights[name])
        graph.input.extend(map(self._info, inputs))
        graph.output.extend(map(self._info, outputs))
        return model

    def _info(self, name: str) -> onnx.ValueInfoProto:
        """A value of the head or of the lower half: its type, with as many axes, of any length."""
        info = onnx.ValueInfoProto(name=name)
        told = self.types.get(name)
        kind: int = onnx.TensorProto.FLOAT
        if told is not None and told.tensor_type.elem_type:
            kind = told.tensor_type.elem_type
        info.type.tensor_type.elem_type = kind
        return info

    def _consumers(self, name: str) -> list[onnx.NodeProto]:
        """The nodes that take a value."""
        nodes = self.model.graph.node
        return [node for n, node in enumerate(nodes) if name in self.needs[n]]

    # -------------------------------------------------------------------------------------- means

    def mean_of(self, name: str, ndim: int) -> Mean | None:
        """The mean that the graph takes of a value of `ndim` axes, where it takes nothing else."""
        nodes = self._consumers(name)
        if name in self.outputs or len(nodes) != 1:
            return None
        (node,) = nodes
        if node.op_type == "GlobalAveragePool":
            return Mean(node.output[0], tuple(range(2 - ndim, 0)), True)
        if node.op_type != "ReduceMean" or node.input[0] != name:
            return None
        axes: list[int] = []
        keeps = True
        for attribute in node.attribute:
            if attribute.name == "axes":
                axes = list(attribute.ints)
            elif attribute.name == "keepdims":
                keeps = bool(attribute.i)
        if len(node.input) > 1:
            if node.input[1] not in self.weights:
                return None
            axes = onnx.numpy_helper.to_array(self.weights[node.input[1]]).tolist()
        axes = sorted(axis - ndim if axis >= 0 else axis for axis in axes)
        return Mean(node.output[0], tuple(axes), keeps) if axes and axes[0] > -ndim else None

    # -------------------------------------------------------------------------------- quantisation

    @cached_property
    def is_quantised(self) -> bool:
        """Whether any node rounds floats to integers."""
        rounding = ("QuantizeLinear", "QLinearConv", "DynamicQuantizeLinear")
        return any(node.op_type in rounding for node in self.model.graph.node)

    def grid(self, name: str) -> Grid | None:
        """The numbers that a value is rounded to next to it; None where it is rounded to none.

        Where each channel has its own, or several nodes round, the coarsest unit.
        """
        nodes = []
        waiting = self._consumers(name)
        while waiting:
            node = waiting.pop()
            if node.op_type == "QuantizeLinear":
                nodes.append(node)
            elif node.op_type in SAME_NUMBERS:
                waiting += self._consumers(node.output[0])
        if name in self.maker and self.kind(name) == "DequantizeLinear":
            nodes.append(self.model.graph.node[self.maker[name]])
        grids = []
        for node in nodes:
            if self.weights.keys() >= set(node.input[1:]):
                tensors = map(self.weights.__getitem__, node.input[1:])
                parts = [*map(onnx.numpy_helper.to_array, tensors)]
                zero = parts[1] if len(parts) > 1 else np.zeros((), np.uint8)
                low, high = _limits(zero.dtype)
                unit, middle = float(parts[0].max()), float(zero.flat[0])
                grids.append(Grid(unit, unit * (low - middle), unit * (high - middle)))
        return max(grids, key=lambda grid: grid.unit, default=None)


def _limits(dtype: np.dtype[Any]) -> tuple[float, float]:
    """The least and the largest number of a quantised type: integers, or floats of eight bits."""
    info = np.iinfo(dtype) if dtype.kind in "iu" else ml_dtypes.finfo(dtype)
    return float(info.min), float(info.max)


def _outer(node: onnx.NodeProto) -> Iterator[str]:
    """The values from outside that graphs within a node use."""
    for attribute in node.attribute:
        if attribute.type != onnx.AttributeProto.GRAPH:
            continue
        own = {*names_of(attribute.g.input), *names_of(attribute.g.initializer)}
        for inner in attribute.g.node:
            for name in (*inner.input, *_outer(inner)):
                if name and name not in own:
                    yield name
            own.update(inner.output)
