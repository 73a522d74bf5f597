"""`gradcam run`, as a new user types it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("typer")

from PIL import Image
from runs import models
from typer.testing import CliRunner

import gradcam
from gradcam.cli import commands

TESTS = str(Path(__file__).parents[1])


@pytest.fixture
def run(tmp_path, monkeypatch):
    models.photographs(tmp_path / "photos", 8)
    monkeypatch.chdir(tmp_path)

    def call(*words):
        return CliRunner().invoke(commands.app, ["run", *map(str, words)])

    return call


def test_a_folder_is_explained_and_gone_on_with(run, tmp_path):
    words = ("photos", "--model", "runs.models:model", "--out", "out", "--shard-size", 3)
    result = run(*words, "--labels", "folder")
    assert result.exit_code == 0, result.output
    assert "photographs" in result.output
    assert 'saved in out; in Python: gradcam.results("out")' in result.output
    found = gradcam.results("out")
    assert len(found) == 8
    assert found[0].label == "green"
    assert run(*words, "--labels", "folder").exit_code == 0
    result = run(*words)
    assert result.exit_code == 1
    assert "`labels` was 'folder', and is None now; choose another folder" in result.output


def test_options_of_explain(run):
    words = ("photos", "--model", "runs.models:model", "--workers", 0)
    methods = ("--method", "grad-cam", "--method", "layer-cam")
    result = run(*words, "--out", "a", "--top", 2, *methods, "--flips", "--batch", 3)
    assert result.exit_code == 0, result.output
    found = gradcam.results("a")
    assert len(found) == 8 * 2 * 2
    assert {row.method for row in found} == {"grad-cam", "layer-cam"}
    result = run(*words, "--out", "b", "--target", "red", "--target", "0")
    assert [row.name for row in gradcam.results("b")][:2] == ["red", "dark"]
    result = run(*words, "--out", "c", "--target", "red", "--top", 2)
    assert result.exit_code == 2
    result = run(*words, "--out", "c", "--target", "blue")
    assert result.exit_code == 2
    result = run("nowhere", *words[1:], "--out", "c")
    assert result.exit_code == 1
    assert "there is no such file or folder" in result.output
    result = run(*words, "--out", "d", "--shard", "5/2")
    assert result.exit_code == 1
    assert '`shard` must be "i/n"' in result.output


def test_photographs_that_cannot_be_read_are_told(run, tmp_path):
    for n in range(7):
        (tmp_path / "photos" / f"bad [{n}].png").write_text("no")
    words = ("photos", "--model", "runs.models:model", "--workers", 0, "--out", "out")
    result = run(*words, "--reasons", "--target", "dark")
    assert result.exit_code == 1
    assert "bad [0].png: ValueError: " in result.output
    assert '2 more: gradcam.results("out").errors()' in result.output
    assert gradcam.results("out").counts() == {
        "photographs": 15, "rows": 15, "errors": 7, "blank": 8,
    }  # fmt: skip


def test_a_shard_that_is_given_up_is_told_and_tried_again(run, tmp_path):
    from gradcam.runs import attempts
    from gradcam.runs.places import opened

    words = ("photos", "--model", "runs.models:model", "--workers", 0, "--out", "out")
    options = (*words, "--shard-size", 4)
    assert run(*options, "--shard", "0/2").exit_code == 0
    place = opened("out")
    for _ in range(3):  # three processes that died before the first photograph
        attempts.begin(place, 1)
    result = run(*options)
    assert result.exit_code == 1
    assert "shards [1] killed their process three times" in result.output
    assert gradcam.results("out").failed == [1]
    assert len(gradcam.results("out")) == 4
    result = run(*options, "--retry")
    assert result.exit_code == 0, result.output
    assert len(gradcam.results("out")) == 8


@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGTERM")
@pytest.mark.parametrize("workers", ["0", "1"])
def test_sigterm_ends_after_the_batch_and_the_run_goes_on(workers, run, tmp_path):
    for path in (tmp_path / "photos" / "green").iterdir():  # so that red ones come first
        path.rename(tmp_path / "photos" / "red" / f"z{path.name}")
    words = [
        *("photos", "--model", "runs.models:terminating", "--out", "out", "--workers", workers),
        *("--batch", "1", "--shard-size", "4", "--threads", "0"),
    ]
    # The first photographs, which are explained before the plan, must not end it.
    (tmp_path / "terminated").touch()
    planned = run(*words, "--shard", "0/3")
    assert planned.exit_code == 0, planned.output
    (tmp_path / "terminated").unlink()
    environment = {**os.environ, "PYTHONPATH": TESTS}
    if workers == "1":
        environment["WATCHED"] = "1"
    for file in (tmp_path / "out" / "rows").iterdir():
        file.unlink()
    command = [sys.executable, "-m", "gradcam.cli", "run", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 130, done.stderr
    assert "ends after this batch" in done.stderr
    assert "run again, and it goes on where it was" in done.stderr
    out = tmp_path / "out"
    assert [part.name for part in (out / "rows").iterdir()] == ["part-00000000.parquet"]
    assert not [name for name in os.listdir(out / "attempts") if name.endswith(".json")]
    again = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert again.returncode == 0, again.stderr
    assert len(gradcam.results(out)) == 8


def test_lines_of_progress_where_there_is_no_terminal(run, tmp_path):
    environment = {**os.environ, "PYTHONPATH": TESTS}
    words = ["photos", "--model", "runs.models:model", "--out", "out", "--workers", "0"]
    command = [sys.executable, "-m", "gradcam.cli", "run", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "8 of 8 photographs, 0 errors, " in done.stderr
    Image.new("RGB", (8, 8)).save(tmp_path / "photos" / "later.png")
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0
    assert len(gradcam.results(tmp_path / "out")) == 8  # the plan is as it was
