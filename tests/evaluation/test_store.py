"""What an evaluation keeps on disk: of which model it is, by whom it is written, and when it is
stopped.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import subprocess
import sys
import tempfile

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

import gradcam
from gradcam.evaluation.store import FIELDS, OPTIONAL, Store, opened
from gradcam.identity import identity
from gradcam.metrics import Measure, Result

INPUTS = np.random.default_rng(0).random((3, 2, 4, 4))


def split(factor=1.0):
    return gradcam.Split(np.abs, lambda a: factor * a.mean((2, 3)))


def evaluated(folder, model=None, inputs=INPUTS, **options):
    chosen = {"methods": "grad-cam", "measures": "deletion", "controls": (), "target": 0, **options}
    said = []
    model = split() if model is None else model
    gradcam.evaluate(model, inputs, out=folder, progress=said.append, **chosen)
    return said


# ------------------------------------------------------------------------------- of which model it is


def torch_network():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3), torch.nn.ReLU()]
    layers += [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 2)]
    return torch.nn.Sequential(*layers).eval()


def a_weight(model):
    model[0].weight.data[0, 0, 0, 0] += 1e-6


def a_running_mean(model):
    model[1].running_mean[0] += 1e-6


def an_activation(model):
    model[2] = type(model)()  # the outputs, and so the scores, may be equal all the same


@pytest.mark.parametrize("change", [a_weight, a_running_mean, an_activation])
def test_a_model_that_was_changed_is_refused(tmp_path, change):
    torch = pytest.importorskip("torch")
    model = torch_network()
    inputs = torch.ones(1, 2, 6, 6)
    assert evaluated(tmp_path, model, inputs) == ["0: grad-cam"]
    assert not evaluated(tmp_path, torch_network(), inputs)
    change(model)
    with pytest.raises(
        ValueError, match=r"other settings: `weights` was '\w{16}', and is '\w{16}'"
    ):
        evaluated(tmp_path, model, inputs)


def test_confident_models_of_equal_outputs_are_told_apart(tmp_path):
    torch = pytest.importorskip("torch")
    inputs = torch.ones(1, 2, 6, 6)
    model = torch_network().append(torch.nn.Softmax(1)).eval()
    model[5].bias.data[:] = torch.tensor([10.0, 0.0])
    evaluated(tmp_path, model, inputs)
    model[0].weight.data.neg_()
    torch.testing.assert_close(model(inputs), torch.tensor([[1.0, 0.0]]), rtol=0, atol=1e-3)
    with pytest.raises(ValueError, match="choose another folder"):
        evaluated(tmp_path, model, inputs)


def test_another_layer_of_the_classifier_is_another_setting(tmp_path):
    torch = pytest.importorskip("torch")
    inputs = torch.ones(1, 2, 6, 6)
    evaluated(tmp_path, gradcam.Classifier(torch_network(), layer="0"), inputs)
    with pytest.raises(ValueError, match="`layer` was '0', and is '2' now"):
        evaluated(tmp_path, gradcam.Classifier(torch_network(), layer="2"), inputs)


def test_a_functions_closure_tells_it(tmp_path):
    evaluated(tmp_path, split(1.0))
    assert not evaluated(tmp_path, split(1.0))
    with pytest.raises(ValueError, match="`weights` was"):
        evaluated(tmp_path, split(2.0))


def test_rows_of_the_first_version_say_that_they_are(tmp_path):
    evaluated(tmp_path)
    settings = {"layer": None, "target": 0, "confidence": "softmax", "seed": 0}
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"settings.json: .* its `schema` is None, and must be 2"):
        evaluated(tmp_path)


def own(factor):
    def method(activations, gradients):
        return factor * activations.mean(-2)

    return method


def test_a_method_of_ones_own_that_was_changed_is_measured_anew(tmp_path):
    assert len(evaluated(tmp_path, methods=own(1.0))) == 3
    assert not evaluated(tmp_path, methods=own(1.0))
    assert len(evaluated(tmp_path, methods=own(-1.0))) == 3


def test_a_measure_of_ones_own_that_was_changed_is_measured_anew(tmp_path):
    def constant(value):
        return Measure("mine", lambda context: Result("mine", np.array([value]), None), None)

    assert len(evaluated(tmp_path, measures=[constant(1.0)])) == 3
    assert not evaluated(tmp_path, measures=[constant(1.0)])
    assert len(evaluated(tmp_path, measures=[constant(2.0)])) == 3


def test_what_cannot_be_told_is_said(tmp_path):
    random = np.random.default_rng(0)
    model = gradcam.Split(np.abs, lambda a: a.mean((2, 3)) + 0 * random.random())
    with pytest.warns(UserWarning, match="these read what cannot be compared: Generator; choose"):
        evaluated(tmp_path, model)


SCALE = 1.0
TABLE = {"mean": [0.5, 0.25]}


class Callable:
    """A model's function as an object of the user's own."""

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, x):
        return self.factor * x


class Other(Callable):
    def __call__(self, x):
        return self.factor / x


def reads_a_global(x):
    return SCALE * x


def reads_a_table(x):
    return x - TABLE["mean"][1]


def reads_a_module(x):
    return gradcam.maps.relu(x) * np.float32(2)


def test_functions_are_told_by_code_and_by_what_they_read(monkeypatch):
    same = [
        lambda: reads_a_global,
        lambda: reads_a_table,
        lambda: reads_a_module,
        lambda: Callable(2.0),
        lambda: Callable(np.ones(3)),
        lambda: functools.partial(reads_a_global, x=np.arange(4.0)),
        lambda: functools.lru_cache(reads_a_global),
        lambda: own(frozenset("abcdef")),
        lambda: own(object()),
        lambda: own([np.sum, len, slice(3), ..., np.float32]),
    ]
    digests = [identity(make()).digest for make in same]
    assert digests == [identity(make()).digest for make in same]
    assert not any(identity(make()).unknown for make in same)
    others = [
        Callable(2.5),
        Callable(np.ones(3, np.float32)),
        Callable(np.ones((3, 1))),
        Other(2.0),
        functools.partial(reads_a_global, x=np.arange(5.0)),
        own(frozenset("abcdeg")),
        own([np.sum, len, slice(4), ..., np.float32]),
    ]
    assert len({*digests, *(identity(other).digest for other in others)}) == 17
    monkeypatch.setitem(globals(), "SCALE", 1.5)
    assert identity(reads_a_global).digest != digests[0]
    TABLE["mean"][1] += 1
    assert identity(reads_a_table).digest != digests[1]


def test_what_reads_too_much_is_said():
    huge = list(range(30_000))
    nested: list = []
    for _ in range(5000):
        nested = [nested]
    assert identity(own(huge)).unknown == ()  # plain numbers are cheap
    assert "of too many parts" in identity(own([[n] for n in huge])).unknown[0]
    assert "of too many parts" in identity(own(nested)).unknown[0]


NETWORKS = {
    "numpy": "numpy", "torch": "torch", "torch-split": "torch", "jax": "jax", "jax-split": "jax",
    "nnx": "flax", "linen": "flax", "linen-bound": "flax", "equinox": "equinox", "haiku": "haiku",
    "keras": "keras",
}  # fmt: skip
"""Of tests/networks.py, and what each needs."""

IDENTITIES = """
import sys
sys.path.insert(0, sys.argv[1])
import networks
from gradcam.identity import identity
for name in sys.argv[2:]:
    print(name, identity(networks.case(name).model))
