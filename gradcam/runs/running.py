"""Explaining whole data sets: `gradcam.run`.

source -> sources: shards, always the same ones
       -> plan: written once, with a hash of everything that decides a row
       -> shard: each to one file, which appears whole or not at all; scheduled by an engine
       -> results: what lies in the folder
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, get_args

from gradcam._factories import made
from gradcam._numbers import check_whole
from gradcam._progress import Progress
from gradcam._types import LayerLike
from gradcam.backends import entry
from gradcam.methods import MethodLike
from gradcam.metrics.subject import Confidence
from gradcam.runs.local import Job, Watch, in_child, in_processes, loop, pending, task_of
from gradcam.runs.lookup import Results
from gradcam.runs.places import Place, opened
from gradcam.runs.plan import About, Plan
from gradcam.runs.planning import MapsOption, Request, check_sent, planned, seen_of
from gradcam.runs.reading import Columns
from gradcam.runs.sources import Source
from gradcam.runs.tally import Tally, shown_progress

__all__ = ["Engine", "Factory", "run", "share_of"]

Engine = Literal["local", "ray"]


@entry
def run(
    model: Any,
    source: Source,
    out: str | os.PathLike[str],
    layer: LayerLike = None,
    target: Any = None,
    method: MethodLike | Sequence[MethodLike] = "grad-cam",
    *,
    batch: int = 32,
    shard_size: int = 1024,
    labels: Literal["folder"] | None = None,
    columns: Columns | None = None,
    maps: MapsOption = "auto",
    confidence: Confidence = "softmax",
    reasons: bool = False,
    engine: Engine = "local",
    workers: int = 0,
    threads: int = 2,
    shard: str | None = None,
    address: str | None = None,
    retry: bool = False,
    progress: Progress | Watch = False,
    **options: Any,
) -> Results:
    """Explain every photograph of a source, and keep a row for each in Parquet files in `out`.

    Run again with the same arguments, it goes on where it was; with others it is refused. What
    cannot be read or explained has a row with its error. docs/scale.md has the files, the engines
    and recipes.

    model: whatever `gradcam.explain` takes; for photographs a `gradcam.Classifier` with
        `preprocess`. Or "package.module:factory", a function that makes it, which processes import.
    source: a folder (with those below), a glob, a `.txt` of paths (behind a tab a label), `.tar`
        files as WebDataset writes them, `.parquet` files with a column of images, a path or URL
        that fsspec knows; or arrays that can be indexed, or pairs of an array and its label.
    target: None (each one's top class), a class or its name, several in a list of one list,
        `gradcam.targets.TopClass(k)`, or a function of the outputs.
    method: one, or several, each of which has its own rows; "guided-backprop" and
        "guided-grad-cam" too, whose maps have the input's channels.
    shard_size: files or arrays in a shard; a tar file and a row group are one each.
    labels: "folder" where the folder that a file is in says what it shows.
    columns: of a Parquet source, where they are not found: {"image": ..., "label": ..., "key":
        ...}.
    maps: "tensor" where all have one shape, "list" where they differ, or for readers that do not
        know Arrow's tensors, "zarr" for maps of the input's resolution, such as those of
        "full-grad": a zip file of a Zarr array for each shard. "auto" looks at the first
        photographs, and takes one of the first two.
    reasons: also say why a map is blank; a few more passes for each batch that has one.
    engine: "local", or "ray" with `address` of a cluster, or none to start one here.
    workers: processes that share the work, each with a model of its own; 0 is this process alone.
    threads: that read and decode ahead of the model, in each process.
    shard: "1/4" works on every fourth shard from the second on; "env" reads which from torchrun's
        or SLURM's variables.
    retry: try again what was given up because it killed its process three times.
    options: those of `gradcam.Explainer`, such as `smoothing`, `relu` or `layout`.
    """
    make: Callable[[], Any] = partial(_same, model)
    if isinstance(model, Factory):
        make = model.function
    elif isinstance(model, str):
        make = partial(made, model)
    for name, value, least in (
        ("batch", batch, 1),
        ("shard_size", shard_size, 1),
        ("workers", workers, 0),
        ("threads", threads, 0),
    ):
        check_whole(name, value, least)
    _check_choice("engine", engine, Engine)
    _check_choice("maps", maps, MapsOption)
    _check_choice("confidence", confidence, Confidence)
    mine = share_of(shard)
    is_arrays = not isinstance(source, (str, os.PathLike))
    alone = not workers and engine == "local"
    if is_arrays and not alone:
        raise ValueError(
            "arrays are explained in this process alone: pass workers=0 and engine='local', or "
            "write the photographs to files first"
        )
    watch = progress if isinstance(progress, Watch) else Watch(progress=progress)
    request = Request(
        make,
        source,
        os.fspath(out),
        layer,
        target,
        method,
        options,
        batch,
        shard_size,
        labels,
        columns,
        maps,
        confidence,
        reasons,
        retry,
    )
    if alone:
        model = make()
        about, asked = planned(request, model)
    else:
        check_sent(request)
        # The model is in the processes that need it, and not in this one.
        about, asked = in_child(planned, request, watch, partial(seen_of, opened(out)))
        model = None
    place = opened(out)
    numbers = pending(place, about.shards, mine)
    job = Job(str(place), make, about, asked, columns, threads)
    with shown_progress(_tally(place, about, numbers), watch):
        if engine == "ray":
            from gradcam.runs.rays import in_ray

            in_ray(job, numbers, workers, address, watch)
        elif workers and numbers:
            in_processes(job, numbers, workers, watch)
        elif numbers:
            task = task_of(job, model)
            loop(replace(task, source=source if is_arrays else None), numbers, watch)
    return Results(place, about)


@dataclass(frozen=True)
class Factory:
    """A model by the function that makes it, which can be sent to another process."""

    function: Callable[[], Any]


def _same(model: Any) -> Any:
    return model


def _check_choice(name: str, value: Any, choices: Any) -> None:
    known = get_args(choices)
    if value not in known:
        raise ValueError(f"`{name}` must be {', '.join(map(repr, known))}, but is {value!r}")


def share_of(shard: str | None) -> tuple[int, int]:
    """Which shards are worked on here: i of n.

    shard: "i/n", or "env" for torchrun's RANK and WORLD_SIZE, or SLURM's SLURM_PROCID and
    SLURM_NTASKS, or of an array of jobs SLURM_ARRAY_TASK_ID, _MIN and _COUNT.
    """
    if shard is None:
        return 0, 1
    text = shard
    if shard == "env":
        names = os.environ
        if "RANK" in names and "WORLD_SIZE" in names:
            text = f"{names['RANK']}/{names['WORLD_SIZE']}"
        elif "SLURM_ARRAY_TASK_ID" in names and "SLURM_ARRAY_TASK_COUNT" in names:
            first = int(names.get("SLURM_ARRAY_TASK_MIN", "0"))
            text = f"{int(names['SLURM_ARRAY_TASK_ID']) - first}/{names['SLURM_ARRAY_TASK_COUNT']}"
        elif "SLURM_PROCID" in names and "SLURM_NTASKS" in names:
            text = f"{names['SLURM_PROCID']}/{names['SLURM_NTASKS']}"
        else:
            raise ValueError(
                '`shard` is "env", but neither RANK and WORLD_SIZE (torchrun) nor SLURM_PROCID and '
                "SLURM_NTASKS (srun) are set"
            )
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal()) or not int(index) < int(count):
        raise ValueError(f'`shard` must be "i/n" with i from 0 to n - 1, or "env", but is {text!r}')
    return int(index), int(count)


def _tally(place: Place, about: About, numbers: Sequence[int]) -> Tally:
    """How much there is to do here."""
    total = about.items
    if total is not None and len(numbers) < about.shards:
        items = Plan(place).items()
        total = sum(items[number] or 0 for number in numbers)
    return Tally(total)
