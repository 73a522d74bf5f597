"""What is lost when a run is killed: `kill -9` at random instants of what writes files.

    python -m benchmarks.kills 200

Each try runs a job in a process of its own, kills it, looks at what lies on the disk, runs the job
again to its end, and looks once more. It is killed at as many random instants as are asked for, and
besides before every step that changes a file or a folder. What is counted is named in `FAULTS`;
every count must be 0.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

import gradcam
from benchmarks.tiny import features, head, preprocess
from gradcam.cli.commands import app

FAULTS = ("lost", "doubled", "half-written", "left over", "other result")
PHOTOGRAPHS = 3
SAVES = 3


def model() -> gradcam.Classifier:
    return gradcam.Classifier(gradcam.Split(features, head), preprocess, lambda photo: photo)


class Job(Protocol):
    """run: the job, from its beginning or from where it was killed. found: the faults on the disk,
    after a kill or, with `finished`, after a run that came to its end.
    """

    def run(self) -> None: ...

    def found(self, finished: bool) -> Counter[str]: ...


# ----------------------------------------------------------------------------------------- the jobs


def photographs(folder: Path) -> list[Path]:
    paths = []
    folder.mkdir(parents=True)
    for n in range(PHOTOGRAPHS):
        values = np.random.default_rng(n).integers(0, 255, (16, 20, 3), np.uint8)
        paths.append(folder / f"{n}.png")
        Image.fromarray(values).save(paths[-1])
    return paths


def explanation_faults(folder: Path) -> Counter[str]:
    """Of a saved explanation: every file that its manifest lists must be there and whole."""
    try:
        gradcam.Explanation.load(folder)
        files = json.loads((folder / "manifest.json").read_text())["files"]
        np.load(folder / files["heatmaps"])
        for name in (*files["pictures"], *filter(None, [files.get("figure")])):
            with Image.open(folder / name) as picture:
                picture.load()
    except FileNotFoundError:
        return Counter({"lost": 1})
    except (ValueError, OSError):
        return Counter({"half-written": 1})
    return Counter()


class Save:
    """One explanation after another into one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "out"
        self.explanations = []
        for n in range(SAVES):
            maps = np.random.default_rng(n).random((1, 20, 20))
            self.explanations.append(gradcam.Explanation(maps, np.full(1, n), np.zeros(1, int)))
        self.explanations[0].save(self.folder)

    def run(self) -> None:
        for explanation in self.explanations:
            explanation.save(self.folder, overwrite=True)

    def found(self, finished: bool) -> Counter[str]:
        found = explanation_faults(self.folder)
        if finished:
            found["left over"] += len(os.listdir(self.folder.parent)) - 1
            last = gradcam.Explanation.load(self.folder).scores
            found["other result"] += last.tolist() != [SAVES - 1]
        return found


class Explain:
    """`gradcam explain` over some photographs, twice: the second run replaces what is there."""

    def __init__(self, folder: Path) -> None:
        self.paths = photographs(folder / "photos")
        self.folder = folder / "out"
        finish(self)

    def run(self) -> None:
        words = ["explain", *map(str, self.paths), "--model", "benchmarks.kills:model"]
        app([*words, "--out", str(self.folder)], standalone_mode=False)

    def found(self, finished: bool) -> Counter[str]:
        found: Counter[str] = Counter()
        for path in self.paths:
            found += explanation_faults(self.folder / path.stem)
        if finished:
            found["left over"] += len(os.listdir(self.folder)) - PHOTOGRAPHS
        return found


class Evaluate:
    """`gradcam.evaluate`, whose rows are kept, and `Evaluation.save`."""

    def __init__(self, folder: Path) -> None:
        self.paths = photographs(folder / "photos")
        self.folder = folder / "out"
        self.kept: set[str] = set()

    def run(self) -> None:
        measures = ["deletion", "average-drop"]
        options = {"target": 0, "out": self.folder}
        gradcam.evaluate(model(), self.paths, ["grad-cam", "hires-cam"], measures, **options).save(
            self.folder
        )

    def found(self, finished: bool) -> Counter[str]:
        found: Counter[str] = Counter()
        lines = []
        if (self.folder / "rows.jsonl").exists():
            # What follows the last line's end is a row that was being written.
            lines = (self.folder / "rows.jsonl").read_text().split("\n")
            found["half-written"] += bool(finished and lines[-1])
            lines = lines[:-1]
        found["lost"] += len(self.kept - set(lines))
        self.kept |= set(lines)
        keys = []
        for line in lines:
            row = json.loads(line)
            keys.append((row["photograph"], row["method"]))
        found["doubled"] += len(keys) - len(set(keys))
        for name in ("settings.json", "evaluation.json"):
            if (self.folder / name).exists():
                try:
                    json.loads((self.folder / name).read_text())
                except ValueError:
                    found["half-written"] += 1
        if finished:
            found["other result"] += len(keys) != PHOTOGRAPHS * (2 + len(gradcam.metrics.CONTROLS))
            found["left over"] += len(os.listdir(self.folder)) - 4
        return found


