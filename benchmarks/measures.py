"""Do measures agree with other libraries' where definitions do? torchcam, pytorch-grad-cam, Quantus; and ROAD's speed.

    make measures, or .venv-bench/bin/python benchmarks/measures.py

Writes what is between the markers of docs/evaluation.md.
"""

from __future__ import annotations

import re
import statistics
import sys
import time
import warnings
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from zoo import torchvision  # noqa: F401  (so that the peers can import it on a CPU build)

import gradcam
from gradcam import benchmark, metrics
from gradcam.evaluation import predictor
from gradcam.maps import scale
from gradcam.zoo import efficientnet_lite0
from gradcam.zoo.demo import photograph

PAGE = Path(__file__).parent.parent / "docs" / "evaluation.md"
BEGIN, END = "<!-- written by benchmarks/measures.py -->", "<!-- end -->"
NAMES = ("chelsea", "coffee", "camera", "rocket")
LAYER = "_conv_head"  # torchcam hears the last call of a module, and the network's last activation is used twice
SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)


def largest(ours: object, theirs: object) -> str:
    return f"{np.abs(np.asarray(ours, float) - np.asarray(theirs, float)).max():.0e}"


def curves(
    net: gradcam.Classifier, inputs: torch.Tensor, subject: metrics.Subject
) -> list[tuple[str, str, str, str]]:
    """torchcam's, of its own Grad-CAM, sample by sample."""
    from torchcam.methods import GradCAM
    from torchcam.metrics import ClassificationMetric, DeletionInsertionMetric

    def softmax(outputs: torch.Tensor) -> torch.Tensor:
        return outputs.softmax(-1)

    ours: dict[str, list[float]] = {
        name: [] for name in ("deletion", "insertion", "drop", "increase")
    }
    theirs: dict[str, list[float]] = {name: [] for name in ours}
    modules = dict(net.model.named_modules())
    for n in range(len(inputs)):
        one = inputs[n : n + 1]
        extractor = GradCAM(
            net.model, target_layer=modules[LAYER], input_shape=tuple(one.shape[1:])
        )
        steps = DeletionInsertionMetric(extractor, softmax, steps=20)
        shown = ClassificationMetric(extractor, softmax)
        steps.update(one)
        shown.update(one)
        outputs = softmax(net.model(one))  # what they explain is the probability
        low = extractor(outputs.argmax(-1).tolist(), outputs)[0].detach()
        theirs["deletion"].append(float(steps.summary()["deletion_auc"]))
        theirs["insertion"].append(float(steps.summary()["insertion_auc"]))
        theirs["drop"].append(float(shown.summary()["avg_drop"]))
        theirs["increase"].append(float(shown.summary()["conf_increase"]))
        extractor.remove_hooks()
        alone = metrics.Subject(subject.predict, one.numpy())
        ours["deletion"].append(metrics.deletion(alone, low, ties="rows").value)
        ours["insertion"].append(metrics.insertion(alone, low, ties="rows", baseline="zero").value)
        # their masks: each map's minimum and maximum brought to 0 and 1 before it is resized
        found = metrics.confidence_measures(alone, scale(low.numpy(), 2, "minmax"))
        ours["drop"].append(found["average-drop"].value)
        ours["increase"].append(found["increase-in-confidence"].value)
    plain = metrics.average_drop(subject, gradcam.explain(net, inputs, LAYER).maps).value
    torchcams = float(np.mean(theirs["drop"]))
    name = f"torchcam {version('torchcam')}"
    return [
        (
            "deletion",
            name,
            largest(ours["deletion"], theirs["deletion"]),
            '`ties="rows"`, 20 steps',
        ),
        (
            "insertion",
            name,
            largest(ours["insertion"], theirs["insertion"]),
            '`ties="rows", baseline="zero"`, 20 steps',
        ),
        (
            "average-drop",
            name,
            largest(ours["drop"], theirs["drop"]),
            f"maps shifted to a minimum of 0 first, as theirs are ({torchcams:.4f}; ours, whose zero stays where it "
            f"is, {plain:.4f}); what is left is that theirs are divided by the maximum before they are resized",
        ),
        (
            "increase-in-confidence",
            name,
            largest(ours["increase"], theirs["increase"]),
            "maps shifted likewise",
        ),
    ]


