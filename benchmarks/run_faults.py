"""What is lost when parts of a run over a data set die.

    python -m benchmarks.run_faults            # all, about ten minutes on two cores
    python -m benchmarks.run_faults disk worker

Each fault happens in the middle of a run, which then goes on or is begun again, and is compared
with one that nothing happened to. Every count must be 0.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import gradcam
from benchmarks.tiny import features, head, preprocess
from gradcam.runs.local import Watch

COUNTS = ("lost", "doubled", "half-written", "other result")
PHOTOGRAPHS = 120
SIZE = 10
TRIES = 20
MODEL = f"{__spec__.name}:model"


def view(photograph):
    """Slow enough to be hit; the process dies of a photograph that is blue alone."""
    time.sleep(0.02)
    if photograph[..., 2].min() > 200 and photograph[..., :2].max() < 50:
        os.kill(os.getpid(), signal.SIGKILL)
    return photograph


def model():
    return gradcam.Classifier(gradcam.Split(features, head), preprocess, view)


def photographs(folder: Path) -> Path:
    folder.mkdir()
    for n in range(PHOTOGRAPHS):
        values = np.random.default_rng(n).integers(0, 255, (16, 20, 3), np.uint8)
        Image.fromarray(values).save(folder / f"{n:03d}.png")
    return folder


def run(folder: Path, out: Path, **options: Any) -> gradcam.runs.Results:
    return gradcam.run(MODEL, folder, out, shard_size=SIZE, batch=4, **options)


def counted(out: Path, expected: dict[str, bytes]) -> Counter[str]:
    """What is wrong with a run that has come to its end. expected: each photograph's map."""
    rows = list(gradcam.results(out))
    times = Counter(row.key for row in rows)
    found = {row.key: said(row) for row in rows}
    left = [path for path in out.rglob("*") if path.name.endswith(".part")]
    return Counter(
        {
            "lost": len(expected.keys() - times.keys()),
            "doubled": sum(times.values()) - len(times),
            "half-written": len(left),
            "other result": sum(found.get(key, said) != said for key, said in expected.items()),
        }
    )


def said(row: gradcam.runs.Row) -> bytes:
    """The map of a row, or that it has an error."""
    return b"error" if row.values is None else row.values.tobytes()


# --------------------------------------------------------------------------------------- the faults


def corrupt(folder: Path, out: Path) -> set[str]:
    """Four files that are no photographs: each is a row with its error."""
    whole = (folder / "000.png").read_bytes()
    broken = {
        "010.png": whole[: len(whole) // 2],
        "030.png": b"",
        "050.png": b"hello",
        "070.png": random.randbytes(999),
    }
    changed(folder, broken)
    run(folder, out)
    return set(broken)


def deadly(folder: Path, out: Path, **options: Any) -> set[str]:
    """A photograph that kills the process that reads it: a row with its error."""
    Image.new("RGB", (20, 16), (0, 0, 255)).save(folder / "040.png")
    run(folder, out, **options)
    return {"040.png"}


def changed(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (folder / name).write_bytes(data)


def disk(folder: Path, out: Path) -> set[str]:
    """A disk that is full after the third shard, and has room again."""
    was = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def fill(new: int, errors: int) -> None:
        if len(list(out.glob("rows/*.parquet"))) == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, was[1]))

    try:
        run(folder, out, progress=Watch(tell=fill))
        raise AssertionError("the disk was never full")
    except OSError as error:
        print("   ", error)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, was)
        signal.signal(signal.SIGXFSZ, handler)
    run(folder, out)
    return set()


def worker(folder: Path, out: Path) -> set[str]:
    """One of two processes is killed; the run goes on by itself."""
    done = threading.Event()
    wait = random.uniform(0.5, 4)

    def kill() -> None:
        time.sleep(wait)
        while not done.is_set():
            children = multiprocessing.active_children()
            if children:
                random.choice(children).kill()
                return
            time.sleep(0.01)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        run(folder, out, workers=2)
    finally:
        done.set()
        thread.join()
    return set()


