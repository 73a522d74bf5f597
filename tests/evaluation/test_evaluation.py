"""Methods against measures over photographs; annotations; what is kept when it stops half-way."""

from __future__ import annotations

import json

import networks
import numpy as np
import pytest
from PIL import Image

import gradcam
from gradcam.evaluation.annotations import Annotation, read_annotations, seen_mask
from gradcam.evaluation.planning import plan
from gradcam.evaluation.run import Evaluator
from gradcam.metrics import CONTROLS, MEASURES, Measure, Result, perturbation
from gradcam.metrics.measure import Needs
from gradcam.pictures.images import crop

SMALL = ("average-drop", "insertion", "deletion", "pointing-game", "energy")


def classifier():
    """A NumPy network whose first class is red, seen at a quarter of the size; photographs are 32 x
    40.
    """

    def features(x):
        return x

    def head(a):
        return np.stack([a[:, 0].mean((1, 2)), a[:, 1].mean((1, 2)), a[:, 2].mean((1, 2))], 1) * 4

    def preprocess(photographs):
        return np.stack(photographs).transpose(0, 3, 1, 2) / 255.0

    return gradcam.Classifier(
        gradcam.Split(features, head), preprocess, lambda picture: picture[::4, ::4]
    )


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
    given = {
        "annotations": MASKS,
        "measures": SMALL,
        "methods": ["grad-cam", "hires-cam"],
        **options,
    }
    return gradcam.evaluate(classifier(), photographs(), **given)


# ------------------------------------------------------------------------------------ what it finds


def test_the_object_that_makes_the_score_is_found_and_controls_do_worse():
    found = run(target=0)
    assert found.methods == ("grad-cam", "hires-cam")
    assert found.controls == tuple(CONTROLS)
    assert len(found.rows) == 2 * 6
    energy = {who: found.results[who, "energy"].value for who in (*found.methods, *found.controls)}
    # the map is the red channel, 255 on the square and 40 or 60 off it: on 16 of 80 and 24 of 80
    # pixels
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
    found = run(
        measures=list(MEASURES),
        methods=["grad-cam"],
        controls=["centre"],
        options=options,
        target=0,
    )
    assert not [row for row in found.rows if row["failed"]]
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
    original = perturbation.occlusion
    monkeypatch.setattr(
        perturbation, "occlusion", lambda *a, **k: (calls.append(1), original(*a, **k))[1]
    )
    run(
        measures=["occlusion-correlation"],
        options={"occlusion-correlation": {"patch": 4, "stride": 4}},
    )
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
    inputs = np.stack(
        [picture[::4, ::4].transpose(2, 0, 1) / 255.0 for picture in photographs().values()]
    )
    found = gradcam.evaluate(split, inputs, ["grad-cam"], ["deletion"], target=0)
    np.testing.assert_allclose(
        found.results["grad-cam", "deletion"].values,
        run(methods=["grad-cam"], measures=["deletion"], target=0)
        .results["grad-cam", "deletion"]
        .values,
    )


# ------------------------------------------------------------------------------------- what is kept


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
    with pytest.raises(
        ValueError,
        match="with other settings: `seed` was 0, and is 1 now; choose another folder",
    ):
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
    entry = next(
        one for one in saved["summary"] if (one["method"], one["measure"]) == ("grad-cam", "energy")
    )
    assert entry["interval"][0] <= entry["value"] <= entry["interval"][1]
    assert entry["photographs"] == 2
    assert {one["method"] for one in saved["summary"] if one["control"]} == set(CONTROLS)
    assert (tmp_path / "evaluation.png").read_bytes()[:4] == b"\x89PNG"