def imputation(
    pictures: np.ndarray, maps: np.ndarray
) -> tuple[str, list[tuple[float, float, float]]]:
    """The largest difference; for each share the median ratio of times, and the least and largest ratio."""
    from pytorch_grad_cam.metrics.road import NoisyLinearImputer

    worst, ratios = 0.0, []
    impute = NoisyLinearImputer(noise=0)
    for share in SHARES:
        found = []
        for picture, one in zip(pictures, maps, strict=True):
            image = np.ascontiguousarray(picture.transpose(1, 2, 0))
            kept = one < np.quantile(one, 1 - share)
            start = time.perf_counter()
            mine = metrics.impute(image, kept)
            middle = time.perf_counter()
            theirs = impute(torch.from_numpy(picture), torch.from_numpy(kept.astype(np.float32)))
            found.append((time.perf_counter() - middle) / (middle - start))
            worst = max(worst, float(np.abs(mine - theirs.numpy().transpose(1, 2, 0)).max()))
        ratios.append((statistics.median(found), min(found), max(found)))
    return f"{worst:.0e}", ratios


def road(subject: metrics.Subject, maps: np.ndarray) -> str:
    """pytorch-grad-cam's imputer at our shares, and our mean of the confidences, without noise."""
    from pytorch_grad_cam.metrics.road import NoisyLinearImputer

    impute = NoisyLinearImputer(noise=0)
    theirs = []
    for n, one in enumerate(subject.heat(maps)):
        variants = [
            impute(
                torch.from_numpy(subject.inputs[n]),
                torch.from_numpy((one < np.quantile(one, 1 - s)).astype("f")),
            )
            for s in SHARES
        ]
        theirs.append(subject.scores(torch.stack(variants).numpy(), np.full(len(SHARES), n)).mean())
    return largest(metrics.road(subject, maps, shares=SHARES, noise=0).values, theirs)


def localisation(subject: metrics.Subject, maps: np.ndarray) -> list[tuple[str, str, str, str]]:
    """Quantus's, on boxes of different sizes and places."""
    import quantus

    heat = subject.heat(maps)
    masks = np.zeros(heat.shape, bool)
    for n, mask in enumerate(masks):
        mask[20 + 10 * n : 110 + 25 * n, 40 * n : 90 + 30 * n] = True
    given = {"x_batch": subject.inputs, "y_batch": subject.classes, "s_batch": masks[:, None]}
    quiet = {"disable_warnings": True, "normalise": False}
    positive = np.maximum(heat, 0)[:, None]
    pointing = quantus.PointingGame(**quiet)(model=None, a_batch=heat[:, None], **given)
    energy = quantus.AttributionLocalisation(abs=False, positive_attributions=True, **quiet)(
        model=None, a_batch=positive, **given
    )
    name = f"Quantus {version('quantus')}"
    return [
        (
            "pointing-game",
            name,
            largest(metrics.pointing_game(heat, masks).values, pointing),
            "maps without ties",
        ),
        (
            "energy",
            name,
            largest(metrics.energy(heat, masks).values, energy),
            "its `AttributionLocalisation(positive_attributions=True)`",
        ),
    ]


def main() -> int:
    warnings.simplefilter("ignore")
    net = efficientnet_lite0("torch")
    assert net.preprocess is not None
    assert net.view is not None
    inputs = net.preprocess([net.view(photograph(name)) for name in NAMES])
    subject = metrics.Subject(predictor(net, inputs), inputs.numpy())
    maps = gradcam.explain(net, inputs, LAYER).maps.numpy()
    rows = curves(net, inputs, subject)
    difference, ratios = imputation(inputs.numpy(), subject.heat(maps))
    name = f"pytorch-grad-cam {version('grad-cam')}"
    rows.append(
        ("road, imputation", name, difference, "without noise; in standardised inputs' units")
    )
    untied = subject.heat(maps)
    untied += 1e-6 * untied.max() * np.random.default_rng(0).random(untied.shape)
    rows.append(
        (
            "road",
            name,
            road(subject, untied),
            "their imputation, our mean over the same shares; maps without ties",
        )
    )
    rows += localisation(subject, maps)
    lines = [
        f"{date.today().isoformat()}, {benchmark.machine()}; `make measures`: EfficientNet-Lite0, Grad-CAM, "
        f"{len(NAMES)} photographs.",
        "",
        "| measure | beside | largest difference | |",
        "|---|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
        "Time of pytorch-grad-cam's imputation over ours, 224 x 224 with 3 channels, medians of ratios in one run:",
        "",
        "| share of pixels missing | " + " | ".join(f"{share:.0%}" for share in SHARES) + " |",
        "|---|" + "---|" * len(SHARES),
        "| ratio | "
        + " | ".join(f"{mid:.1f} ({low:.1f}–{high:.1f})" for mid, low, high in ratios)
        + " |",
        "",
    ]
    text = "\n".join(lines)
    print(text)
    whole = PAGE.read_text(encoding="utf-8")
    marked = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    PAGE.write_text(marked.sub(lambda _: f"{BEGIN}\n\n{text}\n{END}", whole), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
