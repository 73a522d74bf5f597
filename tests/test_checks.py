"""Odd arguments, in both frameworks: an error names the argument and says what it may be."""

from __future__ import annotations

import networks
import numpy as np
import pytest

import gradcam
from gradcam._checks import check_integer


@pytest.fixture(params=["torch", "nnx"])
def case(request):
    if request.param == "torch":
        pytest.importorskip("torch")
        yield networks.case("torch")
        return
    pytest.importorskip("flax")
    import jax

    with jax.enable_x64(True):
        yield networks.case("nnx")


ODD = {
    "batch": ("score-cam", ("a", None, 1.5, 0)),
    "channels": ("score-cam", ("a", 1.5, 0)),
    "samples": ("ss-cam", ("a", 1.5, 0)),
    "steps": ("integrated-grad-cam", ("a", 1.5, 0)),
    "seed": ("random-cam", ("a", 1.5, -1)),
}


@pytest.mark.parametrize("name", ODD)
def test_what_is_no_integer_is_named(case, name):
    method, values = ODD[name]
    for value in values:
        with pytest.raises((TypeError, ValueError), match=f"^`{name}` must be .*but is"):
            gradcam.explain(case.model, case.inputs(2), "second", 1, method, **{name: value})
    allowed = gradcam.explain(
        case.model, case.inputs(2), "second", 1, method, **{name: np.int64(2)}
    )
    assert allowed.maps.shape[0] == 2


CALLS = {
    "directions": lambda m, x: gradcam.verify(m, x, "second", 1, directions=1.5),
    "seed": lambda m, x: gradcam.verify(m, x, "second", 1, seed=-1),
    "k": lambda m, x: gradcam.words(m, x, "second", 1, k=1.5),
    "concepts": lambda m, x: gradcam.factorise(m, x, "second", 1.5),
    "steps": lambda m, x: gradcam.sanity_check(m, x, "second", 1, steps="a"),
    "samples": lambda m, x: gradcam.Smoothing(noise=0.1, samples=1.5),
}


@pytest.mark.parametrize("name", CALLS)
def test_so_it_is_of_other_functions(case, name):
    with pytest.raises((TypeError, ValueError), match=f"^`{name}` must be .*but is"):
        CALLS[name](case.model, case.inputs(2))


def test_integers_of_numpy_are_integers():
    check_integer("n", np.int32(3))
    with pytest.raises(ValueError, match="`n` must be at least 4, but is 3"):
        check_integer("n", np.int32(3), least=4)


def torch_model():
    torch = pytest.importorskip("torch")
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 5)
    )


def test_an_array_of_another_framework_is_named():
    images = np.ones((2, 3, 8, 8), dtype="float32")
    with pytest.raises(TypeError, match=r"`inputs` is of type numpy.ndarray; pass torch.as_tensor"):
        gradcam.explain(torch_model().eval(), images, "0", 1)


def test_weights_and_inputs_without_numbers_are_refused():
    model = torch_model().eval()
    torch = pytest.importorskip("torch")
    images = torch.ones(2, 3, 8, 8)
    with pytest.raises(ValueError, match="`inputs` have a shape and no numbers"):
        gradcam.explain(model, images.to("meta"), "0", 1)
    with pytest.raises(ValueError, match="the weights of the model have a shape and no numbers"):
        gradcam.explain(model.to("meta"), images, "0", 1)
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(), pytest.raises(ValueError, match="FakeTensor on the cpu device"):
        gradcam.explain(torch_model().eval(), torch.ones(2, 3, 8, 8), "0", 1)


def test_inside_a_transform_of_the_users_the_error_says_so():
    model = torch_model().eval()
    torch = pytest.importorskip("torch")
    with pytest.raises(
        RuntimeError, match=r"torch.vmap and torch.func .*: explain outside of them"
    ):
        torch.func.grad(lambda x: gradcam.explain(model, x, "0", 1).maps.sum())(
            torch.ones(2, 3, 8, 8)
        )
