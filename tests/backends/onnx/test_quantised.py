"""The demo network in integers of eight bits: its maps are nearly those of floats."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import gradcam
from gradcam.backends.differences import Grid, slopes

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
pytest.importorskip("efficientnet_lite_pytorch")
stats = pytest.importorskip("scipy.stats")
from onnxruntime import quantization  # noqa: E402

from gradcam.zoo import efficientnet_lite0  # noqa: E402
from gradcam.zoo.demo import photograph  # noqa: E402

NAMES = ("chelsea", "coffee", "camera", "rocket")


class Calibration(quantization.CalibrationDataReader):
    def __init__(self, inputs):
        self.rows = iter(inputs)

    def get_next(self):
        row = next(self.rows, None)
        return None if row is None else {"image": row[None]}


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    net = efficientnet_lite0("torch")
    x = net.preprocess([net.view(photograph(name)) for name in NAMES])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net.model, x[:1], str(folder / "demo.onnx"), input_names=["image"],
            output_names=["logits"], dynamic_axes={"image": {0: "n"}}, dynamo=False,
        )  # fmt: skip
        quantization.quantize_static(
            str(folder / "demo.onnx"), str(folder / "int8.onnx"), Calibration(x.numpy()),
            quant_format=quantization.QuantFormat.QDQ, per_channel=True,
        )  # fmt: skip
    return net, x.numpy(), folder


def test_the_demo_network_in_a_file_is_the_demo_network(networks):
    net, x, folder = networks
    e = gradcam.explain(folder / "demo.onnx", x)
    expected = gradcam.explain(net, torch.from_numpy(x))
    np.testing.assert_array_equal(e.target, expected.target.numpy())
    maps = expected.maps.numpy()
    np.testing.assert_allclose(e.maps, maps, atol=1e-5 * maps.max())
    assert e.axes.how == "type"


def test_the_quantised_network_says_the_same_and_looks_at_the_same(networks):
    _, x, folder = networks
    floats = gradcam.explain(folder / "demo.onnx", x)
    e = gradcam.explain(folder / "int8.onnx", x)
    np.testing.assert_array_equal(e.target, floats.target)
    assert e.layer.endswith("DequantizeLinear_Output")
    for found, expected in zip(e.maps, floats.maps, strict=True):
        assert stats.spearmanr(found.ravel(), expected.ravel()).statistic >= 0.95


def test_lifts_in_patterns_of_signs_see_what_single_lifts_do_not():
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(24, 3)) / 24

    def head(a):  # rounds what it takes, its mean and its scores
        taken = np.clip(np.round(a / 0.05) * 0.05, 0, 6)
        mean = np.round(taken.mean((-2, -1)) / 0.02) * 0.02
        return np.round(mean @ weights / 0.04) * 0.04

    a = np.maximum(rng.normal(size=(2, 24, 4, 4)), 0).astype(np.float32)
    single = slopes(lambda v: head(v)[..., 1], a, (-2, -1)).values
    found = slopes(lambda v: head(v)[..., 1], a, (-2, -1), Grid(0.05, 0.0, 6.0))
    truth = np.broadcast_to(weights[:, 1] / 16, (2, 24))
    assert np.corrcoef(found.values.ravel(), truth.ravel())[0, 1] > 0.9
    size = np.abs(truth).max()
    assert np.abs(single.reshape(2, 24) - truth).max() > 0.9 * size  # they see hardly anything
    assert np.abs(found.values.reshape(2, 24) - truth).max() < 0.6 * size
    assert found.doubt > 0.01


def features():
    """From an image to activations, named x."""
    return [
        onnx.helper.make_node("Conv", ["image", "kernel"], ["c"]),
        onnx.helper.make_node("Relu", ["c"], ["x"]),
    ]


def kernel(channels):
    values = np.random.default_rng(3).normal(size=(channels, 3, 1, 1)) / 2
    return onnx.numpy_helper.from_array(values.astype(np.float32), "kernel")


def arrays(**values):
    return [onnx.numpy_helper.from_array(value, name) for name, value in values.items()]


def rounded(name, unit, number):
    """Nodes that round a value to bytes, and what they need."""
    nodes = [
        onnx.helper.make_node("QuantizeLinear", [name, f"s{number}", f"z{number}"], [f"{name}_q"]),
        onnx.helper.make_node(
            "DequantizeLinear", [f"{name}_q", f"s{number}", f"z{number}"], [f"{name}_dq"]
        ),
    ]
    zero = np.uint8(0 if number < 2 else 128)
    values = {f"s{number}": np.float32(unit), f"z{number}": zero}
    return nodes, [onnx.numpy_helper.from_array(np.array(v), n) for n, v in values.items()]


@pytest.mark.parametrize("between", ["Reshape", None])
def test_the_grid_is_found_behind_a_change_of_shape(between):
    rng = np.random.default_rng(0)
    head = rng.normal(size=(24, 3)).astype(np.float32)
    pixels, means, scores = rounded("x", 0.02, 0), rounded("m", 0.015, 1), rounded("y", 0.05, 2)
    shape = onnx.numpy_helper.from_array(np.array([-1, 24], np.int64), "shape")
    middle = [onnx.helper.make_node("GlobalAveragePool", ["x_dq"], ["p"])]
    if between:
        middle.append(onnx.helper.make_node("Reshape", ["p", "shape"], ["m"]))
    else:
        middle[0] = onnx.helper.make_node("ReduceMean", ["x_dq"], ["m"], axes=[2, 3], keepdims=0)
    last = [onnx.helper.make_node("MatMul", ["m_dq", "w"], ["y"])]
    graph = onnx.helper.make_graph(
        [*features(), *pixels[0], *middle, *means[0], *last, *scores[0]],
        "net",
        [onnx.helper.make_tensor_value_info("image", 1, ["n", 3, 4, 4])],
        [onnx.helper.make_tensor_value_info("y_dq", 1, None)],
        [*pixels[1], *means[1], *scores[1], shape, kernel(24), *arrays(w=head)],
    )
    opset = [onnx.helper.make_opsetid("", 13)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=8)
    image = rng.normal(size=(1, 3, 4, 4)).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", gradcam.RoughGradientsWarning)
        e = gradcam.explain(model, image, "x_dq", 1, relu=False)
    x = onnx.numpy_helper.to_array(kernel(24))[:, :, 0, 0]
    x = np.maximum(np.einsum("kc,ncij->nkij", x, image), 0)
    expected = np.einsum("k,nkij->nij", head[:, 1] / 16, x)
    assert np.corrcoef(e.maps.ravel(), expected.ravel())[0, 1] > 0.97


def test_gradients_that_rounding_leaves_open_are_called_rough():
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(6, 3)).astype(np.float32) / 8
    scores = rounded("y", 0.05, 2)
    pixels = rounded("x", 0.02, 0)
    graph = onnx.helper.make_graph(
        [
            *features(),
            *pixels[0],
            onnx.helper.make_node("ReduceMean", ["x_dq"], ["m"], axes=[2, 3], keepdims=0),
            onnx.helper.make_node("MatMul", ["m", "w"], ["y"]),
            *scores[0],
        ],
        "net",
        [onnx.helper.make_tensor_value_info("image", 1, ["n", 3, 4, 4])],
        [onnx.helper.make_tensor_value_info("y_dq", 1, None)],
        [*pixels[1], *scores[1], kernel(6), *arrays(w=weights)],
    )
    opset = [onnx.helper.make_opsetid("", 13)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=8)
    image = rng.normal(size=(1, 3, 4, 4)).astype(np.float32)
    with pytest.warns(gradcam.RoughGradientsWarning, match="are known to about"):
        gradcam.explain(model, image, "x_dq", 1, relu=False)