"""


def test_another_process_finds_the_same_identities():
    names = [name for name, module in NETWORKS.items() if importlib.util.find_spec(module)]
    here = os.path.dirname(os.path.dirname(__file__))
    found = []
    for seed in ("1", "2"):
        words = [sys.executable, "-W", "ignore", "-c", IDENTITIES, here, *names]
        environment = {
            **os.environ,
            "PYTHONHASHSEED": seed,
            "JAX_ENABLE_X64": "1",
            "KERAS_BACKEND": "jax",
        }
        done = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
        found.append(done.stdout)
    assert found[0] == found[1]
    assert found[0].count("unknown=()") == len(names)


# ---------------------------------------------------------------------------- by whom it is written


def test_two_evaluations_in_one_folder_are_one_too_many(tmp_path):
    def second(what):
        with pytest.raises(ValueError, match="is being written by another evaluation; wait for it"):
            evaluated(tmp_path)

    gradcam.evaluate(split(), INPUTS, measures="deletion", target=0, out=tmp_path, progress=second)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert len({(row["photograph"], row["method"]) for row in rows}) == len(rows)
    assert sorted(os.listdir(tmp_path)) == ["rows.jsonl", "settings.json"]


def test_a_row_without_values_is_not_kept_twice(tmp_path):
    options = {
        "measures": ["occlusion-correlation"],
        "options": {"occlusion-correlation": {"patch": 9}},
    }
    for _ in range(2):
        assert len(evaluated(tmp_path, **options)) == 3
    assert not os.listdir(tmp_path)


def test_a_file_in_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(OSError, match=r"out: could not be written \(File exists\)"):
        evaluated(tmp_path / "out")


# ------------------------------------------------------------------------------------ when it stops

FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import numpy as np
import gradcam
folder = Path(sys.argv[1])
split = gradcam.Split(np.abs, lambda a: a.mean((2, 3)))
images = np.random.default_rng(0).random((40, 2, 4, 4))
def run():
    return gradcam.evaluate(split, images, "grad-cam", "deletion", controls=(), target=0, out=folder)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1500, -1))
try:
    run()
except OSError as error:
    print(error)
kept = (folder / "rows.jsonl").read_bytes()
assert kept.endswith(b"}\\n"), kept[-80:]
with (folder / "rows.jsonl").open("ab") as file:
    file.write(b'{"photograph": "x')  # and killed in the middle of a line
resource.setrlimit(resource.RLIMIT_FSIZE, (700, -1))
try:
    run()
except OSError as error:
    print(error)
assert (folder / "rows.jsonl").read_bytes().startswith(kept)
resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
found = run()
assert (folder / "rows.jsonl").read_bytes().startswith(kept)
found.save(folder)
saved = (folder / "evaluation.json").read_bytes()
resource.setrlimit(resource.RLIMIT_FSIZE, (1500, -1))
try:
    found.save(folder)
except OSError as error:
    print(error)
assert (folder / "evaluation.json").read_bytes() == saved
print(*sorted(file.name for file in folder.iterdir()))
"""


