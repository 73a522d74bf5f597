"""Inputs sharded over eight devices: nothing is gathered, and the maps are the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("jax")


@pytest.fixture(scope="module")
def found():
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    ran = subprocess.run(
        [sys.executable, Path(__file__).parent.parent.parent / "sharded.py"],
        capture_output=True,
        text=True,
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return json.loads(ran.stdout.strip().splitlines()[-1])


def test_there_are_eight_devices_and_collectives_are_counted(found):
    assert found["devices"] == 8
    assert found["counter"] > 0


@pytest.mark.parametrize("axis", ["Auto", "Explicit"])
@pytest.mark.parametrize("target", ["one", "several"])
@pytest.mark.parametrize(
    "method", ["grad-cam", "layer-cam", "eigen-cam", "shapley-cam", "ablation-cam", "score-cam"]
)
def test_the_batch_stays_where_it_lies_and_no_collective_is_added(found, axis, target, method):
    one = found[f"{axis} {target} {method}"]
    assert one["batch"] == "data"
    assert one["programs"] > 0
    assert one["collectives"] == 0
    assert one["error"] < 1e-5


@pytest.mark.parametrize("axis", ["Auto", "Explicit"])
def test_inside_shard_map_the_maps_are_the_same(found, axis):
    assert found[f"{axis} shard_map"] < 1e-6
