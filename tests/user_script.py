"""A user's script, as a type checker sees it: every public function with every keyword.

`make check` runs mypy over it, and tests/test_user_script.py runs it.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

import numpy as np
import torch

import gradcam


def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(4, 5),
    ).eval()


def said(what: str) -> None:
    print(what)


def explaining(net: torch.nn.Module, images: torch.Tensor) -> gradcam.Explanation:
    smoothing = gradcam.Smoothing(flips=True, scales=(1.0, 0.5), noise=0.1, samples=1, seed=0)
    explanation = gradcam.explain(
        net,
        images,
        "1",
        [1, 2],
        "layer-cam",
        relu=True,
        layout="channels_first",
        input_key=0,
        fusion="mean",
        smoothing=smoothing,
        batch=8,
        progress=said,
        check=True,
        allow_training=False,
        gamma=2.0,
    )
    explainer = gradcam.Explainer(
        net,
        ["0", "1"],
        ("layer-cam", {"gamma": 2.0}),
        relu=True,
        layout=None,
        input_key=None,
        fusion="max",
        smoothing=None,
        batch=8,
        progress=False,
        check=True,
        allow_training=False,
    )
    explainer(images, target=1)
    explainer.heatmaps(images, target=1, size=(16, 16), how="max")
    explainer.compare(images, target=1, methods=["grad-cam", ("layer-cam", {"gamma": 1.0})])
    compared = gradcam.compare(
        net,
        images,
        layer="1",
        target=1,
        methods=["grad-cam", "hires-cam"],
        relu=False,
        layout="channels_first",
        input_key=0,
        fusion="mean",
        smoothing=None,
        batch=8,
        progress=False,
        check=True,
        allow_training=False,
    )
    compared.figure(None, colormap=None, contours=(0.5,), boxes=0.15, mask=0.5)
    names: list[str] = list(compared)
    assert names == ["grad-cam", "hires-cam"]
    layers: list[gradcam.Layer] = gradcam.layers(
        net, images, target=1, layout=None, input_key=None, allow_training=False
    )
    assert layers[0].path == "0"
    assert layers[0].has_space
    assert sum(layer.chosen for layer in layers) == 1
    axes: gradcam.LayerAxes = gradcam.axes(
        net, images, layer="1", target=1, layout=None, input_key=0, allow_training=False
    )
    assert axes.how != "guess"
    return explanation


def checking(net: torch.nn.Module, images: torch.Tensor) -> None:
    verification = gradcam.verify(
        net,
        images,
        layer="1",
        target=1,
        directions=2,
        channels=2,
        float64=True,
        step=None,
        tolerance=None,
        seed=0,
        layout=None,
        allow_training=False,
    )
    verification.assert_passed()
    check: gradcam.Check = verification.checks[0]
    assert check.error >= 0
    words: list[gradcam.Words] = gradcam.words(
        net, images, layer="1", target=1, k=2, names=list("abcd"), layout=None, allow_training=False
    )
    assert words[0].strongest[0][0] in "abcd"
    gradcam.factorise(
        net,
        images,
        layer="1",
        concepts=2,
        iterations=5,
        seed=0,
        layout=None,
        allow_training=False,
    )
    guided: gradcam.Guided = gradcam.guided_backprop(
        net, images, 1, rule="guided", smooth="plain", input_key=0, allow_training=False
    )
    assert guided.gradients.shape == images.shape
    gradcam.guided_grad_cam(
        net,
        images,
        layer="1",
        target=1,
        method="grad-cam",
        rule="deconvnet",
        smooth="guided",
        relu=True,
        layout=None,
        input_key=None,
        fusion="mean",
        smoothing=None,
        batch=8,
        progress=False,
        check=True,
        allow_training=False,
    )
    sanity = gradcam.sanity_check(
        net,
        images,
        layer="1",
        target=1,
        method="grad-cam",
        order="cascading",
        steps=2,
        how="shuffle",
        seed=0,
        progress=said,
    )
    assert len(sanity.groups) == 2


def arrays() -> None:
    activations = np.ones((2, 4, 5, 5))
    maps = gradcam.combine(
        activations, activations, method="layer-cam", channel_axis=1, relu=True, gamma=1.0
    )
    assert maps.shape == (2, 5, 5)
    split = gradcam.Split(
        lambda x: x,
        lambda a: a.mean((2, 3)),
        layer="features",
        layout="channels_first",
        batch=16,
    )
    tokens = gradcam.Tokens(grid=(5, 5), prefix=0)
    assert tokens.prefix == 0
    assert gradcam.explain(split, activations, target=0).maps.shape == (2, 5, 5)


def results(explanation: gradcam.Explanation, folder: Path) -> None:
    photos = np.zeros((2, 16, 16, 3))
    explanation.numpy().heatmaps(size=(8, 8), how="minmax", joint=True)
    explanation.boxes(threshold=0.2, size=(16, 16))
    explanation.overlay(list(photos), alpha=0.5, colormap="viridis")
    explanation.figure(list(photos), colormap="viridis", joint=True, contours=(0.25, 0.5))
    explanation.figure(list(photos), boxes=0.15, mask=0.5, together=False)
    shares: np.ndarray | None = explanation.probabilities
    assert shares is None or shares.shape == tuple(explanation.scores.shape)
    assert explanation.shown()[0][0].caption
    explanation.save(folder / "saved", list(photos), overwrite=True)
    loaded = gradcam.Explanation.load(folder / "saved")
    gradcam.report(
        explanation,
        folder / "report.html",
        list(photos),
        title="Mine",
        names=["a", "b"],
        labels=[1, None],
        view=None,
        model=model(),
        verification=None,
        evaluation=None,
        command="python mine.py",
        most=10,
        colormap=None,
    )
    diagnosis: gradcam.Diagnosis = loaded.diagnose()
    assert isinstance(diagnosis.reasons, tuple)


def followed(explanation: gradcam.Explanation, folder: Path) -> None:
    gradcam.log(explanation, folder, name="followed", step=3, photos=None)
    explanation.show(photos=None)


def other_shapes(folder: Path) -> None:
    line = gradcam.Explanation(np.eye(3)[:1], np.ones(1))
    assert "good" in str(line.over_words(["a", "good", "film"], sample=0, target=0))
    solid = gradcam.Explanation(np.ones((1, 2, 4, 4)) * np.arange(4), np.ones(1))
    volume = np.zeros((4, 8, 8))
    solid.film(
        folder / "film.gif",
        photo=volume,
        sample=0,
        target=0,
        axis=0,
        per_second=8.0,
        colormap=None,
    )
    if importlib.util.find_spec("nibabel"):
        scan = importlib.import_module("nibabel").Nifti1Image(volume, np.eye(4))
        solid.nifti(folder / "map.nii.gz", scan, sample=0, target=0, axes=(0, 1, 2))


def judging(net: torch.nn.Module, images: torch.Tensor, folder: Path) -> None:
    evaluation: gradcam.Evaluation = gradcam.evaluate(
        net,
        images,
        methods=["grad-cam"],
        measures=["deletion"],
        layer="1",
        target=1,
        annotations=None,
        category=None,
        controls=["random"],
        out=folder / "rows",
        options={"deletion": {"steps": 4}},
        confidence="softmax",
        batch=4,
        seed=0,
        progress=said,
    )
    assert evaluation.rows
    table = folder / "boxes.csv"
    table.write_text("file,x0,y0,x1,y1\na.png,1,2,3,4\n", encoding="utf-8")
    annotations: dict[str, gradcam.Annotation] = gradcam.read_annotations(table, category=None)
    assert len(annotations["a"].boxes) == 1
    predict = gradcam.predictor(net, images)
    assert predict(images.numpy()).shape == (2, 5)


def whole_data_sets(net: torch.nn.Module, images: torch.Tensor, folder: Path) -> None:
    found: gradcam.Results = gradcam.run(
        net,
        images.numpy(),
        folder / "run",
        layer="1",
        target=1,
        method=["grad-cam", ("layer-cam", {"gamma": 2.0})],
        batch=2,
        shard_size=1,
        labels=None,
        columns=None,
        maps="auto",
        confidence="softmax",
        reasons=True,
        engine="local",
        workers=0,
        threads=1,
        shard="0/1",
        address=None,
        retry=False,
        progress=said,
        relu=True,
    )
    row: gradcam.Row = gradcam.results(folder / "run").lowest("score", 1)[0]
    assert found.heatmaps(row).shape == (16, 16)


def main(folder: Path) -> None:
    net = model()
    images = torch.randn(2, 3, 16, 16)
    results(explaining(net, images), folder)
    followed(explaining(net, images), folder)
    other_shapes(folder)
    checking(net, images)
    arrays()
    judging(net, images, folder)
    whole_data_sets(net, images, folder)


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as temporary:
        main(Path(temporary))
