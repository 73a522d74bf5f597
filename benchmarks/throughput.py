"""How fast a run over a data set is, beside a plain loop that explains nothing.

    python benchmarks/throughput.py [--networks demo resnet50] [--frameworks torch jax]

The loop reads and decodes with as many threads, makes the same batches of 32 and runs the bare
forward pass. Both are timed in turn from their first batch on: before it a run hashes the weights,
lists the source and looks at the first photographs, once. Prints medians of the ratios: of images a
second, and of images per second of the processors' time, which other programs disturb less.

    python benchmarks/throughput.py --workers [--networks demo]

Two worker processes beside one, each with one thread for the model: images a second, and per second
of the processors' time with the start of the processes.
"""

from __future__ import annotations

import functools
import itertools
import os
import resource
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from common import Quartiles, argument_parser, table
from PIL import Image

import gradcam
from gradcam import backends
from gradcam._arrays import to_numpy
from gradcam.pictures.images import read
from gradcam.runs import Factory
from gradcam.runs.local import Watch
from gradcam.zoo import efficientnet_lite0, imagenet
from gradcam.zoo.demo import photograph

BATCH = 32
NAMES = ("chelsea", "coffee", "camera", "rocket", "astronaut")
SIZE = (375, 500)
"""Of most of ImageNet's photographs."""


def photographs(folder: Path, count: int) -> list[Path]:
    """JPEG files: random crops of scikit-image's photographs, of 375 x 500 pixels."""
    random = np.random.default_rng(0)
    pictures = [Image.fromarray(photograph(name)).resize((800, 600)) for name in NAMES]
    paths = []
    for n in range(count):
        top, left = (int(random.integers(0, most + 1)) for most in (600 - SIZE[0], 800 - SIZE[1]))
        box = (left, top, left + SIZE[1], top + SIZE[0])
        paths.append(folder / f"{n:05d}.jpg")
        pictures[n % len(pictures)].crop(box).save(paths[-1], quality=90)
    return paths


def classifier(name: str, framework: str) -> gradcam.Classifier:
    """The demo network, or ResNet-50 with the demo network's preprocessing."""
    demo = efficientnet_lite0("torch" if framework == "torch" else "jax")
    if name == "demo":
        return demo
    import resnet

    network, layer = resnet.torch_resnet50, "6"
    if framework == "jax":
        network, layer = resnet.flax_resnet50, "stages/3"
    return gradcam.Classifier(network(), demo.preprocess, demo.view, imagenet.labels(), layer)


class Clock:
    """The seconds of the wall and of this process's processors since the first batch was done."""

    def __init__(self) -> None:
        self._start: tuple[float, float] | None = None

    def batch_done(self) -> None:
        if self._start is None:
            self._start = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        assert self._start is not None
        wall, own = self._start
        return time.perf_counter() - wall, time.process_time() - own


Timed = Callable[[], tuple[float, float]]
"""A call, and what its clock says."""


def plain_loop(net: gradcam.Classifier, paths: Sequence[Path], threads: int) -> Timed:
    """A call that runs the bare network over the photographs."""
    assert net.view is not None
    assert net.preprocess is not None
    view, preprocess = net.view, net.preprocess
    model: Any = backends.adapt(net.model, preprocess([view(read(paths[0]))]))

    def call() -> tuple[float, float]:
        clock = Clock()
        for batch in _batches(paths, lambda path: view(read(path)), threads):
            to_numpy(model.forward(preprocess(batch)))
            clock.batch_done()
        return clock.read()

    return call


def _batches(
    paths: Sequence[Path], work: Callable[[Path], np.ndarray], threads: int
) -> Iterator[list[np.ndarray]]:
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[np.ndarray]] = deque()
        batch = []
        for n in range(len(paths) + 2 * BATCH):
            if n < len(paths):
                waiting.append(pool.submit(work, paths[n]))
            if n >= 2 * BATCH:
                batch.append(waiting.popleft().result())
                if len(batch) == BATCH:
                    yield batch
                    batch = []


def run_of(model: Any, source: Path, threads: int) -> Timed:
    """A call that explains the photographs of a folder, in this process."""

    def call() -> tuple[float, float]:
        clock = Clock()
        watch = Watch(tell=lambda photographs, errors: clock.batch_done())
        with tempfile.TemporaryDirectory() as out:
            found = gradcam.run(model, source, out, batch=BATCH, threads=threads, progress=watch)
            taken = clock.read()
            assert not found.errors()
        return taken

    return call


def row(name: str, framework: str, count: int, threads: int, repeats: int) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        paths = photographs(Path(folder), count)
        net = classifier(name, framework)
        loop, run = plain_loop(net, paths, threads), run_of(net, Path(folder), threads)
        for warm_up in (loop, run):
            warm_up()
        taken = np.array([(loop(), run()) for _ in range(repeats)])
    rates = (count - BATCH) / np.median(taken[..., 0], axis=0)
    ratios = [str(Quartiles.of(taken[:, 0, of] / taken[:, 1, of])) for of in (0, 1)]
    return [name, framework, *(f"{rate:.1f}" for rate in rates), *ratios]


def workers_row(name: str, framework: str, count: int, repeats: int) -> list[str]:
    """Two worker processes beside one."""
    os.environ["OMP_NUM_THREADS"] = "1"
    model = Factory(functools.partial(classifier, name, framework))
    with tempfile.TemporaryDirectory() as folder:
        photographs(Path(folder), count)
        taken = np.empty((repeats, 2, 2))
        for turn, workers in itertools.product(range(repeats), (1, 2)):
            clock, before = Clock(), resource.getrusage(resource.RUSAGE_CHILDREN)
            watch = Watch(tell=lambda photographs, errors, clock=clock: clock.batch_done())
            options: dict[str, Any] = {"batch": 16, "shard_size": 16, "threads": 1}
            with tempfile.TemporaryDirectory() as out:
                gradcam.run(model, folder, out, workers=workers, progress=watch, **options)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            taken[turn, workers - 1] = clock.read()[0], used
    ratios = [str(Quartiles.of(taken[:, 0, of] / taken[:, 1, of])) for of in (0, 1)]
    rates = (count - 16) / np.median(taken[..., 0], axis=0)
    return [name, framework, *(f"{rate:.1f}" for rate in rates), *ratios]


def main() -> None:
    parser = argument_parser(__doc__, repeats=7)
    parser.add_argument("--networks", nargs="+", default=["demo", "resnet50"])
    parser.add_argument("--frameworks", nargs="+", default=["torch", "jax"])
    parser.add_argument("--photographs", type=int, default=288)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", action="store_true")
    options = parser.parse_args()
    sides = (
        ("one worker, images/s", "two") if options.workers else ("loop, images/s", "gradcam.run")
    )
    head = ("network", "framework", *sides, "ratio", "of processor time")
    rows = []
    for name in options.networks:
        for framework in options.frameworks:
            count, threads = options.photographs, options.threads
            if options.workers:
                rows.append(workers_row(name, framework, count, options.repeats))
            else:
                rows.append(row(name, framework, count, threads, options.repeats))
            print(*rows[-1], flush=True)
    print("\n".join(table(head, rows)))


if __name__ == "__main__":
    main()
