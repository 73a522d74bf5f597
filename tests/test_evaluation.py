"""Methods against measures over photographs; annotations; what is kept when it stops half-way."""

from __future__ import annotations

import json

import networks
import numpy as np
import pytest
from PIL import Image

import gradcam
from gradcam import evaluation
from gradcam.annotations import Annotation, read_annotations, seen_mask
from gradcam.images import crop
from gradcam.metrics import CONTROLS, MEASURES

SMALL = ("average-drop", "insertion", "deletion", "pointing-game", "energy")


def classifier():
    """A NumPy network whose first class is red, seen at a quarter of the size; photographs are 32 x 40."""

    def features(x):
        return x

    def head(a):
        return np.stack([a[:, 0].mean((1, 2)), a[:, 1].mean((1, 2)), a[:, 2].mean((1, 2))], 1) * 4

    def preprocess(photographs):
        return np.stack(photographs).transpose(0, 3, 1, 2) / 255.0

    return gradcam.Classifier(gradcam.Split(features, head), preprocess, lambda picture: picture[::4, ::4])


def photographs():
    """A red square, each on another grey."""
    found = {}
    for n, name in enumerate(("one.png", "two.png")):
        picture = np.full((32, 40, 3), 40 + 20 * n, np.uint8)
        picture[8:24, 4 : 20 + 8 * n, 0] = 255
        found[name] = picture
    return found


MASKS = {"one": Annotation(((4, 8, 20, 24),)), "two": Annotation(((4, 8, 28, 24),))}


def run(**options):
    given = {"annotations": MASKS, "measures": SMALL, "methods": ["grad-cam", "hires-cam"], **options}
    return gradcam.evaluate(classifier(), photographs(), **given)


# ------------------------------------------------------------------------------------------------ what it finds


def test_the_object_that_makes_the_score_is_found_and_controls_do_worse():
    found = run(target=0)
    assert found.methods == ("grad-cam", "hires-cam")
    assert found.controls == tuple(CONTROLS)
    assert len(found.rows) == 2 * 6
    energy = {who: found.results[who, "energy"].value for who in (*found.methods, *found.controls)}
    # the map is the red channel, 255 on the square and 40 or 60 off it: on 16 of 80 and 24 of 80 pixels
    by_hand = [16 * 255 / (16 * 255 + 64 * 40), 24 * 255 / (24 * 255 + 56 * 60)]
    np.testing.assert_allclose(found.results["grad-cam", "energy"].values, by_hand, rtol=1e-6)
    np.testing.assert_allclose(found.results["uniform", "energy"].values, [0.2, 0.3], rtol=1e-6)
    assert all(energy[control] < energy["grad-cam"] for control in found.controls)
    assert found.results["grad-cam", "pointing-game"].value == 1
    assert found.results["grad-cam", "insertion"].value > found.results["random", "insertion"].value
    assert found.seconds.keys() == {"grad-cam", "hires-cam"}


def test_every_measure_runs_and_each_is_that_of_the_library():
    options = {
        "infidelity": {"samples": 4},
        "max-sensitivity": {"samples": 2},
        "occlusion-correlation": {"patch": 2, "stride": 2},
        "road": {"shares": [0.5]},
        "insertion": {"seed": 0},
    }
    found = run(measures=list(MEASURES), methods=["grad-cam"], controls=["centre"], options=options, target=0)
    assert not [row for row in found.rows if "failed" in row]
    assert {name for _, name in found.results} == set(MEASURES)
    maps, subject = given(0)
    alone = gradcam.metrics.confidence_measures(subject, maps)["average-drop"].values[0]
    assert found.results["grad-cam", "average-drop"].values[0] == pytest.approx(alone)
    alone = gradcam.metrics.insertion(subject, maps).values[0]
    assert found.results["grad-cam", "insertion"].values[0] == pytest.approx(alone)
    for (_, name), result in found.results.items():
        assert result.better == MEASURES[name].better


