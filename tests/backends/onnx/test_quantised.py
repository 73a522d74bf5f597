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