def test_what_is_infinite_is_kept_as_such(tmp_path):
    black = {name: np.where(picture == 255, picture, 0) for name, picture in photographs().items()}
    given = {
        "methods": ["grad-cam"],
        "measures": ["box-contrast"],
        "annotations": MASKS,
        "target": 0,
    }
    found = gradcam.evaluate(
        classifier(), black, **given, out=tmp_path
    )  # the map is 0 outside of the square
    assert found.results["grad-cam", "box-contrast"].value == np.inf
    again = gradcam.evaluate(classifier(), black, **given, out=tmp_path)
    assert again.results["grad-cam", "box-contrast"].value == np.inf

    def refuse(constant):
        raise AssertionError(constant)

    found.save(tmp_path)
    for line in [
        *(tmp_path / "rows.jsonl").read_text().splitlines(),
        (tmp_path / "evaluation.json").read_text(),
    ]:
        json.loads(line, parse_constant=refuse)


def test_the_best_threshold_of_several_overlaps_is_each_overlaps_own():
    options = {"max-box-accuracy": {"overlap": (0.1, 0.9), "thresholds": (0.3, 0.6)}}
    found = run(measures=("max-box-accuracy",), options=options, controls=())
    values = found.results["grad-cam", "max-box-accuracy"].values.reshape(2, 2, 2)
    assert found.results["grad-cam", "max-box-accuracy"].value == values.mean(0).max(-1).mean()


def test_what_is_drawn_differs_between_photographs():
    options = {"insertion": {"baseline": "noise"}}
    found = run(
        measures=("insertion",), methods=["grad-cam"], options=options, controls=("random",)
    )
    again = run(
        measures=("insertion",), methods=["grad-cam"], options=options, controls=("random",)
    )
    assert [row["values"] for row in found.rows] == [row["values"] for row in again.rows]
    asked = plan(classifier(), None, ["grad-cam"], ["insertion"], (), {}, "softmax", 8, 0)
    seeds = {Evaluator(asked).see(p, None, 0).seed for p in photographs().values()}
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
    failed = [row for row in found.rows if row["failed"]]
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
        ({"options": {"insertoin": {}}}, r"`options` \['insertoin'\] are of no method or measure"),
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
    with pytest.raises(ValueError, match="no photograph could be measured"):
        gradcam.evaluate(classifier(), tmp_path, ["grad-cam"], ["deletion"])


def times_two(net):
    split = net.model
    return gradcam.Classifier(
        gradcam.Split(split.features, lambda a: 2 * split.head(a)), net.preprocess, net.view
    )


def values(found, measure="deletion"):
    return found.results["grad-cam", measure].values.tolist()


def test_what_is_kept_of_another_model_is_refused(tmp_path):
    small = {"methods": "grad-cam", "measures": "deletion", "controls": (), "target": 0}
    first = gradcam.evaluate(classifier(), photographs(), **small, out=tmp_path)
    with pytest.raises(ValueError, match=r"`weights` was '\w{16}', and is '\w{16}' now; choose"):
        gradcam.evaluate(times_two(classifier()), photographs(), **small, out=tmp_path)
    again = []
    assert values(
        gradcam.evaluate(classifier(), photographs(), **small, out=tmp_path, progress=again.append)
    ) == values(first)
    assert not again


def test_objects_and_options_that_changed_are_measured_anew(tmp_path):
    small = {
        "methods": "grad-cam",
        "measures": ("energy", "insertion"),
        "controls": (),
        "target": 0,
    }
    run(**{**small, "annotations": {"one": MASKS["one"]}}, out=tmp_path)
    found = run(**small, out=tmp_path, options={"insertion": {"baseline": "zero"}})
    expected = run(**small, options={"insertion": {"baseline": "zero"}})
    for name in small["measures"]:
        assert values(found, name) == values(expected, name)


def test_rows_of_other_photographs_are_left_out(tmp_path):
    small = {
        "methods": "grad-cam",
        "measures": "deletion",
        "controls": (),
        "target": 0,
        "out": tmp_path,
    }
    both = gradcam.evaluate(classifier(), photographs(), **small)
    one = gradcam.evaluate(classifier(), {"one.png": photographs()["one.png"]}, **small)
    assert values(one) == values(both)[:1]