def given(target):
    net = classifier()
    inputs = net.preprocess([net.view(photographs()["one.png"])])
    subject = gradcam.metrics.Subject(gradcam.predictor(net, inputs), inputs, target)
    return gradcam.explain(net, inputs, target=target).maps, subject


def test_occlusion_is_computed_once_for_all_methods(monkeypatch):
    calls = []
    original = evaluation.metrics_.occlusion
    monkeypatch.setattr(evaluation.metrics_, "occlusion", lambda *a, **k: (calls.append(1), original(*a, **k))[1])
    run(measures=["occlusion-correlation"], options={"occlusion-correlation": {"patch": 4, "stride": 4}})
    assert len(calls) == 2  # for each photograph


def test_a_predictor_is_the_model(some_case):
    inputs = some_case.inputs()
    predict = gradcam.predictor(some_case.model, inputs)
    whole = networks.case("numpy").tapped.replay(networks.images(), (), ())
    arrays = gradcam._arrays.to_numpy(inputs)
    np.testing.assert_allclose(predict(arrays), whole, rtol=1e-9)
    np.testing.assert_allclose(predict(arrays[:1]), whole[:1], rtol=1e-9)


def test_a_bare_model_and_its_inputs():
    split = classifier().model
    inputs = np.stack([picture[::4, ::4].transpose(2, 0, 1) / 255.0 for picture in photographs().values()])
    found = gradcam.evaluate(split, inputs, ["grad-cam"], ["deletion"], target=0)
    np.testing.assert_allclose(
        found.results["grad-cam", "deletion"].values,
        run(methods=["grad-cam"], measures=["deletion"], target=0).results["grad-cam", "deletion"].values,
    )


# ------------------------------------------------------------------------------------------------ what is kept


def test_it_goes_on_where_it_stopped(tmp_path):
    said = []

    def stop(what):
        said.append(what)
        if len(said) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(out=tmp_path / "a", progress=stop)
    assert len((tmp_path / "a" / "rows.jsonl").read_text().splitlines()) == 3
    with (tmp_path / "a" / "rows.jsonl").open("a") as file:
        file.write('{"photograph": "one.png", "met')  # stopped in the middle of a line
    again = []
    whole = run(out=tmp_path / "a", progress=again.append)
    assert len(again) == 2 * 6 - 3
    expected = run()
    assert whole.results.keys() == expected.results.keys()
    for key, result in expected.results.items():
        np.testing.assert_allclose(whole.results[key].values, result.values)


def test_another_measure_is_added_to_what_is_there(tmp_path):
    run(out=tmp_path, measures=["energy"])
    said = []
    found = run(out=tmp_path, measures=["energy", "deletion"], progress=said.append)
    assert len(said) == 12
    assert {"energy", "deletion"} == set(found.rows[0]["values"])
    nothing = []
    run(out=tmp_path, measures=["energy", "deletion"], progress=nothing.append)
    assert not nothing


