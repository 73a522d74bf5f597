"""The command line, as a new user types it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

pytest.importorskip("efficientnet_lite_pytorch")
import gradcam
from gradcam.cli import commands, console

MODEL = """
import torch
import gradcam

def bare():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.SiLU(), torch.nn.AdaptiveAvgPool2d(1),
                               torch.nn.Flatten(), torch.nn.Linear(4, 3)).eval()

def named():
    return gradcam.Classifier(bare(), labels=["ant", "bee", "cow"], layer="1")

value = 3
"""
FLAX = """
import jax
import jax.numpy as jnp
from flax import nnx

class Net(nnx.Module):
    def __init__(self):
        self.conv = nnx.Conv(3, 4, (3, 3), rngs=nnx.Rngs(0))

    def __call__(self, x):
        return jax.nn.silu(self.conv(x)).mean((1, 2))

def net():
    return Net()

def function():
    weights = jax.random.normal(jax.random.key(0), (3, 4))
    return lambda x: jax.nn.silu(x @ weights).mean((1, 2))
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    (tmp_path / "mymodels.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(console.out, "_width", 200, raising=False)
    sys.modules.pop("mymodels", None)

    def call(*words):
        return CliRunner().invoke(commands.app, [str(word) for word in words])

    return call


@pytest.fixture
def photo(tmp_path):
    array = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    path = tmp_path / "photo.png"
    Image.fromarray(array).save(path)
    return path


def test_explain_with_the_demo_network(run, photo, tmp_path):
    result = run("explain", photo, "--out", "saved")
    assert result.exit_code == 0, result.output
    folder = tmp_path / "saved" / "photo"
    assert sorted(p.name for p in folder.iterdir()) == [
        "0000.png", "figure.png", "heatmaps.npy", "manifest.json", "maps.npy", "photo-0000.png"]  # fmt: skip
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["layer"] == "_swish#1"
    assert manifest["names"][0][0] in result.output
    assert run("explain", photo, "--out", "saved").exit_code == 0  # again, into the same folder


def test_explain_in_jax_is_explain_in_torch(run, photo, tmp_path):
    result = run("explain", photo, "-o", "a", "--target", "tabby", "--target", "7")
    assert result.exit_code == 0
    assert "photo.png: cock: all evidence is against the score" in result.output  # the map is blank
    assert (
        run(
            "explain", photo, "-o", "b", "-f", "jax", "--target", "tabby", "--target", "7"
        ).exit_code
        == 0
    )
    a, b = (np.load(tmp_path / x / "photo" / "maps.npy") for x in "ab")
    assert a.shape == (1, 2, 7, 7)
    np.testing.assert_allclose(a, b, atol=1e-4 * a.max())


def test_a_model_of_ones_own(run, photo, tmp_path):
    result = run("explain", photo, "--model", "mymodels:bare", "--top", 2)
    assert result.exit_code == 0, result.output
    manifest = json.loads((tmp_path / "out" / "photo" / "manifest.json").read_text())
    assert manifest["layer"] == "1"
    assert np.load(tmp_path / "out" / "photo" / "maps.npy").shape[:2] == (1, 2)
    result = run(
        "explain",
        photo,
        "--model",
        "mymodels:named",
        "--target",
        "bee",
        "--layer",
        "0",
        "-o",
        "named",
    )
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "named" / "photo" / "manifest.json").read_text())["names"] == [
        ["bee"]
    ]


@pytest.mark.parametrize("name", ["net", "function"])
def test_a_model_of_ones_own_in_jax(run, photo, tmp_path, name):
    pytest.importorskip("flax")
    (tmp_path / "myflax.py").write_text(FLAX)
    result = run("explain", photo, "--model", f"myflax:{name}")
    assert result.exit_code == 0, result.output
    assert np.load(tmp_path / "out" / "photo" / "maps.npy").shape == (1, 224, 224)


def test_broken_files_are_named_and_the_others_explained(run, photo, tmp_path):
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "deep").mkdir()
    other = tmp_path / "deep" / "photo.jpg"
    Image.open(photo).save(other)
    result = run("explain", "none.jpg", photo, "empty.jpg", other, "--model", "mymodels:bare")
    assert result.exit_code == 1
    assert "none.jpg: no such file" in result.output
    assert "empty.jpg: is empty" in result.output
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["photo", "photo-2"]


def test_a_folder_of_photographs_is_explained_as_its_files_are(run, photo, tmp_path):
    (tmp_path / "album" / "deep").mkdir(parents=True)
    for n in range(11):  # more than a batch
        turned = Image.open(photo).rotate(10 * n)
        if n == 4:
            turned = turned.resize((320, 200))
        turned.save(tmp_path / "album" / "deep" / f"{n:02d}.png")
    (tmp_path / "album" / "bad.jpg").write_text("no photograph")
    (tmp_path / "album" / "notes.txt").write_text("not one")
    result = run("explain", "album", "--model", "mymodels:bare", "-o", "all")
    assert result.exit_code == 1
    assert "bad.jpg: is no image of a known kind" in result.output
    assert sorted(p.name for p in (tmp_path / "all").iterdir()) == [f"{n:02d}" for n in range(11)]
    run("explain", "album/deep/03.png", "--model", "mymodels:bare", "-o", "one")
    found, alone = (gradcam.Explanation.load(tmp_path / p / "03") for p in ("all", "one"))
    np.testing.assert_allclose(found.maps, alone.maps, rtol=1e-4, atol=1e-6)
    assert found.names() == alone.names()
    (tmp_path / "nothing").mkdir()
    result = run("explain", "nothing", "--model", "mymodels:bare")
    assert result.exit_code == 2
    assert "nothing holds no photographs" in result.output


