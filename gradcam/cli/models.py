"""The model that the command line was asked for, and what it is shown."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
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


def load(spec: str | None, framework: Framework) -> Classifier:
    """`package.module:factory`, called without arguments; None is the demo network.

    The classifier has a view and a preprocessing, ImageNet's where it has none of its own.
    """
    if spec is None:
        try:
            return efficientnet_lite0(framework)
        except ImportError as error:
            raise typer.BadParameter(str(error)) from error
    model = _made(spec)
    classifier = model if isinstance(model, Classifier) else Classifier(model)
    return dataclasses.replace(
        classifier,
        view=classifier.view or crop,
        preprocess=classifier.preprocess or _ImageNet(classifier.model),
    )


def _made(spec: str) -> Any:
    """What the factory returns, which is a model or a classifier of one."""
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
class _ImageNet:
    """Photographs as most ImageNet networks want them: channels less their mean, over deviation.

    The batch is an array of the model's framework, in the order of axes that the model's layers
    use.
    """

    model: Any
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    deviation: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __call__(self, photographs: Sequence[np.ndarray]) -> Array:
        pixels = np.stack(list(photographs)).astype(np.float32) / 255
        batch = ((pixels - self.mean) / self.deviation).astype(np.float32)
        try:
            adapted = backends.adapt(self.model, batch)
        except TypeError:  # a function of JAX arrays is only known by its inputs
            return backends.default_array(batch)
        if not isinstance(adapted, MakesArrays):
            return backends.default_array(batch)
        if input_channels_first(adapted, batch):
            batch = np.ascontiguousarray(batch.transpose(0, 3, 1, 2))
        return adapted.array(batch)
