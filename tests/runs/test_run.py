"""Runs over data sets on this machine: sources, rows, resuming, faults."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest

import gradcam

pytest.importorskip("pyarrow")
pytest.importorskip("PIL")

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from runs import models

from gradcam.runs import Factory, share_of
from gradcam.runs.local import Watch
from gradcam.runs.shard import StoppedError


def keys(found):
    return [row.key for row in found]


@pytest.fixture
def folder(tmp_path):
    models.photographs(tmp_path / "photos", 10)
    return tmp_path / "photos"


# ------------------------------------------------------------------------------------ what rows say


def test_a_row_says_what_explain_says(folder, tmp_path):
    found = gradcam.run(
        models.model(), folder, tmp_path / "out", shard_size=4, batch=3, labels="folder"
    )
    assert len(found) == 10
    assert keys(found) == sorted(keys(found))
    for row in found:
        picture = models.view(np.asarray(Image.open(folder / row.key)))
        e = gradcam.explain(models.model(), models.preprocess([picture]))
        np.testing.assert_allclose(found.map(row), e.maps[0], atol=5e-4 * e.maps.max())
        np.testing.assert_allclose(found.heatmaps(row), e.heatmaps()[0], atol=1e-3)
        assert row.box == tuple(e.boxes()[0])
        heat = e.heatmaps()[0]
        x, y = row.peak
        assert heat[y, x] == heat.max()
        assert row.score == pytest.approx(float(e.scores[0]))
        scores = np.asarray(e.outputs[0])
        softmax = np.exp(scores) / np.exp(scores).sum()
        assert row.class_index == row.top_class == int(scores.argmax())
        assert row.probability == pytest.approx(softmax.max())
        assert row.name == row.top_name == models.LABELS[row.class_index]
        assert row.label == Path(row.key).parent.name
        assert row.label_class == models.LABELS.index(row.label)
        assert row.size == (16, 20)
        assert not row.blank
        assert row.error is None


def test_the_run_says_which_layer_and_how_it_was_told(folder, tmp_path):
    found = gradcam.run(models.model(), folder, tmp_path / "out")
    about = json.loads((tmp_path / "out" / "run.json").read_text())
    assert about["layers"] == list(found.about.layers) == ["features"]
    assert about["axes"] == [str(gradcam.explain(models.model(), np.ones((1, 3, 16, 20))).axes)]


def test_several_methods_and_targets_have_rows_of_their_own(folder, tmp_path):
    found = gradcam.run(
        models.model(),
        folder,
        tmp_path / "out",
        target=[["red", "green"]],
        method=["grad-cam", ("layer-cam", {"gamma": 2.0})],
    )
    assert len(found) == 10 * 4
    assert [(r.method, r.target, r.name) for r in found[:4]] == [
        ("grad-cam", 0, "red"),
        ("grad-cam", 1, "green"),
        ("layer-cam(gamma=2.0)", 0, "red"),
        ("layer-cam(gamma=2.0)", 1, "green"),
    ]


def test_a_blank_map_says_so_and_why_when_asked(folder, tmp_path):
    found = gradcam.run(models.model(), folder, tmp_path / "out", target="dark", reasons=True)
    assert len(found.blank()) == 10
    assert all(row.reason.startswith("negative: ") for row in found)
    assert all(row.box is None and row.peak is None and row.scale == 0 for row in found)
    np.testing.assert_array_equal(found.heatmaps(found[0]), np.zeros((16, 20)))


def test_what_cannot_be_read_is_a_row_with_its_error(folder, tmp_path):
    (folder / "red" / "005.jpg").write_text("no image")
    (folder / "red" / "006.jpg").write_bytes(b"")
    whole = (folder / "red" / "000.png").read_bytes()
    (folder / "red" / "007.png").write_bytes(whole[: len(whole) // 2])
    (folder / "notes.txt").write_text("not listed")
    (folder / ".hidden.png").write_bytes(whole)
    found = gradcam.run(models.model(), folder, tmp_path / "out", batch=4)
    assert len(found) == 13
    errors = found.errors()
    assert keys(errors) == ["red/005.jpg", "red/006.jpg", "red/007.png"]
    assert "no image of a known kind" in errors[0].error
    assert "is empty" in errors[1].error
    assert "corrupt" in errors[2].error
    assert found.counts() == {"photographs": 13, "rows": 13, "errors": 3, "blank": 0}
    with pytest.raises(ValueError, match=r"005.jpg.* has no map: ValueError: "):
        found.map(errors[0])


def test_a_photograph_on_which_the_model_fails_costs_no_other(tmp_path):
    paths = models.photographs(tmp_path / "photos", 5)
    Image.new("RGB", (32, 24), "white").save(paths[2])

    def picky(x):
        if x.mean() > 0.9 or (x.reshape(len(x), -1).mean(1) > 0.9).any():
            raise RuntimeError("too bright")
        return models.features(x)

    model = gradcam.Classifier(
        gradcam.Split(picky, models.head), models.preprocess, models.view, models.LABELS
    )
    found = gradcam.run(model, tmp_path / "photos", tmp_path / "out")
    assert len(found) == 5
    assert [row.error for row in found.errors()] == ["RuntimeError: too bright"]


def test_photographs_of_many_sizes_have_a_list_and_a_shape(tmp_path):
    models.photographs(tmp_path / "photos", 3)
    models.photographs(tmp_path / "photos" / "wide", 3, size=(24, 48))
    found = gradcam.run(models.any_size(), tmp_path / "photos", tmp_path / "out")
    assert found.about.maps == "list"
    assert {row.values.shape for row in found} == {(6, 8), (6, 12)}
    assert {row.size for row in found} == {(24, 32), (24, 48)}
    row = found.of("wide/red/000.png")[0]
    picture = np.asarray(Image.open(tmp_path / "photos" / "wide" / "red" / "000.png"))
    e = gradcam.explain(models.any_size(), models.preprocess([picture]))
    np.testing.assert_allclose(found.map(row), e.maps[0], atol=5e-4 * e.maps.max())


def test_a_map_that_does_not_fit_the_files_is_an_error_that_says_what_to_do(tmp_path):
    models.photographs(tmp_path / "photos", 9)
    models.photographs(tmp_path / "photos" / "z", 1, size=(24, 48))
    found = gradcam.run(models.any_size(), tmp_path / "photos", tmp_path / "out")
    assert keys(found.errors()) == ["z/red/000.png"]
    assert (
        'its map is 6 x 12, but the run\'s are 6 x 8; run again, to another folder, with maps="list"'
        in (found.errors()[0].error)
    )
    with pytest.raises(ValueError, match=r'"z/red/000\.png" has no map: its map is 6 x 12'):
        found.map(found.errors()[0])


def test_the_pictures_of_the_default_view_need_no_view(folder, tmp_path):
    from gradcam.pictures.images import crop

    model = dataclasses.replace(models.model(), view=crop)
    found = gradcam.run(model, folder, tmp_path / "out")
    np.testing.assert_array_equal(found.seen(found[0]), crop(found.photograph(found[0])))
    assert found.overlays(found[0])[0].size == (224, 224)


# ------------------------------------------------------------------------------------------ sources


def tar_of(paths, path, label=True):
    with tarfile.open(path, "w") as tar:
        for n, photo in enumerate(paths):
            data = photo.read_bytes()
            members = [(f"{n:04d}.png", data)]
            if label:
                members.append((f"{n:04d}.cls", str(1 + n % 2).encode()))
            for name, content in members:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def parquet_of(paths, path, group=3, struct=True, metadata=None):
    images = [p.read_bytes() for p in paths]
    if struct:
        images = [{"bytes": b, "path": p.name} for b, p in zip(images, paths, strict=True)]
    table = pa.table({"image": images, "label": [1 + n % 2 for n in range(len(paths))]})
    if metadata:
        table = table.replace_schema_metadata(metadata)
    pq.write_table(table, path, row_group_size=group)


def maps_of(found):
    return np.stack([found.map(row) for row in found])


def test_every_kind_of_source_gives_the_same_maps(folder, tmp_path):
    paths = sorted(folder.rglob("*.png"))
    expected = maps_of(gradcam.run(models.model(), folder, tmp_path / "a"))
    (tmp_path / "list.txt").write_text("".join(f"{p}\t{p.parent.name}\n" for p in paths))
    tar_of(paths[:6], tmp_path / "x-000.tar")
    tar_of(paths[6:], tmp_path / "x-001.tar")
    parquet_of(paths, tmp_path / "data.parquet")
    sources = {
        "glob": f"{folder}/*/*.png",
        "text": tmp_path / "list.txt",
        "tars": f"{tmp_path}/x-*.tar",
        "range": f"{tmp_path}/x-{{000..001}}.tar",
        "parquet": tmp_path / "data.parquet",
        "url": f"file://{folder}",
        "arrays": [np.asarray(Image.open(p)) for p in paths],
        "pictures": [(Image.open(p), p.parent.name) for p in paths],
    }
    # What the network sees is the same in the same order.
    for name, source in sources.items():
        found = gradcam.run(models.model(), source, tmp_path / f"out-{name}", shard_size=4)
        np.testing.assert_array_equal(maps_of(found), expected, name)
        if name in ("text", "tars", "parquet", "pictures"):
            assert all(row.label_class is not None for row in found), name
        if name != "arrays" and name != "pictures":
            assert (found.photograph(found[7]) == np.asarray(Image.open(paths[7]))).all(), name
            picture = found.overlays(found[7], models.view)[0]
            assert picture.size == (20, 16)
            e = gradcam.explain(
                models.model(), models.preprocess([found.seen(found[7], models.view)])
            )
            exact = e.overlay([found.seen(found[7], models.view)])[0]
            assert np.abs(np.asarray(picture, float) - np.asarray(exact, float)).max() <= 2
            with pytest.raises(
                ValueError, match=r"saw photographs through runs.models.view; pass view="
            ):
                found.overlays(found[7])


def test_a_parquet_source_by_its_columns(folder, tmp_path):
    paths = sorted(folder.rglob("*.png"))
    names = {"info": {"features": {"label": {"names": ["dark", "red", "green"]}}}}
    parquet_of(
        paths, tmp_path / "a.parquet", struct=False, metadata={"huggingface": json.dumps(names)}
    )
    found = gradcam.run(models.model(), tmp_path / "a.parquet", tmp_path / "out")
    assert found.about.shards == 4
    assert found[3].key == "a.parquet#3"
    assert found[3].label == "green"
    with pytest.raises(
        ValueError, match=r'a.parquet: has no column "photo"; its columns are image, label'
    ):
        gradcam.run(
            models.model(), tmp_path / "a.parquet", tmp_path / "b", columns={"image": "photo"}
        )


def test_a_tar_that_ends_early_keeps_what_was_before(folder, tmp_path):
    paths = sorted(folder.rglob("*.png"))
    tar_of(paths, tmp_path / "a.tar", label=False)
    whole = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(whole[: len(whole) // 2 + 700])
    found = gradcam.run(models.model(), tmp_path / "a.tar", tmp_path / "out")
    assert len(found.errors()) == 1
    assert 2 <= len(found) - 1 < 10
    assert "cannot be read any further" in found.errors()[0].error


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "there is no such file or folder"),
        ("empty", "holds no photographs, tar or Parquet files"),
        ("mixed", r"holds files of several kinds \(files, tar\); name one by a glob"),
        ("notes.md", "is no folder, photograph, tar or Parquet file, and no .txt"),
        ("bad", "none of the first 1 photographs can be read; x.png: ValueError: "),
        ("broken.parquet", "is a corrupt Parquet file"),
        ("none.txt", "names no file"),
    ],
)
def test_a_source_that_is_none_is_told_in_a_sentence(source, message, folder, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "mixed").mkdir()
    tar_of([], tmp_path / "mixed" / "a.tar")
    Image.new("RGB", (8, 8)).save(tmp_path / "mixed" / "a.png")
    (tmp_path / "notes.md").write_text("hello")
    (tmp_path / "none.txt").write_text("\n")
    (tmp_path / "broken.parquet").write_text("hello")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.png").write_text("hello")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        gradcam.run(models.model(), tmp_path / source, tmp_path / "out")
    assert not (tmp_path / "out" / "run.json").exists()


def test_folders_that_are_links_are_read_once(folder, tmp_path):
    (folder / "circle").symlink_to(folder)
    (tmp_path / "elsewhere").mkdir()
    Image.new("RGB", (8, 8), "red").save(tmp_path / "elsewhere" / "a.png")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    found = gradcam.run(models.model(), folder, tmp_path / "out")
    assert len(found) == 11
    assert "linked/a.png" in keys(found)


@pytest.mark.skipif(sys.platform == "darwin", reason="its file names are text")
def test_names_that_are_strange_or_no_text(folder, tmp_path):
    picture = (folder / "red" / "000.png").read_bytes()
    names = [b'a "quoted" [b].png', b"two\nlines.png", b"-dash.png", b"no\xfftext.png"]
    for name in names:
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes(picture)
    found = gradcam.run(models.model(), folder, tmp_path / "out")
    assert not found.errors()
    assert {'a "quoted" [b].png', "two\nlines.png", "-dash.png", "no\\xfftext.png"} <= set(
        keys(found)
    )
    row = found.of("no\\xfftext.png")[0]
    assert found.photograph(row).shape == (24, 32, 3)


def test_arrays_for_a_bare_model(tmp_path):
    inputs = np.random.default_rng(0).random((5, 3, 16, 16))
    model = gradcam.Split(models.features, models.head)
    found = gradcam.run(model, inputs, tmp_path / "out", shard_size=2)
    e = gradcam.explain(model, inputs)
    np.testing.assert_allclose(maps_of(found), e.maps, atol=5e-4 * e.maps.max())
    assert found[0].name == f"class {found[0].class_index}"
    with pytest.raises(ValueError, match="the run was over arrays, which it does not keep"):
        found.photograph(found[0])
    with pytest.raises(
        TypeError, match="`source` must be a path or URL, or arrays that have a length"
    ):
        gradcam.run(model, iter(inputs), tmp_path / "b")
    models.photographs(tmp_path / "photos", 2)
    with pytest.raises(ValueError, match=r"photographs need a gradcam.Classifier"):
        gradcam.run(model, tmp_path / "photos", tmp_path / "c")


# --------------------------------------------------------------------------------- going on, faults


def stopping_after(batches):
    """A watch that ends a run after so many batches."""
    left = [batches]

    def tell(photographs, errors):
        left[0] -= 1

    return Watch(stop=lambda: left[0] <= 0, tell=tell)


def test_a_run_goes_on_where_it_was(folder, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(StoppedError):
        gradcam.run(models.model(), folder, out, shard_size=4, batch=2, progress=stopping_after(3))
    parts = sorted((out / "rows").iterdir())
    assert [part.name for part in parts] == ["part-00000000.parquet"]
    assert not list((out / "attempts").iterdir())
    before = parts[0].stat().st_mtime_ns
    found = gradcam.run(models.model(), folder, out, shard_size=4)
    assert parts[0].stat().st_mtime_ns == before
    expected = gradcam.run(models.model(), folder, tmp_path / "whole", shard_size=4)
    assert found.to_arrow() == expected.to_arrow()
    assert {p.name for p in out.iterdir()} == {"run.json", "plan.parquet", "rows", "attempts"}


def test_a_run_of_something_else_is_refused_with_both_values(folder, tmp_path):
    gradcam.run(models.model(), folder, tmp_path / "out")
    with pytest.raises(
        ValueError, match=r"`weights` was '[0-9a-f]{16}', and is '[0-9a-f]{16}' now"
    ):
        gradcam.run(models.other_model(), folder, tmp_path / "out")
    with pytest.raises(
        ValueError, match=r"hash [0-9a-f]{16}, now [0-9a-f]{16}\): `target` was None"
    ):
        gradcam.run(models.model(), folder, tmp_path / "out", target=1)
    with pytest.raises(ValueError, match="`methods` was"):
        gradcam.run(models.model(), folder, tmp_path / "out", method=("layer-cam", {"gamma": 3.0}))
    with pytest.raises(ValueError, match=r"`options` was {}, and is {'relu': False} now"):
        gradcam.run(models.model(), folder, tmp_path / "out", relu=False)
    with pytest.raises(ValueError, match="`shard_size` was 1024, and is 5 now"):
        gradcam.run(models.model(), folder, tmp_path / "out", shard_size=5)
    # What decides no map may change.
    gradcam.run(models.model(), folder, tmp_path / "out", batch=3, threads=0)


def test_a_folder_that_holds_something_else_is_kept(folder, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match="is not empty, and holds no run; choose another folder"):
        gradcam.run(models.model(), folder, tmp_path / "out")
    (tmp_path / "out" / "run.json").write_text("{}")
    with pytest.raises(ValueError, match=r"run.json: is not of a run of this version"):
        gradcam.run(models.model(), folder, tmp_path / "out")
    with pytest.raises(FileNotFoundError, match=r"holds no run; gradcam.run writes one"):
        gradcam.results(tmp_path / "nowhere")
    assert (tmp_path / "out" / "thesis.tex").read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "`batch` must be at least 1"),
        ({"engine": "spark"}, "`engine` must be 'local', 'ray', but is 'spark'"),
        ({"maps": "zip"}, "`maps` must be"),
        ({"shard": "4/4"}, '`shard` must be "i/n" with i from 0 to n - 1'),
        ({"labels": "file"}, '`labels` must be None or "folder"'),
        ({"columns": {"image": "x"}}, "`columns` are those of Parquet files"),
        ({"method": []}, "`method` is empty"),
        ({"method": "grad-kam"}, "grad-kam"),
        ({"target": "blue"}, "blue"),
        ({"confidence": "tanh"}, "`confidence` must be"),
        ({"layer": "nowhere"}, "nowhere"),
    ],
)
def test_arguments_that_fit_nothing(options, message, folder, tmp_path):
    with pytest.raises((ValueError, TypeError, LookupError), match=message):
        gradcam.run(models.model(), folder, tmp_path / "out", **options)
    assert not (tmp_path / "out" / "run.json").exists()


def test_shares_are_disjoint_and_together_are_all(folder, tmp_path):
    out = tmp_path / "out"
    for index in range(3):
        gradcam.run(models.model(), folder, out, shard_size=2, shard=f"{index}/3")
        assert len(list((out / "rows").iterdir())) == [2, 4, 5][index]
    assert len(gradcam.results(out)) == 10


def test_the_share_that_torchrun_and_slurm_give(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match="neither RANK and WORLD_SIZE"):
        share_of("env")
    monkeypatch.setenv("SLURM_PROCID", "2")
    monkeypatch.setenv("SLURM_NTASKS", "5")
    assert share_of("env") == (2, 5)
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "11")
    monkeypatch.setenv("SLURM_ARRAY_TASK_MIN", "10")
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "4")
    assert share_of("env") == (1, 4)
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert share_of("env") == (3, 8)
    assert share_of(None) == (0, 1)


def test_several_processes_do_the_same(folder, tmp_path):
    one = gradcam.run(models.model(), folder, tmp_path / "one", shard_size=2)
    told = []
    two = gradcam.run(
        "runs.models:model", folder, tmp_path / "two", shard_size=2, workers=2, progress=told.append
    )
    assert two.to_arrow() == one.to_arrow()
    assert told[-1].startswith("10 of 10 photographs, 0 errors, ")


def test_a_photograph_that_kills_its_process_costs_no_other(folder, tmp_path):
    Image.new("RGB", (32, 24), (0, 0, 255)).save(folder / "red" / "004.png")
    found = gradcam.run("runs.models:deadly", folder, tmp_path / "out", shard_size=4, workers=1)
    assert len(found) == 10
    assert keys(found.errors()) == ["red/004.png"]
    assert "the process died twice while it was read or explained" in found.errors()[0].error
    assert not found.failed
    assert not list((tmp_path / "out" / "attempts").iterdir())


def test_a_factory_of_other_weights_each_time_is_refused(folder, tmp_path):
    with pytest.raises(RuntimeError, match="a factory must give the same weights each time"):
        gradcam.run(Factory(models.random_model), folder, tmp_path / "out", workers=1)


def test_a_model_that_cannot_be_sent_is_told(folder, tmp_path):
    model = gradcam.Classifier(
        gradcam.Split(lambda x: x, models.head), models.preprocess, models.view
    )
    with pytest.raises(TypeError, match="cannot be sent to other processes"):
        gradcam.run(model, folder, tmp_path / "out", workers=2)


def test_two_runs_at_once_share_the_work(folder, tmp_path):
    code = (
        "import sys; sys.path[:0] = sys.argv[1:2]; import gradcam; from runs import models; "
        "gradcam.run(models.model(), sys.argv[2], sys.argv[3], shard_size=1)"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parents[1]), str(folder)]
    both = [subprocess.Popen([*command, str(tmp_path / "out")]) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    found = gradcam.results(tmp_path / "out")
    assert sorted(keys(found)) == sorted(set(keys(found)))
    assert len(found) == 10


def test_a_full_disk_leaves_nothing_half_written(folder, tmp_path):
    code = """
