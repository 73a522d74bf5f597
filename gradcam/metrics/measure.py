"""What a measure is: its name, how it is run, which way is better, and what it needs.

`gradcam.evaluate` asks a `Measure` and never looks at its name, so one of your own is measured
like those in `gradcam.metrics.table`:

>>> from gradcam.metrics import Measure, Result
>>> def sparsity(context):
...     return Result("sparsity", (context.maps <= 0).mean((1, 2)), None)
>>> measures = ["deletion", Measure("sparsity", sparsity, None, needs="maps")]
>>> gradcam.evaluate(model, images, ["grad-cam"], measures)      # doctest: +SKIP
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import numpy as np

from gradcam.metrics.result import Better, Result, Summary, mean
from gradcam.metrics.subject import Explain, Subject

__all__ = ["Context", "Measure", "Needs", "Run"]


Needs = Literal["maps", "predict", "explain", "mask"]
"""What a measure needs.

"maps": the maps alone. "predict": also the model's outputs. "explain": also further explanations by
the same method. "mask": also the object's mask.
"""

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Context:
    """What a measure is run with: samples, their maps, and what can be asked about them.

    subject: the samples as the model's inputs, and the model as a function. `evaluate` measures one
        sample at a time.
    maps: (N, h, w), as the method made them.
    explain: (inputs, classes) -> maps, the method that made `maps`.
    masks: (N, H, W) booleans at the inputs' size, true on the object; None where that is not known.
    boxes: for each sample the boxes (x0, y0, x1, y1) round its objects, in the inputs' pixels.
    seed: the source of all that is drawn at random.
    options: keyword arguments of this measure, from the user.
    of_maps, of_subject: results that several measures of these maps, or of all maps of this
        subject, share: see `share`.
    """

    subject: Subject
    maps: np.ndarray
    explain: Explain
    masks: np.ndarray | None = None
    boxes: Sequence[Sequence[Sequence[int]]] = ()
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    of_maps: dict[str, Any] = field(default_factory=dict)
    of_subject: dict[str, Any] = field(default_factory=dict)

    @property
    def seeded(self) -> dict[str, Any]:
        """The options, with the seed where they have none."""
        return {"seed": self.seed, **self.options}

    def share(self, cache: dict[str, Any], name: str, compute: Callable[[], T]) -> T:
        """What `compute()` returned when it was first asked for by this name and these options.

        cache: `of_maps`, or `of_subject` for what does not depend on the maps.
        """
        # Options may be lists, which cannot be part of a key themselves.
        key = f"{name} {sorted(self.options.items())}"
        if key not in cache:
            cache[key] = compute()
        result: T = cache[key]
        return result


Run = Callable[[Context], Result]


def _mean(options: Mapping[str, Any]) -> Summary:
    return mean


@dataclass(frozen=True)
class Measure:
    """One measure, as `gradcam.evaluate` runs it.

    name: as users write it; results are told apart by it.
    run: from a `Context` to a `Result` with a value for each sample.
    better: whether "higher" or "lower" is better; None where neither is.
    range: the values that it can have. about: one line on what it is. paper: where it comes from.
    needs: "maps", "predict", "explain" or "mask", see `Needs`. One that needs a mask is run where
        there is one, and has no value elsewhere.
    takes: the function whose keyword arguments the options are. None: any options are passed on
        unchecked.
    summary: from the options to a function that sums up the values of all samples; the mean unless
        told.
    """

    name: str
    run: Run
    better: Better
    range: str = ""
    about: str = ""
    paper: str = ""
    needs: Needs = "predict"
    takes: Callable[..., Any] | None = None
    summary: Callable[[Mapping[str, Any]], Summary] = _mean

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Raise a TypeError where an option is not one of the measure's."""
        if self.takes is None:
            return
        names = []
        for name, parameter in inspect.signature(self.takes).parameters.items():
            if parameter.kind is parameter.KEYWORD_ONLY and name not in _FROM_CONTEXT:
                names.append(name)
        own = "it has none"
        if names:
            own = f"its options are {', '.join(names)}"
        for name in options:
            if name not in names:
                raise TypeError(f"`{name}` is no option of {self.name}; {own}")


_FROM_CONTEXT = ("size", "occluded")
"""Keyword arguments that a row takes from the context, and not from the user."""
