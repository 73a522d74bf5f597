"""Which methods point where they should? A study on two real networks.

    make study, or .venv-bench/bin/python benchmarks/study.py [--quick]

The images are collages of photographs, and photographs with masks. Writes the part of
docs/which-method.md that is between the markers, and its pictures. With `--quick` it takes four
collages and the methods of one pass, and writes out/study/ instead.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import END, ROOT, argument_parser, in_turn, write_between, write_json
from mobilenet import mobilenet
from study_page import EARLY, Findings, draw, draw_checks, page

import gradcam
from gradcam import benchmark, metrics
from gradcam._arrays import to_numpy
from gradcam.evaluation.annotation_files import polygons_mask
from gradcam.evaluation.sanity import randomised
from gradcam.zoo import efficientnet_lite0
from gradcam.zoo.demo import photograph

BEGIN = "<!-- written by benchmarks/study.py -->"
PHOTOGRAPHS = {"chelsea": 285, "coffee": 967, "camera": 872, "motorcycle": 665}
"""The class that each photograph shows: Egyptian cat, espresso, tripod, moped."""
QUOKKA = 106
"""The class wombat, another marsupial: ImageNet has no quokka."""

ONE_PASS = (
    "grad-cam",
    "grad-cam++",
    "xgrad-cam",
    "hires-cam",
    "layer-cam",
    "element-wise",
    "eigen-grad-cam",
    "seg-eigen-cam",
    "shapley-cam",
    "eigen-cam",
    "kpca-cam",
    "fem",
    "random-cam",
)
SLOW = {
    "cam": {},
    "integrated-grad-cam": {"steps": 16},
    "smooth-grad-cam++": {"samples": 8},
    "ablation-cam": {},
    "score-cam": {"channels": 32},
    "ss-cam": {"channels": 16, "samples": 4},
    "is-cam": {"channels": 16, "samples": 4},
    "full-grad": {},
}
"""The other methods, with parameters that keep the study short."""
BATCH = 6
EARLIER = {"_swish#1": "_bn1", "features": "features.18.1"}
"""For the layer of each network, the batch norm in front of the network's last activation."""
NETWORKS: dict[str, Callable[[str], gradcam.Classifier]] = {
    "demo": efficientnet_lite0,
    "mobilenet_v2": mobilenet,
}


# -------------------------------------------------------------------------------------- images


def pictures() -> dict[str, np.ndarray]:
    """Each photograph as the networks see it, (224, 224, 3)."""
    from skimage import data

    net = efficientnet_lite0("torch")
    assert net.view is not None
    photographs = {name: photograph(name) for name in ("chelsea", "coffee", "camera")}
    photographs["motorcycle"] = np.asarray(data.stereo_motorcycle()[0])
    return {name: net.view(photographs[name]) for name in PHOTOGRAPHS}


def chosen_collages(quick: bool) -> tuple[list[np.ndarray], np.ndarray]:
    """Collages of two photographs, and the classes (N, 2) of their sides."""
    views = pictures()
    names = list(views)
    collages = metrics.collages([views[name] for name in names], mirrored=True)
    if quick:
        collages = collages[::6]
    images = []
    classes = []
    for image, (left, right) in collages:
        images.append(image)
        classes.append([PHOTOGRAPHS[names[left]], PHOTOGRAPHS[names[right]]])
    return images, np.array(classes)


def objects() -> tuple[list[np.ndarray], np.ndarray, list[int]]:
    """Photographs with masks of their object, as the network sees them, and its class.

    They are the motorcycle, whose disparity stands out against the floor and the wall, and imgaug's
    quokka, whose outline is drawn by hand.
    """
    from gradcam.evaluation.annotations import Annotation, seen_mask

    view = efficientnet_lite0("torch").view
    assert view is not None
    images = []
    masks = []
    for image, mask in (_motorcycle(), _quokka()):
        images.append(view(image))
        masks.append(seen_mask(Annotation(mask=mask), image, view))
    return images, np.stack(masks), [PHOTOGRAPHS["motorcycle"], QUOKKA]


