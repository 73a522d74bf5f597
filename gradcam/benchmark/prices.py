"""What an explanation costs: its time and memory over those of a bare forward pass, on your model and machine."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from gradcam import backends
from gradcam._arrays import array_namespace, to_numpy
from gradcam._types import Array, Inputs
from gradcam.classifier import Classifier
from gradcam.explaining.explainer import Explainer
from gradcam.inputs import arguments, first_array
from gradcam.model import Model, compiled
from gradcam.pictures.charts import Interval, bars
from gradcam.pictures.figure import png

__all__ = ["Benchmark", "Price", "bench"]

Subject = Callable[[], tuple[Any, Inputs]]
"""Makes the model, or `Classifier`, and inputs to run it on; a batch is made of these samples over and over."""


@dataclass(frozen=True)
class Price:
    """One case: a method, a batch size, a number of targets.

    ratio, low, high: median and quartiles of the ratios of its time to that of a bare forward pass right beside it.
    seconds, forward_seconds: medians. first_seconds, forward_first_seconds: what the first call took besides, such as
    compiling. megabytes, forward_megabytes: peak memory above that of the loaded model, each in a process of its own:
    the device's where the model is on one, else this machine's; None where it was not measured.
    failed: the reason, where something raised; what was measured before is there.
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


@dataclass(frozen=True)
class Benchmark:
    """What `bench` measured, and on what."""

    prices: tuple[Price, ...]
    about: Mapping[str, Any] = field(default_factory=dict)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write `bench.json` and the picture `bench.png` (needs matplotlib) to the folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        drawn = self.figure()  # before anything is written
        whole = {"schema": 1, **self.about, "prices": [asdict(price) for price in self.prices]}
        (folder / "bench.json").write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
        (folder / "bench.png").write_bytes(png(drawn))
        return folder

    def figure(self) -> Any:
        """A matplotlib figure: each case's ratio and its quartiles, on a logarithmic axis, by subject."""
        rows = []
        for price in self.prices:
            if price.ratio is not None and price.low is not None and price.high is not None:
                name = f"{price.method}, batch {price.batch}, {_counted(price.targets)}"
                rows.append(Interval(name, price.low, price.ratio, price.high, group=price.subject))
        return bars(rows, "time over that of a bare forward pass")


def bench(
    subjects: Mapping[str, Subject],
    methods: Sequence[str] = ("grad-cam",),
    *,
    layer: Any = None,
    batches: Sequence[int] = (1,),
    targets: Sequence[int] = (1,),
    repeats: int = 11,
    limit: float = 30.0,
    memory: bool = True,
    progress: Callable[[str], Any] = lambda _: None,
) -> Benchmark:
    """Price methods on models: each case against a bare forward pass of the same framework, timed in turn.

    The bare pass is what a user would run who wants the scores alone: under `inference_mode` in PyTorch, compiled in
    JAX. Each time ends when the result is there, on an accelerator too. The explainer is made, and called once or
    twice, beforehand. Machines are noisy: compare ratios of one run, not times.

    subjects: by name, functions without arguments that make (model or Classifier, inputs). For `memory`, which builds
        each in a process of its own, they must be functions that can be pickled, so of a module and not lambdas.
    methods: names in `gradcam.METHODS`. layer: as in `explain`.
    batches: how many samples at a time; targets: how many classes, 0, 1, ..., of each (1: the top class).
    repeats: at most so many pairs for a case. limit: seconds for a case, after which it is not repeated.
    memory: measure peak memory too. progress: told what comes next.
    """
    _check(subjects, methods, batches, targets, repeats)
    prices = []
    for name, subject in subjects.items():
        classifier, inputs = subject()
        for batch in batches:
            some = _batch(inputs, batch)
            bare = forward(classifier, some)
            first = _timed(bare)
            forward_memory: float | None = None
            for method, count in product(methods, targets):
                progress(f"{name}: {method}, batch {batch}, {_counted(count)}")
                price = Price(name, method, batch, count)
                try:
                    call = explained(classifier, layer, method, some, count)
                    price = _priced(price, bare, call, first, repeats, limit)
                    if memory:
                        forward_memory = forward_memory or _memory(subject, None, layer, batch, 1)
                        held = _memory(subject, method, layer, batch, count)
                        price = _with(price, megabytes=held, forward_megabytes=forward_memory)
                except (
                    Exception
                ) as error:  # a method that a model does not allow; the others are still priced
                    price = _with(price, failed=f"{type(error).__name__}: {error}")
                prices.append(price)
    return Benchmark(tuple(prices), _about(subjects))


