from __future__ import annotations

import json
import os

import numpy as np
import pytest
from PIL import Image

import gradcam
from gradcam import Explanation, targets
from gradcam.explaining import saving


def make(maps=None, scores=None, target=None, **options):
    maps = np.random.default_rng(0).random((2, 3, 4)) if maps is None else maps
    scores = np.array([1.5, -2.0]) if scores is None else scores
    target = np.array([1, 0]) if target is None else target
    options = {"size": (6, 8), "layer": "layer4", "method": "grad-cam", "model": "Net", **options}
    return Explanation(maps, scores, target, **options)


def photos(count=2, size=(12, 16)):
    return [np.full((*size, 3), 200, np.uint8)] * count


def test_heatmaps_are_in_the_inputs_size_and_in_0_to_1():
    heat = make().heatmaps()
    assert heat.shape == (2, 6, 8)
    np.testing.assert_allclose(heat.reshape(2, -1).max(1), 1)
    assert make().heatmaps((3, 3)).shape == (2, 3, 3)
    assert make(
        np.ones((2, 5, 3, 4)) * np.arange(4.0), np.ones((2, 5)), np.zeros((1, 5), int)
    ).heatmaps().shape == (
        2,
        5,
        6,
        8,
    )


def test_joint_heatmaps_share_one_scale():
    maps = np.stack([np.eye(3), 2 * np.eye(3)])
    assert make(maps, size=(3, 3)).heatmaps(joint=True)[0].max() == 0.5


def test_numpy_of_tensors():
    torch = pytest.importorskip("torch")
    e = make(torch.ones(2, 3, 4), torch.ones(2, requires_grad=True), torch.tensor([1, 2])).numpy()
    assert all(isinstance(x, np.ndarray) for x in (e.maps, e.scores, e.target))
    assert make(torch.ones(2, 3, 4, dtype=torch.bfloat16)).numpy().maps.dtype == np.float32


def test_boxes_by_hand():
    heat = np.zeros((1, 5, 7))
    heat[0, 1:3, 1:4] = (
        0.15  # six cells at exactly 15 % of the maximum: rows 1 and 2, columns 1 to 3
    )
    heat[0, 4, 6] = 1.0  # the maximum, one cell, touches nothing
    heat[0, 3, 4] = 1.0  # touches the large segment at a corner only
    e = make(heat, np.ones(1), np.zeros(1, int), size=(5, 7))
    np.testing.assert_array_equal(e.boxes(), [[1, 1, 4, 3]])
    np.testing.assert_array_equal(
        e.boxes(threshold=0.16)[0], [4, 3, 5, 4]
    )  # of two single cells, the first


def test_a_blank_map_has_no_box():
    np.testing.assert_array_equal(make(np.zeros((2, 3, 4))).boxes(), np.zeros((2, 4)))
    with pytest.raises(ValueError, match="`threshold` is a share of the maximum"):
        make().boxes(threshold=15)


def test_boxes_in_other_dimensions():
    line = np.zeros((1, 9))
    line[0, 3:6] = 1
    e = Explanation(line, np.ones(1), np.zeros(1, int), size=(9,))
    np.testing.assert_array_equal(e.boxes(), [[3, 6]])
    solid = np.zeros((1, 4, 5, 6))
    solid[0, 1:3, 0:2, 2:6] = 1
    e = Explanation(solid, np.ones(1), np.zeros(1, int), size=(4, 5, 6))
    np.testing.assert_array_equal(e.boxes(), [[2, 0, 1, 6, 2, 3]])  # x0 y0 z0 x1 y1 z1
    several = Explanation(
        np.ones((2, 3, 1, 4)) * np.arange(4), np.ones((2, 3)), np.zeros((1, 3), int), size=(1, 4)
    )
    assert several.boxes().shape == (2, 3, 4)


def test_names():
    assert make(labels=["cat", "dog"]).names() == [["dog"], ["cat"]]
    assert make().names() == [["class 1"], ["class 0"]]
    two = make(np.ones((2, 2, 3, 4)), np.ones((2, 2)), np.array([[1, 0]]), labels=["cat", "dog"])
    assert two.names() == [["dog", "cat"], ["dog", "cat"]]

    def margin(outputs):
        return outputs

    assert make(target=margin).names() == [["margin"], ["margin"]]
    assert make(target=lambda outputs: outputs).names() == [["score"], ["score"]]
    assert make(target=targets.Probability(3)).names() == [["Probability(3)"], ["Probability(3)"]]
    one_for_all = make(target=np.asarray(1))
    assert one_for_all.names() == [["class 1"], ["class 1"]]


