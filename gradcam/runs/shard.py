"""One shard: from photographs to one Parquet file, which appears whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypeAlias

from gradcam._types import Shape
from gradcam.runs import attempts
from gradcam.runs.attempts import Attempt
from gradcam.runs.places import Place
from gradcam.runs.plan import About, Plan, part
from gradcam.runs.reading import Columns, Item, Seen, ahead, items, load
from gradcam.runs.rows import Row, schema, table
from gradcam.runs.sources import Shard
from gradcam.runs.worker import Worker
from gradcam.runs.zarrs import maps_part, written_to

__all__ = ["Outcome", "StoppedError", "Task", "run_shard"]

Outcome: TypeAlias = Literal["done", "was done", "taken", "failed"]

ROWS = 256
"""Written to the file at a time; readers read as many at least."""

DIED = "the process died twice while it was read or explained"


class StoppedError(Exception):
    """The run was asked to end: what was begun is left out."""


@dataclass(frozen=True)
class Task:
    """What the shards of a run have in common.

    source: the arrays, where it is one of arrays. threads: that decode ahead of the model.
    stop: asked after each batch. tell: told of photographs and errors after each batch.
    """

    place: Place
    about: About
    plan: Plan
    worker: Worker
    source: Any = None
    columns: Columns | None = None
    batch: int = 32
    threads: int = 2
    stop: Callable[[], bool] = lambda: False
    tell: Callable[[int, int], None] = lambda photographs, errors: None


def run_shard(task: Task, number: int) -> Outcome:
    """Explain a shard, unless it is done, held by another process, or given up.

    Raises `StoppedError` where the run was asked to end, and whatever hinders the run as a whole: a
    full disk, or a store that does not answer. Nothing half written is left then.
    """
    place = task.place
    with place.holding(f"{attempts.FOLDER}/{number}.lock", wait=False) as mine:
        if not mine:
            return "taken"
        if place.has(part(number)):
            return "was done"
        attempt = attempts.begin(place, number)
        if attempt.given_up:
            return "failed"
        try:
            _write(task, task.plan.shard(number), attempt)
        except BaseException:
            attempts.stopped(place, number, attempt)
            raise
        attempts.finished(place, number)
    return "done"


def _write(task: Task, shard: Shard, attempt: Attempt) -> None:
    import pyarrow.parquet as pq

    about = task.about
    kind = schema(about.maps, about.grid)
    waiting: list[Row] = []
    with ExitStack() as stack:
        # Entered first, so that it is the last one to be in its place.
        path = stack.enter_context(task.place.writing(part(shard.number)))
        moved: Callable[[Sequence[Row]], list[Row]] = list
        if about.maps == "zarr":
            moved = _moving(stack, task, shard.number)
        writer = stack.enter_context(pq.ParquetWriter(path, kind, compression="zstd"))
        for rows in _rows(task, shard, attempt):
            waiting += moved([_fitting(row, about) for row in rows])
            while len(waiting) >= ROWS:
                writer.write_table(table(waiting[:ROWS], kind))
                del waiting[:ROWS]
            failures = sum(row.error is not None for row in rows)
            task.tell(len({row.sample for row in rows}), failures)
            if task.stop():
                raise StoppedError
        if waiting:
            writer.write_table(table(waiting, kind))


def _moving(stack: ExitStack, task: Task, number: int) -> Callable[[Sequence[Row]], list[Row]]:
    """A function that moves the maps of rows to the shard's file of maps."""
    path = stack.enter_context(task.place.writing(maps_part(number)))
    add = stack.enter_context(written_to(path, task.about.grid))
    count = 0

    def move(rows: Sequence[Row]) -> list[Row]:
        nonlocal count
        found = []
        maps = []
        for row in rows:
            if row.values is not None:
                maps.append(row.values)
                row = replace(row, values=None, index=count)
                count += 1
            found.append(row)
        add(maps)
        return found

    return move


def _rows(task: Task, shard: Shard, attempt: Attempt) -> Iterator[list[Row]]:
    """The rows of a shard, a batch at a time."""
    found = items(shard, task.about.root, task.source, task.columns)
    view = task.worker.view
    if attempt.one_by_one:
        for item in found:
            yield task.worker.rows(shard.number, [_alone(task, shard.number, attempt, item, view)])
        return
    batch: list[Seen] = []
    readable = 0
    for seen in ahead(found, partial(load, view=view), task.threads, 2 * task.batch):
        batch.append(seen)
        readable += seen.error is None
        # Whole batches alone: those that cannot be read do not count.
        if readable == task.batch or len(batch) >= 4 * task.batch:
            yield task.worker.rows(shard.number, batch)
            batch, readable = [], 0
    if batch:
        yield task.worker.rows(shard.number, batch)


def _alone(
    task: Task, number: int, attempt: Attempt, item: Item, view: Callable[[Any], Any] | None
) -> Seen:
    """One photograph, written down before anything is done with it."""
    if attempt.left_out(item.sample):
        return Seen(item.sample, item.key, item.label, error=DIED)
    attempts.note(task.place, number, attempt, item.sample)
    return load(item, view)


def _fitting(row: Row, about: About) -> Row:
    """The row; where its map is not of the run's shape, its error."""
    if row.values is None or about.maps == "list" or row.values.shape == about.grid:
        return row
    return replace(
        row,
        values=None,
        scale=None,
        error=f"its map is {_by(row.values.shape)}, but the run's are {_by(about.grid)}; run "
        'again, to another folder, with maps="list"',
    )


def _by(shape: Shape) -> str:
    return " x ".join(map(str, shape))