def _check(subjects: Any, methods: Any, batches: Any, targets: Any, repeats: int) -> None:
    for name, given in (
        ("subjects", subjects),
        ("methods", methods),
        ("batches", batches),
        ("targets", targets),
    ):
        if not given:
            raise ValueError(f"`{name}` is empty; there is nothing to measure")
    for name, given in (("batches", batches), ("targets", targets), ("repeats", [repeats])):
        if min(given) < 1:
            raise ValueError(f"`{name}` must be at least 1, but is {min(given)}")


# ------------------------------------------------------------------------------------------------ what is timed


def forward(model: Any, inputs: Inputs) -> Callable[[], Any]:
    """A bare forward pass, to its end."""
    model = model.model if isinstance(model, Classifier) else model
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(model, torch.nn.Module):
        args, kwargs = arguments(inputs)

        def bare() -> Any:
            with torch.inference_mode():
                return finished(model(*args, **kwargs))

        return bare
    adapted = backends.adapt(model, inputs)
    run = compiled(adapted, _replayed)
    return lambda: finished(run(inputs, None))


def _replayed(model: Model, inputs: Inputs, target: Any) -> Any:
    return model.replay(inputs, (), ())


def explained(
    model: Any, layer: Any, method: str, inputs: Inputs, targets: int
) -> Callable[[], Any]:
    """A call of an explainer that is kept, to its end."""
    explainer = Explainer(model, layer, method)
    target = None if targets == 1 else np.arange(targets)[None]
    return lambda: finished(explainer(inputs, target).maps)


def finished(result: Any) -> Any:
    """The result, once it is there: one array of it has been brought to the host."""
    if isinstance(result, Mapping):
        result_of: Any = list(result.values())
    else:
        result_of = result if isinstance(result, (tuple, list)) else None
    if result_of is not None:
        for one in result_of:
            finished(one)
    elif hasattr(result, "shape"):
        to_numpy(result)
    return result


def _timed(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _priced(
    case: Price,
    bare: Callable[[], Any],
    call: Callable[[], Any],
    forward_first: float,
    repeats: int,
    limit: float,
) -> Price:
    first = _timed(call)
    bare()
    pairs: list[tuple[float, float]] = []
    spent = 0.0
    while len(pairs) < repeats and (not pairs or spent + spent / len(pairs) < limit):
        bare()  # what ran before has left its mark on caches and memory
        before = _timed(bare) if len(pairs) % 2 else 0.0  # once before it, once behind
        taken = _timed(call)
        plain = before or _timed(bare)
        pairs.append((taken, plain))
        spent += taken + plain
    ratios = [taken / plain for taken, plain in pairs]
    low, middle, high = (float(q) for q in np.quantile(ratios, [0.25, 0.5, 0.75]))
    seconds, plain = (float(np.median(times)) for times in zip(*pairs, strict=True))
    return _with(
        case,
        ratio=middle,
        low=low,
        high=high,
        repeats=len(pairs),
        seconds=seconds,
        forward_seconds=plain,
        first_seconds=max(first - seconds, 0.0),
        forward_first_seconds=max(forward_first - plain, 0.0),
    )


def _with(price: Price, **numbers: Any) -> Price:
    return Price(**{**asdict(price), **numbers})


def _counted(targets: int) -> str:
    return "1 target" if targets == 1 else f"{targets} targets"


def _batch(inputs: Inputs, count: int) -> Inputs:
    """So many samples: those of the inputs over and over."""
    samples = int(first_array(inputs).shape[0])
    which = np.arange(count) % samples

    def some(value: Any) -> Any:
        if not hasattr(value, "shape") or len(value.shape) == 0 or value.shape[0] != samples:
            return value
        xp = array_namespace(value)
        return xp.concat([value[int(n) : int(n) + 1] for n in which])

    if isinstance(inputs, Mapping):
        return {key: some(value) for key, value in inputs.items()}
    return tuple(map(some, inputs)) if isinstance(inputs, tuple) else some(inputs)


# ------------------------------------------------------------------------------------------------ memory


def _memory(
    subject: Subject, method: str | None, layer: Any, batch: int, targets: int
) -> float | None:
    """Peak megabytes above the loaded model's, of one call in a process of its own."""
    import multiprocessing

    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(there, subject, method, layer, batch, targets))
    process.start()
    there.close()
    try:
        found: float | str | None = here.recv()
    except EOFError:
        found = f"the process that measured memory ended with exit code {process.exitcode}"
    finally:
        process.join()
    if isinstance(found, str):
        raise RuntimeError(found)
    return found