def driver(folder: Path, out: Path, engine: str = "local", then: str = "local") -> set[str]:
    """The process of the user is killed at a random instant; the run is begun again."""
    code = f"from {__spec__.name} import *; run(Path(sys.argv[1]), Path(sys.argv[2]), engine="
    process = subprocess.Popen(
        [sys.executable, "-c", f"{code}{engine!r}, workers=2)", str(folder), str(out)],
        stderr=subprocess.DEVNULL,
    )
    while not list(out.glob("attempts/*.json")) and process.poll() is None:
        time.sleep(0.01)
    time.sleep(random.uniform(0, 2 if engine == "local" else 8))
    process.kill()
    process.wait()
    time.sleep(3)  # its workers notice
    run(folder, out, engine=then, workers=1)
    return set()


def node(folder: Path, out: Path) -> set[str]:
    """One of two nodes of a Ray cluster is killed; the run goes on by itself."""
    names = ("initial_delay_ms", "1000"), ("period_ms", "500"), ("failure_threshold", "2")
    os.environ.update({f"RAY_health_check_{name}": value for name, value in names})
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", PYTHONPATH=os.getcwd())
    from ray.cluster_utils import Cluster

    cluster = Cluster(True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    seen = itertools.count()

    def kill(new: int, errors: int) -> None:
        if next(seen) == 5:
            cluster.remove_node(second, allow_graceful=False)

    try:
        run(folder, out, engine="ray", address=cluster.address, progress=Watch(tell=kill))
    finally:
        cluster.shutdown()
    return set()


def ray_deadly(folder: Path, out: Path) -> set[str]:
    """The photograph that kills its process, in Ray's hands, which would try for ever."""
    return deadly(folder, out, engine="ray", workers=2)


def ray_then_local(folder: Path, out: Path) -> set[str]:
    """The driver of a run with Ray is killed, and the run goes on without."""
    return driver(folder, out, "ray", "local")


def local_then_ray(folder: Path, out: Path) -> set[str]:
    """A local run is killed, and goes on with Ray."""
    return driver(folder, out, "local", "ray")


def deadly_local(folder: Path, out: Path) -> set[str]:
    """A photograph that kills the process that reads it: a row with its error."""
    return deadly(folder, out, workers=1)


JOBS: dict[str, tuple[Callable[[Path, Path], set[str]], int]] = {
    "corrupt": (corrupt, 1),
    "disk": (disk, 1),
    "deadly": (deadly_local, 1),
    "worker": (worker, TRIES),
    "driver": (driver, TRIES),
    "ray-deadly": (ray_deadly, 1),
    "ray-node": (node, 3),
    "ray-then-local": (ray_then_local, 2),
    "local-then-ray": (local_then_ray, 2),
}


def tried(job: Callable[[Path, Path], set[str]], tries: int, expected: dict[str, bytes]) -> Any:
    total: Counter[str] = Counter()
    for _ in range(tries):
        with tempfile.TemporaryDirectory() as name:
            folder = photographs(Path(name, "photos"))
            broken = job(folder, Path(name, "out"))
            wanted = {k: b"error" if k in broken else v for k, v in expected.items()}
            total += counted(Path(name, "out"), wanted)
    return total


def main(names: Iterable[str]) -> int:
    random.seed(0)
    with tempfile.TemporaryDirectory() as name:
        folder = photographs(Path(name, "photos"))
        expected = {row.key: said(row) for row in run(folder, Path(name, "out"))}
    print(f"{'':16}{'tries':>6}" + "".join(f"{count:>14}" for count in COUNTS))
    wrong = 0
    for job in names or JOBS:
        found = tried(*JOBS[job], expected)
        cells = "".join(f"{found[count]:>14}" for count in COUNTS)
        print(f"{job:16}{JOBS[job][1]:>6}{cells}", flush=True)
        wrong += found.total()
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