def test_an_overlay_leaves_the_photograph_where_there_is_no_evidence():
    maps = np.zeros((1, 2, 2))
    maps[0, 0, 0] = 3.0
    (image,) = make(maps, np.ones(1), np.zeros(1, int)).overlay(photos(1, (40, 40)))
    pixels = np.asarray(image)
    assert image.size == (40, 40)
    np.testing.assert_array_equal(pixels[-5:, -5:], 200)
    assert np.abs(pixels[:5, :5].astype(int) - 200).max() > 30


@pytest.mark.parametrize(
    "photo",
    [
        np.zeros((9, 9, 3), np.uint8),
        np.zeros((9, 9, 4), np.uint8),
        np.zeros((9, 9), np.uint8),
        np.zeros((9, 9, 3)),
        Image.new("L", (9, 9)),
    ],
)
def test_photographs_of_any_kind(photo):
    one = make(np.eye(3)[None], np.ones(1), np.zeros(1, int))
    assert one.overlay([photo])[0].size == (9, 9)
    assert one.overlay(photo)[0].size == (9, 9)


def test_overlay_errors():
    with pytest.raises(ValueError, match="`photos` has 1, but the explanation has 2 samples"):
        make().overlay(photos(1))
    with pytest.raises(
        ValueError, match="pass the photograph itself, not the model's normalised input"
    ):
        make().overlay([np.random.default_rng(0).normal(size=(9, 9, 3))] * 2)
    with pytest.raises(ValueError, match=r"must have the shape \(H, W, 3\)"):
        make().overlay([np.zeros((3, 9, 9))] * 2)
    with pytest.raises(
        ValueError, match=r"an overlay needs maps over two axes, but these have 1; use .figure"
    ):
        Explanation(np.ones((2, 5)), np.ones(2)).overlay(photos())
    with pytest.raises(ValueError, match='`colormap` "nope"'):
        make().overlay(photos(), colormap="nope")


def test_figures_have_a_panel_for_each_sample_and_target():
    e = make(
        np.ones((2, 3, 3, 4)) * np.arange(4),
        np.arange(6.0).reshape(2, 3),
        np.array([[0, 1, 2]]),
        labels="abc",
    )
    with_photos = e.figure(photos())
    assert len([a for a in with_photos.axes if a.images]) == 2 * (3 + 1)
    titles = [a.get_title() for a in with_photos.axes]
    assert "a\nscore 0" in titles
    assert "c\nscore 5" in titles
    assert len([a for a in e.figure().axes if a.images]) == 6
    assert e._repr_png_().startswith(b"\x89PNG")


@pytest.mark.parametrize("grid", [(7,), (3, 4, 5)])
def test_figures_in_one_and_three_dimensions(grid):
    e = Explanation(np.random.default_rng(0).random((1, *grid)), np.ones(1), np.zeros(1, int))
    assert e._repr_png_().startswith(b"\x89PNG")


def test_save_writes_maps_pictures_and_a_manifest(tmp_path):
    e = make(labels=["cat", "dog"])
    folder = e.save(tmp_path / "deep" / "out", photos())
    assert sorted(os.listdir(folder)) == [
        "0000.png",
        "0001.png",
        "heatmaps.npy",
        "manifest.json",
        "maps.npy",
        "photo-0000.png",
        "photo-0001.png",
    ]
    np.testing.assert_array_equal(np.load(folder / "maps.npy"), e.maps)
    np.testing.assert_array_equal(np.load(folder / "heatmaps.npy"), e.heatmaps())
    with Image.open(folder / "0000.png") as picture:
        assert picture.size == (16, 12)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["model"] == "Net"
    assert manifest["layer"] == "layer4"
    assert manifest["method"] == "grad-cam"
    assert manifest["target"] == [1, 0]
    assert manifest["names"] == [["dog"], ["cat"]]
    assert manifest["scores"] == [1.5, -2.0]
    assert manifest["files"]["pictures"] == ["0000.png", "0001.png"]
    assert {"python", "numpy", "gradcam"} <= set(manifest["versions"])