def test_a_full_disk_costs_no_row_and_leaves_no_half_file(tmp_path):
    words = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *errors, files = done.stdout.splitlines()
    for error, name in zip(errors, ("rows.jsonl", "rows.jsonl", "evaluation.json"), strict=True):
        assert error == f"{tmp_path / name}: could not be written (File too large)"
    assert files == "evaluation.json evaluation.png rows.jsonl settings.json"
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 40


# --------------------------------------------------------------------------------- files of any kind

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip
ROW = {
    "photograph": "a.jpg", "method": "grad-cam", "content": 1, "class": 0, "outputs": [1.0] * 4,
    "objects": None, "options": {"grad-cam": {}, "deletion": {}}, "values": {"deletion": 0.5},
    "failed": {}, "control": False, "score": 0.5, "seconds": 0.1,
}  # fmt: skip
SETTINGS = {"schema": 2, "seed": 0}


@st.composite
def texts(draw, value):
    """A file's text: of the value with a field replaced, cut, garbled, or anything."""
    changed = dict(value)
    for name in draw(st.lists(st.sampled_from([*value, "new"]), max_size=2)):
        changed[name] = draw(JSON)
    text = json.dumps(draw(st.just(changed) | JSON)).encode()
    if draw(st.booleans()):
        cut = draw(st.integers(0, len(text)))
        text = text[:cut] + draw(st.binary(max_size=3)) + text[cut + draw(st.integers(0, 3)) :]
    return text


EXAMPLES = int(os.environ.get("GRADCAM_EXAMPLES", "200"))


@hypothesis.settings(max_examples=EXAMPLES, deadline=None)
@hypothesis.given(st.lists(texts(ROW), max_size=3), texts(SETTINGS), st.booleans(), st.booleans())
def test_files_of_any_kind_are_read_or_are_an_error_that_names_them(rows, settings, ours, ended):
    with tempfile.TemporaryDirectory() as folder:
        place = os.path.join(folder, "out")
        os.mkdir(place)
        with open(os.path.join(place, "settings.json"), "wb") as file:
            file.write(json.dumps(SETTINGS).encode() if ours else settings)
        with open(os.path.join(place, "rows.jsonl"), "wb") as file:
            file.write(b"\n".join(rows) + (b"\n" if ended else b""))
        said = f"{place}: read"
        try:
            with opened(place, SETTINGS) as store:
                used(store)
        except ValueError as error:
            said = str(error)
        assert place in said
        assert len(said) < 1000


def used(store: Store) -> None:
    """All that is made of rows."""
    key = {name: ROW[name] for name in ("photograph", "method", "content", "class", "outputs")}
    known = store.find({**key, "objects": None}, ROW["options"], ())
    json.dumps(known, allow_nan=False)
    store.add(ROW)
    assert store.find({**key, "objects": None}, ROW["options"], ())["values"]["deletion"] == 0.5


def test_all_fields_of_a_row_are_in_the_example():
    assert ROW.keys() == {**FIELDS, **OPTIONAL}.keys()
