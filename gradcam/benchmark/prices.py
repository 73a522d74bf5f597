"""`bench`: explanations priced against a bare forward pass of the same model."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gradcam._files import write_whole
from gradcam._numbers import check_whole
from gradcam._progress import Progress, tell
from gradcam._types import Inputs, LayerLike
from gradcam.backends import entry
from gradcam.benchmark import timing
from gradcam.benchmark.calls import explained, forward, repeated
from gradcam.benchmark.machine import about
from gradcam.benchmark.memory import Subject, isolated_peak
from gradcam.pictures.charts import Interval, bars
from gradcam.pictures.figure import png
from gradcam.pictures.notebook import table_html

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Benchmark", "Price", "bench"]


@dataclass(frozen=True)
class Price:
    """One case: a method, a batch size, a number of targets.

    ratio, low, high: median and quartiles of the ratios of its time to that of a bare forward pass
    right beside it.
    repeats: how many pairs of times there are.
    seconds, forward_seconds: medians.
    first_seconds, forward_first_seconds: what the first call took on top, such as compiling.
    megabytes, forward_megabytes: peak memory above that of the loaded model, each in a process of
        its own: the device's where the model is on one, else this machine's. None where it was not
        measured.
    failed: the reason, where something raised. What was measured before that is kept.
    """

    subject: str
    method: str
    batch: int
    targets: int
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    repeats: int = 0
    seconds: float | None = None
    forward_seconds: float | None = None
    first_seconds: float | None = None
    forward_first_seconds: float | None = None
    megabytes: float | None = None
    forward_megabytes: float | None = None
    failed: str | None = None

    @property
    def case(self) -> str:
        """Method, batch and targets in words."""
        targets = "1 target" if self.targets == 1 else f"{self.targets} targets"
        return f"{self.method}, batch {self.batch}, {targets}"


@dataclass(frozen=True)
class Benchmark:
    """What `bench` measured, and on what."""

    prices: tuple[Price, ...]
    about: Mapping[str, Any] = field(default_factory=dict)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write `bench.json` and the picture `bench.png` (needs matplotlib) to the folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        picture = png(self.figure())  # before anything is written: it may fail
        report = {"schema": 1, **self.about, "prices": [asdict(price) for price in self.prices]}
        write_whole(folder / "bench.json", json.dumps(report, indent=1) + "\n")
        write_whole(folder / "bench.png", picture)
        return folder

    def _repr_html_(self) -> str | None:
        rows = []
        for price in self.prices:
            cost = price.failed or "–"
            if price.ratio is not None:
                cost = f"{price.ratio:.2f} ({price.low:.2f} to {price.high:.2f})"
            memory = "–"
            if price.megabytes is not None and price.forward_megabytes is not None:
                memory = f"{price.megabytes:.0f} MB of {price.forward_megabytes:.0f}"
            rows.append((price.subject, price.case, cost, memory))
        return table_html(
            ("model", "case", "time over a forward pass", "peak memory, of a forward pass"), rows
        )

    def figure(self) -> Figure:
        """A matplotlib figure: each case's ratio and its quartiles, coloured by subject."""
        rows = []
        for price in self.prices:
            if price.low is None or price.ratio is None or price.high is None:
                continue
            row = Interval(price.case, price.low, price.ratio, price.high, group=price.subject)
            rows.append(row)
        return bars(rows, "time over that of a bare forward pass")


