"""Randomised copies of a model, and how alike its maps stay."""

from __future__ import annotations

import networks
import numpy as np
import pytest

import gradcam
from gradcam import backends
from gradcam._arrays import to_numpy
from gradcam.evaluation.sanity import module_of, randomised, sanity_check

KINDS = ["torch", "linen", "linen-bound", "nnx", "equinox", "haiku"]
pytestmark = pytest.mark.filterwarnings("ignore::gradcam.BlankMapWarning")


@pytest.fixture(params=KINDS)
def trained(request):
    """A network of each kind that has weights, in float64."""
    if request.param != "torch":
        jax = pytest.importorskip("jax")
        pytest.importorskip(
            {"linen-bound": "flax", "linen": "flax", "nnx": "flax"}.get(
                request.param, request.param
            )
        )
        with jax.enable_x64(True):
            yield networks.case(request.param)
    else:
        pytest.importorskip("torch")
        yield networks.case(request.param)


def weights(model):
    """By the backend that serves the model; of functions the inputs tell the framework."""
    return backends.adapt(model, _like(model)).weights()


def replaced(model, new):
    return backends.adapt(model, _like(model)).with_weights(new)


def _like(model):
    if type(model).__module__.startswith(("torch", "networks")):
        return np.zeros((1, 1))
    return __import__("jax").numpy.zeros((1, 1))


def outputs(case, model):
    return to_numpy(gradcam.predictor(model, case.inputs())(to_numpy(case.inputs())))


def test_all_weights_are_found_and_only_those(trained):
    found = weights(trained.model)
    assert len(found) == 6
    assert sum(to_numpy(one).size for one in found.values()) == sum(
        one.size for one in networks.weights().values()
    )
    assert len({module_of(name) for name in found}) == 3


def test_a_copy_with_the_same_weights_is_the_same_model(trained):
    same = replaced(trained.model, weights(trained.model))
    assert same is not trained.model
    np.testing.assert_allclose(outputs(trained, same), outputs(trained, trained.model), rtol=1e-12)


def test_the_users_model_stays_as_it_is(trained):
    before = {name: to_numpy(one).copy() for name, one in weights(trained.model).items()}
    original = outputs(trained, trained.model)
    copies = list(randomised(trained.model, trained.inputs()))
    assert len(copies) == 3
    for name, one in weights(trained.model).items():
        np.testing.assert_array_equal(to_numpy(one), before[name])
    np.testing.assert_array_equal(outputs(trained, trained.model), original)
    assert all(np.abs(outputs(trained, copy) - original).max() > 1e-3 for _, copy in copies)


def changed(trained, copy):
    """The modules whose weights are not the model's."""
    old, new = weights(trained.model), weights(copy)
    return {
        module_of(name)
        for name in old
        if not np.array_equal(to_numpy(old[name]), to_numpy(new[name]))
    }


def test_layers_forget_from_the_top_down(trained):
    cascading = list(randomised(trained.model, trained.inputs()))
    modules = [group[0] for group, _ in cascading]
    names = list(weights(trained.model))
    shapes = {module_of(name): to_numpy(weights(trained.model)[name]).shape[-1] for name in names}
    assert len(modules) == len(set(modules)) == 3
    for step, (_, copy) in enumerate(cascading):
        assert changed(trained, copy) == set(modules[: step + 1])
    independent = list(randomised(trained.model, trained.inputs(), order="independent"))
    for group, copy in independent:
        assert changed(trained, copy) == set(group)
    assert 5 in [
        to_numpy(one).shape[0]
        for name, one in weights(trained.model).items()
        if module_of(name) == modules[0]
    ] + [shapes[modules[0]]]  # the linear layer, of 5 classes, is the topmost


@pytest.mark.parametrize("how", ["shuffle", "normal"])
def test_what_is_drawn_has_the_weights_distribution_and_seed(trained, how):
    (_, copy), *_ = randomised(trained.model, trained.inputs(), steps=1, how=how)
    again = next(iter(randomised(trained.model, trained.inputs(), steps=1, how=how)))[1]
    other = next(iter(randomised(trained.model, trained.inputs(), steps=1, how=how, seed=1)))[1]
    for name, one in weights(trained.model).items():
        new = to_numpy(weights(copy)[name])
        np.testing.assert_array_equal(new, to_numpy(weights(again)[name]))
        if how == "shuffle":
            np.testing.assert_array_equal(
                np.sort(new, axis=None), np.sort(to_numpy(one), axis=None)
            )
    assert any(
        not np.array_equal(to_numpy(weights(other)[name]), to_numpy(weights(copy)[name]))
        for name in weights(copy)
    )