def test_options_are_of_their_measure_whatever_the_order():
    options = {"average-gain": {"baseline": "noise"}}
    small = {"methods": "grad-cam", "controls": (), "target": 0, "options": options}
    there = run(**small, measures=("average-gain", "average-drop"))
    back = run(**small, measures=("average-drop", "average-gain"))
    for name in ("average-gain", "average-drop"):
        assert values(there, name) == values(back, name)
    assert values(there, "average-drop") == values(
        run(**{**small, "options": {}}, measures="average-drop"), "average-drop"
    )


def test_a_measure_that_fails_is_told_each_time_and_the_others_stay(tmp_path):
    small = {
        "methods": "grad-cam",
        "controls": (),
        "options": {"occlusion-correlation": {"patch": 99}},
    }
    for _ in range(2):
        found = run(**small, measures=("deletion", "occlusion-correlation"), out=tmp_path)
        assert list(found.rows[0]["failed"]) == ["occlusion-correlation"]
        assert "`patch` must be" in found.rows[0]["failed"]["occlusion-correlation"]
        assert not np.isnan(values(found)).any()


def test_a_box_is_right_that_is_one_of_several():
    two = {
        name: Annotation(((4, 8, 4 + width, 24), (36, 28, 40, 32)))
        for name, width in (("one", 16), ("two", 24))
    }
    found = run(annotations=two, measures=("box-error", "max-box-accuracy"), methods="grad-cam", target=0,
                options={"box-error": {"threshold": 0.5}})  # fmt: skip
    assert found.results["grad-cam", "box-error"].value == 0
    assert found.results["grad-cam", "max-box-accuracy"].value == 1


def test_a_bare_model_has_boxes_and_photographs_full_names():
    inputs = np.stack(
        [picture[::4, ::4].transpose(2, 0, 1) / 255.0 for picture in photographs().values()]
    )
    boxes = {"0": Annotation(((1, 2, 5, 6),)), "1": Annotation(((1, 2, 7, 6),))}
    bare = gradcam.evaluate(
        classifier().model, inputs, "grad-cam", "energy", annotations=boxes, target=0
    )
    np.testing.assert_allclose(
        values(bare, "energy"), values(run(measures="energy", target=0), "energy")
    )
    named = {f"cat.v{n}": picture for n, picture in enumerate(photographs().values())}
    full = {"cat.v0": MASKS["one"], "cat.v1": MASKS["two"]}
    found = gradcam.evaluate(classifier(), named, "grad-cam", "energy", annotations=full, target=0)
    assert values(found, "energy") == values(run(measures="energy", target=0), "energy")
    with pytest.raises(ValueError, match="no photograph has annotations: they are of three"):
        run(annotations={"three": MASKS["one"]})


def test_the_confidence_is_what_is_asked_for():
    found = (
        run(measures="average-drop", target=0, confidence="sigmoid")
        .results["grad-cam", "average-drop"]
        .values
    )
    maps, subject = given(0)
    alone = gradcam.metrics.Subject(subject.predict, subject.inputs, 0, confidence="sigmoid")
    assert found[0] == pytest.approx(gradcam.metrics.average_drop(alone, maps).value)
    with pytest.raises(ValueError, match='a "softmax" of one output is always 1'):
        _ = gradcam.metrics.Subject(lambda x: x[:, 0, :1, 0], subject.inputs, 0).clean


def test_photographs_that_the_model_does_not_take_are_skipped(tmp_path):
    net = classifier()

    def head(a):
        if a.shape[2] == 4:
            raise RuntimeError("4 rows do not fit")
        return net.model.head(np.where(a == 1, np.nan, a) if a.shape[2] == 5 else a)

    picky = gradcam.Classifier(gradcam.Split(net.model.features, head), net.preprocess, net.view)
    some = {
        "four": np.zeros((16, 40, 3), np.uint8),
        "five": np.full((20, 40, 3), 255, np.uint8),
        **photographs(),
    }
    found = gradcam.evaluate(picky, some, "grad-cam", "deletion", target=np.int64(0), out=tmp_path)
    assert "4 rows do not fit" in found.skipped["four"]
    assert "NaN or infinite" in found.skipped["five"]
    assert len(values(found)) == 2


