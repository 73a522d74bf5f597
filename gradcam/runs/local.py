"""The engine of one machine: a loop in this process, or several processes that are watched.

A process that dies is started again; what it was working on is tried again (`attempts`). Processes
take shards as they come, each holding the one that it is working on. In a store, where nothing can
be held, each has its own.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing import connection, get_context
from typing import Any

from gradcam._faults import FAULTS, described
from gradcam._progress import Progress
from gradcam.identity import identity
from gradcam.runs.places import Place, StoreError, opened
from gradcam.runs.plan import About, Plan, part
from gradcam.runs.reading import Columns
from gradcam.runs.shard import StoppedError, Task, run_shard
from gradcam.runs.worker import Asked, Worker

__all__ = ["DEATHS", "Job", "Watch", "in_child", "in_processes", "loop", "pending", "task_of"]

DEATHS = 3
"""Of a process, one after the other, before it has a model: it is not started again."""

GPUS = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Job:
    """All that a process needs to take part in a run; it can be sent to another.

    make: gives the model, called once in each process; it must be the one of the run.
    """

    out: str
    make: Callable[[], Any]
    about: About
    asked: Asked
    columns: Columns | None
    threads: int


@dataclass
class Watch:
    """What a run is told while it goes on.

    stop: whether to end after the current batch. tell: photographs and errors that are new.
    progress: how it is shown, as of `gradcam.run`.
    """

    stop: Callable[[], bool] = lambda: False
    tell: Callable[[int, int], None] = lambda photographs, errors: None
    progress: Progress = False


def pending(place: Place, shards: int, mine: tuple[int, int]) -> list[int]:
    """The shards of this part of the run, i of n, that have no file yet."""
    done = place.names("rows")
    index, count = mine
    numbers = range(index, shards, count)
    return [n for n in numbers if part(n).rpartition("/")[2] not in done]


def loop(task: Task, numbers: Iterable[int], watch: Watch) -> None:
    """Shards one after the other, in this process.

    Those that another process is working on are asked for again, since it may die.
    """
    task = replace(task, stop=watch.stop, tell=watch.tell)
    waiting = list(numbers)
    while waiting:
        taken = []
        for number in waiting:
            if run_shard(task, number) == "taken":
                taken.append(number)
            if watch.stop():
                raise StoppedError
        waiting = taken
        if waiting:
            time.sleep(1)


def task_of(job: Job, model: Any = None) -> Task:
    """The job with its model, made here unless it is given; it must be the one of the run."""
    if model is None:
        model = job.make()
        _check_model(model, job.about)
    place = opened(job.out)
    worker = Worker(model, job.asked)
    batch = job.asked.batch
    return Task(place, job.about, Plan(place), worker, None, job.columns, batch, job.threads)


def _check_model(model: Any, about: About) -> None:
    """Raise a ValueError where another process has made another model."""
    found = identity(model).digest
    if found != about.settings["weights"]:
        raise ValueError(
            f"the model that this process made is not that of the run: its hash is {found}, and "
            f"the run's {about.settings['weights']}; a factory must give the same weights each time"
        )


# ------------------------------------------------------------------------------- several processes


def in_processes(job: Job, numbers: Sequence[int], workers: int, watch: Watch) -> None:
    """Shards in several processes, until all are done or given up.

    Raises RuntimeError where a process dies again and again before it has done anything, and what
    hinders the run in a process as a RuntimeError of the same words.
    """
    crew = _Crew(job, numbers, min(workers, len(numbers)), watch)
    try:
        crew.run()
    finally:
        crew.end()
    if watch.stop():
        raise StoppedError


def in_child(
    function: Callable[[Any], Any], request: Any, watch: Watch, mark: Callable[[], Any]
) -> Any:
    """What a function says in a process of its own, which is begun anew where it dies.

    What it raises is raised here. mark: changes as the function comes further; where it has not
    changed between several deaths, a RuntimeError.
    """
    context = get_context("spawn")
    deaths = 0
    last = mark()
    while deaths < DEATHS:
        ours, theirs = context.Pipe()
        process = context.Process(target=_child, args=(function, request, theirs), daemon=True)
        process.start()
        theirs.close()
        try:
            deaths += 1
            while True:
                if watch.stop():
                    process.kill()
                    raise StoppedError
                if not ours.poll(0.2):
                    continue
                kind, value = ours.recv()
                if kind == "raised":
                    raise value
                return value
        except EOFError:
            now = mark()
            deaths = deaths if now == last else 0
            last = now
        finally:
            process.join()
            ours.close()
    raise RuntimeError(
        f"a process died {DEATHS} times (exit code {process.exitcode}) before it had done "
        "anything; see what it printed"
    )


def _child(function: Callable[[Any], Any], request: Any, pipe: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        answer = function(request)
    except (*FAULTS, StoreError, ImportError, MemoryError) as error:
        pipe.send(("raised", error.with_traceback(None)))
        return
    pipe.send(("said", answer))


class _Crew:
    """The processes of a run."""

    def __init__(self, job: Job, numbers: Sequence[int], workers: int, watch: Watch) -> None:
        self._job = job
        self._watch = watch
        self._context = get_context("spawn")
        local = opened(job.out).local
        self._shares: list[list[int]] = []
        for index in range(workers):
            own = list(numbers[index::workers])
            known = set(own)
            others = [n for n in numbers if n not in known] if local else []
            self._shares.append(own + others)
        self._deaths = [0] * workers
        self._members: dict[Any, tuple[int, Any]] = {}

    def run(self) -> None:
        for index in range(len(self._shares)):
            self._start(index)
        stopping = False
        while self._members:
            for pipe in connection.wait(list(self._members), timeout=0.2):
                self._hear(pipe)
            if self._watch.stop() and not stopping:
                stopping = True
                for pipe in self._members:
                    _say(pipe, "stop")

    def _start(self, index: int) -> None:
        ours, theirs = self._context.Pipe()
        arguments = (self._job, self._shares[index], theirs)
        process = self._context.Process(target=_member, args=arguments, daemon=True)
        with _cores(len(self._shares)), _gpu(index, len(self._shares)):
            process.start()
        theirs.close()
        self._members[ours] = (index, process)

    def _hear(self, pipe: Any) -> None:
        index, process = self._members[pipe]
        try:
            kind, *values = pipe.recv()
        except (EOFError, OSError):
            del self._members[pipe]
            process.join()
            self._deaths[index] += 1
            if self._deaths[index] >= DEATHS:
                raise RuntimeError(
                    f"a process of the run died {DEATHS} times (exit code {process.exitcode}) "
                    "before it had made the model; see what it printed, or run with workers=0"
                ) from None
            if not self._watch.stop():
                self._start(index)
            return
        if kind == "told":
            self._deaths[index] = 0
            self._watch.tell(*values)
        elif kind == "hindered":
            raise RuntimeError(values[0])
        else:  # it has ended
            del self._members[pipe]
            process.join()

    def end(self) -> None:
        """End those that are still there: after their batch, or else at once."""
        for pipe in self._members:
            _say(pipe, "stop")
        for pipe, (_, process) in self._members.items():
            process.join(timeout=30)
            if process.is_alive():
                process.kill()
                process.join()
            pipe.close()


def _say(pipe: Any, word: str) -> None:
    with contextlib.suppress(OSError):  # it has just ended
        pipe.send(word)


def _member(job: Job, numbers: Sequence[int], pipe: Any) -> None:
    """What a process does; it is ended by its parent, and not by Ctrl-C in the terminal."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asked = threading.Event()
    watch = Watch(stop=asked.is_set, tell=lambda *counts: pipe.send(("told", *counts)))

    def listen() -> None:
        with contextlib.suppress(EOFError, OSError):  # the parent has died
            pipe.recv()
        asked.set()

    threading.Thread(target=listen, daemon=True).start()
    try:
        task = task_of(job)
        watch.tell(0, 0)  # what it dies of now, it dies of in a shard: `attempts` ends that
        loop(task, numbers, watch)
    except StoppedError:
        pass
    except (*FAULTS, StoreError, MemoryError) as error:
        pipe.send(("hindered", described(error)))
        return
    pipe.send(("ended",))


@contextmanager
def _cores(workers: int) -> Iterator[None]:
    """Processes that are started in the block share the cores rather than fight for them."""
    name = "OMP_NUM_THREADS"
    share = max(1, (os.cpu_count() or 1) // workers)
    with _environment(name, os.environ.get(name, str(share))):
        yield


@contextmanager
def _gpu(index: int, workers: int) -> Iterator[None]:
    """Of several processes, the one that is started in the block sees one of several GPUs alone."""
    gpus = _gpus() if workers > 1 else []
    if len(gpus) < 2:
        yield
        return
    with _environment(GPUS, gpus[index % len(gpus)]):
        yield


def _gpus() -> list[str]:
    """NVIDIA's GPUs that this process may use, by the names that CUDA has for them."""
    named = os.environ.get(GPUS)
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    return _all_gpus()


@cache
def _all_gpus() -> list[str]:
    try:
        told = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return []
    lines = [line for line in told.stdout.splitlines() if line.startswith("GPU ")]
    return [str(n) for n in range(len(lines))]


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """A variable has this value in the block, for processes that are started there."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before
