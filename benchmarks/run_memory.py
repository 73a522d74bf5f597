"""The peak memory of a run over many small photographs, which must not grow with their number.

    python benchmarks/run_memory.py [--models numpy torch jax] [--counts 1000 10000 50000] [--tar]

Each run is in a process of its own, whose peak resident memory is read at its end; Linux only. The
photographs are JPEG files of 64 x 64 pixels in one folder, or with `--tar` in one tar file, which
is one shard.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import argument_parser, table
from PIL import Image

import gradcam

KINDS = 16
"""Of photographs; files beyond are links to them."""


def jpegs() -> list[bytes]:
    found = []
    for n in range(KINDS):
        values = np.random.default_rng(n).integers(0, 256, (8, 8, 3), np.uint8)
        file = io.BytesIO()
        Image.fromarray(values).resize((64, 64)).save(file, "JPEG")
        found.append(file.getvalue())
    return found


def folder_of(folder: Path, count: int) -> Path:
    folder.mkdir()
    for n, data in enumerate(jpegs()):
        (folder.parent / f"{n}.jpg").write_bytes(data)
    for n in range(count):
        os.link(folder.parent / f"{n % KINDS}.jpg", folder / f"photograph-{n:08d}.jpg")
    return folder


def tar_of(path: Path, count: int) -> Path:
    photographs = jpegs()
    with tarfile.open(path, "w") as tar:
        for n in range(count):
            data = photographs[n % KINDS]
            member = tarfile.TarInfo(f"{n:08d}.jpg")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


# -------------------------------------------------------------------------------------- the models


def channels_first(photographs: Sequence[np.ndarray]) -> np.ndarray:
    batch = np.stack(photographs).astype(np.float32) / 255
    return np.ascontiguousarray(batch.transpose(0, 3, 1, 2))


def numpy_model() -> gradcam.Classifier:
    def head(a: np.ndarray) -> np.ndarray:
        return a.mean((2, 3))

    return gradcam.Classifier(gradcam.Split(lambda x: x[:, :, ::8, ::8], head), channels_first)


def torch_model() -> gradcam.Classifier:
    import torch
    from torch import nn

    torch.manual_seed(0)
    features = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.ReLU())
    network = nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    return gradcam.Classifier(
        network.eval(), lambda photographs: torch.from_numpy(channels_first(photographs)), layer="0"
    )


def jax_model() -> gradcam.Classifier:
    import jax.numpy as jnp

    weights = np.random.default_rng(0).normal(size=(3, 10)).astype(np.float32)
    split = gradcam.Split(lambda x: x[:, :, ::8, ::8], lambda a: a.mean((2, 3)) @ weights)
    return gradcam.Classifier(split, lambda photographs: jnp.asarray(channels_first(photographs)))


MODELS: dict[str, Callable[[], gradcam.Classifier]] = {
    "numpy": numpy_model,
    "torch": torch_model,
    "jax": jax_model,
}


# ---------------------------------------------------------------------------------------- the runs


def peak() -> float:
    """Of this process's resident memory, in MB."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM"):
            return float(line.split()[1]) / 1024
    raise RuntimeError("/proc/self/status has no VmHWM")


def one(model: str, source: str) -> None:
    """Run over a source, and print the peak."""
    with tempfile.TemporaryDirectory() as out:
        found: Any = gradcam.run(MODELS[model](), source, out)
        megabytes = peak()
        assert not found.errors()
    print(megabytes)


def measured(model: str, count: int, tar: bool) -> float:
    """The peak of a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "photographs")
        source = tar_of(source.with_suffix(".tar"), count) if tar else folder_of(source, count)
        command = [sys.executable, __file__, "--one", model, str(source)]
        told = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(told.stdout)


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--counts", nargs="+", type=int, default=[1000, 10_000, 50_000])
    parser.add_argument("--tar", action="store_true")
    parser.add_argument("--one", nargs=2, help="for the processes that are started here")
    options = parser.parse_args()
    if options.one:
        one(*options.one)
        return
    rows = []
    for model in options.models:
        peaks = [measured(model, count, options.tar) for count in options.counts]
        growth = max(peaks) / min(peaks) - 1
        rows.append([model, *(f"{megabytes:.0f}" for megabytes in peaks), f"{growth:.1%}"])
        print(*rows[-1], flush=True)
    head = ("model", *(f"{count} photographs, MB" for count in options.counts), "apart by")
    print("\n".join(table(head, rows)))


if __name__ == "__main__":
    main()
