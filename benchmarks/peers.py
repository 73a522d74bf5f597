"""The price of an explanation beside other libraries': the same model, input, layer and class, in one run.

    make bench, or .venv-bench/bin/python benchmarks/peers.py [--model NAME ...] [--case NAME ...] [--quick]

Every number is the time over that of a bare forward pass of the same framework (`inference_mode`, or jitted) timed
right beside it: median and quartiles. The extractors are made beforehand, each on a copy of the model's modules that
shares its weights, so that one library's hooks do not run in another's pass. A full run writes benchmarks/README.md,
results.json and bench.png; with --model, --case or --quick, out/bench/ is written instead.
"""

from __future__ import annotations

import os

os.environ["TQDM_DISABLE"] = "1"  # pytorch-grad-cam shows bars
# where others run as well, threads that spin as they wait for each other take 20 times as long
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import argparse
import contextlib
import copy
import ctypes
import gc
import importlib.metadata
import json
import platform
import signal
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import report
import torch
from networks import SIZE, Network, flax_network, torch_network

import gradcam
from gradcam import maps as maps_

HERE = Path(__file__).parent
Call = Callable[[], Any]

TOGETHER = {
    "grad-cam": ("GradCAM", "GradCAM"),
    "grad-cam++": ("GradCAMPlusPlus", "GradCAMpp"),
    "xgrad-cam": ("XGradCAM", "XGradCAM"),
    "hires-cam": ("HiResCAM", None),
    "layer-cam": ("LayerCAM", "LayerCAM"),
    "element-wise": ("GradCAMElementWise", None),
    "eigen-grad-cam": ("EigenGradCAM", None),
    "seg-eigen-cam": ("SegEigenCAM", None),
    "eigen-cam": ("EigenCAM", None),
    "kpca-cam": ("KPCA_CAM", None),
    "fem": ("FEM", None),
    "random-cam": ("RandomCAM", None),
}
"""Every method that needs only activations and gradients, and what pytorch-grad-cam and torchcam call it."""

ALONE = {
    "eigen-cam": ("EigenCAM", None),
    "score-cam": ("ScoreCAM", "ScoreCAM"),
    "ablation-cam": ("AblationCAM", None),
}
EQUAL = ("grad-cam", "grad-cam++", "xgrad-cam", "hires-cam", "layer-cam", "element-wise")
"""Methods whose formula is the same up to scale and a guard against 0/0; torchcam's Grad-CAM++ is meant to be."""

PLAN: tuple[tuple[str, str, tuple[tuple[int, str], ...]], ...] = (
    (
        "resnet50",
        "torch",
        (
            (1, "one class"),
            (8, "one class"),
            (32, "one class"),
            (1, "classes"),
            (1, "methods"),
            (1, "eigen-cam"),
        ),
    ),
    (
        "resnet50",
        "jax",
        (
            (1, "one class"),
            (8, "one class"),
            (32, "one class"),
            (1, "classes"),
            (1, "methods"),
            (1, "eigen-cam"),
        ),
    ),
    ("resnet50", "torch", ((1, "ablation-cam"), (2, "agreement"), (16, "memory"))),
    ("resnet50", "jax", ((1, "ablation-cam"), (16, "memory"))),
    (
        "demo",
        "torch",
        (
            (1, "one class"),
            (8, "one class"),
            (32, "one class"),
            (1, "classes"),
            (1, "methods"),
            (1, "eigen-cam"),
        ),
    ),
    (
        "demo",
        "jax",
        ((1, "one class"), (8, "one class"), (1, "classes"), (1, "methods"), (1, "eigen-cam")),
    ),
    ("demo", "torch", ((1, "ablation-cam"), (2, "agreement"))),
    ("demo", "jax", ((1, "ablation-cam"),)),
    ("demo", "torch", ((1, "score-cam"),)),
    ("mobilenet_v3_small", "torch", ((1, "score-cam"), (2, "agreement"))),
    (
        "mobilenet_v3_large",
        "torch",
        ((1, "one class"), (8, "one class"), (32, "one class"), (1, "classes"), (2, "agreement")),
    ),
    (
        "convnext_tiny",
        "torch",
        ((1, "one class"), (8, "one class"), (1, "classes"), (2, "agreement")),
    ),
    ("vit_b_16", "torch", ((1, "one class"), (1, "classes"), (2, "agreement"))),
)
CASES = (
    "one class",
    "classes",
    "methods",
    "eigen-cam",
    "ablation-cam",
    "score-cam",
    "memory",
    "agreement",
)
LATE = "not run: the time was over"
OURS = {"torch": "gradcam", "jax": "gradcam (JAX)"}


