"""ONNX models: files, `onnx.ModelProto`, `onnxruntime.InferenceSession`. No autograd is needed."""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import onnx

from gradcam.backends.onnx.files import checked, read
from gradcam.backends.onnx.graph import Graph
from gradcam.backends.onnx.model import OnnxModel
from gradcam.backends.onnx.sessions import Sessions

__all__ = ["OnnxModel", "adapt"]

MOST_OPEN = 4
"""Models that are kept open, by file or by content: their sessions hold the weights."""

_OPEN: OrderedDict[object, OnnxModel] = OrderedDict()


def adapt(model: Any, path: str | os.PathLike[str] | None = None) -> OnnxModel:
    """The model of a path, an `onnx.ModelProto`, or a session, whose path may be told.

    It is the same object as long as the file, or the model's content, is the same.
    """
    if isinstance(model, OnnxModel):
        return model
    if isinstance(model, onnx.ModelProto):
        return _of_proto(model)
    if isinstance(model, (str, os.PathLike)):
        return _of_file(model, ())
    path = path or getattr(model, "_model_path", None)
    if not path:
        raise TypeError(
            "this session was made of bytes, and does not say of which; pass the path of the file, "
            'the onnx.ModelProto, or the pair (session, "model.onnx")'
        )
    return _of_file(path, tuple(model.get_providers()))


def _of_file(path: str | os.PathLike[str], providers: tuple[str, ...]) -> OnnxModel:
    file = Path(path)
    if not file.exists():
        raise FileNotFoundError(f"{file}: no such file")
    stat = file.stat()
    key = (file.resolve(), stat.st_mtime_ns, stat.st_size, providers)
    if key not in _OPEN:
        model, folder = read(file)
        _keep(key, OnnxModel(Graph(model), Sessions(folder, providers), file.name))
    _OPEN.move_to_end(key)
    return _OPEN[key]


def _of_proto(model: onnx.ModelProto) -> OnnxModel:
    content = model.SerializeToString(deterministic=True)
    key = (hash(content), len(content))
    if key not in _OPEN:
        checked(model, None, "the onnx.ModelProto")
        copy = onnx.ModelProto.FromString(content)  # the user may change theirs
        _keep(key, OnnxModel(Graph(copy), Sessions(None, ()), copy.graph.name or "ModelProto"))
    _OPEN.move_to_end(key)
    return _OPEN[key]


def _keep(key: object, model: OnnxModel) -> None:
    _OPEN[key] = model
    while len(_OPEN) > MOST_OPEN:
        _OPEN.popitem(last=False)
