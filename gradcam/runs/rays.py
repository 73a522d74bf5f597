"""The engine of a cluster: Ray Data gives shards to a pool of actors, each with a model of its own.

Ray starts workers and nodes again that died, for ever; `attempts` is what ends that. An actor takes
whole shards, so that no other task waits for the processors that the pool holds.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

from gradcam.runs.local import Job, Watch, task_of
from gradcam.runs.shard import StoppedError, run_shard

__all__ = ["in_ray"]

NO_STATISTICS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DATA_DISABLE_PROGRESS_BARS": "1"}


def in_ray(
    job: Job, numbers: Sequence[int], workers: int, address: str | None, watch: Watch
) -> None:
    """Shards on a cluster, at `address` or started here, until all are done or given up.

    workers: how many actors at most; 0 is as many as there are processors. Each takes a GPU where
    the cluster has some.
    """
    if not numbers:
        return
    for name, value in NO_STATISTICS.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError('engine="ray" needs Ray: pip install "gradcam[ray]"') from error
    started = not ray.is_initialized()
    if started:
        ray.init(
            address=address,
            include_dashboard=None if address else False,
            logging_level=logging.ERROR,
            log_to_driver=False,
            runtime_env={"env_vars": {**NO_STATISTICS, "PYTHONPATH": _python_path()}},
        )
    try:
        _run(ray, job, numbers, workers, watch)
    finally:
        if started:
            ray.shutdown()


def _python_path() -> str:
    parts = [os.getcwd(), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return os.pathsep.join(dict.fromkeys(parts))


def _run(ray: Any, job: Job, numbers: Sequence[int], workers: int, watch: Watch) -> None:
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    most = min(workers or int(gpus or resources.get("CPU", 1)), len(numbers))
    strategy = ray.data.ActorPoolStrategy(min_size=1, max_size=most)
    shards = ray.data.from_items(
        [{"shard": number} for number in numbers], override_num_blocks=len(numbers)
    )
    rows = shards.map_batches(
        _Actor,
        fn_constructor_args=(job,),
        batch_size=1,
        compute=strategy,
        num_cpus=None if gpus else 1,
        num_gpus=1 if gpus else None,
    )
    for row in rows.iter_rows():
        watch.tell(int(row["photographs"]), int(row["errors"]))
        if row["outcome"] == "failed":
            watch.failed.add(int(row["shard"]))
        if row["hindered"]:
            raise RuntimeError(str(row["hindered"]))
        if watch.stop():
            raise StoppedError


class _Actor:
    """One worker of the pool: a model, and the shards that it is given."""

    def __init__(self, job: Job) -> None:
        self._task = task_of(job)

    def __call__(self, batch: Any) -> dict[str, list[Any]]:
        from dataclasses import replace

        from gradcam._faults import FAULTS
        from gradcam.runs.places import StoreError
        from gradcam.runs.reading import described

        found: dict[str, list[Any]] = {}
        for number in batch["shard"]:
            counts = [0, 0]

            def tell(photographs: int, errors: int, counts: list[int] = counts) -> None:
                counts[0] += photographs
                counts[1] += errors

            hindered = ""
            outcome = "hindered"
            try:
                outcome = run_shard(replace(self._task, tell=tell), int(number))
            except (*FAULTS, StoreError) as error:
                hindered = described(error)
            for name, value in (
                ("shard", int(number)),
                ("outcome", outcome),
                ("photographs", counts[0]),
                ("errors", counts[1]),
                ("hindered", hindered),
            ):
                found.setdefault(name, []).append(value)
        return found
