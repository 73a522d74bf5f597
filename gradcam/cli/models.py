"""The model that the command line was asked for, as a `gradcam.Classifier`."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import typer

from gradcam.classifier import Classifier
from gradcam.pictures.images import crop
from gradcam.zoo import efficientnet_lite0

__all__ = ["Framework", "load", "subjects"]

Framework = Literal["torch", "jax"]


def load(spec: str | None, framework: Framework) -> Classifier:
    """`package.module:factory`, called without arguments; None is the demo network."""
    if spec is None:
        try:
            return efficientnet_lite0(framework)
        except ImportError as error:
            raise typer.BadParameter(str(error)) from error
    name, _, attribute = spec.partition(":")
    if not attribute:
        raise typer.BadParameter(f"--model {spec!r} must be package.module:factory")
    sys.path.insert(0, os.getcwd())  # a module of the folder one stands in, as `python -m` finds it
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise typer.BadParameter(f"--model {spec!r}: {error}") from error
    finally:
        sys.path.pop(0)
    factory = getattr(module, attribute, None)
    if factory is None or not callable(factory):
        raise typer.BadParameter(f"--model {spec!r}: module {name} has no function {attribute!r}")
    made = factory()
    classifier = made if isinstance(made, Classifier) else Classifier(made)
    return dataclasses.replace(
        classifier,
        view=classifier.view or crop,
        preprocess=classifier.preprocess or _Imagenet(classifier.model),
    )


def subjects(spec: str | None, frameworks: Sequence[str] | None) -> dict[str, Any]:
    """For `gradcam.bench`: the model asked for, or the demo network in each framework, as functions to be pickled."""
    if spec is not None:
        load(spec, "torch")  # what is wrong with it is said now
        return {spec: functools.partial(subject, spec, "torch")}
    installed = [
        one
        for one in ("torch", "jax")
        if importlib.util.find_spec("torch" if one == "torch" else "flax")
    ]
    chosen = frameworks or installed
    return {f"demo, {one}": functools.partial(subject, None, one) for one in dict.fromkeys(chosen)}


def subject(spec: str | None, framework: Any) -> tuple[Classifier, Any]:
    """The model, and one photograph: the grey values of noise, which no weights are made for and all can run."""
    classifier = load(spec, framework)
    assert classifier.view is not None
    assert classifier.preprocess is not None
    photograph = np.random.default_rng(0).integers(0, 256, (256, 256, 3)).astype(np.uint8)
    return classifier, classifier.preprocess([classifier.view(photograph)])


@dataclasses.dataclass(frozen=True, eq=False)
class _Imagenet:
    """What most ImageNet networks want: channels less their mean, over their deviation, in the framework's layout."""

    model: Any
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    deviation: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __call__(self, photographs: Sequence[np.ndarray]) -> Any:
        batch = (np.stack(list(photographs)).astype(np.float32) / 255 - self.mean) / self.deviation
        batch = batch.astype(np.float32)
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(self.model, torch.nn.Module):
            return torch.from_numpy(np.ascontiguousarray(batch.transpose(0, 3, 1, 2)))
        jax = sys.modules.get("jax")
        return jax.numpy.asarray(batch) if jax is not None else batch
