"""The price of an explanation beside other libraries': same model, input, layer and class.

    make bench, or
    .venv-bench/bin/python benchmarks/peers.py [--model NAME ...] [--case NAME ...] [--quick]
        [--device cuda]

Every number is a time over that of a bare forward pass of the same framework (under inference mode,
or compiled), which is timed right beside it: median and quartiles. Extractors are made beforehand.
Each works on a copy of the model's modules that shares its weights, so that one library's hooks do
not run in another's pass. A full run writes benchmarks/README.md, results.json and bench.png. A run
with --model, --case or --quick writes out/bench/ instead.
"""

from __future__ import annotations

import os

# pytorch-grad-cam shows progress bars.
os.environ["TQDM_DISABLE"] = "1"
# On a shared machine, threads that spin while they wait for each other take 20 times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import argparse
import contextlib
import ctypes
import gc
import importlib.metadata
import json
import platform
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import report
import torch
from common import Call, argument_parser, finishing, limited
from contenders import PEERS, AbsentError, forward, input_and_top_class, jax_array, ours
from goals import OURS, Row
from interleaved import interleaved, reason
from networks import SIZE, Network, flax_network, torch_network

import gradcam
from gradcam import maps as map_math

HERE = Path(__file__).parent
LATE = "not run: the time was over"

Case = tuple[int, str]
"""Batch size and kind."""

CHEAP: tuple[Case, ...] = (
    (1, "one class"),
    (8, "one class"),
    (32, "one class"),
    (1, "classes"),
    (1, "methods"),
    (1, "eigen-cam"),
)
PLAN: tuple[tuple[str, str, tuple[Case, ...]], ...] = (
    ("resnet50", "torch", CHEAP),
    ("resnet50", "jax", CHEAP),
    ("resnet50", "torch", ((1, "ablation-cam"), (2, "agreement"), (16, "memory"))),
    ("resnet50", "jax", ((1, "ablation-cam"), (16, "memory"))),
    ("demo", "torch", CHEAP),
    ("demo", "jax", tuple(case for case in CHEAP if case[0] < 32)),
    ("demo", "torch", ((1, "ablation-cam"), (2, "agreement"))),
    ("demo", "jax", ((1, "ablation-cam"),)),
    ("demo", "torch", ((1, "score-cam"),)),
    ("mobilenet_v3_small", "torch", ((1, "score-cam"), (2, "agreement"))),
    ("mobilenet_v3_large", "torch", (*CHEAP[:4], (2, "agreement"))),
    (
        "convnext_tiny",
        "torch",
        ((1, "one class"), (8, "one class"), (1, "classes"), (2, "agreement")),
    ),
    ("vit_b_16", "torch", ((1, "one class"), (1, "classes"), (2, "agreement"))),
)
KINDS = (
    "one class",
    "classes",
    "methods",
    "eigen-cam",
    "ablation-cam",
    "score-cam",
    "memory",
    "agreement",
)
SCORE_CAM_LAYERS = {"demo": "_blocks.15._bn2"}
"""Layers for Score-CAM, which runs a forward pass for each channel.

The last layer's 1280 channels would take minutes.
"""
SAME_FORMULA = ("grad-cam", "grad-cam++", "xgrad-cam", "hires-cam", "layer-cam", "element-wise")
"""Methods whose formula is the same in all libraries, up to scale and a guard against 0/0.

torchcam's Grad-CAM++ is meant to be the same.
"""


# ---------------------------------------------------------------------------------------- time


def prices(net: Network, framework: str, case: Case, repeats: int, limit: float) -> Iterator[Row]:
    """The rows of one case: of ours, and in PyTorch of each peer."""
    batch, kind = case
    x, top = input_and_top_class(net, framework, batch)
    kinds = [kind]
    if kind == "score-cam":
        net = replace(net, layer=SCORE_CAM_LAYERS.get(net.name, net.layer))
        limit = 3 * limit
    elif kind == "classes":
        kinds = ["10 classes", "100 classes", "1000 classes"]
    elif kind == "one class":
        kinds = ["one class", "heatmaps"]
    for kind in kinds:
        calls = {OURS[framework]: ours(net, x, top, kind)}
        rows: dict[str, Row] = {}
        if framework == "torch":
            add_peers(calls, rows, net, x, top, kind)
        rows |= interleaved(forward(net, x), calls, repeats, limit)
        for who, row in rows.items():
            yield {"case": kind, "batch": batch, "who": who, **row}