def test_a_model_in_training_mode_is_refused_and_not_changed():
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3),
        torch.nn.BatchNorm2d(4),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
    )
    before = model[1].running_mean.clone()
    with pytest.raises(ValueError, match=r"training mode.*model.eval\(\)"):
        gradcam.evaluate(model, torch.randn(2, 3, 8, 8), "grad-cam", "deletion")
    assert torch.equal(model[1].running_mean, before)
    with pytest.raises(TypeError, match="give `layer` by its path"):
        gradcam.evaluate(
            model.eval(), torch.randn(2, 3, 8, 8), "grad-cam", "deletion", layer=model[1], out="x"
        )


def test_a_folder_needs_a_preprocess(tmp_path):
    Image.fromarray(photographs()["one.png"]).save(tmp_path / "one.png")
    with pytest.raises(
        ValueError, match=r"photographs need a gradcam.Classifier with `preprocess`"
    ):
        gradcam.evaluate(classifier().model, tmp_path, "grad-cam", "deletion")


# ----------------------------------------------------------------------------------------- your own


def sparsity(context):
    return Result("sparsity", (context.maps <= 0.1).mean((1, 2)), None)


def activation(activations, gradients):
    return activations[..., 0, :]


def test_your_own_measure_and_method_are_measured_like_others(tmp_path):
    own = Measure("sparsity", sparsity, None, needs="maps")
    found = run(
        methods=["grad-cam", activation, ("layer-cam", {"gamma": 2.0})],
        measures=["deletion", own],
        target=0,
        out=tmp_path,
    )
    assert found.methods == ("grad-cam", "activation", "layer-cam(gamma=2.0)")
    assert found.measures == ("deletion", "sparsity")
    assert not [row for row in found.rows if row["failed"]]
    # the red channel is everywhere at least 40 / 255, and the map is that channel
    assert found.results["activation", "sparsity"].values.tolist() == [0, 0]
    assert found.results["activation", "sparsity"].better is None
    assert "better" not in str(found.results["activation", "sparsity"])
    found.save(tmp_path / "saved")
    alone = gradcam.evaluate(classifier(), photographs(), activation, own, target=0)
    np.testing.assert_array_equal(
        alone.results["activation", "sparsity"].values,
        found.results["activation", "sparsity"].values,
    )


def test_your_own_measure_needs_and_sums_up_what_it_says():
    def area(context):
        assert context.options == {"power": 2}
        return Result("area", context.masks.mean((1, 2)) ** 2, "lower")

    own = Measure("area", area, "lower", needs="mask", summary=lambda options: np.max)
    given = {"measures": [own], "methods": "grad-cam", "options": {"area": {"power": 2}}}
    found = run(**given).results["grad-cam", "area"]
    np.testing.assert_allclose(found.values, [0.2**2, 0.3**2])
    assert found.value == pytest.approx(0.3**2)
    with pytest.raises(ValueError, match="area need `annotations`"):
        run(**given, annotations=None)


def test_a_fault_in_a_measures_code_is_no_fault_of_the_data():
    def broken(context):
        return {}["missing"]

    with pytest.raises(KeyError, match="missing"):
        run(measures=[Measure("broken", broken, "higher")])

    def refuses(context):
        raise ValueError("not of this one")

    found = run(measures=["deletion", Measure("refuses", refuses, "higher")])
    assert {row["failed"]["refuses"] for row in found.rows} == {"ValueError: not of this one"}
    assert not np.isnan(values(found)).any()


