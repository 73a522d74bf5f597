"""`gradcam.bench`: what it times, how it sums up, and that the price does not grow, by counts that
do not vary.
"""

from __future__ import annotations

import dataclasses
import json
import time

import networks
import numpy as np
import pytest

import gradcam
from gradcam import benchmark
from gradcam._arrays import to_numpy
from gradcam.benchmark.calls import repeated


class Slow:
    """A model of the two verbs whose explanation takes a known number of its forward passes."""

    def __init__(self, pause=0.004, passes=3):
        self.pause, self.passes, self.forwards, self.captures = pause, passes, 0, 0
        self.split = gradcam.backends.adapt(
            gradcam.Split(lambda x: x, lambda a: a.mean((2, 3))), np.zeros((1, 2, 2, 2))
        )

    channels_first = True

    def channel_order_at(self, path):
        return gradcam.layouts.ChannelOrder(True, sure=True)  # no passes are made to find out

    def replay(self, inputs, layers, activations):
        self.forwards += 1
        time.sleep(self.pause)
        return inputs.mean((2, 3))

    def capture(self, inputs, layers, target, pooled=None):
        self.captures += 1
        time.sleep(self.passes * self.pause)
        scores = target(inputs.mean((2, 3)))
        gradients = np.ones((*scores.shape, *inputs.shape[1:])) / 4
        return gradcam.model.Capture(inputs.mean((2, 3)), scores, (inputs,), (gradients,))


def slow():
    return Slow(), np.abs(np.random.default_rng(0).standard_normal((2, 3, 4, 4)))


def test_the_ratio_is_that_of_the_two_times():
    model, x = slow()
    (price,) = gradcam.bench(
        {"slow": lambda: (model, x)}, layer="any", repeats=5, memory=False
    ).prices
    # sleeps last at least as long as asked: 3 passes of 4 ms over 1, with room for a busy machine
    assert 1.5 < price.ratio < 6
    assert price.low <= price.ratio <= price.high
    assert price.seconds >= 0.012
    assert price.forward_seconds >= 0.004
    assert (price.batch, price.targets, price.repeats, price.failed) == (1, 1, 5, None)
    assert model.captures == 6  # one to begin with, and the repeats
    assert model.forwards >= 11


def test_every_case_is_priced_once():
    found = gradcam.bench(
        {"a": slow, "b": slow},
        ["grad-cam", "hires-cam"],
        layer="any",
        batches=[1, 3],
        targets=[1, 2],
        repeats=1,
        memory=False,
    )
    cases = [(price.subject, price.method, price.batch, price.targets) for price in found.prices]
    assert len(set(cases)) == len(cases) == 16
    assert all(price.ratio > 0 for price in found.prices)


def test_the_limit_stops_repeats():
    (price,) = gradcam.bench(
        {"slow": slow}, layer="any", repeats=1000, limit=0.05, memory=False
    ).prices
    assert 1 <= price.repeats < 10


def test_what_a_model_does_not_allow_is_told_and_the_rest_priced():
    found = gradcam.bench(
        {"slow": slow}, ["cam", "grad-cam"], layer="any", repeats=1, memory=False
    ).prices
    assert found[0].ratio is None
    assert found[0].failed.split(":")[0].endswith("Error")
    assert found[1].failed is None


def test_a_forward_pass_is_the_models(case):
    """Of every backend, and the reference is NumPy's."""
    found = to_numpy(benchmark.forward(case.model, case.inputs())())
    np.testing.assert_allclose(
        found, networks.case("numpy").tapped.replay(networks.images(), (), ()), rtol=1e-9
    )


def test_torchs_forward_pass_is_under_inference_mode():
    torch = pytest.importorskip("torch")

    class Model(torch.nn.Module):
        def forward(self, x):
            assert torch.is_inference_mode_enabled()
            return {"logits": x.mean((2, 3))}

    outputs = benchmark.forward(Model().eval(), torch.ones(1, 2, 3, 3))()
    assert outputs["logits"].is_inference()


def test_a_batch_is_made_of_the_samples_over_and_over():
    x = np.arange(3)[:, None] + np.zeros((3, 2))
    np.testing.assert_array_equal(repeated(x, 5)[:, 0], [0, 1, 2, 0, 1])
    args = repeated((x, 3.5, np.zeros(7)), 2)
    assert args[0].shape == (2, 2)
    assert args[1] == 3.5
    assert args[2].shape == (7,)  # of no sample
    assert repeated({"x": x}, 1)["x"].shape == (1, 2)


def test_memory_is_of_a_process_of_its_own():
    (price,) = gradcam.bench({"big": big}, layer="c", repeats=1).prices
    # the forward pass holds the 64 MiB of the layer's output at least; an explanation not twice as
    # much as that
    assert price.forward_megabytes > 60
    assert price.megabytes > 60
    assert price.megabytes < 3 * price.forward_megabytes


def big():
    import torch

    torch.manual_seed(0)
    model = torch.nn.Sequential()
    model.add_module("c", torch.nn.Conv2d(3, 64, 3, padding=1))
    model.add_module("p", torch.nn.AdaptiveAvgPool2d(1))
    model.add_module("f", torch.nn.Flatten())
    return model.eval(), torch.rand(1, 3, 512, 512)


def test_an_error_in_that_process_is_told():
    (price,) = gradcam.bench({"broken": broken_elsewhere}, layer="c", repeats=1).prices
    assert "not here" in price.failed
    assert price.ratio > 0  # what was measured is kept


def broken_elsewhere():
    import multiprocessing

    if multiprocessing.parent_process() is not None:
        raise RuntimeError("not here")
    return big()


def test_it_is_saved_whole(tmp_path):
    found = gradcam.bench({"slow": slow}, ["grad-cam", "cam"], layer="any", repeats=2, memory=False)
    folder = found.save(tmp_path / "a" / "b")
    saved = json.loads((folder / "bench.json").read_text())
    assert saved["prices"] == [dataclasses.asdict(price) for price in found.prices]
    assert saved["machine"]
    assert saved["versions"]["numpy"] == np.__version__
    assert (folder / "bench.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"subjects": {}}, "`subjects` is empty"),
        ({"methods": []}, "`methods` is empty"),
        ({"batches": [0]}, "`batches` must be at least 1, but is 0"),
        ({"targets": [1, -2]}, "`targets` must be at least 1, but is -2"),
        ({"repeats": 0}, "`repeats` must be at least 1"),
    ],
)
def test_bad_input(given, match):
    with pytest.raises(ValueError, match=match):
        gradcam.bench(**{"subjects": {"slow": slow}, "memory": False, **given})


def test_a_model_in_place_of_subjects_says_what_to_pass():
    with pytest.raises(TypeError, match="`subjects` must be a mapping, name -> function"):
        gradcam.bench(*slow())


def test_a_forward_pass_that_fails_is_the_users_to_see():
    with pytest.raises(ZeroDivisionError):
        gradcam.bench({"broken": lambda: (Broken(), np.ones((1, 2, 3, 3)))}, memory=False)


class Broken(Slow):
    def replay(self, inputs, layers, activations):
        return 1 / 0