def add_peers(
    calls: dict[str, Call], rows: dict[str, Row], net: Network, x: Any, top: int, kind: str
) -> None:
    """Add the peers' calls, or rows of those that fail. Those that do not offer it are left out."""
    for who, peer in PEERS.items():
        try:
            calls[who] = peer(net, x, top, kind)
        except (AbsentError, KeyError):
            continue
        except Exception as error:
            rows[who] = {"failed": reason(error)}


# ----------------------------------------------------------------------------------- agreement


def agreements(net: Network, batch: int, limit: float) -> Iterator[Row]:
    """The largest difference of two maps, each scaled to [0, 1], at the peer's map's size."""
    x, top = input_and_top_class(net, "torch", batch)
    methods = SAME_FORMULA
    if net.name == "mobilenet_v3_small":
        methods = ("score-cam",)
    for method in methods:
        maps = gradcam.explain(net.model, x, net.layer, top, method).maps
        for who, peer in PEERS.items():
            row = {"case": "agreement", "batch": batch, "who": who, "method": method}
            try:
                with limited(limit):
                    theirs = scaled(torch.as_tensor(peer(net, x, top, method)()))
                yield {**row, "difference": difference(scaled(maps), theirs)}
            except (AbsentError, KeyError):
                continue
            except Exception as error:
                yield {**row, "failed": reason(error)}


def difference(maps: torch.Tensor, theirs: torch.Tensor) -> float:
    if theirs.shape != maps.shape:
        # Theirs are scaled, then resized to the input's size, then scaled again.
        maps = scaled(map_math.resize(maps, (SIZE, SIZE)))
    return float((maps - theirs).abs().max())


def scaled(maps: torch.Tensor) -> torch.Tensor:
    return map_math.scale(maps.double(), 2, "minmax")


# -------------------------------------------------------------------------------------- memory


def memory(name: str, framework: str, batch: int, limit: float) -> Iterator[Row]:
    """Peak memory above that of the loaded model and its input, each in a process of its own."""
    libraries = ["forward pass", OURS[framework]]
    if framework == "torch":
        libraries += PEERS
    for who in libraries:
        row = {"case": "memory", "batch": batch, "who": who}
        command = [sys.executable, __file__, "--child", who, "--framework", framework]
        command += ["--model", name, "--batch", str(batch)]
        try:
            process = subprocess.run(command, capture_output=True, text=True, timeout=4 * limit)
            yield {**row, "megabytes": json.loads(process.stdout.splitlines()[-1])}
        except (subprocess.TimeoutExpired, ValueError, IndexError) as error:
            yield {**row, "failed": reason(error)}


def child(who: str, framework: str, name: str, batch: int) -> float:
    """The megabytes of one library's call in this process."""
    net = network(name, framework)
    x, top = input_and_top_class(net, framework, 1)
    library_call(who, net, x, top)()  # code is loaded, and buffers are made
    if framework == "torch":
        x, _ = input_and_top_class(net, framework, batch)
        net.model.zero_grad()
        call = library_call(who, net, x, top)
    else:
        x = jax_array(net.inputs(batch))
        call = library_call(who, net, x, top)
        call()  # it compiles
    gc.collect()
    # Free memory goes back to the system, and the peak so far is forgotten.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    before = resident("VmRSS")
    call()
    return (resident("VmHWM") - before) / 1024


def library_call(who: str, net: Network, x: Any, top: int) -> Call:
    if who == "forward pass":
        return forward(net, x)
    if who in PEERS:
        return PEERS[who](net, x, top, "one class")
    return ours(net, x, top, "one class")


