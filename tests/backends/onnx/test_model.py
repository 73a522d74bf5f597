"""ONNX models against the PyTorch models that they were exported from, whose gradients are autograd's."""

from __future__ import annotations

import logging
import warnings

import numpy as np
import pytest

import gradcam
from gradcam import backends

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
from onnx import TensorProto, helper  # noqa: E402
from torch import nn  # noqa: E402


class Residual(nn.Module):
    """A connection passes the explained layer by."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.branch = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.last = nn.ReLU()
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.stem(x).relu()
        return self.head(self.last(x + self.branch(x)).mean((2, 3)))


class Flat(nn.Module):
    """A head that sees each position by itself, and bends."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(4 * 36, 16), nn.GELU(), nn.Linear(16, 5))

    def forward(self, x):
        return self.head(self.conv(x).relu()).softmax(-1)


class Tokens(nn.Module):
    """A transformer: 4 x 6 patches behind a class token, which alone the head reads."""

    def __init__(self, width=16):
        super().__init__()
        self.patches = nn.Conv2d(3, width, 2, stride=2)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.qkv = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(3))
        self.mlp = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 5)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        for qkv, mlp in zip(self.qkv, self.mlp, strict=True):
            q, k, v = qkv(self.norm(x)).chunk(3, -1)
            x = x + torch.softmax(q @ k.transpose(1, 2) / 4, -1) @ v
            x = x + nn.functional.gelu(mlp(self.norm(x)))
        return self.head(self.norm(x)[:, 0])


SIZES = {Residual: (8, 8), Flat: (8, 8), Tokens: (8, 12)}


def made(kind):
    torch.manual_seed(0)
    model = kind().eval()
    return model, torch.randn(2, 3, *SIZES[kind])


def exported(model, x, path, **options):
    options = {"input_names": ["x"], "dynamic_axes": {"x": {0: "n"}}, "dynamo": False} | options
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, x, str(path), **options)
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("onnx")


@pytest.fixture(scope="module", params=list(SIZES), ids=lambda kind: kind.__name__)
def pair(request, folder):
    model, x = made(request.param)
    return model, x, exported(model, x, folder / f"{request.param.__name__}.onnx")


LAYERS = {
    Residual: {"/stem/Conv_output_0": "stem", "/branch/branch.0/Conv_output_0": "branch.1"},
    Flat: {"/conv/Conv_output_0": "conv"},
    Tokens: {"/patches/Conv_output_0": "patches", "/mlp.1/Add_output_0": "mlp.1"},
}
"""By the graph's names, the module that makes the same value; the exporter folds batch norms."""


METHODS = {
    "grad-cam": 1e-5,
    "xgrad-cam": 1e-3,
    "hires-cam": 1e-3,
    "layer-cam": 1e-3,
    "element-wise": 1e-3,
    "eigen-cam": 1e-5,
    "eigen-grad-cam": 1e-3,
    "ablation-cam": 1e-4,
    "score-cam": 1e-4,
    "fem": 1e-5,
}


@pytest.mark.parametrize("method", METHODS)
def test_maps_are_those_of_pytorch(method, folder):
    model, x = made(Residual)
    path = exported(model, x, folder / "methods.onnx")
    options = {"target": [[1, 3]], "method": method, "relu": False, "check": False}
    worst = {}
    for layer, module in {**LAYERS[Residual], "/last/Relu_output_0": "last"}.items():
        maps = gradcam.explain(path, x.numpy(), layer, **options).maps
        expected = gradcam.explain(model, x, module, **options).maps.numpy()
        worst[module] = np.abs(maps - expected).max() / np.abs(expected).max()
    assert worst["last"] <= METHODS[method]
    # where ReLUs follow, some places are nearer to a kink than the smallest step
    by_place = METHODS[method] > 1e-4
    assert worst["branch.1"] <= (5e-3 if by_place else 1e-3)
    if not by_place:
        assert worst["stem"] <= 1e-3


def test_gradients_are_autograds(pair):
    model, x, path = pair
    target = gradcam.targets.ClassScore(3)
    for layer, module in LAYERS[type(model)].items():
        found = backends.adapt(path, x.numpy()).capture(x.numpy(), (layer,), target)
        truth = backends.adapt(model, x).capture(x, (module,), target)
        np.testing.assert_allclose(found.activations[0], truth.activations[0], atol=1e-5)
        gradient = truth.gradients[0].numpy()
        errors = np.abs(found.gradients[0] - gradient) / np.abs(gradient).max()
        # nearer to a ReLU's kink than the smallest step no difference tells its sides apart
        assert np.quantile(errors, 0.95) < 5e-3, layer
        assert np.median(errors) < 5e-5, layer


