"""What a run keeps in memory, and on how many devices it works; counts, and no clocks."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tarfile
import weakref
from pathlib import Path

import numpy as np
import pytest

import gradcam

pytest.importorskip("pyarrow")
pytest.importorskip("PIL")

from runs import models

from gradcam.runs import local, plan, shard
from gradcam.runs.places import Place
from gradcam.runs.reading import items
from gradcam.runs.sources import Shard

TESTS = Path(__file__).parent.parent


class Alive:
    """How many of the pictures that a view has shown there are at most at a time."""

    def __init__(self):
        self.now = 0
        self.most = 0

    def view(self, photograph):
        picture = models.view(photograph).copy()
        self.now += 1
        self.most = max(self.most, self.now)
        weakref.finalize(picture, self.gone)
        return picture

    def gone(self):
        self.now -= 1


def watched(alive):
    split = gradcam.Split(models.features, models.head)
    return gradcam.Classifier(split, models.preprocess, alive.view, models.LABELS)


@pytest.fixture
def folder(tmp_path):
    models.photographs(tmp_path / "photos", 60)
    return tmp_path / "photos"


def test_pictures_in_memory_are_a_few_batches_however_large_the_shard(folder, tmp_path):
    with tarfile.open(tmp_path / "all.tar", "w") as tar:
        tar.add(folder, "photos")
    for name, source in (("files", folder), ("tar", tmp_path / "all.tar")):
        alive = Alive()
        found = gradcam.run(watched(alive), source, tmp_path / f"out-{name}", batch=4)
        assert len(found) == 60
        assert found.about.shards == 1
        # Two batches that are read ahead, and the one that is explained.
        assert alive.most <= 3 * 4 + 1, name
    gc.collect()
    assert alive.now == 0


def test_of_a_tar_file_no_list_of_its_members_is_kept(folder, tmp_path):
    with tarfile.open(tmp_path / "all.tar", "w") as tar:
        tar.add(folder, "photos")
    del tar
    gc.collect()
    before = {id(held) for held in gc.get_objects() if type(held) is tarfile.TarInfo}
    whole = Shard(0, "tar", (str(tmp_path / "all.tar"),))
    for count, _ in enumerate(items(whole, "")):
        members = {id(held) for held in gc.get_objects() if type(held) is tarfile.TarInfo}
        assert len(members - before) <= 3, count
    assert count == 59


def test_rows_in_memory_are_those_of_one_write(folder, tmp_path, monkeypatch):
    lengths = []
    table = shard.table
    monkeypatch.setattr(shard, "ROWS", 8)

    def counted(rows, kind):
        lengths.append(len(rows))
        return table(rows, kind)

    monkeypatch.setattr(shard, "table", counted)
    gradcam.run(models.model(), folder, tmp_path / "out", batch=4)
    assert lengths == [8] * 7 + [4]


def test_the_plan_is_never_read_as_a_whole(folder, tmp_path, monkeypatch):
    read = []
    whole = Place.read
    monkeypatch.setattr(Place, "read", lambda self, name: read.append(name) or whole(self, name))
    found = gradcam.run(models.model(), folder, tmp_path / "out", shard_size=1)
    assert found.about.shards == 60
    assert plan.ABOUT in read
    assert plan.PLAN not in read


@pytest.mark.parametrize("methods", [1, 3])
def test_names_are_looked_up_once_for_each_batch(folder, tmp_path, monkeypatch, methods):
    asked = []
    names = gradcam.Explanation.names
    monkeypatch.setattr(gradcam.Explanation, "names", lambda self: asked.append(1) or names(self))
    chosen = ["grad-cam", "layer-cam", "hires-cam"][:methods]
    gradcam.run(models.model(), folder, tmp_path / "out", method=chosen, batch=20)
    assert len(asked) == 3 * methods


# ------------------------------------------------------------------------------------------ devices


def test_a_batch_is_spread_over_the_devices_of_jax(folder, tmp_path):
    pytest.importorskip("jax")
    found = {}
    for count in (1, 4):
        flags = f"--xla_backend_optimization_level=0 --xla_force_host_platform_device_count={count}"
        told = subprocess.run(
            [sys.executable, TESTS / "runs" / "spread.py", folder, tmp_path / str(count)],
            env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout
        assert json.loads(told.splitlines()[-1]) == [count]
        found[count] = gradcam.results(tmp_path / str(count))
    assert len(found[1]) == len(found[4]) == 120
    for one, several in zip(found[1], found[4], strict=True):
        assert (one.key, one.method, one.class_index) == (
            several.key,
            several.method,
            several.class_index,
        )
        assert several.score == pytest.approx(one.score, rel=1e-5)
        assert (one.peak, one.box) == (several.peak, several.box)
        np.testing.assert_allclose(several.values, one.values, atol=2e-3)


@pytest.mark.parametrize(
    ("visible", "workers", "expected"),
    [
        ("0,1", 3, ["0", "1", "0"]),
        ("GPU-a, GPU-b", 2, ["GPU-a", "GPU-b"]),
        ("2", 2, ["2", "2"]),
        ("0,1", 1, ["0,1"]),
        ("", 2, ["", ""]),
    ],
)
def test_each_worker_sees_one_gpu(monkeypatch, visible, workers, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = []
    for index in range(workers):
        with local._gpu(index, workers):
            found.append(os.environ["CUDA_VISIBLE_DEVICES"])
    assert found == expected
    assert os.environ["CUDA_VISIBLE_DEVICES"] == visible
