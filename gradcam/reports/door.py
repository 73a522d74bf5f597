"""The door: `gradcam.report`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gradcam._files import write_whole
from gradcam._numbers import check_whole
from gradcam.backends import entry
from gradcam.evaluation import Evaluation
from gradcam.reports import page
from gradcam.reports.sources import samples_of, weights_of
from gradcam.verification import Verification

if TYPE_CHECKING:
    from gradcam.explaining.comparison import Comparison
    from gradcam.explaining.explanation import Explanation
    from gradcam.runs import Results

__all__ = ["report"]


@entry
def report(
    source: Explanation | Comparison | Sequence[Any] | Results | str | os.PathLike[str],
    path: str | os.PathLike[str],
    photos: Any = None,
    *,
    title: str = "Where the model looked",
    names: Sequence[str] | None = None,
    labels: Sequence[Any] | None = None,
    view: Callable[[np.ndarray], np.ndarray] | None = None,
    model: Any = None,
    verification: Verification | None = None,
    evaluation: Evaluation | None = None,
    command: str = "",
    most: int = 500,
    colormap: str | None = None,
) -> Path:
    """Write a page that shows explanations: one HTML file that opens from disk, without a network.

    source: an explanation; what `gradcam.compare` gives; a list of these; the results of a run; or
        the folder of a run or of saved explanations; a list of such folders.
    photos: as of `Explanation.overlay`, one for each sample. A folder has its own; without any the
        maps are shown alone.
    names: what each sample is called; by default its file, or its number.
    labels: what each sample shows, as class names or indices: those that the model sees as
        something else can be filtered.
    view: of a run, what shows the network a photograph, where that is a function of your own.
    model: to name the model by a hash of its weights.
    verification, evaluation: what `gradcam.verify` and `gradcam.evaluate` found, to be shown too.
    command: what was called, to be shown too.
    most: no more samples than these are shown; the page says how many were left out.

    Raises TypeError or ValueError where the source is nothing of these, and FileNotFoundError where
    there is no such folder. Needs jinja2.
    """
    check_whole("most", most, 1)
    for name, value, kind in (
        ("verification", verification, Verification),
        ("evaluation", evaluation, Evaluation),
    ):
        if value is not None and not isinstance(value, kind):
            raise TypeError(f"`{name}` must be a gradcam.{kind.__name__}, but is {value!r:.80}")
    samples = samples_of(source, photos, names, labels, view, most)
    facts = dict(samples.facts)
    if model is not None:
        facts["hash of the model"] = weights_of(model)
    if command:
        facts["command"] = command
    text = page.html(samples, facts, title, verification, evaluation, colormap)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text)
    return path
