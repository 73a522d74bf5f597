"""A hundred million photographs on paper: what is measured here, times what it takes.

    python -m benchmarks.run_paper            # a few minutes; about 300 MB in the temporary folder

Files are listed, shards planned, rows written, and results opened, at sizes that fit here. Each is
then taken times 10^8 over its size. The rate of explaining is yours: `make throughput`.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

import gradcam
from gradcam.runs.places import opened
from gradcam.runs.plan import About, Plan, write
from gradcam.runs.rows import Row, schema, table
from gradcam.runs.sources import Listing, listing

PHOTOGRAPHS = 10**8
FILES = 100_000
NAMES = 1_000_000
SHARD = 1024
ROWS = 256
PARTS = 400
RATES = (25, 500, 2000)
"""Photographs a second: of two cores, of a small and of a large accelerator."""


def rows(shard: int) -> list[Row]:
    """Of a shard, with maps like those of a network: smooth, and different in each."""
    random = np.random.default_rng(shard)
    found = []
    for sample in range(SHARD):
        map_ = np.maximum(random.normal(size=(7, 7)).cumsum(0).cumsum(1), 0)
        found.append(
            Row(
                key=f"class{sample % 50:03d}/photograph-{shard * SHARD + sample:09d}.jpg",
                shard=shard,
                sample=sample,
                label=f"class{sample % 50:03d}",
                target=0,
                method="grad-cam",
                class_index=int(random.integers(1000)),
                name="a class of some name",
                score=float(random.normal()),
                probability=float(random.random()),
                top_class=int(random.integers(1000)),
                top_name="a class of some name",
                values=(map_ / max(map_.max(), 1e-9)).astype(np.float16),
                scale=float(map_.max()),
                size=(224, 224),
                peak=(int(random.integers(224)), int(random.integers(224))),
                box=tuple(int(n) for n in random.integers(0, 224, 4)),
                blank=not map_.any(),
            )
        )
    return found


def part(path: Path, shard: int) -> None:
    kind = schema("tensor", (7, 7))
    own = rows(shard)
    with pq.ParquetWriter(path, kind, compression="zstd") as writer:
        for start in range(0, SHARD, ROWS):
            writer.write_table(table(own[start : start + ROWS], kind))


def measured(folder: Path) -> dict[str, float]:
    """Seconds and bytes, by what was measured, for one photograph or one shard."""
    found = {}
    source = folder / "source"
    for n in range(FILES):
        if n % 1000 == 0:
            (source / f"{n // 1000:03d}").mkdir(parents=True)
        (source / f"{n // 1000:03d}" / f"photograph-{n:09d}.jpg").touch()
    start = time.perf_counter()
    list(listing(source, SHARD).shards)
    found["listing, seconds a file"] = (time.perf_counter() - start) / FILES

    place = opened(folder / "out")
    names = [f"{n // 1000:06d}/photograph-{n:09d}.jpg" for n in range(NAMES)]
    shards = list(_shards(names))
    about = {
        "settings": {"methods": {"grad-cam": ""}, "model": "model"},
        "layers": ("layer",),
        "axes": (),
        "choice": None,
        "maps": "tensor",
        "grid": (7, 7),
    }
    start = time.perf_counter()
    whole: About = write(place, about, Listing("", "paper", shards))
    found["planning, seconds a file"] = (time.perf_counter() - start) / NAMES
    found["plan, bytes a file"] = (folder / "out" / "plan.parquet").stat().st_size / NAMES
    plan = Plan(place)
    start = time.perf_counter()
    for number in range(0, whole.shards, whole.shards // 50):
        plan.shard(number)
    found["reading a shard of the plan, seconds"] = (time.perf_counter() - start) / 50

    (folder / "out" / "rows").mkdir()
    part(folder / "out" / "rows" / "part-00000000.parquet", 0)
    start = time.perf_counter()
    for shard in range(1, 5):
        part(folder / "out" / "rows" / f"part-{shard:08d}.parquet", shard)
    found["writing rows, seconds a row"] = (time.perf_counter() - start) / 4 / SHARD
    first = (folder / "out" / "rows" / "part-00000000.parquet").read_bytes()
    found["rows, bytes a row"] = len(first) / SHARD
    for shard in range(5, PARTS):
        (folder / "out" / "rows" / f"part-{shard:08d}.parquet").write_bytes(first)
    results = gradcam.results(folder / "out")
    start = time.perf_counter()
    len(results)
    found["opening results, seconds a file of rows"] = (time.perf_counter() - start) / PARTS
    start = time.perf_counter()
    results.lowest("probability", 10)
    found["the ten lowest, seconds a file of rows"] = (time.perf_counter() - start) / PARTS
    return found


def _shards(names: list[str]):
    from gradcam.runs.sources import Shard

    for number, start in enumerate(range(0, len(names), SHARD)):
        own = tuple(names[start : start + SHARD])
        yield Shard(number, "files", own, items=len(own))


def main() -> int:
    """Print what was measured, and what a hundred million photographs take."""
    with tempfile.TemporaryDirectory() as folder:
        found = measured(Path(folder))
    shards = PHOTOGRAPHS / SHARD
    print("| measured here | | 10^8 photographs |")
    print("|---|---|---|")
    for name, value in found.items():
        if "bytes" in name:
            print(f"| {name} | {value:.0f} | {value * PHOTOGRAPHS / 1e9:.1f} GB |")
        elif "a file of rows" in name or "shard of the plan" in name:
            print(f"| {name} | {value * 1e3:.2f} ms | {value * shards / 60:.0f} minutes |")
        else:
            print(f"| {name} | {value * 1e6:.1f} us | {value * PHOTOGRAPHS / 60:.0f} minutes |")
    print(f"| files of rows | | {shards:,.0f} |")
    for rate in RATES:
        hours = PHOTOGRAPHS / rate / 3600
        print(f"| explaining at {rate} photographs a second | | {hours:,.0f} machine hours |")
    print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
