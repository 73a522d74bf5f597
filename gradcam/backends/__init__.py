"""Which backend serves a model: a row of `LIBRARIES`, found from the model's type.

A model of a library can only exist where that library was imported, so nothing is imported here
before that. To add a library: a module with `adapt`, and a row (docs/add-a-backend.md).
"""

from __future__ import annotations

import importlib
import os
import sys
from dataclasses import dataclass
from typing import Any

from gradcam._functions import keyed
from gradcam._types import Inputs
from gradcam.backends.environment import (
    MemoryMeter,
    default_array,
    devices,
    entry,
    memory_meter,
    rounds_products,
    spread,
    versions,
)
from gradcam.backends.split import Split
from gradcam.inputs import first_array
from gradcam.model import Model

__all__ = [
    "FILES",
    "LIBRARIES",
    "Library",
    "MemoryMeter",
    "Split",
    "adapt",
    "default_array",
    "devices",
    "entry",
    "layer_path",
    "memory_meter",
    "opened",
    "rounds_products",
    "spread",
    "versions",
]


@dataclass(frozen=True)
class Library:
    """A library of models, and the module that serves them.

    module, classes: where the classes of its models are.
    home: the module with `adapt(*parts) -> Model`, and `path_of(model, layer) -> str` if its layers
        are objects that users can name.
    passed_as: how users pass its models, for the error of `adapt`.
    parts: of how many parts a model may consist at most, as (module, variables) has two.
    has_training: whether `adapt` takes `allow_training`.
    """

    module: str
    classes: tuple[str, ...]
    home: str
    passed_as: str
    parts: int = 1
    has_training: bool = False

    def owns(self, value: object) -> bool:
        """Whether the value is an instance of one of the classes; the library is not imported."""
        return any(_is(value, self.module, name) for name in self.classes)

    def parts_of(self, model: Any) -> tuple[Any, ...] | None:
        """The parts of a model of this library; None for any other value."""
        if self.owns(model):
            return (model,)
        if isinstance(model, tuple) and 0 < len(model) <= self.parts and self.owns(model[0]):
            return model
        return None


ONNX = "gradcam.backends.onnx"

FILES = {".onnx": ONNX, ".pt2": "gradcam.backends.torch.exported"}
"""By its ending, the module that opens a file with a model."""

LIBRARIES = (
    Library("onnx", ("ModelProto",), ONNX, "an onnx.ModelProto"),
    Library(ONNX, ("OnnxModel",), ONNX, 'the path of an ONNX file, "model.onnx"'),
    Library(
        "onnxruntime",
        ("InferenceSession",),
        ONNX,
        "an onnxruntime.InferenceSession",
        parts=2,
    ),
    # Keras first: on its torch backend its layers are torch modules too.
    Library("keras", ("Layer",), "gradcam.backends.keras", "a Keras model"),
    Library(
        "torch.nn",
        ("Module",),
        "gradcam.backends.torch",
        "a torch.nn.Module",
        has_training=True,
    ),
    Library("flax.nnx", ("Module",), "gradcam.backends.jax.nnx", "a flax.nnx.Module"),
    Library(
        "flax.linen",
        ("Module",),
        "gradcam.backends.jax.linen",
        "a bound flax.linen module or the pair (linen module, variables)",
        parts=2,
    ),
    Library(
        "equinox",
        ("Module",),
        "gradcam.backends.jax.equinox",
        "an equinox.Module or the pair (module, state)",
        parts=2,
    ),
    Library(
        "haiku",
        ("Transformed", "TransformedWithState"),
        "gradcam.backends.jax.haiku",
        "a Haiku pair (transformed, params)",
        parts=9,
    ),
)


def _is(value: object, module: str, name: str) -> bool:
    """Whether `value` is an instance of `module.name`, without importing it."""
    kind = getattr(sys.modules.get(module), name, None)
    return kind is not None and isinstance(value, kind)