class Run:
    """`gradcam.run` over a folder, in shards of two."""

    def __init__(self, folder: Path) -> None:
        photographs(folder / "photos")
        self.source = folder / "photos"
        self.folder = folder / "out"
        self.kept: dict[str, bytes] = {}

    def run(self) -> None:
        gradcam.run(model(), self.source, self.folder, shard_size=2, target=0)

    def found(self, finished: bool) -> Counter[str]:
        found: Counter[str] = Counter()
        if not (self.folder / "run.json").exists():
            return Counter({"lost": int(finished)})
        parts = {path.name: path.read_bytes() for path in (self.folder / "rows").glob("*.parquet")}
        found["lost"] += sum(parts.get(name) != data for name, data in self.kept.items())
        self.kept = parts
        try:
            rows = list(gradcam.results(self.folder))
        except (ValueError, OSError):
            found["half-written"] += 1
            return found
        keys = [row.key for row in rows]
        found["doubled"] += len(keys) - len(set(keys))
        found["other result"] += any(row.error is not None for row in rows)
        if finished:
            found["lost"] += PHOTOGRAPHS - len(set(keys))
            names = {path.name for path in self.folder.rglob("*") if path.is_file()}
            found["left over"] += len(names - {"run.json", "plan.parquet", *parts})
        return found


JOBS: dict[str, Callable[[Path], Job]] = {
    "save": Save,
    "explain": Explain,
    "evaluate": Evaluate,
    "run": Run,
}


# -------------------------------------------------------------------------------------- the killing


def started(run: Callable[[], None]) -> int:
    """The id of a new process that runs it, silently."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        run()
        code = 0
    finally:
        os._exit(code)


def finish(job: Job) -> None:
    _, status = os.waitpid(started(job.run), 0)
    if status:
        raise RuntimeError(f"the job failed: {status}")


def tries(name: str, count: int, seed: int = 0) -> Counter[str]:
    """The faults of `count` kills of a job; "killed" are those that were not over before."""
    draw = random.Random(seed)
    found: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        job = JOBS[name](Path(folder))
        finish(job)  # reads what is read once
        job = JOBS[name](Path(folder, "timed"))
        start = time.perf_counter()
        finish(job)
        seconds = time.perf_counter() - start
    for _ in range(count):
        with tempfile.TemporaryDirectory() as folder:
            job = JOBS[name](Path(folder))
            process = started(job.run)
            time.sleep(draw.uniform(0, seconds))
            os.kill(process, signal.SIGKILL)
            _, status = os.waitpid(process, 0)
            found["killed"] += os.WIFSIGNALED(status)
            found.update(job.found(finished=False))
            finish(job)
            found.update(job.found(finished=True))
    return found


STEPS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate")
"""The audit events before which a job is killed, where they are of its own files."""


def killed_before(step: int, run: Callable[[], None], folder: Path) -> None:
    """Run it, and kill this process before that step."""
    steps = itertools.count()

    def hook(event: str, args: tuple[object, ...]) -> None:
        if event in STEPS and str(args[0]).startswith(str(folder)) and next(steps) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    run()


def every_step(name: str) -> Counter[str]:
    """The faults of a kill before each of a job's steps."""
    found: Counter[str] = Counter()
    for step in itertools.count():
        with tempfile.TemporaryDirectory() as folder:
            job = JOBS[name](Path(folder))
            process = started(partial(killed_before, step, job.run, Path(folder)))
            _, status = os.waitpid(process, 0)
            if not os.WIFSIGNALED(status):  # it has fewer steps
                return found
            found["killed"] += 1
            found.update(job.found(finished=False))
            finish(job)
            found.update(job.found(finished=True))
    raise AssertionError


def main(count: int) -> int:
    """Print a line for each job; 1 where anything was lost."""
    faults = 0
    for name in JOBS:
        for how, run in (
            ("random instants", partial(tries, name, count)),
            ("steps", partial(every_step, name)),
        ):
            start = time.perf_counter()
            found = run()
            told = ", ".join(f"{fault} {found[fault]}" for fault in FAULTS)
            seconds = time.perf_counter() - start
            print(
                f"{name}: killed {found['killed']} times ({how}): {told}; {seconds:.0f} s",
                flush=True,
            )
            faults += sum(found[fault] for fault in FAULTS)
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