def test_save_without_photographs_and_with_several_targets(tmp_path):
    e = make(np.ones((2, 2, 3, 4)) * np.arange(4), np.ones((2, 2)), np.array([[0, 1]]))
    assert {"0000-00.png", "0001-01.png"} <= set(os.listdir(e.save(tmp_path / "a")))
    line = Explanation(np.ones((1, 5)), np.ones(1), np.zeros(1, int))
    assert sorted(os.listdir(line.save(tmp_path / "b"))) == [
        "heatmaps.npy",
        "manifest.json",
        "maps.npy",
    ]


def test_nothing_of_the_users_is_overwritten(tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years")
    with pytest.raises(FileExistsError, match="is not empty; pass overwrite=True"):
        make().save(mine)
    with pytest.raises(FileExistsError, match="holds no earlier explanation"):
        make().save(mine, overwrite=True)
    assert (mine / "thesis.txt").read_text() == "years"
    first = make().save(tmp_path / "out")
    make(scores=np.array([7.0, 7.0])).save(tmp_path / "out", overwrite=True)
    assert json.loads((first / "manifest.json").read_text())["scores"] == [7, 7]
    assert sorted(os.listdir(tmp_path)) == ["mine", "out"]


@pytest.mark.parametrize("existing", [False, True])
def test_it_is_written_whole_or_not_at_all(tmp_path, monkeypatch, existing):
    if existing:
        make().save(tmp_path / "out")
    before = sorted(os.listdir(tmp_path))

    def full_disk(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr(saving.json, "dumps", full_disk)
    with pytest.raises(OSError, match="no space left"):
        make(scores=np.array([7.0, 7.0])).save(tmp_path / "out", overwrite=True)
    assert sorted(os.listdir(tmp_path)) == before
    if existing:
        assert json.loads((tmp_path / "out" / "manifest.json").read_text())["scores"] == [1.5, -2.0]


def test_it_prints_itself():
    assert (
        repr(make())
        == "Explanation(grad-cam of Net at 'layer4': maps (2, 3, 4), scores [ 1.5 -2. ])"
    )


@pytest.mark.parametrize("size", [(5,), (5, 5, 5)])
def test_a_size_has_as_many_numbers_as_the_map_has_axes(size):
    split = gradcam.Split(lambda x: x, lambda a: a.mean((2, 3)), layout="channels_first")
    images = np.random.default_rng(0).random((3, 2, 4, 4))
    explainer = gradcam.Explainer(split)
    with pytest.raises(ValueError, match="a number for each of the 2 axes of the maps"):
        explainer(images, 1).heatmaps(size)
    with pytest.raises(ValueError, match="a number for each of the 2 axes of the maps"):
        explainer.heatmaps(images, 1, size)
    assert explainer.heatmaps(images, 1, (5, 6)).shape == (3, 5, 6)


def test_one_sample_of_an_explanation_is_that_sample_explained():
    model = gradcam.Split(lambda x: x[:, :, ::2, ::2], lambda a: a.mean((2, 3)))
    inputs = np.random.default_rng(0).random((4, 3, 8, 8))
    for target in (None, 1, [[0, 2]], np.array([0, 1, 2, 0]), np.array([[0, 1]] * 4)):
        e = gradcam.explain(model, inputs, target=target)
        assert len(e) == 4
        own = target[2:3] if isinstance(target, np.ndarray) else target
        alone = gradcam.explain(model, inputs[2:3], target=own)
        for part in (e[2], e[-2], e[2:3]):
            np.testing.assert_allclose(part.maps, alone.maps)
            np.testing.assert_allclose(part.scores, alone.scores)
            assert part.names() == alone.names()
            assert part.outputs is None
        assert len(e[1:]) == 3
    with pytest.raises(IndexError, match="there are 4 samples, and none of number 4"):
        e[4]
    assert [len(part) for part in e] == [1, 1, 1, 1]


def test_a_sample_of_an_explanation_that_was_loaded(tmp_path):
    maps = np.arange(8.0).reshape(2, 2, 2)
    gradcam.Explanation(maps, np.ones(2), np.array([3, 4])).save(tmp_path / "e")
    part = gradcam.Explanation.load(tmp_path / "e")[1]
    np.testing.assert_array_equal(part.maps, maps[1:])
    assert part.names() == [["class 4"]]