def _child(
    there: Any, subject: Subject, method: str | None, layer: Any, batch: int, targets: int
) -> None:  # pragma: no cover, in a process of its own
    try:
        there.send(peak(subject, method, layer, batch, targets))
    except Exception as error:
        there.send(f"{type(error).__name__}: {error}")


def peak(
    subject: Subject, method: str | None, layer: Any, batch: int, targets: int
) -> float | None:
    """Megabytes above what is held before the call; `method` None is a bare forward pass."""
    import gc

    model, inputs = subject()

    def made(some: Inputs) -> Callable[[], Any]:
        return (
            forward(model, some)
            if method is None
            else explained(model, layer, method, some, targets)
        )

    made(_batch(inputs, 1))()  # code is loaded
    some = _batch(inputs, batch)
    call = made(some)
    if "jax" in sys.modules:
        call()  # compiled
    gc.collect()
    meter = _meter(first_array(some))
    if meter is None:
        return None
    before, after = meter
    held = before()
    call()
    return (after() - held) / 2**20


def _meter(array: Array) -> tuple[Callable[[], float], Callable[[], float]] | None:
    """Functions that give bytes: those held now, after which the peak counts anew; and the peak."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(array, torch.Tensor) and array.is_cuda:
        where = array.device

        def now() -> float:
            torch.cuda.reset_peak_memory_stats(where)
            return float(torch.cuda.memory_allocated(where))

        return now, lambda: float(torch.cuda.max_memory_allocated(where))
    stats: Any = (
        getattr(next(iter(array.devices())), "memory_stats", None)
        if hasattr(array, "devices")
        else None
    )
    if (
        stats is not None and stats()
    ):  # an accelerator of JAX's: its peak cannot be reset, and is the call's or more
        return lambda: float(stats()["bytes_in_use"]), lambda: float(stats()["peak_bytes_in_use"])
    if not Path("/proc/self/clear_refs").exists():
        return None

    def resident() -> float:
        _trim()
        Path("/proc/self/clear_refs").write_text(
            "5", encoding="utf-8"
        )  # the peak so far is forgotten
        return _status("VmRSS")

    return resident, lambda: _status("VmHWM")


def _trim() -> None:
    """Give back what the allocator holds and does not use."""
    import ctypes

    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _status(what: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * float(next(line.split()[1] for line in lines if line.startswith(what)))


# ------------------------------------------------------------------------------------------------ the machine


def _about(subjects: Mapping[str, Subject]) -> dict[str, Any]:
    return {
        "date": date.today().isoformat(),
        "machine": machine(),
        "devices": devices(),
        "versions": backends.versions(),
        "subjects": list(subjects),
    }


def machine() -> str:
    """The processor, and how many of its cores this process may use."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    kind = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), ""
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} cores, {kind or platform.processor() or platform.machine()}"


def devices() -> list[str]:
    """The accelerators that the loaded frameworks see."""
    found = []
    torch, jax = sys.modules.get("torch"), sys.modules.get("jax")
    if torch is not None and torch.cuda.is_available():
        found += [
            f"torch: {torch.cuda.get_device_name(n)}" for n in range(torch.cuda.device_count())
        ]
    if jax is not None and hasattr(jax, "devices"):
        found += [f"jax: {one.device_kind}" for one in jax.devices() if one.platform != "cpu"]
    return found