def resident(field: str) -> int:
    """This process's memory in kilobytes: "VmRSS" now, "VmHWM" at most."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(field):
            return int(line.split()[1])
    raise KeyError(field)


# ------------------------------------------------------------------------------------- the run


def arguments() -> argparse.ArgumentParser:
    parser = argument_parser(__doc__, repeats=11)
    models = list(dict.fromkeys(name for name, _, _ in PLAN))
    parser.add_argument("--model", action="append", choices=models)
    parser.add_argument("--case", action="append", choices=KINDS)
    parser.add_argument("--framework", choices=list(OURS))
    parser.add_argument(
        "--limit", type=float, default=10, help="seconds for one library in one case"
    )
    parser.add_argument(
        "--budget", type=float, default=1800, help="seconds, after which no further case begins"
    )
    parser.add_argument("--device", default="cpu", help="cuda: PyTorch's networks on a GPU")
    parser.add_argument("--quick", action="store_true", help="3 repeats, 3 seconds")
    parser.add_argument(
        "--add", action="store_true", help="replace these cases alone in what an earlier run wrote"
    )
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, help=argparse.SUPPRESS)
    return parser


def network(name: str, framework: str, device: str = "cpu") -> Network:
    if framework == "torch":
        found = torch_network(name)
        return replace(found, model=found.model.to(device))
    return flax_network(name)


def planned(options: argparse.Namespace) -> Iterator[tuple[Network, str, Case]]:
    """The network, framework and case of each step of the plan that the options ask for."""
    for name, framework, cases in PLAN:
        if options.model and name not in options.model:
            continue
        if options.framework not in (None, framework):
            continue
        cases = tuple(case for case in cases if not options.case or case[1] in options.case)
        if not cases:
            continue
        net = network(name, framework, options.device)
        for case in cases:
            yield net, framework, case


def measured(net: Network, framework: str, case: Case, options: argparse.Namespace) -> list[Row]:
    """The rows of one case."""
    batch, kind = case
    if kind == "memory":
        return list(memory(net.name, framework, batch, options.limit))
    if kind == "agreement":
        return list(agreements(net, batch, options.limit))
    return list(prices(net, framework, case, options.repeats, options.limit))


def main() -> int:
    options = arguments().parse_args()
    # Many classes of a network with random weights have a blank map.
    warnings.simplefilter("ignore")
    if options.child:
        print(child(options.child, options.framework, options.model[0], options.batch))
        return 0
    if options.quick:
        options.repeats = 3
        options.limit = 3.0
    if options.device != "cpu":
        finishing.append(torch.cuda.synchronize)
    start = time.perf_counter()
    rows: list[Row] = []
    for net, framework, case in planned(options):
        batch, kind = case
        case_start = time.perf_counter()
        if case_start - start > options.budget:
            case_rows = [{"case": kind, "batch": batch, "who": OURS[framework], "failed": LATE}]
        else:
            case_rows = measured(net, framework, case, options)
        for row in case_rows:
            rows.append({"model": net.name, "framework": framework, "layer": net.layer, **row})
        seconds = time.perf_counter() - case_start
        print(f"{net.name}, {framework}, {kind}, batch {batch}: {seconds:.1f} s", flush=True)
    rows += report.extrapolated(rows)
    total = round(time.perf_counter() - start)
    if options.add:
        earlier = json.loads((HERE / "results.json").read_text(encoding="utf-8"))
        rows = added(earlier["rows"], rows)
        total += earlier["seconds"]
    results = {**about(), "repeats": options.repeats, "seconds": total, "rows": rows}
    is_partial = options.model or options.case or options.quick or options.framework
    is_partial = is_partial or options.device != "cpu"
    if options.add or not is_partial:
        report.write(results, HERE, HERE.parent / "README.md")
    else:
        report.write(results, Path("out/bench"))
    return 0


def added(old: list[Row], new: list[Row]) -> list[Row]:
    """The new rows, and those old rows that they do not replace.

    Each row is a ratio of its own run, so that rows of several runs may stand together. Old rows
    that say only that the time was over go when their model has been measured again.
    """

    def key(row: Row) -> tuple[Any, ...]:
        names = ("model", "framework", "case", "batch", "who", "method")
        return tuple(row.get(name) for name in names)

    fresh = {key(row) for row in new}
    models = {(row["model"], row["framework"]) for row in new}
    kept = []
    for row in old:
        is_late = row.get("failed") == LATE and (row["model"], row["framework"]) in models
        if key(row) not in fresh and not is_late:
            kept.append(row)
    return kept + new


def about() -> dict[str, Any]:
    versions = {"gradcam": gradcam.__version__}
    for name in ("torch", "torchvision", "jax", "flax", "numpy", "grad-cam", "torchcam", "captum"):
        versions[name] = importlib.metadata.version(name)
    machine = f"{os.cpu_count()} cores, {processor()}"
    if torch.cuda.is_available():
        machine += f", {torch.cuda.get_device_name()}"
    return {
        "date": date.today().isoformat(),
        "machine": machine,
        "versions": versions,
        "python": platform.python_version(),
        "command": "make bench",
    }


def processor() -> str:
    with contextlib.suppress(FileNotFoundError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


if __name__ == "__main__":
    sys.exit(main())