class AbsentError(Exception):
    """A library does not offer this: no failure, there is nothing to measure."""


class TimeLimitError(Exception):
    pass


# ------------------------------------------------------------------------------------------------ the contenders
# each returns a call that does all of `what`, to be timed, with what it needs made beforehand


def forward(net: Network, x: Any) -> Call:
    if isinstance(net.model, torch.nn.Module):

        def bare() -> None:
            with torch.inference_mode():
                net.model(x)

        return bare
    import jax
    from flax import nnx

    graphdef, state = nnx.split(net.model)
    jitted = jax.jit(lambda state, x: nnx.merge(graphdef, state)(x))
    return lambda: jax.block_until_ready(jitted(state, x))


def ours(net: Network, x: Any, top: int, what: str) -> Call:
    explainer = gradcam.Explainer(
        net.model, net.layer, what if what in gradcam.METHODS else "grad-cam"
    )
    if what == "methods":
        return lambda: done([e.maps for e in explainer.compare(x, top, list(TOGETHER)).values()])
    if what == "heatmaps":
        return lambda: done(explainer.heatmaps(x, top))
    count = classes_of(what)
    target = top if count is None else np.arange(count)[None]
    return lambda: done(explainer(x, target).maps)


def done(maps: Any) -> Any:
    first = maps[0] if isinstance(maps, list) else maps
    if isinstance(first, torch.Tensor):
        return maps
    import jax

    return jax.block_until_ready(maps)


def pytorch_grad_cam(net: Network, x: torch.Tensor, top: int, what: str) -> Call:
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    def one(name: str) -> Any:
        model = twin(net.model)
        return getattr(pytorch_grad_cam, name)(
            model, [model.get_submodule(net.layer)], reshape_transform=tokens(net)
        )

    targets = [ClassifierOutputTarget(top)] * len(x)
    if what == "methods":
        extractors = [one(name) for name, _ in TOGETHER.values()]
        return lambda: [extractor(x, targets) for extractor in extractors]
    if count := classes_of(what):
        if count > 10:
            raise AbsentError  # a loop ten times as long
        extractor = one("GradCAM")
        return lambda: [extractor(x, [ClassifierOutputTarget(k)] * len(x)) for k in range(count)]
    extractor = one({**TOGETHER, **ALONE}["grad-cam" if what == "one class" else what][0])
    return lambda: extractor(x, targets)


def torchcam(net: Network, x: torch.Tensor, top: int, what: str) -> Call:
    import torchcam.methods

    model = twin(net.model)

    def one(name: str) -> Any:
        return getattr(torchcam.methods, name)(model, net.layer, reshape_transform=tokens(net))

    if what == "methods":  # one forward pass serves all
        extractors = [one(name) for _, name in TOGETHER.values() if name]

        def several() -> Any:
            outputs = model(x)
            return [extractor(top, outputs, retain_graph=True) for extractor in extractors]

        return several
    if count := classes_of(what):
        if count > 100:
            raise AbsentError
        extractor = one("GradCAM")

        def loop() -> Any:
            outputs = model(x)
            return [extractor(k, outputs, retain_graph=True) for k in range(count)]

        return loop
    name = {**TOGETHER, **ALONE}["grad-cam" if what == "one class" else what][1]
    if name is None:
        raise AbsentError
    extractor = one(name)
    if name == "ScoreCAM":

        def scored() -> Any:
            with torch.inference_mode():
                model(x)
            return extractor(top)[0]

        return scored
    return lambda: extractor(top, model(x))[0]


