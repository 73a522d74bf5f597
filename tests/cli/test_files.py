"""A model that is a file, on the command line, and how photographs become its inputs."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from gradcam.cli import models
from gradcam.cli.commands import app

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper  # noqa: E402


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    rng = np.random.default_rng(0)
    arrays = {"w": rng.normal(size=(4, 3, 3, 3)), "v": rng.normal(size=(4, 2))}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["m"]),
        helper.make_node("Flatten", ["m"], ["f"]),
        helper.make_node("MatMul", ["f", "v"], ["y"]),
    ]
    weights = [onnx.numpy_helper.from_array(a.astype("f4"), n) for n, a in arrays.items()]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 32, 32])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])
    graph = helper.make_graph(nodes, "net", [x], [y], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"preprocess": "size=32", "labels": json.dumps(["cat", "dog"])})
    onnx.save(model, "model.onnx")
    pixels = rng.integers(0, 256, (48, 64, 3)).astype(np.uint8)
    Image.fromarray(pixels).save("photo.png")
    return tmp_path


def test_a_file_is_explained_with_what_it_says_of_itself(file):
    found = CliRunner().invoke(app, ["explain", "photo.png", "--model", "model.onnx", "--top", "2"])
    assert found.exit_code == 0, found.output
    assert "cat" in found.output
    assert "dog" in found.output
    listed = CliRunner().invoke(app, ["layers", "--model", "model.onnx"])
    assert "1 x 4 x 30 x 30" in listed.output


def test_what_is_told_wins_over_the_file(file):
    words = ["explain", "photo.png", "--model", "model.onnx", "--preprocess"]
    wrong = CliRunner().invoke(app, [*words, "size=24"])
    assert "the model takes" in wrong.output
    unknown = CliRunner().invoke(app, [*words, "zoom=3"])
    assert unknown.exit_code == 2
    assert "is not known" in unknown.output


def test_pixels_become_inputs_as_told():
    steps = models._steps(None, "size=2 resize=2 mean=0.5 deviation=0.5 order=bgr scale=1")
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    expected = (pixels.astype(np.float32) - 0.5) / 0.5
    steps = models.dataclasses.replace(steps, model=lambda x: x)
    np.testing.assert_allclose(np.asarray(steps([pixels]))[0], expected[..., ::-1])
    assert models._steps(None, "").view(np.zeros((300, 300, 3), np.uint8)).shape == (224, 224, 3)


def test_a_broken_file_is_a_line(file):
    (file / "broken.onnx").write_bytes(b"nothing")
    found = CliRunner().invoke(app, ["explain", "photo.png", "--model", "broken.onnx"])
    assert found.exit_code == 2
    assert "broken.onnx" in found.output
