"""Do our measures agree with other libraries' where the definitions are the same?

    make measures, or .venv-bench/bin/python benchmarks/measures.py

The libraries are torchcam, pytorch-grad-cam and Quantus. The speed of ROAD's imputation is compared
as well. Writes the part of docs/evaluation.md that is between the markers.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from common import ROOT, in_turn, table, write_between
from zoo import torchvision  # noqa: F401  (the peers can then import it on a CPU build)

import gradcam
from gradcam import benchmark, metrics
from gradcam.evaluation import predictor
from gradcam.maps import scale
from gradcam.zoo import efficientnet_lite0
from gradcam.zoo.demo import photograph

PAGE = ROOT / "docs" / "evaluation.md"
BEGIN = "<!-- written by benchmarks/measures.py -->"
NAMES = ("chelsea", "coffee", "camera", "rocket")
# torchcam's hooks keep a module's last call, and the network's last activation is called twice.
LAYER = "_conv_head"
SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)


Row = tuple[str, str, str, str]
"""A measure, the library beside it, the largest difference, and a note."""


def largest(ours: object, theirs: object) -> str:
    """The largest difference, as text."""
    return f"{np.abs(np.asarray(ours, float) - np.asarray(theirs, float)).max():.0e}"


def curves(net: gradcam.Classifier, inputs: torch.Tensor, subject: metrics.Subject) -> list[Row]:
    """Deletion, insertion and average drop beside torchcam's, for its own Grad-CAM."""
    names = ("deletion", "insertion", "drop", "increase")
    ours: dict[str, list[float]] = {name: [] for name in names}
    theirs: dict[str, list[float]] = {name: [] for name in names}
    for n in range(len(inputs)):
        sample = inputs[n : n + 1]
        values, low = torchcam_values(net, sample)
        alone = metrics.Subject(subject.predict, sample.numpy())
        insertion = metrics.insertion(alone, low, ties="rows", baseline="zero")
        # torchcam's masks bring each map's minimum to 0 and its maximum to 1, before resizing.
        confidence = metrics.confidence_measures(alone, scale(low.numpy(), 2, "minmax"))
        ours["deletion"].append(metrics.deletion(alone, low, ties="rows").value)
        ours["insertion"].append(insertion.value)
        ours["drop"].append(confidence["average-drop"].value)
        ours["increase"].append(confidence["increase-in-confidence"].value)
        for name in names:
            theirs[name].append(values[name])
    plain = metrics.average_drop(subject, gradcam.explain(net, inputs, LAYER).maps).value
    mean_drop = float(np.mean(theirs["drop"]))
    notes = {
        "deletion": '`ties="rows"`, 20 steps',
        "insertion": '`ties="rows", baseline="zero"`, 20 steps',
        "drop": f"maps shifted to a minimum of 0 first, as theirs are ({mean_drop:.4f}; ours, "
        f"whose zero stays where it is, {plain:.4f}); what is left is that theirs are divided by "
        "the maximum before they are resized",
        "increase": "maps shifted likewise",
    }
    measures = {"drop": "average-drop", "increase": "increase-in-confidence"}
    peer = f"torchcam {version('torchcam')}"
    rows = []
    for name in names:
        difference = largest(ours[name], theirs[name])
        rows.append((measures.get(name, name), peer, difference, notes[name]))
    return rows


def torchcam_values(
    net: gradcam.Classifier, sample: torch.Tensor
) -> tuple[dict[str, float], torch.Tensor]:
    """torchcam's measures of its Grad-CAM for one sample, and that map at the layer's size."""
    from torchcam.methods import GradCAM
    from torchcam.metrics import ClassificationMetric, DeletionInsertionMetric

    def softmax(outputs: torch.Tensor) -> torch.Tensor:
        return outputs.softmax(-1)

    layer = net.model.get_submodule(LAYER)
    extractor = GradCAM(net.model, target_layer=layer, input_shape=tuple(sample.shape[1:]))
    steps = DeletionInsertionMetric(extractor, softmax, steps=20)
    confidence = ClassificationMetric(extractor, softmax)
    steps.update(sample)
    confidence.update(sample)
    # torchcam's metrics explain the probability.
    outputs = softmax(net.model(sample))
    low = extractor(outputs.argmax(-1).tolist(), outputs)[0].detach()
    extractor.remove_hooks()
    values = {
        "deletion": float(steps.summary()["deletion_auc"]),
        "insertion": float(steps.summary()["insertion_auc"]),
        "drop": float(confidence.summary()["avg_drop"]),
        "increase": float(confidence.summary()["conf_increase"]),
    }
    return values, low


def imputation(pictures: np.ndarray, maps: np.ndarray) -> tuple[str, list[np.ndarray]]:
    """The largest difference to pytorch-grad-cam's imputation, and the ratios of times by share."""
    worst = 0.0
    ratios = []
    for share in SHARES:
        share_ratios = []
        for picture, heat in zip(pictures, maps, strict=True):
            kept = heat < np.quantile(heat, 1 - share)
            ours, theirs = imputers(picture, kept)
            worst = max(worst, float(np.abs(ours() - theirs()).max()))
            seconds = in_turn(ours, theirs, repeats=1, warm_up=0)
            share_ratios.append(seconds[0, 1] / seconds[0, 0])
        ratios.append(np.array(share_ratios))
    return f"{worst:.0e}", ratios


