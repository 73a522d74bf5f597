"""ONNX files, read as far as they can be trusted: nothing outside of their folder is opened."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import onnx

__all__ = ["checked", "names_of", "nodes_of", "read"]

MOST_NODES = 1_000_000


def read(path: str | os.PathLike[str]) -> tuple[onnx.ModelProto, Path]:
    """A model, without the tensors that lie in files beside it, and its folder.

    Raises FileNotFoundError or ValueError, in one sentence that names the file.
    """
    file = Path(path)
    if not file.exists():
        raise FileNotFoundError(f"{file}: no such file")
    if not file.is_file() or file.stat().st_size == 0:
        raise ValueError(f"{file}: is no ONNX file, or an empty one")
    try:
        model = onnx.load(str(file), load_external_data=False)
    except Exception as error:  # protobuf's errors are of several kinds
        raise ValueError(f"{file}: is no ONNX model, or cut short ({_line(error)})") from error
    if not model.graph.node:
        raise ValueError(f"{file}: is an ONNX model without a graph, or no ONNX model")
    checked(model, file.parent, str(file))
    return model, file.parent


def checked(model: onnx.ModelProto, folder: Path | None, name: str) -> None:
    """Raise a ValueError where a tensor or the graph is not what it says.

    folder: where tensors in other files lie; None where there may be none.
    """
    for count, node in enumerate(nodes_of(model.graph)):
        if count >= MOST_NODES:
            raise ValueError(f"{name}: has more than {MOST_NODES} nodes")
        for attribute in node.attribute:
            for tensor in (attribute.t, *attribute.tensors):
                _check_tensor(tensor, folder, name)
    for graph in _graphs(model.graph):
        for tensor in graph.initializer:
            _check_tensor(tensor, folder, name)
        for sparse in graph.sparse_initializer:
            _check_tensor(sparse.values, folder, name)
            _check_tensor(sparse.indices, folder, name)
    _check_order(model.graph, set(), name)


def nodes_of(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """All nodes, those of graphs within them too."""
    for one in _graphs(graph):
        yield from one.node


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    waiting = [graph]
    while waiting:
        one = waiting.pop()
        yield one
        for node in one.node:
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    waiting.append(attribute.g)
                waiting.extend(attribute.graphs)


def _check_tensor(tensor: onnx.TensorProto, folder: Path | None, name: str) -> None:
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        _check_external(tensor, folder, name)
        return
    if not tensor.raw_data:
        return
    bits = _bits(tensor.data_type)
    if bits and len(tensor.raw_data) != -(-math.prod(tensor.dims) * bits // 8):
        raise ValueError(
            f'{name}: tensor "{tensor.name}" says that its shape is {list(tensor.dims)}, but has '
            f"{len(tensor.raw_data)} bytes"
        )


def _check_external(tensor: onnx.TensorProto, folder: Path | None, name: str) -> None:
    told = {entry.key: entry.value for entry in tensor.external_data}
    place = told.get("location", "")
    what = f'{name}: tensor "{tensor.name}" lies in the file "{place}"'
    if folder is None:
        raise ValueError(f"{what}, which a model in memory cannot find; pass the path of its file")
    root = folder.resolve()
    file = (root / place).resolve()
    if not place or os.path.isabs(place) or not file.is_relative_to(root):
        raise ValueError(f"{what}, outside of the model's folder; nothing there is read")
    if not file.is_file():
        raise FileNotFoundError(f"{what}, which is not there")
    bits = _bits(tensor.data_type)
    if not bits:
        return
    needs = -(-math.prod(tensor.dims) * bits // 8)
    start = int(told.get("offset") or 0)
    if start < 0 or start + needs > file.stat().st_size:
        raise ValueError(f"{what}, which is too short for its shape {list(tensor.dims)}")


def _check_order(graph: onnx.GraphProto, outer: set[str], name: str) -> None:
    """Each value is made once, before it is used: so there are no cycles."""
    made = {*names_of(graph.input), *names_of(graph.initializer)}
    known = outer | made
    for sparse in graph.sparse_initializer:
        known.add(sparse.values.name)
    for node in graph.node:
        for value in node.input:
            if value and value not in known:
                raise ValueError(
                    f'{name}: node "{node.name or node.op_type}" uses "{value}", which no earlier '
                    "node makes: the graph has a cycle, or misses a part"
                )
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _check_order(attribute.g, known, name)
        for value in filter(None, node.output):
            if value in made:
                raise ValueError(f'{name}: two nodes make the value "{value}"')
            made.add(value)
            known.add(value)


def _bits(kind: int) -> int:
    """Bits of an element; 0 of strings and of kinds that are not known here."""
    four = {getattr(onnx.TensorProto, name, -1) for name in ("INT4", "UINT4", "FLOAT4E2M1")}
    if kind in four:
        return 4
    try:
        return 8 * int(onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize)
    except (KeyError, TypeError, ValueError):
        return 0


def names_of(listed: Iterable[Any]) -> list[str]:
    """The names of what has one: values, tensors, nodes."""
    return [one.name for one in listed]


def _line(error: Any) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]
