"""Files that are not what they say: one sentence each, and nothing outside of the folder is read."""

from __future__ import annotations

import numpy as np
import pytest

import gradcam

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper  # noqa: E402

X = np.random.default_rng(0).normal(size=(1, 3, 6, 6)).astype(np.float32)


def network(weights=None, more=(), nodes=None):
    """A convolution of 1 x 1, a ReLU and a mean."""
    if weights is None:
        values = np.arange(15, dtype=np.float32).reshape(5, 3, 1, 1)
        weights = onnx.numpy_helper.from_array(values, "w")
    nodes = nodes or [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["m"]),
        helper.make_node("Flatten", ["m"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 6, 6])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "net", [x], [y], [weights, *more])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def external(location, offset=0, length=60):
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[5, 3, 1, 1])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def refused(model, folder, error=ValueError):
    path = folder / "model.onnx"
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    with pytest.raises(error) as caught:
        gradcam.explain(path, X, target=1)
    said = str(caught.value)
    assert "\n" not in said
    assert str(path) in said
    return said


def test_a_file_that_is_not_there_and_an_ending_that_is_not_known(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        gradcam.explain(tmp_path / "model.onnx", X)
    with pytest.raises(ValueError, match=r"end in \.onnx or \.pt2"):
        gradcam.explain("model.h5", X)


@pytest.mark.parametrize("data", [b"", b"no model at all", bytes(range(256)) * 9])
def test_what_is_no_model(data, tmp_path):
    refused(data, tmp_path)


def test_every_way_to_cut_a_file_short(tmp_path):
    whole = network().SerializeToString()
    for length in range(1, len(whole), 7):
        refused(whole[:length], tmp_path)


def test_a_tensor_of_another_size_than_it_says(tmp_path):
    huge = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2**40, 3, 1, 1])
    huge.raw_data = bytes(60)
    assert "says that its shape is [1099511627776, 3, 1, 1], but has 60 bytes" in refused(
        network(huge), tmp_path
    )


def test_a_cycle_and_a_value_made_twice(tmp_path):
    cycle = [helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Relu", ["a"], ["b"])]
    assert "has a cycle, or misses a part" in refused(network(nodes=cycle), tmp_path)
    twice = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Abs", ["x"], ["y"])]
    assert 'two nodes make the value "y"' in refused(network(nodes=twice), tmp_path)


@pytest.mark.parametrize("place", ["../outside.bin", "/etc/hostname", "link/outside.bin", ""])
def test_nothing_outside_of_the_folder_is_read(place, tmp_path):
    (tmp_path / "outside.bin").write_bytes(bytes(100))
    folder = tmp_path / "inside"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    assert "outside of the model's folder" in refused(network(external(place)), folder)


def test_tensors_in_files_beside_it(tmp_path):
    assert "which is not there" in refused(network(external("w.bin")), tmp_path, FileNotFoundError)
    values = np.arange(15, dtype=np.float32)
    (tmp_path / "w.bin").write_bytes(values.tobytes()[:50])
    assert "too short for its shape" in refused(network(external("w.bin")), tmp_path)
    (tmp_path / "w.bin").write_bytes(values.tobytes())
    (tmp_path / "beside.onnx").write_bytes(network(external("w.bin")).SerializeToString())
    maps = gradcam.explain(tmp_path / "beside.onnx", X, target=1).maps
    np.testing.assert_array_equal(maps, gradcam.explain(network(), X, target=1).maps)
    with pytest.raises(ValueError, match="a model in memory cannot find"):
        gradcam.explain(network(external("w.bin")), X)


def test_a_file_that_has_changed_is_read_again(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(network().SerializeToString())
    before = gradcam.explain(path, X, target=1).maps
    weights = onnx.numpy_helper.from_array(np.ones((5, 3, 1, 1), np.float32), "w")
    path.write_bytes(network(weights).SerializeToString() + b"")
    after = gradcam.explain(path, X, target=1).maps
    assert np.abs(before - after).max() > 0


@pytest.mark.parametrize(
    ("inputs", "error", "said"),
    [
        (
            X[:, :2],
            ValueError,
            r'"x" has shape \(1, 2, 6, 6\), but the model takes "x" \(n, 3, 6, 6\)',
        ),
        (X.astype(int), TypeError, '"x" is of int64, but the model takes "x"'),
        ((X, X), TypeError, "the model takes"),
        ({"z": X}, TypeError, r"was given \['z'\]"),
    ],
)
def test_inputs_that_the_model_does_not_take(inputs, error, said):
    with pytest.raises(error, match=said):
        gradcam.explain(network(), inputs, layer="r", target=1)


def test_arrays_of_a_framework_are_refused_with_what_to_pass():
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match=r"takes NumPy arrays: pass numpy\.asarray\(inputs\)"):
        gradcam.explain(network(), torch.from_numpy(X), layer="r", target=1)
