"""A model in training mode, explained all the same: nothing of it, and no random state, changes."""

from __future__ import annotations

import random
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import gradcam

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore::gradcam.BlankMapWarning"),
    # a spectral norm goes on from pass to pass, and evidence is weak where samples are mixed
    pytest.mark.filterwarnings("ignore:the model gives other scores:UserWarning"),
    pytest.mark.filterwarnings("ignore::gradcam.GuessedAxesWarning"),
]

ATTENTION = ("legrad", "attention-rollout")


class Trained(nn.Module):
    """Everything that a pass in training mode may change: batch norm's statistics, the vectors of a
    spectral norm, buffers that are written or bound anew, attributes, and every random state.
    """

    def __init__(self):
        super().__init__()
        self.conv = nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 4, 3))
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.3)
        self.second = nn.Conv2d(4, 4, 3)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(4, 5)
        self.register_buffer("written", torch.zeros(1))
        self.register_buffer("bound", torch.zeros(1))
        self.calls = [0]

    def forward(self, x):
        self.calls[0] += 1
        self.written += 1
        self.bound = self.bound + 1
        x = self.second(self.drop(self.norm(self.conv(x)).relu()))
        tokens = x.flatten(2).transpose(1, 2)
        tokens = tokens + self.attention(tokens, tokens, tokens)[0]
        scale = 1 + 0.01 * (random.random() + np.random.rand())  # noqa: NPY002
        return self.head(tokens.mean(1) * scale)


def linear_head():
    """Features that are averaged and go to a linear layer, as "cam" needs them."""
    layers = {
        "conv": nn.Conv2d(3, 4, 3),
        "norm": nn.BatchNorm2d(4),
        "drop": nn.Dropout(0.3),
        "second": nn.Conv2d(4, 4, 3),
        "pool": nn.AdaptiveAvgPool2d(1),
        "flat": nn.Flatten(),
        "head": nn.Linear(4, 5),
    }
    return nn.Sequential(OrderedDict(layers))


def state(model):
    return {
        "buffers": {name: (id(b), b.tolist()) for name, b in model.named_buffers()},
        "parameters": [(id(p), p.tolist(), p.grad is None) for p in model.parameters()],
        "modes": [m.training for m in model.modules()],
        "calls": list(getattr(model, "calls", [])),
        "hooks": [len(m._forward_hooks) for m in model.modules()],
        "torch": torch.get_rng_state().tolist(),
        "numpy": np.random.get_state()[1:3],  # noqa: NPY002
        "python": random.getstate(),
    }


def assert_same(found, before):
    np.testing.assert_array_equal(found["numpy"][0], before["numpy"][0])
    assert found["numpy"][1] == before["numpy"][1]
    assert {**found, "numpy": None} == {**before, "numpy": None}


IMAGES = torch.linspace(-1, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8)


def plain(function, **options):
    return lambda model: function(model, IMAGES, target=1, allow_training=True, **options)


CALLS = {
    **{name: plain(gradcam.explain, method=name, layer="second", batch=3) for name in gradcam.METHODS},
    **{name: plain(gradcam.explain, method=name) for name in ATTENTION},
    "no layer named": plain(gradcam.explain, layer=None),
    "compare": plain(gradcam.compare, layer="second", methods=["grad-cam", "ablation-cam"]),
    "verify": plain(gradcam.verify, layer="second", directions=2, channels=2),
    "guided_backprop": plain(gradcam.guided_backprop),
    "guided_grad_cam": plain(gradcam.guided_grad_cam, layer="second"),
    "words": plain(gradcam.words, layer="second", k=2),
    "layers": lambda model: gradcam.layers(model, IMAGES, allow_training=True),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_a_model_in_training_mode_is_left_as_it_was(name):
    model = (linear_head() if name == "cam" else Trained()).train()
    before = state(model)
    model(IMAGES)
    assert state(model)["buffers"] != before["buffers"]  # this test would notice
    assert state(model)["torch"] != before["torch"]
    before = state(model)
    CALLS[name](model)
    assert_same(state(model), before)


def test_what_the_user_has_not_differentiated_yet_can_still_be():
    model = Trained().train()
    loss = model(IMAGES).sum()
    gradcam.explain(model, IMAGES, "second", 1, allow_training=True)
    loss.backward()
    assert model.second.weight.grad.abs().sum() > 0


def test_all_passes_of_a_call_drop_the_same():
    model = linear_head().train()
    report = gradcam.verify(model, IMAGES, "second", 1, allow_training=True)
    report.assert_passed()
    maps = [gradcam.explain(model, IMAGES, "second", 1, allow_training=True).maps for _ in range(2)]
    assert torch.equal(*maps)
    torch.manual_seed(1)
    assert not torch.equal(
        gradcam.explain(model, IMAGES, "second", 1, allow_training=True).maps, maps[0]
    )


def test_threads_that_explain_a_model_in_training_mode_leave_it_as_it_was():
    model = Trained().train()
    before = state(model)
    start = threading.Barrier(4)

    def work(_):
        start.wait()
        for _ in range(10):
            gradcam.explain(model, IMAGES, "second", 1, allow_training=True)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert_same(state(model), before)


def test_a_model_that_cannot_be_copied_says_what_to_do():
    model = linear_head().train()
    model.lock = threading.Lock()
    with pytest.raises(TypeError, match=r"this one cannot be copied.*call model.eval\(\) first"):
        gradcam.explain(model, IMAGES, "second", 1, allow_training=True)
    gradcam.explain(model.eval(), IMAGES, "second", 1, allow_training=True)


def test_tensors_that_were_computed_of_parameters_are_shared_with_the_copy():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(2)).train()
    model.scale = 2 * model[0].bias  # it has a graph, and so cannot be copied
    gradcam.explain(model, IMAGES, "0", lambda y: y.sum((1, 2)), allow_training=True)


def test_modules_in_a_split_keep_their_training_flags():
    features, head = nn.Conv2d(3, 4, 3), nn.Sequential(nn.Flatten(), nn.Linear(144, 5))
    split = gradcam.Split(features, head)
    with pytest.raises(ValueError, match=r"call model.eval\(\) first"):
        gradcam.explain(split, IMAGES, target=1)
    assert features.training
    assert head.training
    gradcam.explain(split, IMAGES, target=1, allow_training=True)
    assert features.training
