"""One model, many threads, and explanations inside others' calls."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import networks
import numpy as np
import pytest

import gradcam


def four_layers_torch():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    nn = torch.nn
    layers = [
        part
        for i in range(4)
        for part in (nn.Conv2d(3 if i == 0 else 4, 4, 3, padding=1), nn.Tanh())
    ]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).eval()
    return model, ["1", "3", "5", "7"], lambda x: torch.from_numpy(x).float(), lambda: hooks(model)


def hooks(model):
    return [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]


def four_layers_nnx():
    jnp = pytest.importorskip("jax.numpy")
    from flax import nnx

    class Model(nnx.Module):
        def __init__(self):
            rngs = nnx.Rngs(0)
            self.convs = nnx.List(
                [nnx.Conv(3 if i == 0 else 4, 4, (3, 3), rngs=rngs) for i in range(4)]
            )
            self.linear = nnx.Linear(4, 5, rngs=rngs)

        def __call__(self, x):
            for conv in self.convs:
                x = jnp.tanh(conv(x))
            return self.linear(x.mean((1, 2)))

    model = Model()
    paths = [f"convs/{i}" for i in range(4)]
    return (
        model,
        paths,
        lambda x: jnp.asarray(x.transpose(0, 2, 3, 1), "float32"),
        lambda: [type(c) for c in model.convs],
    )


@pytest.mark.parametrize("make", [four_layers_torch, four_layers_nnx])
def test_eight_threads_on_one_model_get_400_right_maps(make):
    model, paths, give, watched = make()
    inputs = [give(networks.images(1, (6, 6)) + i) for i in range(5)]
    jobs = [(path, i) for path in paths for i in range(5)]
    expected = {
        (path, i): np.asarray(gradcam.explain(model, inputs[i], path, i, relu=False).maps)
        for path, i in jobs
    }
    before = watched()
    outputs = np.asarray(
        model(inputs[0]).detach() if hasattr(model(inputs[0]), "detach") else model(inputs[0])
    )
    start = threading.Barrier(8)

    def work(worker):
        start.wait()
        random, right = np.random.default_rng(worker), 0
        for call in range(50):
            path, i = jobs[random.integers(len(jobs))]
            maps = np.asarray(gradcam.explain(model, inputs[i], path, i, relu=False).maps)
            right += (
                np.abs(maps - expected[path, i]).max() <= 1e-5 * np.abs(expected[path, i]).max()
            )
            if call % 10 == 0:  # the user's own calls, meanwhile
                own = model(inputs[0])
                own = np.asarray(own.detach() if hasattr(own, "detach") else own)
                assert np.abs(own - outputs).max() < 1e-5
        return right

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(work, range(8))) == 400
    assert watched() == before