def _quokka() -> tuple[np.ndarray, np.ndarray]:
    from gradcam.pictures.images import read

    package = importlib.util.find_spec("imgaug")
    if package is None or not package.submodule_search_locations:
        raise ImportError("pip install --no-deps imgaug==0.4.0")
    folder = Path(package.submodule_search_locations[0])
    annotations = json.loads((folder / "quokka_annotations.json").read_text())
    outline = []
    for point in annotations["polygons"][0]["keypoints"]:
        outline += [point["x"], point["y"]]
    image = read(folder / "quokka.jpg")
    return image, polygons_mask([outline], image.shape[:2])


def _motorcycle() -> tuple[np.ndarray, np.ndarray]:
    from scipy import ndimage
    from skimage import data

    left, _, disparity = data.stereo_motorcycle()
    is_measured = np.isfinite(disparity)
    rows, columns = np.nonzero(is_measured)
    # The floor: a plane through the lowest fifth of the picture, on both sides of the motorcycle.
    floor = (rows > 0.8 * left.shape[0]) & ((columns < 100) | (columns > left.shape[1] - 100))
    points = np.c_[rows[floor], columns[floor], np.ones(floor.sum())]
    plane = np.linalg.lstsq(points, disparity[rows[floor], columns[floor]], rcond=None)[0]
    row_term = plane[0] * np.arange(left.shape[0])[:, None]
    ground = row_term + plane[1] * np.arange(left.shape[1]) + plane[2]
    # Nearer than the floor and than the wall, whose disparity is about 30.
    is_near = is_measured & (disparity > np.maximum(ground, 30) + 2)
    segments, _ = ndimage.label(ndimage.binary_closing(is_near, iterations=3))
    largest = 1 + int(np.argmax(np.bincount(segments.ravel())[1:]))
    return np.asarray(left), segments == largest


# ---------------------------------------------------------------------------------------- maps


def explained(net: gradcam.Classifier, inputs: Any, classes: Any, method: str) -> np.ndarray:
    """The maps of a method, or of the early Grad-CAM."""
    if method == EARLY:
        explanation = gradcam.explain(net, inputs, EARLIER[str(net.layer)], classes)
    else:
        options = SLOW.get(method, {})
        explanation = gradcam.explain(net, inputs, net.layer, classes, method, **options)
    return to_numpy(explanation.maps).astype(np.float64)


def grid(
    net: gradcam.Classifier, images: list[np.ndarray], classes: np.ndarray, methods: Any
) -> dict[str, np.ndarray]:
    """The shares of `Findings`, (N, 2) for each method."""
    assert net.preprocess is not None
    shares: dict[str, list[np.ndarray]] = {method: [] for method in methods}
    together = [method for method in methods if method in ONE_PASS]
    for start in range(0, len(images), BATCH):
        inputs = net.preprocess(images[start : start + BATCH])
        labels = classes[start : start + BATCH]
        explanations: dict[str, Any] = {}
        if together:
            explanations = gradcam.compare(net, inputs, net.layer, labels, together)
        for method in methods:
            if method in explanations:
                maps = to_numpy(explanations[method].maps)
            else:
                maps = explained(net, inputs, labels, method)
            sides = [metrics.grid_pointing_game(maps[:, side], side).values for side in (0, 1)]
            shares[method].append(np.stack(sides, axis=1))
            if method in SLOW:
                print(f"  {method}, collages {start} to {start + len(labels) - 1}", flush=True)
    return {method: np.concatenate(parts) for method, parts in shares.items()}


def shuffled(
    net: gradcam.Classifier, images: list[np.ndarray], classes: np.ndarray, method: str
) -> np.ndarray:
    """A method's mean share with the values of every weight shuffled, for 5 seeds: (5,)."""
    assert net.preprocess is not None
    inputs = net.preprocess(images)
    means = []
    for seed in range(5):
        _, twin = next(iter(randomised(net, inputs[:1], steps=1, how="shuffle", seed=seed)))
        shares = grid(twin, images, classes, [method])[method]
        means.append(metrics.Result("share", shares, "higher").value)
    return np.array(means)


def times(
    net: gradcam.Classifier, image: np.ndarray, methods: Any, repeats: int = 5
) -> dict[str, float]:
    """The median ratio of an explanation's time to a forward pass's, by method."""
    assert net.preprocess is not None
    inputs = net.preprocess([image])
    forward = benchmark.forward(net, inputs)
    medians = {}
    for name in methods:
        if name == EARLY:
            explainer = gradcam.Explainer(net, EARLIER[str(net.layer)], "grad-cam")
        else:
            explainer = gradcam.Explainer(net, net.layer, name, **SLOW.get(name, {}))
        seconds = in_turn(forward, explanation(explainer, inputs), repeats)
        medians[name] = float(np.median(seconds[:, 1] / seconds[:, 0]))
    return medians


