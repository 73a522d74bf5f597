"""What `gradcam.verify` says of correct networks, and of wrong gradients of a known size.

python -m benchmarks.verification own --only torch jax         our own networks, and their faults
python -m benchmarks.verification foreign --only timm --every 11    two layers of every 11th network
python -m benchmarks.verification page F ... --out docs/verification.md    the page of these files

The first two write a line of JSON for each verdict to --out, and print those that are not as they
should be. A fault's size is the norm of its error relative to that of the gradient. In PyTorch the
same gradients are given to `torch.autograd.gradcheck`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import gradcam
from gradcam import backends
from gradcam._arrays import constant, to_numpy

SEEDS = 30
SIZES = {"float64": (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1), "float32": (1e-3, 1e-2, 1e-1)}


@dataclass(frozen=True)
class Network:
    """A correct network and a layer of it. group: the kind, for the table."""

    group: str
    name: str
    model: Any
    inputs: Any
    layer: str
    target: Any = 0
    options: dict[str, Any] | None = None


# --------------------------------------------------------------------------------- our own networks


def torch_networks() -> Iterator[Network]:
    import torch
    from torch import nn

    def images(seed: int, size: int = 16) -> Any:
        return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(seed))

    def head(channels: int, classes: int = 5) -> list[Any]:
        return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]

    class Branch(nn.Module):
        """x + scale * conv(relu(conv(x))), as the layer scale of ConvNeXt and CaiT."""

        def __init__(self, scale: float) -> None:
            super().__init__()
            self.scale, self.first, self.second = scale, nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)

        def forward(self, x: Any) -> Any:
            return x + self.scale * self.second(torch.relu(self.first(x)))

    class Plus(nn.Module):
        def __init__(self, offset: float) -> None:
            super().__init__()
            self.offset = offset

        def forward(self, x: Any) -> Any:
            return x + self.offset

    class SingleSoftmax(nn.Module):
        """Attention pooling whose softmax is taken in float32."""

        def __init__(self) -> None:
            super().__init__()
            self.query = nn.Conv2d(8, 1, 1)

        def forward(self, x: Any) -> Any:
            weights = self.query(x).flatten(2).float().softmax(-1).to(x.dtype)
            return (x.flatten(2) * weights).sum(-1)

    class SingleNorm(nn.Module):
        """A layer norm that computes in float32, as many language models have."""

        def forward(self, x: Any) -> Any:
            y = x.float()
            y = (y - y.mean(1, keepdim=True)) * torch.rsqrt(y.var(1, keepdim=True) + 1e-5)
            return y.to(x.dtype)

    class Excite(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down, self.up = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)

        def forward(self, x: Any) -> Any:
            gate = self.up(torch.relu(self.down(x.mean((2, 3), keepdim=True))))
            return x * torch.sigmoid(gate)

    single = {"float64": False}
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        pooled = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), *head(8),
        ).eval()  # fmt: skip
        x = images(seed)
        yield Network("ReLU, max pooling", f"{seed}", pooled, x, "1")
        yield Network("ReLU, max pooling, float32", f"{seed}", pooled, x, "1", options=single)
        yield Network("ReLU, float32", f"{seed}", pooled, x, "3", options=single)
        if seed >= 10:
            continue
        torch.manual_seed(seed)
        deep: list[Any] = [nn.Conv2d(3, 8, 3, padding=1)]
        for _ in range(4):
            deep += [nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)]
        deep = nn.Sequential(*deep, nn.ReLU(), *head(8)).eval()
        yield Network("ReLU, deep", f"{seed}", deep, x, "3")
        excite = nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU(), Excite(), *head(8)).eval()
        yield Network("squeeze and excite", f"{seed}", excite, x, "1")
        yield Network("squeeze and excite, float32", f"{seed}", excite, x, "1", options=single)
        for scale in (1e-4, 1e-6):
            net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GELU(), Branch(scale), *head(8)).eval()
            yield Network(f"branch times {scale:.0e}", f"{seed}", net, x, "1")
            yield Network(f"inside a branch times {scale:.0e}", f"{seed}", net, x, "2.first")
        for offset in (1e4, 1e6):
            net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), *head(8), Plus(offset)).eval()
            yield Network(f"score plus {offset:.0e}", f"{seed}", net, x, "0")
            net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh(), *head(8), Plus(offset)).eval()
            yield Network(f"score plus {offset:.0e}", f"smooth {seed}", net, x, "1")
        net = nn.Sequential(nn.Conv2d(3, 8, 3), Plus(1e4), Plus(-1e4), nn.ReLU(), *head(8)).eval()
        yield Network("activations plus 1e4", f"{seed}", net, x, "1")
        net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU(), SingleSoftmax(), nn.Linear(8, 5)).eval()
        yield Network("softmax in float32", f"{seed}", net, x, "1")
        net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU(), SingleNorm(), nn.Conv2d(8, 8, 3),
                            nn.SiLU(), *head(8)).eval()  # fmt: skip
        yield Network("norm in float32", f"{seed}", net, x, "1")


def jax_networks() -> Iterator[Network]:
    import flax.linen as nn
    import jax
    import jax.numpy as jnp

    class Net(nn.Module):
        pool: bool = False
        dtype: Any = None
        act: Any = nn.relu

        @nn.compact
        def __call__(self, x: Any) -> Any:
            x = self.act(nn.Conv(8, (3, 3), name="first")(x))
            if self.pool:
                x = nn.max_pool(x, (2, 2), (2, 2))
            x = self.act(nn.Conv(8, (3, 3), name="second")(x))
            return nn.Dense(5, dtype=self.dtype)(x.mean((1, 2)))

    for seed in range(10):
        x = jax.random.normal(jax.random.key(seed), (2, 16, 16, 3))
        for group, net, options in (
            ("JAX: ReLU, max pooling", Net(pool=True), None),
            ("JAX: ReLU, float32", Net(), {"float64": False}),
            ("JAX: Dense in float32", Net(dtype=jnp.float32), None),
            ("JAX: SiLU, Dense in float32", Net(dtype=jnp.float32, act=nn.silu), None),
        ):
            variables = net.init(jax.random.key(seed), x)
            yield Network(group, f"{seed}", (net, variables), x, "first", options=options)


def keras_networks() -> Iterator[Network]:
    import keras

    layers = keras.layers
    for seed in range(10):
        keras.utils.set_random_seed(seed)
        for kind, act in (("ReLU, max pooling", "relu"), ("SiLU", "silu")):
            net = keras.Sequential(
                [
                    keras.Input((16, 16, 3)),
                    layers.Conv2D(8, 3, activation=act, name="first"),
                    layers.MaxPooling2D(2) if act == "relu" else layers.AveragePooling2D(2),
                    layers.Conv2D(8, 3, activation=act, name="second"),
                    layers.GlobalAveragePooling2D(),
                    layers.Dense(5),
                ]
            )
            x = np.random.default_rng(seed).standard_normal((2, 16, 16, 3)).astype("float32")
            x = keras.ops.convert_to_tensor(x)
            group = f"Keras on {keras.backend.backend()}: {kind}"
            yield Network(group, f"{seed}", net, x, "first")


# ------------------------------------------------------------------------------------------- faults


class Faulty:
    """A model whose captured gradients are changed."""

    def __init__(self, inner: Any, change: Callable[[np.ndarray], np.ndarray]) -> None:
        self.inner, self.change = inner, change
        self.channels_first = getattr(inner, "channels_first", True)

    def capture(self, inputs: Any, layers: Any, target: Any, **options: Any) -> Any:
        found = self.inner.capture(inputs, layers, target, **options)
        changed = []
        for gradient in found.gradients:
            values = self.change(to_numpy(gradient).astype(np.float64))
            changed.append(constant(np.ascontiguousarray(values), like=gradient))
        return replace(found, gradients=tuple(changed))

    def replay(self, *args: Any) -> Any:
        return self.inner.replay(*args)

    def layers(self, inputs: Any) -> Any:
        return self.inner.layers(inputs)

    @contextmanager
    def float64(self, inputs: Any) -> Iterator[Any]:
        with self.inner.float64(inputs) as (double, wide):
            yield Faulty(double, self.change), wide

    def in_double(self, inputs: Any) -> Any:
        return self.inner.in_double(inputs)


def _sized(error: np.ndarray, gradient: np.ndarray, size: float) -> np.ndarray:
    """The gradient plus that error, made as large as `size` of the gradient, for each sample."""
    axes = tuple(range(1, gradient.ndim))
    norm = np.sqrt(np.sum(error**2, axis=axes, keepdims=True))
    wanted = size * np.sqrt(np.sum(gradient**2, axis=axes, keepdims=True))
    return np.asarray(gradient + error * wanted / np.where(norm == 0, 1, norm))


def _one_channel(g: np.ndarray) -> np.ndarray:
    """The error of the strongest channel alone; channels are the shortest axis here, 8."""
    axis = 1 + list(g.shape[1:]).index(8)
    strength = np.sum(g**2, axis=tuple(i for i in range(g.ndim) if i != axis))
    shape = [1] * g.ndim
    shape[axis] = -1
    return g * (np.arange(8) == strength.argmax()).reshape(shape)


def _first_sample(g: np.ndarray) -> np.ndarray:
    return g * (np.arange(len(g)) == 0).reshape(-1, *(1,) * (g.ndim - 1))


ERRORS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "scaled": lambda g: g,
    "one channel": _one_channel,
    "one sample": _first_sample,
    "positions rolled": lambda g: np.roll(g, 1, axis=-1) - g,
    "noise": lambda g: np.random.default_rng(5).standard_normal(g.shape),
    "a constant": lambda g: np.ones_like(g),
    "some elements": lambda g: g * (np.random.default_rng(6).random(g.shape) < 0.05),
}
GROSS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "negated": lambda g: -g,
    "zero": lambda g: 0 * g,
    "halved": lambda g: g / 2,
    "magnitude": np.abs,
    "positions flipped": lambda g: g[:, ::-1, ::-1] if g.shape[-1] == 8 else g[..., ::-1, ::-1],
    "samples swapped": lambda g: g[::-1],
    "mean over positions": lambda g: np.broadcast_to(
        g.mean((1, 2) if g.shape[-1] == 8 else (2, 3), keepdims=True), g.shape
    ),
    "sign": lambda g: np.sign(g) * np.abs(g).mean(),
    "shortened to bfloat16": lambda g: (
        g.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)
    ).view(np.float32),
}


def faults(precision: str) -> Iterator[tuple[str, float, Callable[[np.ndarray], np.ndarray]]]:
    """(name, size, change) of every injected fault."""
    for name, error in ERRORS.items():
        for size in SIZES[precision]:
            yield name, size, lambda g, e=error, s=size: _sized(e(g), g, s)  # type: ignore[misc]
    for name, change in GROSS.items():
        yield name, 4e-3 if "bfloat16" in name else 0.1, change


# ---------------------------------------------------------------------------------------- gradcheck


def gradcheck(network: Network, change: Callable[[np.ndarray], np.ndarray] | None) -> bool:
    """Whether `torch.autograd.gradcheck` in its fast mode, with its own tolerances, passes the
    gradient of a float64 copy of the rest of the network.
    """
    import copy

    import torch

    class Changed(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x.view_as(x)

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            if change is None:
                return gradient
            return torch.from_numpy(np.ascontiguousarray(change(gradient.numpy())))

    model = copy.deepcopy(network.model).double()
    layer = model.get_submodule(network.layer)
    inputs = network.inputs.double()
    seen = []
    with torch.no_grad(), layer.register_forward_hook(lambda _m, _i, out: seen.append(out.clone())):
        model(inputs)

    def score(activations: Any) -> Any:
        with layer.register_forward_hook(lambda *_: Changed.apply(activations)):
            return model(inputs)[:, network.target]

    activations = seen[0].detach().requires_grad_()
    try:
        return bool(
            torch.autograd.gradcheck(score, (activations,), fast_mode=True, raise_exception=False)
        )
    except RuntimeError:  # where the backward pass gives another result each time
        return False


# ----------------------------------------------------------------------------------------- verdicts


def verdict(network: Network, model: Any = None) -> dict[str, Any]:
    """What `verify` says, and what that took."""
    start = time.perf_counter()
    options = network.options or {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            report = gradcam.verify(
                network.model if model is None else model,
                network.inputs,
                network.layer,
                network.target,
                **options,
            )
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        found = {"verdict": "error", "why": f"{type(error).__name__}: {error} ({last.name})"[:300]}
    else:
        found = {
            "verdict": report.verdict,
            "dtype": report.dtype,
            "error": report.error,
            "kinks": report.kinks,
            "points": report.points,
            "held": report.held_zeros,
        }
        for name in ("lost", "passes", "fault", "remark", "resolution"):
            found[name] = getattr(report, name, None)
        found["largest"] = [
            max((c.error for c in report.checks if c.what == what), default=0.0)
            for what in ("direction", "alpha")
        ]
    return {
        "group": network.group,
        "name": network.name,
        "layer": network.layer,
        **found,
        "seconds": time.perf_counter() - start,
    }


def gradient_of(network: Network) -> np.ndarray:
    """The right gradient."""
    inner = backends.adapt(network.model, network.inputs)
    target = gradcam.targets.as_target(network.target)
    return to_numpy(inner.capture(network.inputs, (network.layer,), target).gradients[0])


def own(which: str) -> Iterator[dict[str, Any]]:
    """Correct networks, and the faults of a few of each group."""
    made = {"torch": torch_networks, "jax": jax_networks, "keras": keras_networks}[which]
    faulted: Counter[str] = Counter()
    for network in made():
        row = {"kind": "correct", **verdict(network)}
        if which == "torch":
            row["gradcheck"] = gradcheck(network, None)
        yield row
        most = 2 if which == "torch" else 1
        if faulted[network.group] >= most or (which == "jax" and "SiLU" not in network.group):
            continue
        faulted[network.group] += 1
        single = which == "keras" or "float32" in network.group
        precision = "float32" if single else "float64"
        inner = backends.adapt(network.model, network.inputs)
        gradient = gradient_of(network)
        for name, size, change in faults(precision):
            moved = np.linalg.norm(change(gradient) - gradient)
            if not moved >= 0.3 * size * np.linalg.norm(gradient):
                continue  # as of flipped positions, where the gradient is constant over them
            row = verdict(network, Faulty(inner, change))
            if which == "torch":
                row["gradcheck"] = gradcheck(network, change)
            yield {"kind": "fault", "fault_name": name, "size": size, **row}


# ------------------------------------------------------------------------------------------ foreign


def foreign(every: int, lists: list[str], words: list[str]) -> Iterator[dict[str, Any]]:
    """Every n-th network of benchmarks/foreign, at its own layer and at one half way there."""
    from benchmarks.foreign import worker

    for which in lists:
        rows = worker.rows(which)
        rows = [row for row in rows if any(word in row.name for word in words)] if words else rows
        for row in rows[::every]:
            case = row.make()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                layers = gradcam.layers(case.model, case.inputs, target=case.target)
            spaces = [layer for layer in layers if layer.has_space]
            chosen = next((i for i, layer in enumerate(spaces) if layer.chosen), len(spaces) - 1)
            for index in dict.fromkeys((chosen, chosen // 2)):
                path = next(filter(explained(case), (one.path for one in spaces[index:])))
                network = Network(which, row.name, case.model, case.inputs, path, case.target)
                yield {"kind": "correct", "foreign": True, **verdict(network)}


def explained(case: Any) -> Callable[[str], bool]:
    """Whether a layer can be explained at all."""

    def able(path: str) -> bool:
        try:
            gradcam.explain(case.model, case.inputs, path, case.target, check=False)
        except (ValueError, RuntimeError):
            return False
        return True

    return able


def visible(row: dict[str, Any]) -> bool:
    """Whether a fault is larger than what the report itself says that it can see."""
    tolerance = {"float64": 5e-7, "float32": 5e-4}.get(row.get("dtype", ""), 0.0)
    return bool(row["size"] >= max(row.get("resolution") or 0.0, tolerance))


def expected(row: dict[str, Any]) -> bool:
    if row["kind"] == "correct":
        return bool(row["verdict"] == "passed")
    return row["verdict"] == "failed" or not visible(row)


# --------------------------------------------------------------------------------------------- page


def page(files: list[Path]) -> str:
    """Markdown: a table of our own networks and their faults, and one of foreign networks."""
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    rows = [json.loads(line) for line in lines]
    groups = list(dict.fromkeys(row["group"] for row in rows))
    of = {group: [row for row in rows if row["group"] == group] for group in groups}
    own_groups = [group for group in groups if not of[group][0].get("foreign")]
    checked = [row for row in rows if "gradcheck" in row]
    parts = [
        HEAD,
        _table(
            ["networks", "right ones passed", "faults failed", "below what it says it sees",
             "passes", "gradcheck passed", "gradcheck caught"],
            [_own_cells(group, of[group]) for group in own_groups]
            + [_own_cells("all", [row for group in own_groups for row in of[group]])],
        ),
        GRADCHECK.format(
            right=_share(not row["gradcheck"] for row in checked if row["kind"] == "correct"),
            caught=_share(not row["gradcheck"] for row in checked if row["kind"] == "fault"),
            ours=_share(row["verdict"] == "failed" for row in checked if row["kind"] == "fault"),
        ),
    ]  # fmt: skip
    foreign_groups = [group for group in groups if group not in own_groups]
    if foreign_groups:
        verdicts = ["passed", "failed", "inconclusive", "untested", "error"]
        cells = [
            [group, *(str(sum(r["verdict"] == v for r in of[group])) for v in verdicts)]
            for group in foreign_groups
        ]
        others = [
            [row["name"], f"`{row['layer']}`", row["verdict"], row.get("why") or _noted(row)]
            for group in foreign_groups
            for row in of[group]
            if row["verdict"] != "passed"
        ]
        parts += [FOREIGN, _table(["library", *verdicts], cells)]
        parts += [OTHERS, _table(["network", "layer", "verdict", "why"], others)] if others else []
    return "\n\n".join(parts) + "\n"


HEAD = """# What `verify` sees, and what it does not