def in_the_library(body):
    """A method whose code is the library's own, as far as a traceback tells."""
    names = {"__name__": "gradcam.broken"}
    exec(f"def broken(activations, gradients):\n    {body}", names)
    return names["broken"]


@pytest.mark.parametrize(
    ("body", "error"), [("return {}['missing']", KeyError), ("return 1 + 'a'", TypeError)]
)
def test_a_fault_in_our_code_is_no_fault_of_the_model(body, error):
    with pytest.raises(error):
        run(methods=[in_the_library(body)], measures=["deletion"], controls="centre")


def test_what_our_code_refuses_is_reported():
    refuses = in_the_library("raise TypeError('not of this layer')")
    found = run(methods=[refuses], measures=["deletion"], controls="centre")
    failed = {row["method"]: row["failed"] for row in found.rows}
    assert failed == {"broken": {"deletion": "TypeError: not of this layer"}, "centre": {}}


def test_a_fault_in_the_users_model_is_reported():
    net = classifier()

    def head(a):
        if len(a) > 1:
            return {}["no batches"]
        return net.model.head(a)

    fragile = gradcam.Classifier(gradcam.Split(net.model.features, head), net.preprocess, net.view)
    measures = ["deletion", "coherency"]
    found = gradcam.evaluate(fragile, photographs(), "grad-cam", measures, controls="centre")
    failed = {row["method"]: row["failed"] for row in found.rows}
    # deletion asks about many variants at a time; Grad-CAM by finite differences, which does not
    # get a batch to run, asks about one at a time
    for method in ("centre", "grad-cam"):
        assert failed[method] == {"deletion": "KeyError: 'no batches'"}


def cam(activations, gradients):
    return activations.mean(-2)


def centre(activations, gradients):
    return activations.mean(-2)