def captum(net: Network, x: torch.Tensor, top: int, what: str) -> Call:
    from captum.attr import LayerGradCam

    if what not in ("one class", "grad-cam", "10 classes"):
        raise AbsentError
    model = twin(net.model)
    extractor = LayerGradCam(model, model.get_submodule(net.layer))

    def attributed(k: int) -> Any:
        found = extractor.attribute(x, target=k, relu_attributions=True)
        if found.ndim != 4:
            raise ValueError(
                f"its map of tokens has shape {tuple(found.shape)}: it takes no reshape of (N, T, C)"
            )
        return found[:, 0]

    count = classes_of(what)
    return lambda: attributed(top) if count is None else [attributed(k) for k in range(count)]


PEERS: dict[str, Callable[[Network, torch.Tensor, int, str], Call]] = {
    "pytorch-grad-cam": pytorch_grad_cam,
    "torchcam": torchcam,
    "captum": captum,
}


def twin(model: torch.nn.Module) -> torch.nn.Module:
    """Modules of its own, with hooks and flags of their own, and the same weights."""
    shared = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in shared})


def tokens(net: Network) -> Callable[[torch.Tensor], torch.Tensor] | None:
    if net.grid is None:
        return None
    return lambda values: values[:, 1:].unflatten(1, net.grid).movedim(-1, 1)


def classes_of(what: str) -> int | None:
    count, _, rest = what.partition(" ")
    return int(count) if rest == "classes" else None


