"""The recipes of docs/scale.md that can run here: by torchrun, and by a Ray cluster that is there."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

import gradcam

pytest.importorskip("pyarrow")

from runs import models

TESTS = Path(__file__).parents[1]
pytestmark = pytest.mark.filterwarnings("ignore:os.fork")

COUNT = 24
SIZE = "4"


def ran(command, folder, out, **names):
    """What `gradcam run` printed, started as the command says."""
    arguments = ["run", folder, "--out", out, "--model", "runs.models:model"]
    path = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    result = subprocess.run(
        [*command, *map(str, arguments), "--shard-size", SIZE, *names.pop("options")],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **names},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr + result.stdout
    return result.stdout


@pytest.fixture
def folder(tmp_path):
    models.photographs(tmp_path / "photos", COUNT)
    return tmp_path / "photos"


def checked(folder, out):
    """The run in a folder has each photograph once."""
    found = gradcam.results(out)
    assert found.counts() == {"photographs": COUNT, "rows": COUNT, "errors": 0, "blank": 0}
    assert (
        found.to_arrow()
        == gradcam.run(
            "runs.models:model", folder, out.with_name("expected"), shard_size=int(SIZE)
        ).to_arrow()
    )


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
def test_torchrun(folder, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "--no-python", sys.executable, "-m", "gradcam.cli"]
    ran(command, folder, tmp_path / "out", options=["--shard", "env", "--workers", "0"])
    checked(folder, tmp_path / "out")


def test_slurm(folder, tmp_path):
    for index in range(2):
        ran(
            [sys.executable, "-m", "gradcam.cli"],
            folder,
            tmp_path / "out",
            options=["--shard", "env", "--workers", "0"],
            SLURM_ARRAY_TASK_ID=str(index),
            SLURM_ARRAY_TASK_MIN="0",
            SLURM_ARRAY_TASK_COUNT="2",
            SLURM_PROCID="0",
            SLURM_NTASKS="1",
        )
    checked(folder, tmp_path / "out")


def test_a_ray_cluster_that_is_there(folder, tmp_path, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), str(TESTS.parent)]))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    # The head node has no processors for the run, as an operator's usually has none.
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 0,
            "object_store_memory": 100 * 2**20,
            "include_dashboard": False,
        },
    )
    cluster.add_node(num_cpus=2, object_store_memory=100 * 2**20)
    try:
        ran(
            [sys.executable, "-m", "gradcam.cli"],
            folder,
            tmp_path / "out",
            options=["--engine", "ray"],
            RAY_ADDRESS=cluster.address,
        )
    finally:
        cluster.shutdown()
    checked(folder, tmp_path / "out")