Imputer = Callable[[], np.ndarray]


def imputers(picture: np.ndarray, kept: np.ndarray) -> tuple[Imputer, Imputer]:
    """Our imputation and pytorch-grad-cam's of one picture (C, H, W), without noise."""
    from pytorch_grad_cam.metrics.road import NoisyLinearImputer

    image = np.ascontiguousarray(picture.transpose(1, 2, 0))
    tensor = torch.from_numpy(picture)
    mask = torch.from_numpy(kept.astype(np.float32))
    impute = NoisyLinearImputer(noise=0)

    def theirs() -> np.ndarray:
        return impute(tensor, mask).numpy().transpose(1, 2, 0)

    return lambda: metrics.impute(image, kept), theirs


def road(subject: metrics.Subject, maps: np.ndarray) -> str:
    """Our ROAD beside the mean confidence after pytorch-grad-cam's imputation, without noise."""
    from pytorch_grad_cam.metrics.road import NoisyLinearImputer

    impute = NoisyLinearImputer(noise=0)
    theirs = []
    for n, heat in enumerate(subject.heat(maps)):
        variants = []
        for share in SHARES:
            kept = torch.from_numpy((heat < np.quantile(heat, 1 - share)).astype("f"))
            variants.append(impute(torch.from_numpy(subject.inputs[n]), kept))
        samples = np.full(len(SHARES), n)
        theirs.append(subject.scores(torch.stack(variants).numpy(), samples).mean())
    return largest(metrics.road(subject, maps, shares=SHARES, noise=0).values, theirs)


def localisation(subject: metrics.Subject, maps: np.ndarray) -> list[Row]:
    """The pointing game and the energy beside Quantus's, on boxes of different sizes and places."""
    import quantus

    heat = subject.heat(maps)
    masks = np.zeros(heat.shape, bool)
    for n, mask in enumerate(masks):
        mask[20 + 10 * n : 110 + 25 * n, 40 * n : 90 + 30 * n] = True
    data: dict[str, Any] = {
        "model": None,
        "x_batch": subject.inputs,
        "y_batch": subject.classes,
        "s_batch": masks[:, None],
    }
    options = {"disable_warnings": True, "normalise": False}
    pointing_game = quantus.PointingGame(**options)
    energy = quantus.AttributionLocalisation(abs=False, positive_attributions=True, **options)
    pointing = pointing_game(a_batch=heat[:, None], **data)
    energies = energy(a_batch=np.maximum(heat, 0)[:, None], **data)
    peer = f"Quantus {version('quantus')}"
    pointing_difference = largest(metrics.pointing_game(heat, masks).values, pointing)
    energy_difference = largest(metrics.energy(heat, masks).values, energies)
    note = "its `AttributionLocalisation(positive_attributions=True)`"
    return [
        ("pointing-game", peer, pointing_difference, "maps without ties"),
        ("energy", peer, energy_difference, note),
    ]


def page(rows: list[Row], ratios: list[np.ndarray]) -> str:
    shares = ("share of pixels missing", *(f"{share:.0%}" for share in SHARES))
    cells = ["ratio"]
    for values in ratios:
        cells.append(f"{np.median(values):.1f} ({values.min():.1f}–{values.max():.1f})")
    lines = [
        f"{date.today().isoformat()}, {benchmark.machine()}; `make measures`: EfficientNet-Lite0, "
        f"Grad-CAM, {len(NAMES)} photographs.",
        "",
        *table(("measure", "beside", "largest difference", ""), rows),
        "",
        "Time of pytorch-grad-cam's imputation over ours, 224 x 224 with 3 channels, medians of "
        "ratios in one run:",
        "",
        *table(shares, [cells]),
        "",
    ]
    return "\n".join(lines)


def main() -> int:
    warnings.simplefilter("ignore")
    net = efficientnet_lite0("torch")
    assert net.preprocess is not None
    assert net.view is not None
    inputs = net.preprocess([net.view(photograph(name)) for name in NAMES])
    subject = metrics.Subject(predictor(net, inputs), inputs.numpy())
    maps = gradcam.explain(net, inputs, LAYER).maps.numpy()
    heat = subject.heat(maps)
    # Noise far below any difference that matters, so that no two pixels have the same value.
    untied = heat + 1e-6 * heat.max() * np.random.default_rng(0).random(heat.shape)
    difference, ratios = imputation(inputs.numpy(), heat)
    peer = f"pytorch-grad-cam {version('grad-cam')}"
    note = "their imputation, our mean over the same shares; maps without ties"
    rows = [
        *curves(net, inputs, subject),
        ("road, imputation", peer, difference, "without noise; in standardised inputs' units"),
        ("road", peer, road(subject, untied), note),
        *localisation(subject, maps),
    ]
    text = page(rows, ratios)
    print(text)
    write_between(PAGE, BEGIN, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
