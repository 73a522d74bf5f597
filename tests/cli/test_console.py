"""The command line on odd names, broken arguments and folders with other people's files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

pytest.importorskip("typer")
pytest.importorskip("efficientnet_lite_pytorch")
from gradcam import Explanation
from gradcam.cli import commands, console

MODELS = """
import numpy as np
import gradcam

def features(x):
    return x[:, :, ::2, ::2]

def head(a):
    return np.stack([a[:, 0].mean((1, 2)), a[:, 1].mean((1, 2))], 1)

def named():
    shown = lambda photographs: np.stack(photographs).transpose(0, 3, 1, 2) / 255.0
    labels = ["[/red]", "[bold]bee"]
    return gradcam.Classifier(gradcam.Split(features, head), shown, lambda photo: photo, labels)

def nothing():
    return None

def number():
    return 3

def raises():
    raise ValueError("[/no] such weights")
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    (tmp_path / "oddmodels.py").write_text(MODELS)
    (tmp_path / "halfmodule.py").write_text("x = [")
    monkeypatch.chdir(tmp_path)
    for one in (console.out, console.err):
        monkeypatch.setattr(one, "_width", 200)
    sys.modules.pop("oddmodels", None)

    def call(*words):
        result = CliRunner().invoke(commands.app, [str(word) for word in words])
        assert result.exception is None or isinstance(result.exception, SystemExit)
        said = " ".join(result.output.replace("│", " ").split())
        return result.exit_code, said

    return call


def photograph(path):
    values = np.random.default_rng(0).integers(0, 255, (6, 8, 3), np.uint8)
    Image.fromarray(values).save(path, "png")
    return path


NAMES = ["[/].png", "[red]a.png", "a[b].png", ":smile:.png", "-d.png", "q\"'.png", "nl\nx.png", "b\\.png",
         "esc\x1b[31m.png", b"bad\xff.png".decode("utf-8", "surrogateescape"), "A.png", "a.png"]  # fmt: skip


def test_names_of_any_characters_are_shown_as_they_are_and_saved(run, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    names = [name.replace("/", "") for name in NAMES]
    for name in names:
        photograph(folder / name)
    code, said = run(
        "explain",
        "--top",
        2,
        "--model",
        "oddmodels:named",
        "--",
        *(f"photos/{name}" for name in names),
    )
    assert code == 0, said
    for shown in (
        "[].png",
        "[red]a.png",
        ":smile:.png",
        r"nl\nx.png",
        r"esc\x1b[31m.png",
        "[/red]",
    ):
        assert shown in said
    saved = {path.name for path in (tmp_path / "out").iterdir()}
    assert saved == {Path(name).stem for name in names} - {"a"} | {"a-2"}  # A and a, on some disks
    code, said = run("evaluate", folder, "--model", "oddmodels:named", "--measure", "deletion")
    assert code == 0, said
    rows = map(json.loads, Path("evaluation/rows.jsonl").read_text().splitlines())
    assert {row["photograph"] for row in rows} == set(names)


def test_names_of_dots_alone_stay_in_the_folder(run, tmp_path):
    names = ["...png", "..png", "....png"]
    for name in names:
        photograph(tmp_path / name)
    code, said = run("explain", *names, "--model", "oddmodels:named", "--out", "deep/out")
    assert code == 0, said
    assert sorted(os.listdir("deep/out")) == sorted(names)
    assert os.listdir("deep") == ["out"]


def test_a_project_beside_the_photograph_is_kept(run, tmp_path):
    photograph(tmp_path / "ok.png")
    (tmp_path / "ok").mkdir()
    (tmp_path / "ok" / "manifest.json").write_text('{"name": "shop", "schema": 1}')
    (tmp_path / "ok" / "index.js").write_text("code")
    code, said = run("explain", "ok.png", "--model", "oddmodels:named", "--out", ".")
    assert code == 1
    assert "'ok' holds no earlier explanation" in said
    assert sorted(os.listdir("ok")) == ["index.js", "manifest.json"]


def test_it_is_explained_again_into_its_own_folder_but_not_over_notes(run, tmp_path):
    photograph(tmp_path / "ok.png")
    for _ in range(2):
        assert run("explain", "ok.png", "--model", "oddmodels:named")[0] == 0
    assert "figure.png" in os.listdir("out/ok")
    (tmp_path / "out" / "ok" / "notes.txt").write_text("mine")
    code, said = run("explain", "ok.png", "--model", "oddmodels:named")
    assert code == 1
    assert "holds 'notes.txt', which is not of the explanation" in said
    assert (tmp_path / "out" / "ok" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "code", "match"),
    [
        (["--model", ":make"], 2, "':make': must be package.module:factory"),
        (["--model", ".x:make"], 2, "'.x:make': must be package.module:factory"),
        (["--model", "a..b:make"], 2, "must be package.module:factory"),
        (["--model", "halfmodule:make"], 2, "importing halfmodule raised SyntaxError"),
        (["--model", "oddmodels:nothing"], 2, "the function returned no model, but None"),
        (["--model", "oddmodels:raises"], 2, "the function raised ValueError: [/no] such weights"),
        (
            ["--model", "oddmodels:number"],
            1,
            "`model` of type builtins.int is served by no backend",
        ),
        (["-t", "9" * 26], 2, "--target 999999999... is no class"),
        (["-t", "\u00b2"], 2, '`target` "\u00b2" is no class name'),
        (["-t", "--5"], 2, '`target` "--5" is no class name'),
        (["-t", "[/x]"], 2, '`target` "[/x]" is no class name'),
        (["-t", "7"], 1, "`target` 7 is no class"),
        (["-l", "[/x]"], 1, '"[/x]"'),
    ],
)
@pytest.mark.parametrize("command", ["explain", "verify"])
def test_what_is_wrong_is_a_sentence(run, tmp_path, command, words, code, match):
    photograph(tmp_path / "ok.png")
    if "--model" not in words:
        words = [*words, "--model", "oddmodels:named"]
    found, said = run(command, "ok.png", *words)
    assert (found, match in said) == (code, True), said