def test_steps_share_layers_and_leave_none_out():
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(*[torch.nn.Conv2d(3, 3, 3, padding=1) for _ in range(10)]).eval()
    x = torch.zeros(1, 3, 8, 8)
    for steps in (1, 2, 3, 7, 10, 99, None):
        groups = [group for group, _ in randomised(model, x, steps=steps)]
        assert [name for group in groups for name in group] == [str(n) for n in range(9, -1, -1)]
        assert len(groups) == min(steps or 10, 10)
    assert [len(group) for group, _ in randomised(model, x, steps=4)] == [1, 3, 3, 3]


def test_the_order_is_that_in_which_layers_run():
    torch = pytest.importorskip("torch")

    class Backwards(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.first = torch.nn.Conv2d(3, 2, 1), torch.nn.Conv2d(3, 3, 1)

        def forward(self, x):
            return self.last(self.first(x)).mean((2, 3))

    groups = [group for group, _ in randomised(Backwards().eval(), torch.zeros(1, 3, 4, 4))]
    assert groups == [("last",), ("first",)]


@pytest.mark.parametrize("method", ["grad-cam", "guided-backprop", "guided-grad-cam"])
def test_a_check_of_the_trained_network(trained, method):
    options = {} if method == "guided-backprop" else {"layer": trained.second}
    found = sanity_check(trained.model, trained.inputs(), method=method, target=1, **options)
    assert found.rank.shape == found.structure.shape == (3, 3)
    assert len(found.maps) == 4
    assert (np.abs(found.rank) <= 1).all()
    np.testing.assert_allclose(
        sanity_check(trained.model, trained.inputs(), method=method, target=1, **options).rank,
        found.rank,
    )
    if method == "grad-cam":
        plain = to_numpy(gradcam.explain(trained.model, trained.inputs(), trained.second, 1).maps)
        np.testing.assert_allclose(found.maps[0], plain)
        assert str(found).startswith("grad-cam, cascading randomisation")


def test_a_map_that_ignores_the_weights_stays_what_it_was_and_one_that_does_not_changes():
    torch = pytest.importorskip("torch")
    case = networks.case("torch")

    def image(activations, gradients):
        return activations.sum(-2) * 0 + torch.arange(
            activations.shape[-1], dtype=activations.dtype
        )

    same = sanity_check(case.model, case.inputs(), case.first, 1, method=image)
    np.testing.assert_allclose(same.rank, 1)
    np.testing.assert_allclose(same.structure, 1)
    assert sanity_check(case.model, case.inputs(), case.first, 1).rank.mean() < 0.9


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"order": "upwards"}, '`order` must be "cascading" or "independent", but is \'upwards\''),
        ({"how": "zeros"}, '`how` must be "shuffle" or "normal", but is \'zeros\''),
        ({"steps": 0}, "`steps` must be at least 1, but is 0"),
    ],
)
def test_bad_input(options, match):
    pytest.importorskip("torch")
    case = networks.case("torch")
    with pytest.raises(ValueError, match=match):
        sanity_check(case.model, case.inputs(), case.second, **options)


def test_a_model_without_weights_is_an_error():
    pytest.importorskip("jax")
    with pytest.raises(TypeError, match="the weights of a function cannot be found"):
        weights(lambda x: x)


def test_an_original_that_is_blank_has_nothing_to_lose():
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(4, 2),
    ).eval()
    with torch.no_grad():
        model[4].weight[0] = -model[4].weight[0].abs()  # evidence against class 0 alone
    with pytest.warns(gradcam.BlankMapWarning, match="the original map of sample 0, 1 is blank"):
        check = gradcam.sanity_check(model, torch.rand(2, 3, 8, 8), "1", 0)
    assert np.isnan(check.rank).all()
    assert "nan" in str(check)
