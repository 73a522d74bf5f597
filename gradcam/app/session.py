"""What the app does with a photograph, without a page: one call at a time for one model."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gradcam._arrays import to_numpy
from gradcam._types import Inputs
from gradcam.classifier import Classifier
from gradcam.explaining.axes import layers
from gradcam.explaining.comparison import Comparison
from gradcam.explaining.in_one_line import compare, explain
from gradcam.explaining.looking import probabilities
from gradcam.explaining.naming import class_name
from gradcam.methods import TABLE
from gradcam.model import Layer
from gradcam.pictures import figure as drawing
from gradcam.pictures.images import read
from gradcam.pictures.notebook import Showing
from gradcam.pictures.panels import Cell, Row
from gradcam.pictures.shown import short
from gradcam.reports import report
from gradcam.targets import difference
from gradcam.targets.outputs import class_scores
from gradcam.verification import Verification, verify

__all__ = ["METHODS", "Asked", "Class", "Seen", "Session"]

METHODS = tuple(spec.name for spec in TABLE if spec.needs != "attention")
"""Those that are offered; attention's need a transformer's own."""

TOP = 5
"""How many classes are listed, the highest first."""

KEPT = 8
"""How many files that were saved are kept until the app ends."""


@dataclass(frozen=True)
class Class:
    """A class of the network, and its softmax for a photograph."""

    index: int
    name: str
    probability: float | None

    def __str__(self) -> str:
        share = "" if self.probability is None else f"  {100 * self.probability:.3g} %"
        return f"{short(self.name)}{share}"


@dataclass(frozen=True)
class Seen:
    """A photograph as the network sees it, RGB uint8 (H, W, 3), and its highest classes."""

    photograph: np.ndarray
    top: tuple[Class, ...]


@dataclass(frozen=True)
class Asked:
    """What is to be shown: a class, perhaps another beside it, methods, and a layer."""

    target: int
    beside: int | None = None
    methods: tuple[str, ...] = ("grad-cam",)
    layer: str | None = None


class Session:
    """A model, and what is asked of it.

    classifier: with its preprocessing; `gradcam app` sees to it.
    """

    def __init__(self, classifier: Classifier) -> None:
        if classifier.preprocess is None:
            raise ValueError("the app needs a gradcam.Classifier with `preprocess`")
        self.classifier = classifier
        # A call changes hooks, and JAX compiles: another one at the same time gains nothing.
        self._lock = threading.Lock()
        self._layers: list[Layer] | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="gradcam-app-")
        self._saved: list[Path] = []

    @property
    def name(self) -> str:
        """What the model is called."""
        return type(self.classifier.model).__name__

    def classes(self) -> list[str]:
        """All class names, where they are known."""
        return [short(name) for name in self.classifier.labels or ()]

    # ------------------------------------------------------------------------------------- asked

    def see(self, path: str | os.PathLike[str]) -> Seen:
        """A photograph's file as the network sees it, with its highest classes.

        Raises ValueError for a file that is no photograph, and for a model that is no classifier.
        """
        photograph = read(path)
        if self.classifier.view is not None:
            photograph = np.asarray(self.classifier.view(photograph))
        with self._lock:
            found = explain(self.classifier, self._inputs(photograph), check=False)
        outputs = to_numpy(class_scores(found.outputs))
        count = outputs.shape[-1]
        shares = probabilities(found.outputs, np.arange(count)[None], (1, count))
        order = np.argsort(-outputs[0], kind="stable")[:TOP]
        top = [
            Class(int(k), self._label(int(k)), None if shares is None else float(shares[0, k]))
            for k in order
        ]
        return Seen(photograph, tuple(top))

    def layers(self, seen: Seen) -> list[Layer]:
        """The model's layers in the order in which they run; asked once."""
        if self._layers is None:
            with self._lock:
                self._layers = layers(self.classifier, self._inputs(seen.photograph))
        return self._layers

    def show(self, seen: Seen, asked: Asked) -> Showing:
        """A row for each method: the class, and the other class and their difference."""
        rows = []
        photograph = seen.photograph / 255.0
        for name, maps in self._maps(seen, asked).items():
            cells = [Cell(one, f"{name}\n{one.caption}") for one in maps]
            rows.append(Row("", cells, photograph))
        if asked.beside is None:  # one class: methods side by side
            rows = [Row("", [cell for row in rows for cell in row.cells], photograph)]
        first = rows[0].cells[0].shown
        title = f"{first.model} at {first.layer!r}"
        return Showing(rows, title, partial(drawing.figure, rows, title))

    def _maps(self, seen: Seen, asked: Asked) -> dict[str, list[Any]]:
        maps = {name: list(one.shown()[0]) for name, one in self.explain(seen, asked).items()}
        if asked.beside is not None:
            between = self._compared(seen, asked, difference(asked.target, asked.beside))
            words = f"{short(self._label(asked.target))} less {short(self._label(asked.beside))}"
            for name, one in between.items():
                maps[name] += [replace(shown, name=words) for shown in one.shown()[0]]
        return maps

    def explain(self, seen: Seen, asked: Asked) -> Comparison:
        """By method, the maps of the class, and of the other one."""
        self._check(asked)
        classes = [asked.target] if asked.beside is None else [asked.target, asked.beside]
        return self._compared(seen, asked, [classes])

    def _compared(self, seen: Seen, asked: Asked, target: Any) -> Comparison:
        inputs = self._inputs(seen.photograph)
        with self._lock:
            return compare(self.classifier, inputs, asked.layer, target, asked.methods, check=False)

    def verify(self, seen: Seen, asked: Asked) -> Verification:
        """The gradients that the maps are made of, against finite differences."""
        self._check(asked)
        with self._lock:
            return verify(
                self.classifier,
                self._inputs(seen.photograph),
                asked.layer,
                asked.target,
                directions=4,
                channels=4,
            )

    # ------------------------------------------------------------------------------------- saved

    def bundle(self, seen: Seen, asked: Asked) -> Path:
        """A zip file of what `Explanation.save` writes, in a folder for each method."""
        folder = self._new()
        for name, one in self.explain(seen, asked).items():
            one.save(folder / "maps" / name, [seen.photograph], figure=True)
        return Path(shutil.make_archive(str(folder / "maps"), "zip", folder / "maps"))

    def report(self, seen: Seen, asked: Asked, checked: Verification | None = None) -> Path:
        """A report of the maps, with the verdict where it was asked for."""
        path = self._new() / "report.html"
        return report(
            self.explain(seen, asked),
            path,
            [seen.photograph],
            model=self.classifier.model,
            verification=checked,
        )

    def close(self) -> None:
        """Delete what was saved."""
        self._folder.cleanup()

    def _new(self) -> Path:
        """A new folder for files; the oldest ones are deleted."""
        folder = Path(tempfile.mkdtemp(dir=self._folder.name))
        self._saved.append(folder)
        while len(self._saved) > KEPT:
            shutil.rmtree(self._saved.pop(0), ignore_errors=True)
        return folder

    # ------------------------------------------------------------------------------------ checked

    def _inputs(self, photograph: np.ndarray) -> Inputs:
        assert self.classifier.preprocess is not None
        return self.classifier.preprocess([photograph])

    def _label(self, index: int) -> str:
        return class_name(index, self.classifier.labels)

    def _check(self, asked: Asked) -> None:
        """What a page cannot ask for, but a program can."""
        if not asked.methods:
            raise ValueError("choose a method")
        for name in asked.methods:
            if name not in METHODS:
                raise ValueError(f'"{name}" is no method that the app offers')
        if asked.beside == asked.target:
            raise ValueError("the two classes are the same: choose another one to compare with")
