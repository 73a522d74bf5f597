"""What `save` may replace, and what is left where it is stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from gradcam import Explanation
from gradcam.explaining import saving


def made(score=1.0):
    return Explanation(np.ones((1, 2, 3)), np.array([score]), np.array([0]), size=(4, 6))


def score_in(folder):
    return json.loads((folder / "manifest.json").read_text())["scores"]


def names_in(folder):
    return sorted(os.listdir(folder))


# -------------------------------------------------------------------------------- what is replaced


@pytest.mark.parametrize(
    "manifest",
    [
        {"name": "shop", "manifest_version": 3},
        {"schema": 2, "files": ["index.html"]},
        {"schema": 2, "files": {"maps": "maps.npy"}},
        {"schema": 99, "files": {"maps": "maps.npy", "heatmaps": "heatmaps.npy", "pictures": []}},
        ["a", "list"],
    ],
)
def test_a_folder_with_a_manifest_of_another_program_is_kept(tmp_path, manifest):
    project = tmp_path / "shop"
    project.mkdir()
    (project / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(FileExistsError, match=r"shop' holds no earlier explanation"):
        made().save(project, overwrite=True)
    assert json.loads((project / "manifest.json").read_text()) == manifest
    assert names_in(tmp_path) == ["shop"]


@pytest.mark.parametrize("name", ["notes.txt", "figure.png", "deep", "maps.npy.bak"])
def test_a_file_of_the_users_in_it_is_named_and_kept(tmp_path, name):
    folder = made().save(tmp_path / "out")
    if name == "deep":
        (folder / name).mkdir()
    else:
        (folder / name).write_text("mine")
    before = names_in(folder)
    with pytest.raises(FileExistsError, match=rf"holds '{name}', which is not of the explanation"):
        made(2.0).save(folder, overwrite=True)
    assert (names_in(folder), score_in(folder)) == (before, [1.0])
    assert names_in(tmp_path) == ["out"]


def test_a_folder_in_place_of_a_listed_file_is_kept(tmp_path):
    folder = made().save(tmp_path / "out")
    (folder / "0000.png").unlink()
    (folder / "0000.png").mkdir()
    with pytest.raises(FileExistsError, match=r"holds '0000.png'"):
        made().save(folder, overwrite=True)


def test_a_file_that_comes_while_it_is_written_is_kept(tmp_path, monkeypatch):
    folder = made().save(tmp_path / "out")
    written = saving._write

    def write(*args):
        (folder / "late.txt").write_text("mine")
        written(*args)

    monkeypatch.setattr(saving, "_write", write)
    with pytest.raises(FileExistsError, match=r"holds 'late.txt'"):
        made(2.0).save(folder, overwrite=True)
    assert (folder / "late.txt").read_text() == "mine"
    assert score_in(folder) == [1.0]
    assert names_in(tmp_path) == ["out"]


def test_what_it_has_written_is_replaced_with_what_file_browsers_leave(tmp_path):
    folder = made().save(tmp_path / "out", figure=True)
    assert "figure.png" in names_in(folder)
    (folder / ".DS_Store").write_text("")
    made(2.0).save(folder, overwrite=True)
    assert names_in(folder) == ["0000.png", "heatmaps.npy", "manifest.json", "maps.npy"]
    assert score_in(folder) == [2.0]


def test_a_link_stays_and_what_it_points_to_is_replaced(tmp_path):
    folder = made().save(tmp_path / "disk" / "out")
    link = tmp_path / "link"
    link.symlink_to(folder)
    made(2.0).save(link, overwrite=True)
    assert link.is_symlink()
    assert score_in(folder) == [2.0]
    assert names_in(tmp_path) == ["disk", "link"]
    assert names_in(tmp_path / "disk") == ["out"]


def test_a_name_as_long_as_names_can_be(tmp_path):
    folder = made().save(tmp_path / ("n" * 255))
    made(2.0).save(folder, overwrite=True)
    assert score_in(folder) == [2.0]


@pytest.mark.parametrize("name", [".", "", "..", "../out"])
def test_the_folder_that_the_program_runs_in_is_not_replaced(tmp_path, monkeypatch, name):
    inside = tmp_path / "out" / "in"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside if name == ".." else inside.parent)
    if name == "..":
        match = "is not empty"
    else:
        (tmp_path / "out" / "in").rmdir()
        match = "the folder that the program runs in"
    with pytest.raises(FileExistsError, match=match):
        made().save(name)
    assert names_in(tmp_path) == ["out"]


def test_a_file_in_its_place_is_kept(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(FileExistsError, match="is a file; choose another name"):
        made().save(tmp_path / "out", overwrite=True)


# --------------------------------------------------------------------------------------- stopped


def test_what_a_run_that_was_killed_has_left_is_put_right(tmp_path):
    """The three states between which there are only renames."""
    folder = made(1.0).save(tmp_path / "out")
    beside = saving._Beside.of(folder)
    beside.partial.mkdir()
    (beside.partial / "maps.npy").write_text("half")
    folder.rename(beside.old)  # killed before the new one was in its place
    assert Explanation.load(folder).scores == [1.0]
    assert names_in(tmp_path) == ["out"]

    made(2.0).save(tmp_path / "another").rename(beside.old)  # killed before the old one was gone
    made(3.0).save(folder, overwrite=True)
    assert names_in(tmp_path) == ["out"]
    assert score_in(folder) == [3.0]

    beside.waste.mkdir()  # killed while it was deleted
    (beside.waste / "maps.npy").write_text("left")
    made(4.0).save(folder, overwrite=True)
    assert names_in(tmp_path) == ["out"]


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from PIL import Image
from gradcam import Explanation
place, step = Path(sys.argv[1]), int(sys.argv[2])
e = Explanation(np.random.default_rng(0).random((1, 40, 40)), np.ones(1), np.array([0]), size=(50, 50))
e.save(place, overwrite=True)
sizes = [file.stat().st_size for file in place.iterdir()]
before = Explanation(np.ones((1, 2, 3)), np.zeros(1), np.array([0]))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
limits = sorted({*range(0, max(sizes), step), *(size - n for size in sizes for n in (0, 1, 60))})
for limit in limits:
    resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
    before.save(place, overwrite=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, -1))
    try:
        e.save(place, overwrite=True)
        raise SystemExit(f"no error at {limit} bytes" if limit < max(sizes) else 0)
    except OSError as error:
        assert str(error).startswith(f"{place}: could not be written ("), error
    assert Explanation.load(place).scores == [0], limit
    assert [*place.parent.iterdir()] == [place], limit
"""


def test_a_full_disk_leaves_what_was_there(tmp_path):
    """At every size at which a file can end too soon."""
    words = [sys.executable, "-c", FULL_DISK, str(tmp_path / "out"), "500"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def as_nobody():
    """A folder of one's own, in a process that is not root's."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "mine").mkdir()
        made().save(folder / "mine" / "out")
        yield folder / "mine", lambda: os.seteuid(65534) if os.getuid() == 0 else None
        if os.getuid() == 0:
            os.seteuid(0)
        (folder / "mine").chmod(0o755)


def test_a_folder_that_may_not_be_written_is_named(as_nobody):
    folder, leave_root = as_nobody
    folder.chmod(0o555)
    leave_root()
    for name in ("out", "new"):
        with pytest.raises(PermissionError, match=rf"{name}: could not be written \(Permission"):
            made(2.0).save(folder / name, overwrite=True)
    assert names_in(folder) == ["out"]
    assert score_in(folder / "out") == [1.0]