import resource, sys
sys.path.insert(0, sys.argv[1])
import gradcam
from runs import models
gradcam.run(models.model(), sys.argv[2], sys.argv[3], shard_size=5, shard="1/2")
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
try:
    gradcam.run(models.model(), sys.argv[2], sys.argv[3], shard_size=5)
except OSError as error:
    print(error)
"""
    out = tmp_path / "out"
    command = [sys.executable, "-c", code, str(Path(__file__).parents[1]), str(folder), str(out)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "part-00000000.parquet: could not be written (" in result.stdout
    assert [part.name for part in (out / "rows").iterdir()] == ["part-00000001.parquet"]
    assert not list((out / "attempts").iterdir())
    assert len(gradcam.run(models.model(), folder, out, shard_size=5)) == 10


# -------------------------------------------------------------------------------------- the results


def test_results_are_a_sequence_that_can_be_filtered(folder, tmp_path):
    models.photographs(folder.parent / "photos" / "green" / "more", 4)
    found = gradcam.run(models.model(), folder, tmp_path / "out", shard_size=4, labels="folder")
    rows = list(found)
    assert [found[n].key for n in range(len(found))] == keys(rows)
    assert found[-1].key == rows[-1].key
    assert keys(found[2:5]) == keys(rows[2:5])
    with pytest.raises(IndexError, match="there are 14 rows, and none of number 14"):
        found[14]
    by_score = sorted(rows, key=lambda row: row.score)
    assert keys(found.lowest("score", 3)) == keys(by_score[:3])
    by_falling = sorted(rows, key=lambda row: -row.score)
    assert keys(found.highest("score", 3)) == keys(by_falling[:3])
    assert keys(found.of_class(1)) == [row.key for row in rows if row.class_index == 1]
    assert keys(found.wrong()) == [row.key for row in rows if row.top_class != row.label_class]
    assert keys(found.lowest("score", 5).of_class(1)) == [
        row.key for row in by_score[:5] if row.class_index == 1
    ]
    assert found.heatmaps(rows[0].key).shape == (1, 16, 20)
    with pytest.raises(KeyError, match='there is no row with the key "x"'):
        found.of("x")
    with pytest.raises(ValueError, match="`column` must be one of score, "):
        found.lowest("name", 1)
    again = gradcam.results(tmp_path / "out")
    assert again.to_arrow() == found.to_arrow()
    assert repr(again).startswith("Results(14 rows: grad-cam of Split over ")


def test_wrong_needs_labels_that_are_classes(folder, tmp_path):
    found = gradcam.run(models.model(), folder, tmp_path / "out")
    with pytest.raises(ValueError, match="no photograph has a label that is one of the model's"):
        found.wrong()


@pytest.mark.parametrize("maps", ["tensor", "list"])
def test_other_tools_read_the_files(maps, folder, tmp_path):
    (folder / "red" / "bad.png").write_text("no image")
    found = gradcam.run(models.model(), folder, tmp_path / "out", shard_size=4, maps=maps)
    rows = f"{tmp_path}/out/rows"
    frame = found.to_pandas()
    assert list(frame["key"]) == keys(found)
    assert frame["map"][0].shape == (4, 5)
    first = np.asarray(found[0].values, np.float32).reshape(-1)

    pandas = pytest.importorskip("pandas")
    table = pandas.read_parquet(rows)
    assert list(table["key"]) == keys(found)
    np.testing.assert_array_equal(np.asarray(table["map"][0], np.float32).reshape(-1), first)

    duckdb = pytest.importorskip("duckdb")
    query = f"select key, map from '{rows}/*.parquet' where error is null order by key"
    read = duckdb.sql(query).fetchall()
    assert [key for key, _ in read] == keys(found.filter(lambda row: row.error is None))
    np.testing.assert_array_equal(np.asarray(read[0][1], np.float32).reshape(-1), first)

    polars = pytest.importorskip("polars")
    frame = polars.read_parquet(f"{rows}/*.parquet")
    assert frame["key"].to_list() == keys(found)
    values = np.asarray(frame["map"].to_list()[0], np.float32).reshape(-1)
    np.testing.assert_array_equal(values, first)


def test_a_row_is_found_without_the_other_files_being_read(folder, tmp_path, monkeypatch):
    found = gradcam.run(models.model(), folder, tmp_path / "out", shard_size=2)
    read = []
    place = type(found._place)
    original = place.read
    monkeypatch.setattr(place, "read", lambda self, name: read.append(name) or original(self, name))
    assert len(found) == 10  # the files' ends alone
    assert read == []
    assert found[9].key == "red/008.png"
    assert read == ["rows/part-00000004.parquet"]


def test_progress_says_what_is_left(folder, tmp_path):
    from gradcam.runs.tally import Tally

    tally = Tally(total=100, start=time.monotonic() - 10)
    tally.add(20, 1)
    assert str(tally).startswith("20 of 100 photographs, 1 errors, 2.0 a second, 0:40 left")
    tally = Tally(total=None, start=time.monotonic() - 10)
    tally.add(20, 0)
    assert str(tally).startswith("20 photographs, 0 errors, 2.0 a second")


def test_results_are_evaluated_as_a_folder_is(folder, tmp_path):
    (folder / "red" / "bad.png").write_text("no image")
    gradcam.run(models.model(), folder, tmp_path / "out", shard_size=3)
    photographs = {path.relative_to(folder).as_posix(): path for path in folder.rglob("0*.png")}
    options = {"measures": ["deletion"], "target": 1}
    of_files = gradcam.evaluate(models.model(), photographs, **options)
    of_run = gradcam.evaluate(models.model(), gradcam.results(tmp_path / "out"), **options)
    assert not of_run.skipped
    values = [{row["photograph"]: row["values"] for row in e.rows} for e in (of_files, of_run)]
    assert values[0] == values[1]
    assert len(values[0]) == 10


def test_maps_of_the_inputs_resolution_in_zarr(tmp_path):
    zarr = pytest.importorskip("zarr")
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(4, 4, 3, stride=2),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(4, 3),
    ).eval()
    inputs = np.random.default_rng(0).random((5, 3, 12, 16), np.float32)
    inputs[3] = np.nan
    found = gradcam.run(
        model, inputs, tmp_path / "out", method="full-grad", maps="zarr", shard_size=2, layer="2"
    )
    kept = [0, 1, 2, 4]
    e = gradcam.explain(model, torch.tensor(inputs[kept]), "2", method="full-grad").numpy()
    assert e.maps.shape == (4, 12, 16)
    assert [row.index for row in found] == [0, 1, 0, None, 0]
    for n, row in zip(kept, found.filter(lambda row: row.error is None), strict=True):
        np.testing.assert_allclose(
            found.map(row), e.maps[kept.index(n)], atol=5e-4 * np.abs(e.maps).max()
        )
        assert found.heatmaps(row).shape == (12, 16)
    assert "map" not in found.to_arrow().column_names
    store = zarr.storage.ZipStore(tmp_path / "out" / "maps" / "part-00000000.zip", mode="r")
    assert zarr.open_array(store, mode="r").shape == (2, 12, 16)
    store.close()
    guided = gradcam.run(
        model,
        inputs[:3],
        tmp_path / "guided",
        method=["guided-grad-cam", "guided-backprop"],
        maps="zarr",
        target=[[0, 2]],
        layer="2",
    )
    assert [(row.method, row.target) for row in guided[:4]] == [
        ("guided-grad-cam", 0),
        ("guided-grad-cam", 1),
        ("guided-backprop", 0),
        ("guided-backprop", 1),
    ]
    x = torch.tensor(inputs[:3])
    g = gradcam.guided_grad_cam(model, x, "2", [[0, 2]]).numpy().gradients
    b = gradcam.guided_backprop(model, x, [[0, 2]]).numpy().gradients
    for n in range(3):
        for k, exact in enumerate((g[n, 0], g[n, 1], b[n, 0], b[n, 1])):
            found_map = guided.map(guided[4 * n + k])
            np.testing.assert_allclose(found_map, exact, atol=5e-4 * np.abs(exact).max())
    assert guided[0].box is None
    assert guided[0].probability is not None
    with pytest.raises(ValueError, match='maps="zarr" needs maps of one shape'):
        gradcam.run(
            model,
            inputs,
            tmp_path / "two",
            layer="2",
            method=["full-grad", "grad-cam"],
            maps="zarr",
        )