def test_layers_of_a_photograph_that_is_missing(run):
    found = run("layers", "[/missing].png", "--model", "oddmodels:named")
    assert found == (1, "error: [/missing].png: no such file")


def test_masks_of_the_wrong_size_are_told(run, tmp_path):
    for name in ("photos", "masks"):
        (tmp_path / name).mkdir()
    for name in ("one.png", "two.png"):
        photograph(tmp_path / "photos" / name)
        Image.new("L", (8, 6), 255).save(tmp_path / "masks" / name)
    Image.new("L", (8, 8), 255).save(tmp_path / "masks" / "one.png")
    code, said = run(
        "evaluate", "photos", "-m", "oddmodels:named", "--measure", "energy", "-a", "masks"
    )
    assert code == 1
    assert "skipped: one.png: the mask has (8, 8) pixels, but the photograph (6, 8)" in said
    assert "saved in evaluation" in said


def test_a_folder_that_may_not_be_written_is_told(run, monkeypatch):
    with tempfile.TemporaryDirectory() as name:
        here = Path(name)
        here.chmod(0o755)  # for somebody who is not root
        monkeypatch.chdir(here)
        (here / "oddmodels.py").write_text(MODELS)
        (here / "photos").mkdir()
        photograph(here / "photos" / "ok.png")
        (here / "closed").mkdir(mode=0o555)
        words = ("--model", "oddmodels:named", "--out", "closed/new")
        if os.getuid() == 0:
            os.seteuid(65534)
        try:
            explained = run("explain", "photos/ok.png", *words)
            evaluated = run("evaluate", "photos", *words, "--measure", "deletion")
        finally:
            if os.getuid() == 0:
                os.seteuid(0)
    assert explained == (1, "error: closed/new/ok: could not be written (Permission denied)")
    assert evaluated[0] == 2
    assert "closed/new: could not be written (Permission denied)" in evaluated[1]


# ------------------------------------------------------------------------------- where output goes


def gradcam_command(*words, **options):
    command = [sys.executable, "-W", "ignore", "-m", "gradcam.cli", *words]
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False, **options)


def test_output_that_finds_no_place_is_told():
    with open("/dev/full", "w") as full:
        done = gradcam_command("methods", stdout=full)
    assert done.returncode == 1
    assert done.stderr == "error: the output could not be written (No space left on device)\n"


def test_a_pipe_that_closes_ends_it_in_silence():
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as closed:
        done = gradcam_command("methods", stdout=closed)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_a_terminal_of_few_letters_is_enough():
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    environment["PYTHONIOENCODING"] = "ascii"
    done = gradcam_command("measures", stdout=subprocess.PIPE, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "deletion" in done.stdout


def test_explanations_of_the_command_line_are_loaded(run, tmp_path):
    photograph(tmp_path / "ok.png")
    run("explain", "ok.png", "--model", "oddmodels:named", "--top", 2)
    assert Explanation.load("out/ok").labels == ["[/red]", "[bold]bee"]
