"""Programs of `torch.export` against the modules that they were exported from: the same bits."""

from __future__ import annotations

import numpy as np
import pytest

import gradcam

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.norm(self.conv(x)).relu()
        return self.head(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


@pytest.fixture
def made():
    torch.manual_seed(0)
    model, x = Net().eval(), torch.randn(2, 3, 8, 8)
    shapes = ({0: torch.export.Dim("n")},)
    return model, x, torch.export.export(model, (x,), dynamic_shapes=shapes)


def test_a_program_and_its_file_are_explained_as_the_model(made, tmp_path):
    model, x, program = made
    torch.export.save(program, tmp_path / "net.pt2")
    for same in (program, tmp_path / "net.pt2", str(tmp_path / "net.pt2")):
        e = gradcam.explain(same, x, target=[[1, 3]])
        assert e.layer == "relu"
        assert e.axes.how in ("type", "shape", "evidence")
        at_norm = gradcam.explain(same, x, "batch_norm", [[1, 3]], "hires-cam", relu=False)
        expected = gradcam.explain(model, x, "norm", [[1, 3]], "hires-cam", relu=False)
        assert torch.equal(at_norm.maps, expected.maps)
    assert gradcam.verify(program, x, target=1).passed


def test_the_layers_are_the_operators(made):
    _, x, program = made
    kinds = {layer.path: layer.kind for layer in gradcam.layers(program, x)}
    assert kinds["conv2d"] == "Conv2d"
    assert kinds["adaptive_avg_pool2d"] == "AdaptiveAvgPool2d"
    (chosen,) = [layer.path for layer in gradcam.layers(program, x) if layer.chosen]
    assert chosen == "relu"


def test_methods_and_guided_backpropagation(made):
    model, x, program = made
    for method in ("grad-cam++", "ablation-cam", "eigen-cam", "score-cam", "shapley-cam"):
        found = gradcam.explain(program, x, "batch_norm", 1, method, check=False).maps
        expected = gradcam.explain(model, x, "norm", 1, method, check=False).maps
        torch.testing.assert_close(found, expected)
    guided = gradcam.guided_backprop(program, x, target=1).gradients
    assert torch.equal(guided, gradcam.guided_backprop(model, x, target=1).gradients)


def test_what_an_operator_does_not_have_is_an_error(made):
    _, x, program = made
    with pytest.raises(ValueError, match="an exported program has operators alone"):
        gradcam.explain(program, x, target=1, method="full-grad")


def test_the_program_is_left_as_it_was(made):
    _, x, program = made
    before = {name: value.clone() for name, value in program.state_dict.items()}
    gradcam.explain(program, x, target=1)
    assert all(torch.equal(value, before[name]) for name, value in program.state_dict.items())
    assert all(value.grad is None for value in program.parameters())


def test_inputs_of_another_structure_and_broken_files(made, tmp_path):
    _, x, program = made
    with pytest.raises(TypeError, match="pass the inputs as it was exported"):
        gradcam.explain(program, (x, x), target=1)
    with pytest.raises(FileNotFoundError, match="no such file"):
        gradcam.explain(tmp_path / "none.pt2", x)
    (tmp_path / "broken.pt2").write_bytes(b"no zip at all")
    with pytest.raises(ValueError, match=r"broken\.pt2: is no program of torch\.export"):
        gradcam.explain(tmp_path / "broken.pt2", x)


def test_several_inputs_by_name():
    class Two(nn.Module):
        def forward(self, a, *, b):
            return (a.relu() * b).mean((2, 3))

    a, b = torch.randn(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    program = torch.export.export(Two(), (a,), {"b": b})
    with pytest.raises(TypeError, match="pass the inputs as it was exported"):
        gradcam.explain(program, {"a": a, "b": b}, layer="relu", target=1)


def test_exported_functions_of_jax_are_refused_with_what_to_do():
    jax = pytest.importorskip("jax")
    exported = jax.export.export(jax.jit(lambda x: x.mean((1, 2))))(np.ones((2, 8, 8, 3), "f4"))
    with pytest.raises(TypeError, match=r"gradcam\.Split\(features\.call, head\.call\)"):
        gradcam.explain(exported, jax.numpy.ones((2, 8, 8, 3)))


def test_two_exported_halves_of_jax_are_a_split():
    jax = pytest.importorskip("jax")
    jnp = jax.numpy
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 3)), jnp.float32)
    weights = jnp.asarray(np.random.default_rng(1).normal(size=(3, 5)), jnp.float32)

    def features(x):
        return jax.nn.relu(x)

    def head(a):
        return a.mean((1, 2)) @ weights

    halves = [
        jax.export.export(jax.jit(features))(x),
        jax.export.export(jax.jit(head))(features(x)),
    ]
    read = [jax.export.deserialize(half.serialize(vjp_order=1)) for half in halves]
    split = gradcam.Split(read[0].call, read[1].call, layout="channels_last")
    e = gradcam.explain(split, x, target=3)
    expected = gradcam.explain(gradcam.Split(features, head, layout="channels_last"), x, target=3)
    np.testing.assert_allclose(e.maps, expected.maps, rtol=1e-5)