Written by `python -m benchmarks.verification page`; the figures come from its `own` and `foreign`.

Each of our own networks was checked as it is, which must pass. The gradients of the first networks
of each kind were then made wrong, by errors of seven kinds and several sizes, and in nine gross
ways; each must fail. A report names the smallest error that the rounding of the score lets it see;
faults below that, or below the tolerance, are in a column of their own. Passes are the median over
right networks, counted in forward passes of the model."""

GRADCHECK = """The same gradients were given to `torch.autograd.gradcheck(fast_mode=True)`, with
its own tolerances, on a float64 copy. It failed {right} of the right ones and {caught} of the wrong
ones; `verify` failed {ours} of the wrong ones."""

FOREIGN = """## Networks that nobody here wrote

From the lists of benchmarks/foreign, a part of each; two layers of each network: the one that is
explained where none is named, and one half way there. Random weights."""

OTHERS = """Those that did not pass:"""


def _own_cells(group: str, rows: list[dict[str, Any]]) -> list[str]:
    right = [row for row in rows if row["kind"] == "correct"]
    faults = [row for row in rows if row["kind"] == "fault"]
    missed = [row for row in faults if row["verdict"] != "failed"]
    below = sum(not visible(row) for row in missed)
    assert below == len(missed), group
    passes = sorted(row["passes"] for row in right)[len(right) // 2]
    cells = [
        group,
        _of(row["verdict"] == "passed" for row in right),
        _of(row["verdict"] == "failed" for row in faults),
        str(below),
        str(passes),
    ]
    if not all("gradcheck" in row for row in rows):
        return [*cells, "", ""]  # PyTorch's own
    return [
        *cells,
        _of(row["gradcheck"] for row in right),
        _of(not row["gradcheck"] for row in faults),
    ]


def _of(flags: Any) -> str:
    found = list(flags)
    return f"{sum(found)} of {len(found)}" if found else ""


def _share(flags: Any) -> str:
    found = list(flags)
    return f"{sum(found)} of {len(found)} ({sum(found) / max(len(found), 1):.0%})"


def _noted(row: dict[str, Any]) -> str:
    if row["verdict"] == "inconclusive":
        return f"{row['kinks']} kinks, {row['lost']} lost, of {row['points']}"
    return str(row.get("fault") or "")


def _table(head: list[str], rows: list[list[str]]) -> str:
    cells = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in cells)


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.verification")
    parser.add_argument("what", choices=("own", "foreign", "page"))
    parser.add_argument("files", nargs="*", type=Path, help="for the page")
    parser.add_argument("--only", nargs="*", default=["torch"], help="frameworks, or foreign lists")
    parser.add_argument("--names", nargs="*", default=[], help="parts of foreign networks' names")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    if given.what == "page":
        given.out.write_text(page(given.files), encoding="utf-8")
        return 0
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    if given.what == "own":
        rows = (row for which in given.only for row in own(which))
    else:
        rows = foreign(given.every, given.only, given.names)
    counts: Counter[tuple[str, ...]] = Counter()
    with given.out.open("w", encoding="utf-8") as out:
        for row in rows:
            print(json.dumps(row), file=out, flush=True)
            counts[row["kind"], row["group"], row["verdict"]] += 1
            if not expected(row):
                shown = {k: v for k, v in row.items() if v not in (None, "", 0, False)}
                print(json.dumps(shown)[:420], flush=True)
    for key, count in counts.items():
        print(f"{count:5d}  " + "  ".join(key))
    return 0


if __name__ == "__main__":
    sys.exit(main())