# ------------------------------------------------------------------------------------------------ time


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TimeLimitError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def timed(call: Call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def interleaved(
    bare: Call, calls: Mapping[str, Call], repeats: int, limit: float
) -> dict[str, dict[str, Any]]:
    """For each call the ratios of its time to that of forward passes right before it, or right after, in turn.

    The first call is ours: "over_ours" is the median of the ratios of each other call's time to ours of the same turn.
    """
    found: dict[str, dict[str, Any]] = {}
    bare()
    usual = statistics.median(timed(bare) for _ in range(5))
    pairs: dict[str, list[tuple[float, float]]] = {}
    turns: dict[str, dict[int, float]] = {}
    spent = dict.fromkeys(calls, 0.0)
    for who, call in calls.items():
        start = time.perf_counter()
        try:
            with limited(limit):
                first = timed(call)
                if first < limit / 8:
                    call()
        except TimeLimitError:
            stopped = time.perf_counter() - start
            found[who] = {
                "at_least": stopped / usual,
                "seconds": stopped,
                "note": f"stopped after {stopped:.0f} s",
            }
        except Exception as error:  # whatever a peer raises, the others are still measured
            found[who] = {"failed": reason(error)}
        else:
            pairs[who] = [(first, usual)] if first > limit / 2 else []
            spent[who] = first
    for turn in range(repeats):
        for who, measured in pairs.items():
            if spent[who] + spent[who] / (len(measured) + 1) > limit and measured:
                continue
            bare()  # what ran before has left its mark on caches and memory
            # beside a call of seconds one forward pass would be chance
            count = min(21, 1 + int(0.05 * spent[who] / (len(measured) + 1) / usual))
            before = [timed(bare) for _ in range(count)] if turn % 2 else []
            taken = timed(calls[who])
            measured.append(
                (taken, statistics.median(before or [timed(bare) for _ in range(count)]))
            )
            turns.setdefault(who, {})[turn] = taken
            spent[who] += taken
    for who, measured in pairs.items():
        ratios = [taken / plain for taken, plain in measured]
        low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        seconds = statistics.median(taken for taken, _ in measured)
        plain = statistics.median(plain for _, plain in measured)
        found[who] = {"ratio": middle, "low": low, "high": high, "repeats": len(ratios)}
        found[who] |= {"seconds": seconds, "forward_seconds": plain}
        mine, theirs = turns.get(next(iter(calls)), {}), turns.get(who, {})
        if shared := mine.keys() & theirs.keys():
            found[who]["over_ours"] = statistics.median(
                theirs[turn] / mine[turn] for turn in shared
            )
    return found


def reason(error: Exception) -> str:
    line = " ".join(str(error).split())
    return f"{type(error).__name__}: {line[:160]}"


SCORED = {"demo": "_blocks.15._bn2"}


def prices(
    net: Network, framework: str, batch: int, case: str, repeats: int, limit: float
) -> list[dict[str, Any]]:
    """Rows of one case: us, and where the framework is PyTorch each peer."""
    x, top = given(net, framework, batch)
    if (
        case == "score-cam"
    ):  # a forward pass for each channel: of the last layer's 1280 they would take minutes
        net, limit = replace(net, layer=SCORED.get(net.name, net.layer)), 3 * limit
    what = [f"{count} classes" for count in (10, 100, 1000)] if case == "classes" else [case]
    what += ["heatmaps"] if case == "one class" else []
    rows = []
    for one in what:
        calls, found = {OURS[framework]: ours(net, x, top, one)}, {}
        for who, peer in PEERS.items() if framework == "torch" else ():
            with contextlib.suppress(AbsentError, KeyError):
                try:
                    calls[who] = peer(net, x, top, one)
                except (AbsentError, KeyError):
                    raise
                except Exception as error:
                    found[who] = {"failed": reason(error)}
        found |= interleaved(forward(net, x), calls, repeats, limit)
        rows += [{"case": one, "batch": batch, "who": who, **each} for who, each in found.items()]
    return rows


def given(net: Network, framework: str, batch: int) -> tuple[Any, int]:
    """The input as the framework's own array, and the first sample's top class."""
    if framework == "torch":
        x = torch.from_numpy(net.inputs(batch))
        with torch.inference_mode():
            return x, int(net.model(x)[0].argmax())
    import jax

    x = jax.numpy.asarray(net.inputs(batch))
    return x, int(net.model(x)[0].argmax())


# ------------------------------------------------------------------------------------------------ agreement


def agreements(net: Network, batch: int, limit: float) -> list[dict[str, Any]]:
    """The largest difference of two maps that are each scaled to [0, 1]; at the layer's size, or the input's."""
    x, top = given(net, "torch", batch)
    rows = []
    for method in ("score-cam",) if net.name == "mobilenet_v3_small" else EQUAL:
        raw = gradcam.explain(net.model, x, net.layer, top, method).maps
        for who, peer in PEERS.items():
            row = {"case": "agreement", "batch": batch, "who": who, "method": method}
            try:
                with limited(limit):
                    found = peer(net, x, top, method)()
                theirs = scaled(torch.as_tensor(found))
                mine = scaled(raw)
                if theirs.shape != mine.shape:  # scaled, then resized, then scaled
                    mine = scaled(maps_.resize(mine, (SIZE, SIZE)))
                rows.append({**row, "difference": float((mine - theirs).abs().max())})
            except (AbsentError, KeyError):
                continue
            except Exception as error:
                rows.append({**row, "failed": reason(error)})
    return rows


def scaled(maps: torch.Tensor) -> torch.Tensor:
    return maps_.scale(maps.double(), 2, "minmax")


# ------------------------------------------------------------------------------------------------ memory


def memory(name: str, framework: str, batch: int, limit: float) -> list[dict[str, Any]]:
    """Peak memory above that of the loaded model and its input, each in a process of its own."""
    rows = []
    for who in ("forward pass", OURS[framework], *(PEERS if framework == "torch" else ())):
        row = {"case": "memory", "batch": batch, "who": who}
        command = [
            sys.executable,
            __file__,
            "--child",
            who,
            "--framework",
            framework,
            "--model",
            name,
        ]
        try:
            ran = subprocess.run(
                [*command, "--batch", str(batch)], capture_output=True, text=True, timeout=4 * limit
            )
            rows.append({**row, "megabytes": json.loads(ran.stdout.splitlines()[-1])})
        except (subprocess.TimeoutExpired, ValueError, IndexError) as error:
            rows.append({**row, "failed": reason(error)})
    return rows


def child(who: str, framework: str, name: str, batch: int) -> float:
    net = (torch_network if framework == "torch" else flax_network)(name)

    def made(x: Any, top: int) -> Call:
        if who == "forward pass":
            return forward(net, x)
        return (
            ours(net, x, top, "one class")
            if who in OURS.values()
            else PEERS[who](net, x, top, "one class")
        )

    x, top = given(net, framework, 1)
    made(x, top)()  # code is loaded, buffers are made
    x = given(net, framework, batch)[0] if framework == "torch" else jax_array(net.inputs(batch))
    call = made(x, top)
    if framework == "jax":
        call()  # compiled
    else:
        net.model.zero_grad()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak so far is forgotten
    before = resident("VmRSS")
    call()
    return (resident("VmHWM") - before) / 1024


def jax_array(array: np.ndarray) -> Any:
    import jax

    return jax.numpy.asarray(array)


def resident(what: str) -> int:
    """Kilobytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what))


# ------------------------------------------------------------------------------------------------ the run


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", action="append", choices=list(dict.fromkeys(name for name, _, _ in PLAN))
    )
    parser.add_argument("--case", action="append", choices=CASES)
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument(
        "--limit", type=float, default=10, help="seconds for one library in one case"
    )
    parser.add_argument(
        "--budget", type=float, default=1800, help="seconds, after which no further case begins"
    )
    parser.add_argument("--quick", action="store_true", help="3 repeats, 3 seconds")
    parser.add_argument("--framework", choices=list(OURS))
    parser.add_argument(
        "--add", action="store_true", help="replace these cases alone in what an earlier run wrote"
    )
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # of blank maps: many classes of a random network have one
    if options.child:
        print(child(options.child, options.framework, options.model[0], options.batch))
        return 0
    repeats, limit = (3, 3.0) if options.quick else (options.repeats, options.limit)
    start, rows = time.perf_counter(), []
    for name, framework, cases in PLAN:
        if (options.model and name not in options.model) or options.framework not in (
            None,
            framework,
        ):
            continue
        wanted = [
            (batch, case) for batch, case in cases if not options.case or case in options.case
        ]
        net = (torch_network if framework == "torch" else flax_network)(name) if wanted else None
        for batch, case in wanted:
            began = time.perf_counter()
            if began - start > options.budget:
                found = [{"case": case, "batch": batch, "who": OURS[framework], "failed": LATE}]
            elif case == "memory":
                found = memory(name, framework, batch, limit)
            elif case == "agreement":
                found = agreements(net, batch, limit)
            else:
                found = prices(net, framework, batch, case, repeats, limit)
            rows += [
                {"model": name, "framework": framework, "layer": net.layer, **row} for row in found
            ]
            print(
                f"{name}, {framework}, {case}, batch {batch}: {time.perf_counter() - began:.1f} s",
                flush=True,
            )
    rows += report.extrapolated(rows)
    full = options.add or not (options.model or options.case or options.quick or options.framework)
    seconds = round(time.perf_counter() - start)
    if options.add:
        before = json.loads((HERE / "results.json").read_text(encoding="utf-8"))
        rows, seconds = added(before["rows"], rows), seconds + before["seconds"]
    results = {**about(), "repeats": repeats, "seconds": seconds, "rows": rows}
    report.write(
        results, HERE if full else Path("out/bench"), HERE.parent / "README.md" if full else None
    )
    return 0


def added(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each row is a ratio in a run of its own, so that rows of several runs may stand together."""

    def key(row: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(
            row.get(name) for name in ("model", "framework", "case", "batch", "who", "method")
        )

    fresh = {key(row) for row in new}
    measured = {(row["model"], row["framework"]) for row in new}
    late = [
        row
        for row in old
        if row.get("failed") == LATE and (row["model"], row["framework"]) in measured
    ]
    return [row for row in old if key(row) not in fresh and row not in late] + new


def about() -> dict[str, Any]:
    names = ("torch", "torchvision", "jax", "flax", "numpy", "grad-cam", "torchcam", "captum")
    cpu = (
        Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    )
    kind = next(
        (
            line.partition(":")[2].strip()
            for line in cpu.splitlines()
            if line.startswith("model name")
        ),
        "",
    )
    return {
        "date": date.today().isoformat(),
        "machine": f"{os.cpu_count()} cores, {kind or platform.machine()}",
        "versions": {"gradcam": gradcam.__version__}
        | {name: importlib.metadata.version(name) for name in names},
        "python": platform.python_version(),
        "command": "make bench",
    }


if __name__ == "__main__":
    sys.exit(main())