def opened(model: Any) -> Any:
    """What a model is that lies in a file, or whose file is known; any other value as it is.

    Raises ImportError where the packages for the file are missing, and FileNotFoundError or
    ValueError where it cannot be read.
    """
    if isinstance(model, (str, os.PathLike)):
        suffix = os.path.splitext(os.fspath(model))[1].lower()
        if suffix not in FILES:
            raise ValueError(
                f"`model` is the path {os.fspath(model)!r}; the files that are known here end in "
                f"{' or '.join(FILES)}"
            )
        return _home(FILES[suffix]).adapt(model)
    if _is(model, "torch.export", "ExportedProgram"):
        return _home(FILES[".pt2"]).adapt(model)
    for library in LIBRARIES:
        if library.home == ONNX:
            parts = library.parts_of(model)
            if parts is not None:
                return _home(ONNX).adapt(*parts)
    return model


def _home(name: str) -> Any:
    """The module of a backend; where its packages are missing, an error that says how to get
    them.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        extra = name.rpartition(".")[2]
        raise ImportError(
            f'such a model needs {error.name}: pip install "gradcam[{extra}]"', name=error.name
        ) from error


def adapt(model: Any, inputs: Inputs, allow_training: bool = False) -> Model:
    """The backend's view of the user's model, its weights as they are now."""
    model = opened(model)
    if isinstance(model, type):
        raise TypeError(f"`model` is the class {model.__qualname__}; pass an instance of it")
    if isinstance(model, Split):
        return _adapt_split(model, inputs, allow_training)
    for library in LIBRARIES:
        parts = library.parts_of(model)
        if parts is not None:
            options = {"allow_training": allow_training} if library.has_training else {}
            adapted: Model = importlib.import_module(library.home).adapt(*parts, **options)
            return adapted
    if isinstance(model, Model):
        return model
    if callable(model) and _is(first_array(inputs), "jax", "Array"):
        from gradcam.backends.jax import Function

        return Function.adapt(model)
    raise _unserved(model, inputs)


def _unserved(model: Any, inputs: Inputs) -> TypeError:
    if _is(model, "jax.export", "Exported"):
        return TypeError(
            "`model` is an exported function of JAX, which shows none of its values; export the "
            "part below the layer and the part behind it (with vjp_order=1), and pass "
            "gradcam.Split(features.call, head.call)"
        )
    if callable(model) and not isinstance(model, type):
        return TypeError(
            f"`model` is a function, which needs JAX arrays, but `inputs` is of type "
            f"{_type_name(first_array(inputs))}; pass jax.numpy.asarray(inputs) if it is one of "
            "JAX, and gradcam.Split(features, head) if not"
        )
    libraries = ", ".join(library.passed_as for library in LIBRARIES)
    return TypeError(
        f"`model`{_described(model)} is served by no backend; pass {libraries}, "
        "a function of JAX arrays, gradcam.Split(features, head), or an object with the methods "
        "`capture` and `replay`"
    )


def _described(model: Any) -> str:
    """What was looked at of a model that nothing serves: of a tuple, its first part."""
    if isinstance(model, tuple) and model:
        return f", a tuple of {len(model)} with its first part of type {_type_name(model[0])},"
    return f" of type {_type_name(model)}"


def _type_name(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _adapt_split(split: Split, inputs: Inputs, allow_training: bool) -> Model:
    array = first_array(inputs)
    if _is(array, "torch", "Tensor"):
        from gradcam.backends import torch

        module = torch.SplitModule(split.features, split.head, split.layer)
        return torch.adapt(module, allow_training)
    if _is(array, "jax", "Array"):
        from gradcam.backends.jax import JaxModel, SplitRun

        run = SplitRun(keyed(split.features), keyed(split.head), split.layer)
        return JaxModel(run, (), bool(split.channels_first))
    from gradcam.backends.numpy import NumpyModel

    channels_first = split.channels_first is None or split.channels_first
    return NumpyModel(split.features, split.head, split.layer, channels_first, split.batch)


def layer_path(model: Any, layer: Any) -> str:
    """A layer as the user names it, a path or the module itself, as its path."""
    if isinstance(layer, str):
        return layer
    for library in LIBRARIES:
        parts = library.parts_of(model)
        if parts is None:
            continue
        home = importlib.import_module(library.home)
        if not hasattr(home, "path_of"):
            raise TypeError(
                f"`layer` must be a path, but is of type {_type_name(layer)}; layers of "
                f"{library.module} are named by paths alone: pass one of "
                "gradcam.layers(model, inputs)"
            )
        if library.owns(layer):
            path: str = home.path_of(parts[0], layer)
            return path
    raise TypeError(
        f"`layer` must be a path, a module of the model, a list of them, or None, but is {layer!r}"
    )