def explanation(explainer: gradcam.Explainer, inputs: Any) -> Callable[[], Any]:
    return lambda: benchmark.finished(explainer(inputs).maps)


def point(findings: Findings, net: gradcam.Classifier, methods: Any) -> None:
    """Add the pointing game and the share on the object, for the photographs with masks."""
    assert net.preprocess is not None
    images, masks, classes = objects()
    inputs = net.preprocess(images)
    maps = {name: explained(net, inputs, classes, name) for name in methods}
    maps["centre"] = metrics.CONTROLS["centre"](to_numpy(inputs), 1, 0)
    maps["uniform"] = np.ones(masks.shape)
    for name, method_maps in maps.items():
        findings.hits[name] = metrics.pointing_game(method_maps, masks).values
        findings.on_object[name] = metrics.energy(method_maps, masks).values


def study(
    make: Callable[[str], gradcam.Classifier],
    images: list[np.ndarray],
    classes: np.ndarray,
    methods: Sequence[str],
) -> Findings:
    """All results of one network."""
    net = make("torch")
    findings = Findings(
        shares=grid(net, images, classes, methods),
        shuffled={name: shuffled(net, images, classes, name) for name in ("grad-cam", EARLY)},
        times=times(net, images[0][:, :224], methods),
    )
    point(findings, net, methods)
    in_jax = grid(make("jax"), images, classes, ONE_PASS)
    for name in ("grad-cam", "hires-cam", "layer-cam"):
        difference = float(np.nanmax(np.abs(in_jax[name] - findings.shares[name])))
        findings.jax_difference = max(findings.jax_difference, difference)
    return findings


def sanity_checks() -> list[Any]:
    net = efficientnet_lite0("torch")
    assert net.preprocess is not None
    inputs = net.preprocess(list(pictures().values()))
    checks = []
    for method in ("grad-cam", "guided-backprop"):
        checks.append(gradcam.sanity_check(net, inputs, net.layer, method=method, steps=12))
    return checks


def main() -> int:
    parser = argument_parser(__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    warnings.simplefilter("ignore", gradcam.BlankMapWarning)
    start = time.perf_counter()
    images, classes = chosen_collages(quick)
    methods = [*ONE_PASS, EARLY]
    folder = ROOT / "out" / "study"
    data = folder / "study.json"
    if not quick:
        methods += SLOW
        folder = ROOT / "docs"
        data = ROOT / "benchmarks" / "study.json"
    folder.mkdir(parents=True, exist_ok=True)
    results: dict[str, Findings] = {}
    for name, make in NETWORKS.items():
        results[name] = study(make, images, classes, methods)
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    checks = sanity_checks()
    text = page(results, checks, len(images), time.perf_counter() - start)
    path = folder / "which-method.md"
    if not path.exists():
        path.write_text(f"{BEGIN}\n{END}\n", encoding="utf-8")
    write_between(path, BEGIN, text)
    draw(folder / "which-method.png", results)
    draw_checks(folder / "sanity.png", checks)
    write_json(data, as_json(results), indent=None)
    print(text)
    return 0


def as_json(results: dict[str, Findings]) -> dict[str, Any]:
    """The shares, with None for NaN, which JSON lacks; and those with shuffled weights."""
    contents: dict[str, Any] = {
        "shares": {},
        "shuffled": {},
        "shuffled, before the last ReLU6": {},
    }
    for network, findings in results.items():
        shares = {}
        for method, values in findings.shares.items():
            rounded = np.round(values.astype(float), 4)
            shares[method] = np.where(np.isnan(rounded), None, rounded.astype(object)).tolist()
        contents["shares"][network] = shares
        contents["shuffled"][network] = findings.shuffled["grad-cam"].round(4).tolist()
        early = findings.shuffled[EARLY].round(4).tolist()
        contents["shuffled, before the last ReLU6"][network] = early
    return contents


if __name__ == "__main__":
    sys.exit(main())
