"""The model that the command line was asked for, and what it is shown."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import typer

from gradcam import backends
from gradcam._factories import made
from gradcam._types import Array, Inputs
from gradcam.classifier import Classifier
from gradcam.cli.console import FAULTS, printable
from gradcam.model import MakesArrays, input_channels_first
from gradcam.pictures.images import crop
from gradcam.zoo import efficientnet_lite0

__all__ = [
    "FRAMEWORKS",
    "Framework",
    "batch_of",
    "class_indices",
    "load",
    "subjects",
    "view_of",
]

Framework = Literal["torch", "jax"]

FRAMEWORKS = {"torch": "torch", "jax": "flax"}
"""The demo network's frameworks, and the package that each needs."""


MOST_DIGITS = 9
"""Of a class index."""


def load(spec: str | None, framework: Framework, preprocess: str | None = None) -> Classifier:
    """`package.module:factory`, called without arguments, or a file; None is the demo network.

    The classifier has a view and a preprocessing: that of `preprocess`, or its own, or what the
    file's metadata say, or ImageNet's.
    """
    if spec is None:
        try:
            return efficientnet_lite0(framework)
        except ImportError as error:
            raise typer.BadParameter(str(error)) from error
    model = _made(spec)
    classifier = model if isinstance(model, Classifier) else Classifier(model)
    told = dict(getattr(classifier.model, "metadata", {}))
    steps = _steps(classifier.model, preprocess or told.get("preprocess", ""))
    own = preprocess is None
    return dataclasses.replace(
        classifier,
        view=(classifier.view if own else None) or steps.view,
        preprocess=(classifier.preprocess if own else None) or steps,
        labels=classifier.labels or _labels(told.get("labels")),
    )


def _labels(text: str | None) -> list[str] | None:
    """Class names of a file's metadata, a list in JSON."""
    try:
        names = json.loads(text or "null")
    except ValueError:
        return None
    return [str(name) for name in names] if isinstance(names, list) and names else None


def _steps(model: Any, text: str) -> _Steps:
    """How photographs become inputs, as `size=224 mean=0.5,0.5,0.5 order=bgr` says it."""
    told: dict[str, Any] = {}
    for part in text.split():
        name, _, value = part.partition("=")
        try:
            if name in ("size", "resize"):
                told[name] = int(value)
            elif name in ("mean", "deviation"):
                numbers = [float(number) for number in value.split(",")]
                told[name] = tuple(numbers * 3 if len(numbers) == 1 else numbers)
            elif name == "scale":
                told[name] = float(value)
            elif name == "order" and value in ("rgb", "bgr"):
                told[name] = value
            else:
                raise ValueError(part)
        except ValueError:
            raise typer.BadParameter(
                printable(
                    f"--preprocess {part!r} is not known; write size=224 resize=256 "
                    "mean=0.5,0.5,0.5 deviation=0.5 order=rgb or bgr scale=255, as far as they "
                    "differ from ImageNet's"
                )
            ) from None
    if len(told.get("mean", "rgb")) != 3 or len(told.get("deviation", "rgb")) != 3:
        raise typer.BadParameter("--preprocess: mean and deviation have one number, or three")
    if told.get("size", 1) < 1 or told.get("resize", 1) < 1:
        raise typer.BadParameter("--preprocess: size and resize are at least 1")
    if "size" in told and "resize" not in told:
        told["resize"] = round(told["size"] * 256 / 224)
    return _Steps(model, **told)


def _made(spec: str) -> Any:
    """What the factory returns, which is a model or a classifier of one; or a file's model."""
    if spec.lower().endswith(tuple(backends.FILES)):
        try:
            return backends.opened(spec)
        except (*FAULTS, OSError, ImportError) as error:
            raise typer.BadParameter(printable(f"--model {error}")) from error
    try:
        model = made(spec, FAULTS)
    except ValueError as error:
        raise typer.BadParameter(printable(f"--model {error}")) from error
    if isinstance(model, Classifier) and model.model is None:
        raise typer.BadParameter(
            printable(f"--model {spec!r}: the function returned no model, but None")
        )
    return model


def class_indices(classifier: Classifier, names: Iterable[str] | None) -> Any:
    """Class names, or indices as text, as a target: an index, a row [[...]] of several, or None."""
    classes = []
    for name in names or ():
        index: str | int = name
        if re.fullmatch("-?[0-9]+", name):
            if len(name) > MOST_DIGITS:
                raise typer.BadParameter(f"--target {name[:MOST_DIGITS]}... is no class")
            index = int(name)
        classes.append(index)
    if not classes:
        return None
    try:
        indices = classifier.indices(classes)
    except ValueError as error:
        raise typer.BadParameter(printable(error)) from error
    return indices[0] if len(indices) == 1 else [indices]


def view_of(classifier: Classifier, photograph: np.ndarray) -> np.ndarray:
    """The part of a photograph that the network will see."""
    if classifier.view is None:
        return photograph
    return classifier.view(photograph)


def batch_of(classifier: Classifier, seen: np.ndarray) -> Inputs:
    """One photograph as the network's inputs."""
    assert classifier.preprocess is not None  # `load` sees to it
    return classifier.preprocess([seen])


# ------------------------------------------------------------------------------ for `gradcam bench`


def subjects(spec: str | None, frameworks: Sequence[str] | None) -> dict[str, Any]:
    """By name, functions that make a model and inputs, and can be pickled.

    The model is that of `--model`, or else the demo network.
    The demo network is made in the frameworks named, or else in all that are installed.
    """
    if spec is not None:
        load(spec, "torch")  # fail early, and not in another process
        return {spec: functools.partial(subject, spec, "torch")}
    if not frameworks:
        frameworks = [
            name for name, package in FRAMEWORKS.items() if importlib.util.find_spec(package)
        ]
    return {f"demo, {name}": functools.partial(subject, None, name) for name in frameworks}


def subject(spec: str | None, framework: Any) -> tuple[Classifier, Inputs]:
    """The model, and a photograph of random pixels, which every model can run."""
    classifier = load(spec, framework)
    pixels = np.random.default_rng(0).integers(0, 256, (256, 256, 3))
    return classifier, batch_of(classifier, view_of(classifier, pixels.astype(np.uint8)))


# ------------------------------------------------------------------------------------ preprocessing


@dataclasses.dataclass(frozen=True, eq=False)
class _Steps:
    """From a photograph to the input, by default as most ImageNet networks want it: the centre, and
    channels less their mean, over deviation.

    The batch is an array of the model's framework, in the order of axes that the model's layers
    use. Pixels are divided by `scale` first; `order` is that of the colours.
    """

    model: Any
    size: int = 224
    resize: int = 256
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    deviation: tuple[float, ...] = (0.229, 0.224, 0.225)
    order: str = "rgb"
    scale: float = 255.0

    def view(self, photograph: np.ndarray) -> np.ndarray:
        return crop(photograph, self.resize, self.size)

    def __call__(self, photographs: Sequence[np.ndarray]) -> Array:
        pixels = np.stack(list(photographs)).astype(np.float32) / self.scale
        batch = ((pixels - self.mean) / self.deviation).astype(np.float32)
        if self.order == "bgr":
            batch = np.ascontiguousarray(batch[..., ::-1])
        try:
            adapted = backends.adapt(self.model, batch)
        except TypeError:  # a function of JAX arrays is only known by its inputs
            return backends.default_array(batch)
        if not isinstance(adapted, MakesArrays):
            return backends.default_array(batch)
        if input_channels_first(adapted, batch):
            batch = np.ascontiguousarray(batch.transpose(0, 3, 1, 2))
        return adapted.array(batch)