def test_other_settings_are_another_evaluation(tmp_path):
    run(out=tmp_path, seed=0)
    with pytest.raises(ValueError, match="holds an evaluation with other settings; choose another folder"):
        run(out=tmp_path, seed=1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    with pytest.raises(ValueError, match="is not empty, and holds no evaluation"):
        run(out=tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "all of it"


def test_it_is_saved_with_intervals_and_controls(tmp_path):
    found = run(out=tmp_path)
    found.save(tmp_path)
    saved = json.loads((tmp_path / "evaluation.json").read_text())
    entry = next(one for one in saved["summary"] if (one["method"], one["measure"]) == ("grad-cam", "energy"))
    assert entry["interval"][0] <= entry["value"] <= entry["interval"][1]
    assert entry["photographs"] == 2
    assert {one["method"] for one in saved["summary"] if one["control"]} == set(CONTROLS)
    assert (tmp_path / "evaluation.png").read_bytes()[:4] == b"\x89PNG"


def test_what_is_infinite_is_kept_as_such(tmp_path):
    black = {name: np.where(picture == 255, picture, 0) for name, picture in photographs().items()}
    given = {"methods": ["grad-cam"], "measures": ["box-contrast"], "annotations": MASKS, "target": 0}
    found = gradcam.evaluate(classifier(), black, **given, out=tmp_path)  # the map is 0 outside of the square
    assert found.results["grad-cam", "box-contrast"].value == np.inf
    again = gradcam.evaluate(classifier(), black, **given, out=tmp_path)
    assert again.results["grad-cam", "box-contrast"].value == np.inf

    def refuse(constant):
        raise AssertionError(constant)

    found.save(tmp_path)
    for line in [*(tmp_path / "rows.jsonl").read_text().splitlines(), (tmp_path / "evaluation.json").read_text()]:
        json.loads(line, parse_constant=refuse)


def test_the_best_threshold_of_several_overlaps_is_each_overlaps_own():
    options = {"max-box-accuracy": {"overlap": (0.1, 0.9), "thresholds": (0.3, 0.6)}}
    found = run(measures=("max-box-accuracy",), options=options, controls=())
    values = found.results["grad-cam", "max-box-accuracy"].values.reshape(2, 2, 2)
    assert found.results["grad-cam", "max-box-accuracy"].value == values.mean(0).max(-1).mean()


def test_what_is_drawn_differs_between_photographs():
    options = {"insertion": {"baseline": "noise"}}
    found = run(measures=("insertion",), methods=["grad-cam"], options=options, controls=("random",))
    again = run(measures=("insertion",), methods=["grad-cam"], options=options, controls=("random",))
    assert [row["values"] for row in found.rows] == [row["values"] for row in again.rows]
    seeds = {
        evaluation._Evaluator(classifier(), None, 0, (), {}, 8, 0).see(p, None).seed for p in photographs().values()
    }
    assert len(seeds) == 2


def test_a_broken_photograph_is_reported_and_skipped(tmp_path):
    for name, picture in photographs().items():
        Image.fromarray(picture).save(tmp_path / name)
    (tmp_path / "bad.jpg").write_text("no photograph")
    found = gradcam.evaluate(classifier(), tmp_path, ["grad-cam"], ["energy"], annotations=MASKS)
    assert list(found.skipped) == ["bad.jpg"]
    assert "is no image of a known kind" in found.skipped["bad.jpg"]
    assert len({row["photograph"] for row in found.rows}) == 2
    only = gradcam.evaluate(classifier(), [tmp_path / "one.png"], ["grad-cam"], ["deletion"])
    assert len(only.rows) == 5


def test_a_photograph_without_annotation_has_no_value_of_what_needs_one():
    found = run(annotations={"one": MASKS["one"]}, measures=["energy", "deletion"])
    assert np.isnan(found.results["grad-cam", "energy"].values).tolist() == [False, True]
    assert not np.isnan(found.results["grad-cam", "deletion"].values).any()


def test_a_method_that_fails_is_told_and_the_others_are_measured():
    found = run(methods=["attention-rollout", "grad-cam"], measures=["deletion"])
    failed = [row for row in found.rows if "failed" in row]
    assert {row["method"] for row in failed} == {"attention-rollout"}
    assert ("grad-cam", "deletion") in found.results


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"methods": ["grad-kam"]}, r"`methods` \['grad-kam'\] are not known"),
        ({"measures": ["truth"]}, r"`measures` \['truth'\] are not known; known are average-drop"),
        ({"controls": ["edge"]}, r"`controls` \['edge'\] are not known"),
        ({"methods": []}, "`methods` and `measures` must not be empty"),
        ({"annotations": None}, "pointing-game, energy need `annotations`"),
    ],
)
def test_bad_input(given, match):
    with pytest.raises(ValueError, match=match):
        run(**given)


def test_bad_images(tmp_path):
    with pytest.raises(ValueError, match="holds no file"):
        gradcam.evaluate(classifier(), tmp_path, ["grad-cam"], ["deletion"])
    with pytest.raises(ValueError, match="is no folder"):
        gradcam.evaluate(classifier(), tmp_path / "none", ["grad-cam"], ["deletion"])
    with pytest.raises(TypeError, match="`images` must be a folder"):
        gradcam.evaluate(classifier(), 3, ["grad-cam"], ["deletion"])
    (tmp_path / "bad.jpg").write_text("no")
    with pytest.raises(ValueError, match="no photograph could be read"):
        gradcam.evaluate(classifier(), tmp_path, ["grad-cam"], ["deletion"])