@pytest.mark.parametrize(
    ("given", "error", "match"),
    [
        ({"methods": [cam]}, ValueError, '`methods` holds one of your own with the name "cam"'),
        ({"methods": [centre]}, ValueError, 'with the name "centre", which is that of a control'),
        (
            {"measures": [Measure("energy", sparsity, "higher")]},
            ValueError,
            '`measures` holds one of your own with the name "energy", which another has',
        ),
        ({"measures": [sparsity]}, TypeError, "`measures` must be names .* or gradcam.metrics.Me"),
        (
            {"options": {"insertion": {"stpes": 3}}},
            TypeError,
            "`stpes` is no option of insertion; its options are steps, baseline, seed, ties",
        ),
        (
            {"options": {"max-box-accuracy": {"size": (3, 3)}}},
            TypeError,
            "`size` is no option of max-box-accuracy; its options are overlap, thresholds",
        ),
        (
            {"options": {"grad-cam": {"gama": 3}}},
            TypeError,
            "`gama` is no option of gradcam.evaluate and no parameter of grad-cam",
        ),
        ({"target": [0, 1, 2]}, ValueError, r"`target` must be an int, or \(2,\) ints"),
        ({"target": 0.5}, TypeError, "`target` must be None, an int"),
        ({"target": "red"}, ValueError, '`target` "red" is a name, but this classifier has no'),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_measured(given, error, match):
    with pytest.raises(error, match=match):
        run(**given)


@pytest.mark.parametrize("measure", MEASURES.values(), ids=lambda measure: measure.name)
def test_every_measure_says_what_it_is(measure):
    assert measure.range
    assert measure.about
    assert measure.paper.startswith("https://")
    assert measure.takes is not None
    assert measure.needs in Needs.__args__
    with pytest.raises(TypeError, match=f"`nonsense` is no option of {measure.name}; it"):
        measure.check_options({"nonsense": 1})


def test_a_target_is_an_int_a_name_or_one_for_each_photograph(tmp_path):
    net = classifier()
    named = gradcam.Classifier(net.model, net.preprocess, net.view, labels=("red", "green", "blue"))
    small = {"methods": "grad-cam", "measures": "deletion", "controls": ()}
    red = gradcam.evaluate(named, photographs(), **small, target="red")
    blue = gradcam.evaluate(named, photographs(), **small, target=np.int64(2))
    assert [row["class"] for row in (*red.rows, *blue.rows)] == [0, 0, 2, 2]
    for target in (["red", "blue"], np.array([0, 2])):
        each = gradcam.evaluate(named, photographs(), **small, target=target, out=tmp_path)
        assert [row["class"] for row in each.rows] == [0, 2]
        assert values(each) == [values(red)[0], values(blue)[1]]
    other = gradcam.evaluate(named, photographs(), **small, target=[2, 0], out=tmp_path)
    assert values(other) == [values(blue)[0], values(red)[1]]


def test_progress_is_printed(capsys):
    run(measures=["deletion"], methods=["grad-cam"], controls=(), progress=True)
    assert capsys.readouterr().out.splitlines() == ["one.png: grad-cam", "two.png: grad-cam"]


# ---------------------------------------------------------------------------------------- bad files


def evaluated(folder):
    run(measures=["deletion"], methods=["grad-cam"], controls=(), out=folder)
    return (folder / "rows.jsonl").read_text().splitlines()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda row: 3, "is no row of an evaluation, but a int"),
        (lambda row: {**row, "values": [1]}, r"its `values` is \[1\]; delete it"),
        (lambda row: {**row, "values": {"deletion": "low"}}, "its `values` is {'deletion': 'low'}"),
        (lambda row: {**row, "outputs": [1.0, 2.0]}, r"its `outputs` is \[1.0, 2.0\]"),
        (lambda row: {**row, "class": True}, "its `class` is True"),
        (lambda row: {**row, "options": {"deletion": 1}}, "its `options` is"),
        (
            lambda row: {key: value for key, value in row.items() if key != "content"},
            "it has no `content`; delete it",
        ),
    ],
)
def test_a_line_that_is_no_row_is_an_error_that_names_it(tmp_path, change, match):
    first, second = evaluated(tmp_path)
    changed = json.dumps(change(json.loads(second)))
    (tmp_path / "rows.jsonl").write_text(f"{first}\n{changed}\n")
    with pytest.raises(ValueError, match=match) as caught:
        evaluated(tmp_path)
    assert f"{tmp_path / 'rows.jsonl'}: line 2" in str(caught.value)