def test_with_no_layer_named_it_is_found_by_evidence():
    model, x = made(Tokens)
    path = exported(model, x, "tokens.onnx")
    e = gradcam.explain(path, x.numpy(), target=1)
    assert e.maps.shape == (2, 4, 6)
    assert e.axes.how == "evidence"
    assert "reaches none of its positions, or only one" in str(
        e.choice
    )  # behind the last attention
    maps = gradcam.explain(path, x.numpy(), "/mlp.1/Add_output_0", 1).maps
    expected = gradcam.explain(model, x, "mlp.1", 1).maps.numpy()
    np.testing.assert_allclose(maps, expected, atol=1e-4 * expected.max())


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_replayed_activations_give_the_outputs_and_verify_passes(pair):
    _, x, path = pair
    model = backends.adapt(path, x.numpy())
    for layer in [one.path for one in gradcam.layers(path, x.numpy())][::2]:
        capture = model.capture(x.numpy(), (layer,), None)
        replayed = model.replay(x.numpy(), (layer,), capture.activations)
        np.testing.assert_allclose(replayed, capture.outputs, atol=1e-5)
    gradcam.verify(path, x.numpy(), target=2).assert_passed()


@pytest.mark.parametrize("opset", [11, 13, 18])
def test_opsets(opset):
    model, x = made(Residual)
    path = exported(model, x, "old.onnx", opset_version=opset)
    e = gradcam.explain(path, x.numpy(), target=1)
    newest = gradcam.explain(exported(model, x, "new.onnx"), x.numpy(), target=1)
    np.testing.assert_allclose(e.maps, newest.maps, atol=1e-5 * newest.maps.max())


def test_the_newer_exporter_and_its_weights_in_a_file_of_their_own():
    model, x = made(Residual)
    shapes = ({0: torch.export.Dim("n")},)
    path = exported(
        model, (x,), "new.onnx", dynamo=True, dynamic_axes=None, dynamic_shapes=shapes,
        external_data=True, verbose=False,
    )  # fmt: skip
    e = gradcam.explain(path, x.numpy(), target=1)
    old = gradcam.explain(exported(model, x, "old.onnx"), x.numpy(), target=1)
    np.testing.assert_allclose(e.maps, old.maps, atol=1e-5 * old.maps.max())


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_fixed_batch_serves_any_number_of_samples(size):
    model, x = made(Residual)
    path = exported(model, torch.cat([x] * 2)[:size], "fixed.onnx", dynamic_axes=None)
    free = exported(model, x, "free.onnx")
    many = torch.cat([x, 2 * x, -x])[:5].numpy()
    for method in ("grad-cam", "score-cam"):
        e = gradcam.explain(path, many, target=1, method=method)
        expected = gradcam.explain(free, many, target=1, method=method)
        np.testing.assert_allclose(e.maps, expected.maps, atol=1e-5 * expected.maps.max())


def test_sessions_and_models_in_memory_are_the_file():
    model, x = made(Residual)
    path = exported(model, x, "model.onnx")
    expected = gradcam.explain(path, x.numpy(), target=1).maps
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    for same in (onnx.load(path), session, (session, path)):
        np.testing.assert_array_equal(gradcam.explain(same, x.numpy(), target=1).maps, expected)
    with open(path, "rb") as file:
        session = ort.InferenceSession(file.read(), providers=["CPUExecutionProvider"])
    with pytest.raises(TypeError, match="made of bytes, and does not say of which"):
        gradcam.explain(session, x.numpy())
    np.testing.assert_array_equal(
        gradcam.explain((session, path), x.numpy(), target=1).maps, expected
    )


def test_half_precision():
    model, x = made(Residual)
    path = exported(model.half(), x.half(), "half.onnx")
    e = gradcam.explain(path, x.numpy(), target=1)  # float32 inputs are converted
    expected = gradcam.explain(exported(made(Residual)[0], x, "full.onnx"), x.numpy(), target=1)
    assert np.corrcoef(e.maps.ravel(), expected.maps.ravel())[0, 1] > 0.99


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.photo, self.depth = nn.Conv2d(3, 8, 3), nn.Conv2d(1, 8, 3)
        self.head = nn.Linear(8, 5)

    def forward(self, photo, depth):
        features = self.photo(photo).relu() + self.depth(depth).relu()
        pooled = features.mean((2, 3))
        return pooled, self.head(pooled)