# ------------------------------------------------------------------------------------------------ annotations


def test_boxes_of_a_table_of_voc_and_of_coco_are_the_same(tmp_path):
    (tmp_path / "boxes.csv").write_text("file,x0,y0,x1,y1\none.png,4,8,20,24\ntwo.png,4,8,28,24\n")
    voc = tmp_path / "voc"
    voc.mkdir()
    for name, right in (("one", 20), ("two", 28)):  # counted from 1, the last pixel belonging to it
        box = f"<bndbox><xmin>5</xmin><ymin>9</ymin><xmax>{right}</xmax><ymax>24</ymax></bndbox>"
        whole = f"<annotation><filename>{name}.png</filename><object>{box}</object></annotation>"
        (voc / f"{name}.xml").write_text(whole)
    coco = {
        "images": [{"id": 7, "file_name": "a/one.png", "height": 32, "width": 40},
                   {"id": 9, "file_name": "two.png", "height": 32, "width": 40}],
        "annotations": [{"image_id": 7, "bbox": [4, 8, 16, 16]}, {"image_id": 9, "bbox": [4, 8, 24, 16]}],
    }  # fmt: skip
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    masks = tmp_path / "masks"
    masks.mkdir()
    for name, annotation in MASKS.items():
        Image.fromarray(annotation.drawn((32, 40)).astype(np.uint8) * 255).save(masks / f"{name}.png")
    for source in ("boxes.csv", "voc", "coco.json", "masks"):
        found = read_annotations(tmp_path / source)
        assert found.keys() == MASKS.keys()
        for name, annotation in MASKS.items():
            np.testing.assert_array_equal(found[name].drawn((32, 40)), annotation.drawn((32, 40)), err_msg=source)


def test_a_polygon_is_a_mask(tmp_path):
    coco = {
        "images": [{"id": 1, "file_name": "one.png", "height": 32, "width": 40}],
        "annotations": [{"image_id": 1, "bbox": [0, 0, 1, 1], "segmentation": [[4, 8, 19, 8, 19, 23, 4, 23]]}],
    }
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    drawn = read_annotations(tmp_path / "coco.json")["one"].drawn((32, 40))
    np.testing.assert_array_equal(drawn, MASKS["one"].drawn((32, 40)))


def test_a_mask_goes_the_photographs_way():
    picture = np.zeros((300, 500, 3), np.uint8)
    picture[100:200, 200:300] = 255
    annotation = Annotation(((200, 100, 300, 200),))
    seen = crop(picture)[..., 0] > 127
    np.testing.assert_array_equal(seen_mask(annotation, picture, crop), seen)
    assert seen.sum() > 5000
    np.testing.assert_array_equal(seen_mask(annotation, picture, None), annotation.drawn((300, 500)))


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("a.csv", "file,x0,y0,x1\na,1,2,3\n", "has no column y1; it needs file, x0, y0, x1, y1"),
        ("a.csv", "file,x0,y0,x1,y1\na,1,2,3,\n", "line 2 has no four numbers"),
        ("a.json", "{", "is no COCO file"),
        ("a.json", "{}", "is no COCO file"),
        ("a.txt", "", "annotations must be a .json"),
    ],
)
def test_bad_annotations(tmp_path, name, text, match):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=match):
        read_annotations(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="no such file or folder of annotations"):
        read_annotations(tmp_path / "none.csv")


def test_boxes_outside_of_the_photograph_are_an_error():
    with pytest.raises(ValueError, match="lies outside of the photograph, 40 x 32"):
        Annotation(((50, 0, 60, 10),)).drawn((32, 40))
    with pytest.raises(ValueError, match=r"the mask has \(2, 2\) pixels, but the photograph \(32, 40\)"):
        Annotation(mask=np.ones((2, 2), bool)).drawn((32, 40))