def test_a_broken_line_that_another_follows_is_an_error(tmp_path):
    first, second = evaluated(tmp_path)
    (tmp_path / "rows.jsonl").write_text(f"{first[:30]}\n{second}\n")
    with pytest.raises(ValueError, match=r"rows.jsonl: line 1 is no row of an evaluation \("):
        evaluated(tmp_path)
    (tmp_path / "rows.jsonl").write_text(f"{first}\n{second[:30]}")  # stopped while it was written
    again = evaluated(tmp_path)
    assert again[0] == first
    assert json.loads(again[1])["values"] == json.loads(second)["values"]
    (tmp_path / "rows.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"rows.jsonl: is no text in UTF-8"):
        evaluated(tmp_path)


@pytest.mark.parametrize("text", ["", '{"layer": nu', "[1, 2]", b"\xff"])
def test_settings_that_are_empty_or_half_are_an_error_that_names_them(tmp_path, text):
    evaluated(tmp_path)
    data = text if isinstance(text, bytes) else text.encode()
    (tmp_path / "settings.json").write_bytes(data)
    with pytest.raises(ValueError, match=r"settings.json: is no settings file of an evaluation"):
        evaluated(tmp_path)


# -------------------------------------------------------------------------------------- annotations


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
        Image.fromarray(annotation.drawn((32, 40)).astype(np.uint8) * 255).save(
            masks / f"{name}.png"
        )
    for source in ("boxes.csv", "voc", "coco.json", "masks"):
        found = read_annotations(tmp_path / source)
        assert found.keys() == MASKS.keys()
        for name, annotation in MASKS.items():
            np.testing.assert_array_equal(
                found[name].drawn((32, 40)), annotation.drawn((32, 40)), err_msg=source
            )


def test_a_polygon_is_a_mask(tmp_path):
    coco = {
        "images": [{"id": 1, "file_name": "one.png", "height": 32, "width": 40}],
        "annotations": [
            {"image_id": 1, "bbox": [0, 0, 1, 1], "segmentation": [[4, 8, 20, 8, 20, 24, 4, 24]]}
        ],
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
    np.testing.assert_array_equal(
        seen_mask(annotation, picture, None), annotation.drawn((300, 500))
    )


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("a.csv", "file,x0,y0,x1\na,1,2,3\n", "has no column y1; it needs file, x0, y0, x1, y1"),
        ("a.csv", "file,x0,y0,x1,y1\na,1,2,3,\n", "line 2 has no four numbers"),
        ("a.csv", "file,x0,y0,x1,y1\na,1,2,3,nan\n", "a.csv: line 2 has no four numbers"),
        ("a.csv", "file,x0,y0,x1,y1\n,1,2,3,4\n", "a.csv: line 2 names no file"),
        ("a.csv", b"file,x0,y0,x1,y1\n\xff,1,2,3,4\n", "a.csv: is no text in UTF-8"),
        ("a.json", b"\xff", "a.json: is no text in UTF-8"),
        ("a.json", "[1]", "a.json: is no COCO file"),
        ("a.json", '{"images": [1], "annotations": []}', "a.json: is no COCO file"),
        ("a.json", '{"images": [], "annotations": ["a"]}', "a.json: is no COCO file"),
        (
            "a.json",
            '{"images": [{"id": 1, "file_name": "a"}], "annotations": [{"image_id": 1, "bbox": [1, 2]}]}',
            r"a.json: annotation None needs a `bbox` of four numbers .* \[1, 2\]",
        ),
        (
            "a.json",
            '{"images": [{"id": 1, "file_name": "a", "height": 3, "width": 3}], "annotations": '
            '[{"image_id": 1, "bbox": [1, 2, 1, 1], "segmentation": [[1, 2, 3]]}]}',
            "a.json: annotation None needs polygons",
        ),
        ("a.json", "{", "is no COCO file"),
        ("a.json", "{}", "is no COCO file"),
        ("a.txt", "", "annotations must be a .json"),
    ],
)
def test_bad_annotations(tmp_path, name, text, match):
    data = text if isinstance(text, bytes) else text.encode()
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=match):
        read_annotations(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="no such file or folder of annotations"):
        read_annotations(tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "a.xml: is no XML"),
        ("<a><object></object></a>", "a.xml: an object has no bndbox"),
        ("<a><object><bndbox/></object></a>", "a.xml: the bndbox of an object has no four numbers"),
        (
            "<a><object><bndbox><xmin>a</xmin><ymin>1</ymin><xmax>1</xmax><ymax>1</ymax></bndbox>"
            "</object></a>",
            "a.xml: the bndbox of an object has no four numbers xmin, ymin, xmax, ymax",
        ),
    ],
)
def test_bad_voc_files(tmp_path, text, match):
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(ValueError, match=match):
        read_annotations(tmp_path)


def test_a_mask_that_ends_too_soon_is_an_error_that_names_it(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"a.png: is a corrupt mask image"):
        read_annotations(tmp_path)


def test_boxes_outside_of_the_photograph_are_an_error():
    with pytest.raises(ValueError, match="lies outside of the photograph, 40 x 32"):
        Annotation(((50, 0, 60, 10),)).drawn((32, 40))
    with pytest.raises(
        ValueError, match=r"the mask has \(2, 2\) pixels, but the photograph \(32, 40\)"
    ):
        Annotation(mask=np.ones((2, 2), bool)).drawn((32, 40))
    with pytest.raises(ValueError, match="ends before it starts"):
        Annotation(((9, 9, 3, 4),)).drawn((32, 40))