def test_several_inputs_and_outputs():
    torch.manual_seed(0)
    model = Two().eval()
    photo, depth = torch.randn(2, 3, 9, 9), torch.randn(2, 1, 9, 9)
    names = {"input_names": ["photo", "depth"], "output_names": ["pooled", "logits"]}
    axes = {name: {0: "n"} for names in names.values() for name in names}
    path = exported(model, (photo, depth), "two.onnx", dynamic_axes=axes, **names)
    inputs = {"photo": photo.numpy(), "depth": depth.numpy()}
    e = gradcam.explain(path, inputs, target=1)  # of "logits"
    assert e.layer == "/Add_output_0"
    weights = model.head.weight[1].detach().numpy() / 49  # of the mean of 7 x 7 positions
    features = backends.adapt(path, inputs).capture(inputs, (e.layer,), None).activations[0]
    expected = np.maximum(np.einsum("k,nkij->nij", weights, features), 0)
    np.testing.assert_allclose(e.maps, expected, atol=1e-5 * expected.max())
    by_place = gradcam.explain(path, (photo.numpy(), depth.numpy()), target=1)
    np.testing.assert_array_equal(by_place.maps, e.maps)
    pooled = gradcam.explain(path, inputs, target=lambda outputs: outputs["pooled"][:, 2])
    assert pooled.layer == e.layer


def test_control_flow_is_cut_round():
    """The branches of an If use values from outside, which the head must have."""
    kinds = {"x": TensorProto.FLOAT, "y": TensorProto.FLOAT}
    x, y = (helper.make_tensor_value_info(n, kind, None) for n, kind in kinds.items())
    branches = {}
    for name, kind in (("then_branch", "Relu"), ("else_branch", "Neg")):
        out = helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, None)
        node = helper.make_node(kind, ["c"], [f"{name}_out"])
        branches[name] = helper.make_graph([node], name, [], [out])
    values = np.random.default_rng(0).normal(size=(5, 3, 1, 1)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("ReduceMax", ["c"], ["most"], keepdims=0),
        helper.make_node("Greater", ["most", "zero"], ["positive"]),
        helper.make_node("If", ["positive"], ["r"], **branches),
        helper.make_node("GlobalAveragePool", ["r"], ["m"]),
        helper.make_node("Flatten", ["m"], ["y"]),
    ]
    weights = [
        onnx.numpy_helper.from_array(values, "w"),
        onnx.numpy_helper.from_array(np.float32(0), "zero"),
    ]
    graph = helper.make_graph(nodes, "net", [x], [y], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    inputs = np.random.default_rng(1).normal(size=(1, 3, 6, 6)).astype(np.float32)
    found = backends.adapt(model, inputs).capture(inputs, ("c",), gradcam.targets.ClassScore(2))
    expected = np.zeros_like(found.activations[0])
    expected[:, 2] = (found.activations[0][:, 2] > 0) / 36
    np.testing.assert_allclose(found.gradients[0], expected, atol=1e-5)
    with pytest.raises(KeyError, match=r'layer "then_branch_out" is not in the model'):
        gradcam.explain(model, inputs, layer="then_branch_out")


def test_the_price_of_a_map_in_evaluations_of_the_head(caplog, monkeypatch):
    model, x = made(Residual)
    path = exported(model, x, "price.onnx")
    tapped = backends.adapt(path, x.numpy())
    rows = []
    run = tapped._sessions.run

    def counted(key, make, feeds):
        rows.append((key[0], max(len(array) for array in feeds.values())))
        return run(key, make, feeds)

    monkeypatch.setattr(tapped._sessions, "run", counted)
    layer = gradcam.explain(path, x.numpy(), target=1).layer
    rows.clear()
    caplog.set_level(logging.DEBUG, "gradcam")
    gradcam.explain(path, x.numpy(), layer, 1)
    assert [count for key, count in rows if key == "all"] == [2]  # one forward pass
    evaluations = sum(count for key, count in rows if key == "head") / len(x)
    # a small step, three larger ones, two sides each, of 8 channels; 4 for the rounding; a proof
    assert evaluations <= 2 * 4 * 8 + 4 + 4
    assert "evaluations of the head" in caplog.text


def test_what_cannot_be_done_is_said():
    model, x = made(Residual)
    path = exported(model, x, "cannot.onnx")
    with pytest.raises(ValueError, match="second derivatives of an ONNX model"):
        gradcam.explain(path, x.numpy(), target=1, method="shapley-cam")
    for method in ("full-grad", "legrad"):
        with pytest.raises((TypeError, ValueError)):
            gradcam.explain(path, x.numpy(), target=1, method=method)