def test_a_file_that_may_not_be_read_costs_no_other(run, photo, tmp_path, monkeypatch):
    """As another user than root would meet it."""
    Image.open(photo).save(tmp_path / "secret.png")
    opened = Image.open

    def refusing(file, *arguments, **options):
        if "secret" in str(file):
            raise PermissionError(13, "Permission denied", str(file))
        return opened(file, *arguments, **options)

    monkeypatch.setattr(Image, "open", refusing)
    monkeypatch.setattr(os, "access", lambda path, mode: "secret" not in str(path))
    result = run("explain", "secret.png", photo, "--model", "mymodels:bare")
    assert result.exit_code == 1
    assert "secret.png: may not be read" in result.output
    assert (tmp_path / "out" / "photo" / "maps.npy").exists()


def test_a_folder_of_the_users_is_not_overwritten(run, photo, tmp_path):
    (tmp_path / "out" / "photo").mkdir(parents=True)
    (tmp_path / "out" / "photo" / "mine.txt").write_text("mine")
    result = run("explain", photo, "--model", "mymodels:bare")
    assert result.exit_code == 1
    assert "holds no earlier explanation" in result.output
    assert (tmp_path / "out" / "photo" / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "mymodels"], "must be package.module:factory"),
        (["--model", "nomodule:f"], "No module named 'nomodule'"),
        (["--model", "mymodels:absent"], "has no function 'absent'"),
        (["--model", "mymodels:value"], "has no function 'value'"),
        (["--model", "mymodels:named", "--target", "be"], 'did you mean "bee"'),
        (["--model", "mymodels:bare", "--target", "bee"], "has no `labels`"),
        (["--model", "mymodels:bare", "--method", "gradcam"], 'did you mean "grad-cam"'),
        (["--model", "mymodels:bare", "--target", "1", "--top", "2"], "exclude each other"),
    ],
)
def test_usage_errors(run, photo, words, message):
    result = run("explain", photo, *words)
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())


def test_a_class_or_a_layer_that_is_not_there(run, photo):
    result = run("explain", photo, "--model", "mymodels:bare", "--target", "17")
    assert result.exit_code == 1
    assert "is no class" in result.output
    result = run("explain", photo, "--model", "mymodels:bare", "--layer", "9")
    assert result.exit_code == 1
    assert "is not in the model" in result.output


def test_layers_and_methods(run, photo):
    result = run("layers", "--model", "mymodels:bare")
    assert result.exit_code == 0
    assert "1 x 4 x 222 x 222" in result.output
    assert run("layers", photo, "--model", "mymodels:bare").exit_code == 0
    result = run("methods")
    assert result.exit_code == 0
    assert "grad-cam" in result.output


def test_verify(run, photo):
    result = run("verify", photo, "--model", "mymodels:bare", "--layer", "1", "--target", "2")
    assert result.exit_code == 0, result.output
    assert "passed" in result.output
    assert run("verify", "none.png", "--model", "mymodels:bare").exit_code == 1


def test_it_is_installed():
    done = subprocess.run(
        [sys.executable, "-m", "gradcam.cli", "--help"], capture_output=True, text=True, check=True
    )
    assert "where did a network look" in " ".join(done.stdout.split())


def test_evaluate_measures_beside_controls_and_goes_on(run, photo, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    photo.rename(folder / "photo.png")
    (folder / "broken.jpg").write_text("no")
    (tmp_path / "boxes.csv").write_text("file,x0,y0,x1,y1\nphoto.png,10,10,50,50\n")
    words = (
        "evaluate",
        folder,
        "--model",
        "mymodels:bare",
        "--measure",
        "deletion",
        "--measure",
        "energy",
    )
    words += (
        "--method",
        "grad-cam",
        "--annotations",
        tmp_path / "boxes.csv",
        "--out",
        tmp_path / "found",
    )
    result = run(*words)
    assert result.exit_code == 1, result.output  # for the broken one
    assert "skipped: broken.jpg" in result.output
    for word in ("deletion", "energy", "grad-cam", "random", "centre"):
        assert word in result.output
    rows = (tmp_path / "found" / "rows.jsonl").read_text()
    (folder / "broken.jpg").unlink()
    again = run(*words)
    assert again.exit_code == 0, again.output
    assert (tmp_path / "found" / "rows.jsonl").read_text() == rows


def test_evaluate_says_what_is_wrong(run, tmp_path):
    result = run("evaluate", tmp_path / "none")
    assert result.exit_code == 2
    assert "is no folder" in " ".join(result.output.replace("│", " ").split())
    result = run("evaluate", tmp_path, "--measure", "truth")
    assert result.exit_code == 2
    assert "are not known" in " ".join(result.output.replace("│", " ").split())


def test_measures_lists_them_with_their_papers(run):
    result = run("measures")
    assert result.exit_code == 0
    for name in gradcam.metrics.MEASURES:
        assert name in result.output


def test_bench_prints_a_table_and_saves(run, tmp_path):
    words = (
        "bench",
        "--model",
        "mymodels:named",
        "--batch",
        "1",
        "--targets",
        "1",
        "--repeats",
        "2",
        "--no-memory",
    )
    result = run(*words, "--out", tmp_path / "priced")
    assert result.exit_code == 0, result.output
    saved = json.loads((tmp_path / "priced" / "bench.json").read_text())
    assert [price["ratio"] > 0 for price in saved["prices"]] == [True]
    assert "mymodels:named" in result.output
    assert run("bench", "--model", "mymodels:named", "--framework", "jax").exit_code == 2
    assert "must be torch or jax" in run("bench", "--framework", "tensorflow").output
    assert "is not known" in run("bench", "--method", "grad-kam").output