def test_masks_are_what_is_neither_black_nor_transparent(tmp_path):
    object_ = np.zeros((32, 40), np.uint8)
    object_[8:24, 4:20] = 1
    clear = np.zeros((32, 40, 4), np.uint8)
    clear[object_ > 0] = 255
    wide = np.where(object_ > 0, 300, 0).astype(np.uint16)
    wide[8, 4] = 1
    palette = Image.fromarray(object_).convert("P")
    palette.putpalette([0, 0, 0, 128, 0, 0])
    for name, image in (
        ("clear.png", Image.fromarray(clear)),
        ("wide.png", Image.fromarray(wide)),
        ("palette.png", palette),
        ("lossy.jpg", Image.fromarray(object_ * 255)),
    ):
        image.save(tmp_path / name)
    (tmp_path / ".hidden").write_text("no mask")
    found = read_annotations(tmp_path)
    assert len(found) == 4
    for name, annotation in found.items():
        np.testing.assert_array_equal(annotation.mask, object_ > 0, err_msg=name)
    (tmp_path / "notes.txt").write_text("no mask")
    with pytest.raises(ValueError, match=r"notes.txt: is no mask image"):
        read_annotations(tmp_path)


def test_a_table_as_spreadsheets_write_it(tmp_path):
    (tmp_path / "boxes.csv").write_text(
        "\ufefffile, x0, y0, x1, y1\none.png, 4, 8, 20, 24\n", encoding="utf-8"
    )
    assert read_annotations(tmp_path / "boxes.csv") == {"one": MASKS["one"]}
    (tmp_path / "boxes.csv").write_text(
        "file,x0,y0,x1,y1\na/one.png,4,8,20,24\nb/one.png,4,8,20,24\n"
    )
    with pytest.raises(ValueError, match=r"a/one.png and b/one.png are both named one"):
        read_annotations(tmp_path / "boxes.csv")


def coco(annotations):
    images = [{"id": 1, "file_name": "one.png", "height": 32, "width": 40}]
    categories = [{"id": 3, "name": "dog"}, {"id": 4, "name": "cat"}]
    return json.dumps({"images": images, "categories": categories, "annotations": annotations})


def test_one_category_is_kept_and_several_are_an_error(tmp_path):
    dog = {"id": 1, "image_id": 1, "bbox": [4, 8, 16, 16], "category_id": 3}
    cat = {"id": 2, "image_id": 1, "bbox": [0, 0, 2, 2], "category_id": 4}
    crowd = {"id": 3, "image_id": 1, "bbox": [0, 0, 40, 32], "category_id": 3, "iscrowd": 1}
    path = tmp_path / "coco.json"
    path.write_text(coco([dog, cat, crowd]))
    assert read_annotations(path, "dog") == {"one": MASKS["one"]}
    with pytest.raises(ValueError, match=r"one.png has objects of several categories, cat, dog"):
        read_annotations(path)
    assert read_annotations(path, "bird") == {}
    path.write_text(coco([{**dog, "segmentation": {"counts": "abc", "size": [32, 40]}}]))
    with pytest.raises(ValueError, match="annotation 1 is a run-length code"):
        read_annotations(path)
    path.write_text(coco([{**dog, "image_id": 77}]))
    with pytest.raises(ValueError, match=r"is no COCO file.*77"):
        read_annotations(path)
    voc = tmp_path / "voc"
    voc.mkdir()
    box = "<bndbox><xmin>5</xmin><ymin>9</ymin><xmax>20</xmax><ymax>24</ymax></bndbox>"
    objects = "".join(f"<object><name>{name}</name>{box}</object>" for name in ("dog", "cat"))
    (voc / "one.xml").write_text(f"<annotation><filename>one.png</filename>{objects}</annotation>")
    assert read_annotations(voc, "dog") == {"one": MASKS["one"]}
    with pytest.raises(ValueError, match="several categories"):
        read_annotations(voc)
