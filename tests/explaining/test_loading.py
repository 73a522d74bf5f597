"""`Explanation.load` reads back what `save` wrote, and says what is wrong with a folder."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

import gradcam
from gradcam import Explanation, targets
from gradcam.explaining.loading import SavedFunction

RANDOM = np.random.default_rng(0)


def margin(outputs):
    return outputs[:, 0] - outputs[:, 1]


def single(**options):
    options = {"target": np.array([1, 0]), "size": (6, 8), "layer": "layer4", **options}
    return Explanation(
        RANDOM.random((2, 3, 4)),
        np.array([1.5, -2.0]),
        method="grad-cam",
        model="Net",
        **options,
    )


CASES = {
    "single": single(),
    "labels": single(labels=["cat", "dog", "a fish, with commas"]),
    "one target for all": single(target=np.asarray(1)),
    "no target": single(target=None),
    "no size": single(size=None),
    "a size of other axes": single(size=(100,)),
    "several layers": single(layer=("layer3", "layer4")),
    "K targets": Explanation(
        RANDOM.random((2, 3, 4, 5)).astype(np.float32),
        RANDOM.random((2, 3)).astype(np.float32),
        np.array([[4, 0, 2]], np.int32),
        size=(8, 10),
        labels="abcde",
    ),
    "one dimension": Explanation(RANDOM.random((2, 7)), np.ones(2), np.array([0, 1]), size=(64,)),
    "three dimensions": Explanation(
        RANDOM.random((1, 2, 2, 3, 4)).astype(np.float16),
        RANDOM.random((1, 2)).astype(np.float16),
        np.array([[3, 1]]),
        size=(4, 6, 8),
    ),
    "a function": single(target=margin),
    "a lambda": single(target=lambda outputs: outputs),
    "a target": single(target=targets.Probability(3)),
    "a long target": single(target=targets.Probability([[3, 4, 5, 6, 7, 8, 9, 10, 11, 12]] * 2)),
    "a function of K": Explanation(RANDOM.random((2, 3, 4, 4)), np.ones((2, 3)), margin),
    "not finite": Explanation(
        np.array([[[np.nan, 1.0]], [[np.inf, 0.0]]]), np.array([np.nan, -np.inf]), np.array([0, 1])
    ),
}


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("case", CASES)
def test_a_round_trip_is_exact(case, tmp_path):
    before = CASES[case]
    after = Explanation.load(before.save(tmp_path / "out"))
    for name in ("maps", "scores"):
        array, expected = getattr(after, name), getattr(before, name)
        np.testing.assert_array_equal(array, expected)
        assert array.dtype == expected.dtype
    for name in ("size", "layer", "method", "model"):
        assert getattr(after, name) == getattr(before, name)
    assert after.names() == before.names()
    assert after.labels == (None if before.labels is None else list(before.labels))
    if callable(before.target):
        assert repr(after.target) == repr(before.target)
    elif before.target is None:
        assert after.target is None
    else:
        np.testing.assert_array_equal(after.target, before.target)
        assert after.target.dtype == before.target.dtype
    np.testing.assert_array_equal(after.heatmaps(), before.heatmaps())
    assert after.versions["numpy"] == np.__version__
    # what was loaded is saved as the same, with the versions that made it
    again = Explanation.load(after.save(tmp_path / "again"))
    assert (again.names(), again.versions) == (after.names(), after.versions)
    assert repr(again.target) == repr(after.target)


def test_a_folder_that_was_saved_from_a_model(tmp_path):
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1))
    model.append(torch.nn.Flatten()).eval()
    e = gradcam.explain(model, torch.ones(2, 3, 8, 8), "0", [[0, 3]], relu=False)
    loaded = Explanation.load(e.save(tmp_path / "out"))
    np.testing.assert_array_equal(loaded.maps, e.numpy().maps)
    assert loaded.names() == [["class 0", "class 3"]] * 2
    assert repr(loaded) == repr(e)
    assert loaded.versions["torch"] == torch.__version__.partition("+")[0] or loaded.versions[
        "torch"
    ].startswith(torch.__version__)


def test_a_function_is_kept_by_name_and_cannot_be_called(tmp_path):
    target = Explanation.load(single(target=margin).save(tmp_path / "out")).target
    assert isinstance(target, SavedFunction)
    with pytest.raises(TypeError, match="was a function, which a saved explanation does not keep"):
        target(np.ones((2, 2)))


def test_a_loaded_explanation_is_diagnosed_by_its_maps(tmp_path):
    blank = Explanation(np.zeros((1, 2, 2)), np.ones(1), np.array([0]))
    loaded = Explanation.load(blank.save(tmp_path / "out"))
    assert loaded.diagnose() == blank.diagnose()
    assert loaded.diagnose().reasons == ("blank",)
    assert "loaded, or made by hand: explain the inputs again" in loaded.diagnose()[0].message
    with pytest.raises(ValueError, match="this explanation has no model"):
        loaded.diagnose(np.ones((1, 3, 4, 4)))


def rewrite(folder, **fields):
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest |= fields
    path.write_text(json.dumps({k: v for k, v in manifest.items() if v is not ...}))


def as_schema_1(folder):
    """As this library wrote it before there was `load`."""
    rewrite(folder, schema=1, **dict.fromkeys(("dtypes", "input_size", "labels", "sha256"), ...))


@pytest.mark.parametrize("case", ["single", "labels", "K targets", "a function of K", "no target"])
def test_folders_of_schema_1_still_load(case, tmp_path):
    before = CASES[case]
    folder = before.save(tmp_path / "out")
    as_schema_1(folder)
    after = Explanation.load(folder)
    np.testing.assert_array_equal(after.maps, before.maps)
    np.testing.assert_array_equal(after.scores, before.scores)
    assert after.names() == before.names()
    np.testing.assert_array_equal(after.heatmaps(), before.heatmaps())


def test_scores_of_schema_1_may_be_nan(tmp_path):
    folder = single().save(tmp_path / "out")
    as_schema_1(folder)
    rewrite(folder, scores=[float("nan"), 1.0])
    np.testing.assert_array_equal(Explanation.load(folder).scores, [np.nan, 1])


@pytest.fixture
def folder(tmp_path):
    e = single(labels=["cat", "dog"])
    return e.save(tmp_path / "out")


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_the_manifest_is_json_that_others_read(folder, tmp_path):
    def refuse(constant):
        raise AssertionError(constant)

    path = CASES["not finite"].save(tmp_path / "nan") / "manifest.json"
    assert json.loads(path.read_text(), parse_constant=refuse)["scores"] == ["nan", "-inf"]


@pytest.mark.parametrize("name", ["manifest.json", "maps.npy"])
def test_a_file_that_is_missing(folder, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{name}: no such file"):
        Explanation.load(folder)


def test_a_folder_that_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"pass a folder that Explanation.save has written"):
        Explanation.load(tmp_path / "nowhere")


@pytest.mark.parametrize("share", [0, 0.3, 0.99])
@pytest.mark.parametrize("name", ["manifest.json", "maps.npy"])
def test_half_a_file(folder, name, share):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=f"{name}: is n.*, or was cut short"):
        Explanation.load(folder)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("hello", "manifest.json: is not JSON"),
        ("[" * 100_000, "manifest.json: is not JSON"),
        ("[1]", r"manifest.json: must be a JSON object, but is \[1\]"),
        ("{}", 'manifest.json: the field "schema" is missing'),
        ('{"schema": true}', 'the field "schema" must be an integer, but is true'),
        ('{"schema": 3}', 'the field "schema" is 3, but this version of gradcam reads 1 to 2'),
        ('{"schema": 0}', 'the field "schema" is 0'),
        ('{"schema": 2}', 'the field "dtypes" is missing'),
    ],
)
def test_a_manifest_that_is_none(folder, text, match):
    (folder / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match=match):
        Explanation.load(folder)


def test_a_manifest_in_another_encoding(folder):
    (folder / "manifest.json").write_bytes(b'{"schema": "\xff"}')
    with pytest.raises(ValueError, match=r"manifest.json: is not JSON"):
        Explanation.load(folder)


DTYPES = {"scores": "float64", "target": "int64"}


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [
        ("scores", "high", r'must be numbers of shape \(N,\) or \(N, K\), but is "high"'),
        ("scores", [1.5, None], "must be numbers"),
        ("scores", [1.5, True], "must be numbers"),
        ("scores", [1.5, float("nan")], "must be numbers"),
        ("scores", [[1.5], 2.0], "must be numbers"),
        ("scores", [1.5, 2.0, 3.0], r"has the shape \(3,\)"),
        ("scores", 1.5, "must be numbers"),
        ("shape", [2, 4, 3], r'the field "shape" of manifest.json is \(2, 4, 3\)'),
        ("shape", [2, 12], r'the field "shape" of manifest.json is \(2, 12\)'),
        ("shape", [2, -3, 4], "must be a list of positive integers"),
        ("shape", "big", "must be a list of positive integers"),
        ("input_size", [0, 8], "must be null or a list of positive integers"),
        ("input_size", 8, "must be null or a list of positive integers"),
        ("target", [1, 2], '"labels" must be null or strings, one for each class of "target"'),
        ("target", [1, -1], "must be class indices for scores of shape"),
        ("target", [1, 0.5], "must be class indices"),
        ("target", [1, 0, 1], "must be class indices"),
        ("target", [[[1]]], "must be class indices"),
        ("target", [1, 10**30], "must be class indices"),
        ("target", {}, "must be class indices"),
        ("names", [["dog"]], "must be 2 lists of 1 strings"),
        ("names", [["dog"], [3]], "must be 2 lists of 1 strings"),
        ("names", [["dog"], ["dog"]], 'is not what "target" and "labels" say'),
        ("names", None, "must be 2 lists of 1 strings"),
        ("names", ["ab", "cd"], "must be 2 lists of 1 strings"),
        ("labels", ["cat"], "one for each class"),
        ("labels", "cd", "must be null or strings"),
        ("layer", 4, "must be a string or a list of strings"),
        ("layer", ["a", 4], "must be a string or a list of strings"),
        ("method", None, "must be a string, but is null"),
        ("model", [], r"must be a string, but is \[\]"),
        ("versions", ["1"], "must be an object of strings"),
        ("versions", {"numpy": 1}, "must be an object of strings"),
        ("dtypes", {**DTYPES, "scores": "nope"}, 'must be dtypes of numbers, also for "scores"'),
        ("dtypes", {**DTYPES, "scores": "object"}, 'must be dtypes of numbers, also for "scores"'),
        ("dtypes", {**DTYPES, "target": "float64"}, 'must be dtypes of numbers, also for "target"'),
        ("dtypes", {}, "must be dtypes of numbers"),
        ("dtypes", "float64", "must be dtypes of numbers"),
        ("sha256", None, "must be an object with a string"),
        ("sha256", {"maps.npy": "0"}, 'was changed after it was saved: the field "sha256"'),
    ],
)
def test_a_field_that_is_wrong(folder, field, value, match):
    rewrite(folder, **{field: value})
    with pytest.raises(ValueError, match=match) as error:
        Explanation.load(folder)
    assert field in str(error.value) or "labels" in str(error.value)
    assert "manifest.json" in str(error.value)


OPTIONAL = {"schema", "size", "files", "created", "probabilities", "axes", "choice"}
"""Fields that loading of schema 2 does not read, and the one with a test of its own."""


def test_every_field_is_needed(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    for field in set(manifest) - OPTIONAL:
        copy = shutil.copytree(folder, folder.parent / f"without-{field}")
        rewrite(copy, **{field: ...})
        with pytest.raises(ValueError, match=f'manifest.json: the field "{field}" is missing'):
            Explanation.load(copy)


def test_maps_that_were_changed(folder):
    maps = np.load(folder / "maps.npy")
    maps[0, 0, 0] += 1e-9
    np.save(folder / "maps.npy", maps)
    with pytest.raises(ValueError, match=r"maps.npy: was changed after it was saved: the field"):
        Explanation.load(folder)
    maps[0, 0, 0] = np.nan
    np.save(folder / "maps.npy", maps)
    with pytest.raises(ValueError, match=r"maps.npy: was changed after .*, and has NaN now"):
        Explanation.load(folder)


@pytest.mark.parametrize(
    ("array", "match"),
    [
        (np.array([None, {}]), "is no .npy file of numbers"),
        (np.ones((2, 3, 4), complex), "must hold real numbers, but holds complex128"),
        (np.zeros((2, 3, 4), [("a", "<f4")]), "must hold real numbers"),
        (np.ones((2, 3, 5)), r"has the shape \(2, 3, 5\)"),
        (np.ones(2), r"has the shape \(2,\)"),
    ],
)
def test_maps_of_another_kind(folder, array, match):
    np.save(folder / "maps.npy", array, allow_pickle=True)
    with pytest.raises(ValueError, match=match) as error:
        Explanation.load(folder)
    assert "maps.npy" in str(error.value)


def test_maps_with_no_axis_of_space(folder):
    np.save(folder / "maps.npy", np.ones(2))
    rewrite(folder, shape=[2])
    with pytest.raises(ValueError, match='the field "scores" has the shape'):
        Explanation.load(folder)


def test_a_size_of_schema_1_has_the_maps_axes(folder):
    as_schema_1(folder)
    rewrite(folder, size=[6])
    with pytest.raises(ValueError, match='the field "size" has 1 axes, but the maps have 2'):
        Explanation.load(folder)


def test_nothing_in_a_folder_runs(folder, tmp_path):
    """A pickle that would leave a file behind is refused."""

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "pwned"), "w"))

    np.save(folder / "maps.npy", np.array([Evil()]), allow_pickle=True)
    with pytest.raises(ValueError, match=r"maps.npy: is no .npy file of numbers"):
        Explanation.load(folder)
    assert not (tmp_path / "pwned").exists()