@entry
def bench(
    subjects: Mapping[str, Subject],
    methods: Sequence[str] = ("grad-cam",),
    *,
    layer: LayerLike = None,
    batches: Sequence[int] = (1,),
    targets: Sequence[int] = (1,),
    repeats: int = 11,
    limit: float = 30.0,
    memory: bool = True,
    progress: Progress = False,
) -> Benchmark:
    """Price methods on models: each case against a bare forward pass, timed in turn.

    The bare pass is what a user would run who wants the scores alone: under `inference_mode` in
    PyTorch, compiled in JAX. Each time ends when the result is there, on an accelerator too. The
    explainer is made, and called once or twice, beforehand. Machines are noisy: compare ratios of
    one run, not times.

    subjects: by name, functions without arguments that make (model or Classifier, inputs). For
        `memory`, which builds each in a process of its own, they must be functions that can be
        pickled, so of a module and not lambdas.
    methods: names in `gradcam.METHODS`. layer: as in `explain`.
    batches: how many samples at a time.
    targets: how many classes, 0, 1, ..., of each sample (1: the top class).
    repeats: at most so many pairs of times for a case.
    limit: seconds for a case, after which it is not repeated.
    memory: measure peak memory too.
    progress: a function that is called with each case in words; True prints them.
    """
    _check(subjects, methods, batches, targets, repeats)
    settings = _Settings(layer, repeats, limit, memory)
    prices = []
    for name, subject in subjects.items():
        model, inputs = subject()
        for batch in batches:
            samples = repeated(inputs, batch)
            call = forward(model, samples)
            rival = _Rival(subject, model, samples, batch, call, timing.seconds(call))
            for method, count in product(methods, targets):
                price = Price(name, method, batch, count)
                tell(progress, f"{name}: {price.case}")
                prices.append(_priced(price, rival, settings))
    return Benchmark(tuple(prices), {**about(), "subjects": list(subjects)})


def _check(
    subjects: Any,
    methods: Sequence[str],
    batches: Sequence[int],
    targets: Sequence[int],
    repeats: int,
) -> None:
    if not isinstance(subjects, Mapping):
        raise TypeError(
            "`subjects` must be a mapping, name -> function that makes (model, inputs), but is a "
            f"{type(subjects).__name__}"
        )
    lists: dict[str, Any] = {
        "subjects": subjects,
        "methods": methods,
        "batches": batches,
        "targets": targets,
    }
    for name, values in lists.items():
        if not values:
            raise ValueError(f"`{name}` is empty; there is nothing to measure")
    _check_positive("batches", batches)
    _check_positive("targets", targets)
    _check_positive("repeats", [repeats])


def _check_positive(name: str, values: Iterable[int]) -> None:
    for value in values:
        check_whole(name, value, 1)


# ----------------------------------------------------------------------------------------- one case


@dataclass(frozen=True)
class _Settings:
    layer: LayerLike
    repeats: int
    limit: float
    memory: bool


@dataclass(frozen=True, eq=False)
class _Rival:
    """The bare forward pass of one batch, which the cases of that batch are compared with."""

    subject: Subject
    model: Any
    inputs: Inputs
    batch: int
    call: Callable[[], Any]
    first_seconds: float

    @cached_property
    def megabytes(self) -> float | None:
        return isolated_peak(self.subject, None, None, self.batch, 1)


def _priced(price: Price, rival: _Rival, settings: _Settings) -> Price:
    """The case with what could be measured of it, and with the reason where something raised."""
    try:
        price = _timed(price, rival, settings)
        if settings.memory:
            price = _weighed(price, rival, settings)
    except Exception as error:
        # a model may not allow a method; the others are still priced
        price = replace(price, failed=f"{type(error).__name__}: {error}")
    return price


def _timed(price: Price, rival: _Rival, settings: _Settings) -> Price:
    call = explained(rival.model, settings.layer, price.method, rival.inputs, price.targets)
    first = timing.seconds(call)
    rival.call()
    times = timing.pairs(rival.call, call, settings.repeats, settings.limit)
    low, middle, high = timing.quartiles(timing.ratios(times))
    seconds = float(np.median([pair.call for pair in times]))
    forward_seconds = float(np.median([pair.bare for pair in times]))
    return replace(
        price,
        ratio=middle,
        low=low,
        high=high,
        repeats=len(times),
        seconds=seconds,
        forward_seconds=forward_seconds,
        first_seconds=max(first - seconds, 0.0),
        forward_first_seconds=max(rival.first_seconds - forward_seconds, 0.0),
    )


def _weighed(price: Price, rival: _Rival, settings: _Settings) -> Price:
    forward_megabytes = rival.megabytes
    megabytes = isolated_peak(
        rival.subject, price.method, settings.layer, price.batch, price.targets
    )
    return replace(price, megabytes=megabytes, forward_megabytes=forward_megabytes)
