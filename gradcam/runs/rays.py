"""The engine of a cluster: Ray Data gives shards to a pool of actors, each with a model of its own.

Ray starts workers and nodes again that died, for ever; `attempts` is what ends that. An actor takes
whole shards, so that no other task waits for the processors that the pool holds. One more actor,
the board, carries word between them and this process.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from gradcam._faults import FAULTS, described
from gradcam.runs.local import DEATHS, Job, Watch, task_of
from gradcam.runs.places import StoreError
from gradcam.runs.shard import StoppedError, run_shard

__all__ = ["in_ray"]

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    # Of the core: that an actor's arguments would be lost with this process, and the run is, too.
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    # A thread of Ray Data that outlives Ray would start or find another.
    "RAY_ENABLE_AUTO_CONNECT": "0",
}

MEMORY = 256 * 2**20
"""Bytes that Ray keeps for objects on this machine: there are numbers of shards alone."""
BLOCKS = 10_000
"""Tasks of a run at most: Ray needs a millisecond for each before the first begins."""
PATIENCE = 30.0
"""Seconds in which a batch must end when the run is stopped."""


def in_ray(
    job: Job, numbers: Sequence[int], workers: int, address: str | None, watch: Watch
) -> None:
    """Shards on a cluster, at `address` or started here, until all are done or given up.

    workers: how many actors at most; 0 is as many as there are GPUs, or else processors. Each takes
    a GPU where the cluster has some. A Ray that this process has already connected is used as it
    is.

    Raises `StoppedError`, and RuntimeError where an actor dies again and again before it has a
    model, or with what hinders the run in an actor.
    """
    if not numbers:
        return
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError('engine="ray" needs Ray: pip install "gradcam[ray]"') from error
    with _connected(ray, address), _quiet():
        taken = _run(ray, job, numbers, workers, watch)
        while taken:  # by another process, which may have died since
            time.sleep(1)
            taken = _run(ray, job, taken, workers, watch)


@contextmanager
def _connected(ray: Any, address: str | None) -> Iterator[None]:
    """Ray, connected or started for the block unless it is already."""
    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS")
    options: dict[str, Any] = {"address": address}
    if not address:
        # Workers find modules where this process finds them.
        path = os.pathsep.join(name or os.getcwd() for name in sys.path)
        options = {
            "address": "local",  # without it Ray takes any cluster that this machine is part of
            "include_dashboard": False,
            "object_store_memory": MEMORY,
            "runtime_env": {"env_vars": {"PYTHONPATH": path}},
        }
    with _handler(signal.SIGTERM):
        ray.init(logging_level=logging.ERROR, log_to_driver=False, **options)
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _handler(number: int) -> Iterator[None]:
    """Keep what this process does at a signal: Ray's own handler would end it at once."""
    before = signal.getsignal(number)
    yield
    if callable(before) and threading.current_thread() is threading.main_thread():
        signal.signal(number, before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Errors of Ray Data alone."""
    logger = logging.getLogger("ray.data")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


# --------------------------------------------------------------------------------- in this process


def _run(ray: Any, job: Job, numbers: Sequence[int], workers: int, watch: Watch) -> list[int]:
    """Schedule shards; the numbers of those that another process was working on."""
    board = _board(ray)
    ended = threading.Event()
    lines: queue.Queue[Any] = queue.Queue()
    rows = _rows(ray, job, numbers, workers, board)
    thread = threading.Thread(target=_drain, args=(rows, lines, ended), daemon=True)
    thread.start()
    try:
        return _watch(ray, board, lines, watch)
    finally:
        ended.set()
        thread.join(PATIENCE / 3)


def _board(ray: Any) -> Any:
    """The board, on this machine, without a processor."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(_Board).options(num_cpus=0, scheduling_strategy=here).remote()


def _rows(ray: Any, job: Job, numbers: Sequence[int], workers: int, board: Any) -> Any:
    """The data set of what comes of each shard."""
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    most = workers or gpus or int(resources.get("CPU", 1))
    shards = ray.data.from_items(
        [{"shard": number} for number in numbers], override_num_blocks=min(len(numbers), BLOCKS)
    )
    return shards.map_batches(
        _Actor,
        fn_constructor_args=(job, board),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=max(1, min(most, len(numbers)))),
        num_cpus=None if gpus else 1,
        num_gpus=1 if gpus else None,
    )


def _drain(rows: Any, lines: queue.Queue[Any], ended: threading.Event) -> None:
    """What comes of the shards, as it comes; at the end None, or an error."""
    try:
        for row in rows.iter_rows():
            lines.put(row)
            if ended.is_set():
                return
    except Exception as error:  # of Ray, or of an actor
        lines.put(error)
    else:
        lines.put(None)


def _watch(ray: Any, board: Any, lines: queue.Queue[Any], watch: Watch) -> list[int]:
    taken: list[int] = []
    hindered = ""
    until: float | None = None
    while True:
        if until is None and (hindered or watch.stop()):
            until = time.monotonic() + PATIENCE
        photographs, errors, busy = ray.get(board.look.remote(until is not None))
        if photographs:
            watch.tell(photographs, errors)
        if until is not None and (not busy or time.monotonic() > until):
            if hindered:
                raise RuntimeError(hindered)
            raise StoppedError
        try:
            line = lines.get(timeout=0.2)
        except queue.Empty:
            continue
        if line is None:
            photographs, errors, _ = ray.get(board.look.remote(False))
            watch.tell(photographs, errors)
            if hindered:
                raise RuntimeError(hindered)
            return taken
        if isinstance(line, Exception):
            raise RuntimeError(f"Ray: {described(line)}") from line
        if line["outcome"] == "taken":
            taken.append(int(line["shard"]))
        hindered = hindered or str(line["hindered"])


# ---------------------------------------------------------------------------------- in the cluster


class _Board:
    """What actors have done since it was looked at, and whether they are to end."""

    def __init__(self) -> None:
        self._stopping = False
        self._photographs = self._errors = 0
        self._busy: set[str] = set()
        self._births: Counter[str] = Counter()

    def born(self, actor: str) -> int:
        """An actor is there, for the first time or again; how often it was without a model."""
        self._births[actor] += 1
        self._busy.discard(actor)
        return self._births[actor]

    def made(self, actor: str) -> None:
        """It has its model: what it dies of now, it dies of in a shard."""
        del self._births[actor]

    def begins(self, actor: str) -> bool:
        """Whether an actor may begin a shard."""
        if not self._stopping:
            self._busy.add(actor)
        return not self._stopping

    def told(self, photographs: int, errors: int) -> bool:
        """Count what is new; whether to go on."""
        self._photographs += photographs
        self._errors += errors
        return not self._stopping

    def ends(self, actor: str) -> None:
        """A shard is done, or left."""
        self._busy.discard(actor)

    def look(self, stop: bool) -> tuple[int, int, int]:
        """Photographs and errors that are new, and how many actors work. stop: have them end."""
        self._stopping = self._stopping or stop
        new = (self._photographs, self._errors)
        self._photographs = self._errors = 0
        return *new, len(self._busy)


class _Actor:
    """One worker of the pool: a model, and the shards that it is given."""

    def __init__(self, job: Job, board: Any) -> None:
        import ray

        self._ray = ray
        self._board = board
        self._name = ray.get_runtime_context().get_actor_id()
        self._goes_on = True
        self._hindered = ""
        if self._ask("born", self._name) > DEATHS:
            self._hindered = (
                f"an actor of the run died {DEATHS} times before it had made the model; see Ray's "
                "logs, or run with engine='local'"
            )
            return
        try:
            self._task = replace(task_of(job), stop=lambda: not self._goes_on, tell=self._tell)
        except (*FAULTS, StoreError, ImportError, MemoryError) as error:
            self._hindered = described(error)
        self._ask("made", self._name)

    def _ask(self, method: str, *values: Any) -> Any:
        return self._ray.get(getattr(self._board, method).remote(*values))

    def _tell(self, photographs: int, errors: int) -> None:
        self._goes_on = self._ask("told", photographs, errors)

    def __call__(self, batch: Any) -> dict[str, list[Any]]:
        number = int(batch["shard"][0])
        outcome = "stopped"
        hindered = self._hindered
        if not hindered and self._ask("begins", self._name):
            try:
                outcome = run_shard(self._task, number)
            except StoppedError:
                pass
            except (*FAULTS, StoreError, MemoryError) as error:
                hindered = described(error)
            finally:
                self._ask("ends", self._name)
        return {"shard": [number], "outcome": [outcome], "hindered": [hindered]}
