"""Which methods point where they should? Collages of photographs, and photographs with masks, on two real networks.

    make study, or .venv-bench/bin/python benchmarks/study.py [--quick]

Writes what is between the markers of docs/which-method.md, and its pictures. `--quick` writes out/study/ instead: four
collages, and methods of one pass.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from mobilenet import mobilenet

import gradcam
from gradcam import benchmark, metrics
from gradcam._arrays import to_numpy
from gradcam.evaluation.annotation_files import polygons_mask
from gradcam.evaluation.sanity import randomised
from gradcam.zoo import efficientnet_lite0
from gradcam.zoo.demo import photograph

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- written by benchmarks/study.py -->", "<!-- end -->"
PHOTOGRAPHS = {"chelsea": 285, "coffee": 967, "camera": 872, "motorcycle": 665}
"""And the class that each shows: Egyptian cat, espresso, tripod, moped."""

ONE_PASS = (
    "grad-cam", "grad-cam++", "xgrad-cam", "hires-cam", "layer-cam", "element-wise", "eigen-grad-cam", "seg-eigen-cam",
    "shapley-cam", "eigen-cam", "kpca-cam", "fem", "random-cam",
)  # fmt: skip
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
"""With settings that end: Score-CAM and its kin on their strongest channels."""
BATCH = 6
EARLIER = {"_swish#1": "_bn1", "features": "features.18.1"}
EARLY = "grad-cam before the last ReLU6"
"""Grad-CAM of the layer before each network's last activation, the batch norm."""
NETWORKS: dict[str, Callable[[str], gradcam.Classifier]] = {
    "demo": efficientnet_lite0,
    "mobilenet_v2": mobilenet,
}
BOUNDS = {"demo": 0.95, "mobilenet_v2": 0.85}


def pictures() -> dict[str, np.ndarray]:
    """What the networks see of each photograph, (224, 224, 3)."""
    from skimage import data

    net = efficientnet_lite0("torch")
    assert net.view is not None
    found = {name: photograph(name) for name in ("chelsea", "coffee", "camera")}
    found["motorcycle"] = np.asarray(data.stereo_motorcycle()[0])
    return {name: net.view(found[name]) for name in PHOTOGRAPHS}


def explained(net: gradcam.Classifier, inputs: Any, classes: Any, name: str) -> np.ndarray:
    """The maps of a method, or of the early Grad-CAM."""
    if name == EARLY:
        found = gradcam.explain(net, inputs, EARLIER[str(net.layer)], classes)
    else:
        found = gradcam.explain(net, inputs, net.layer, classes, name, **SLOW.get(name, {}))
    return to_numpy(found.maps).astype(np.float64)


def grid(
    net: gradcam.Classifier, seen: list[np.ndarray], classes: np.ndarray, methods: Any
) -> dict[str, np.ndarray]:
    """(N, 2) for each method: the shares of the left classes' maps on the left, and the right ones' on the right."""
    assert net.preprocess is not None
    found: dict[str, list[np.ndarray]] = {name: [] for name in methods}
    together = [name for name in methods if name in ONE_PASS]
    for start in range(0, len(seen), BATCH):
        inputs, some = net.preprocess(seen[start : start + BATCH]), classes[start : start + BATCH]
        known = gradcam.compare(net, inputs, net.layer, some, together) if together else {}
        for name in methods:
            maps = (
                to_numpy(known[name].maps) if name in known else explained(net, inputs, some, name)
            )
            sides = [metrics.grid_pointing_game(maps[:, side], side).values for side in (0, 1)]
            found[name].append(np.stack(sides, axis=1))
            if name in SLOW:
                print(f"  {name}, collages {start} to {start + len(some) - 1}", flush=True)
    return {name: np.concatenate(parts) for name, parts in found.items()}


def chosen_collages(quick: bool) -> tuple[list[np.ndarray], np.ndarray]:
    seen = pictures()
    names = list(seen)
    found = metrics.collages([seen[name] for name in names], mirrored=True)[:: 6 if quick else 1]
    classes = np.array(
        [[PHOTOGRAPHS[names[left]], PHOTOGRAPHS[names[right]]] for _, (left, right) in found]
    )
    return [picture for picture, _ in found], classes


def shuffled(
    net: gradcam.Classifier, seen: list[np.ndarray], classes: np.ndarray, method: str
) -> np.ndarray:
    """(5,): a method's mean share where every weight's values were shuffled, for 5 seeds."""
    assert net.preprocess is not None
    inputs = net.preprocess(seen)
    found = []
    for seed in range(5):
        _, twin = next(iter(randomised(net, inputs[:1], steps=1, how="shuffle", seed=seed)))
        found.append(
            metrics.Result("share", grid(twin, seen, classes, [method])[method], "higher").value
        )
    return np.array(found)


def objects() -> list[tuple[np.ndarray, np.ndarray, int]]:
    """Photographs with masks of their object, as the network sees them, and its class: the motorcycle, whose disparity
    stands out against the floor and the wall behind, and imgaug's quokka, whose outline is drawn.
    """
    from gradcam.evaluation.annotations import Annotation, seen_mask
    from gradcam.pictures.images import read

    view = efficientnet_lite0("torch").view
    folder = importlib.util.find_spec("imgaug")
    if folder is None or not folder.submodule_search_locations:
        raise ImportError("pip install --no-deps imgaug==0.4.0")
    quokka = Path(folder.submodule_search_locations[0])
    outline = json.loads((quokka / "quokka_annotations.json").read_text())["polygons"][0][
        "keypoints"
    ]
    photo = read(quokka / "quokka.jpg")
    polygon = [coordinate for point in outline for coordinate in (point["x"], point["y"])]
    known = [
        (*_motorcycle(), PHOTOGRAPHS["motorcycle"]),
        (photo, polygons_mask([polygon], photo.shape[:2]), 106),
    ]
    assert view is not None
    return [
        (view(photo), seen_mask(Annotation(mask=mask), photo, view), label)
        for photo, mask, label in known
    ]


def _motorcycle() -> tuple[np.ndarray, np.ndarray]:
    from scipy import ndimage
    from skimage import data

    left, _, disparity = data.stereo_motorcycle()
    known = np.isfinite(disparity)
    rows, columns = np.nonzero(known)
    # the floor: a plane through the lowest fifth of the picture, left and right of the motorcycle
    floor = (rows > 0.8 * left.shape[0]) & ((columns < 100) | (columns > left.shape[1] - 100))
    points = np.c_[rows[floor], columns[floor], np.ones(floor.sum())]
    plane = np.linalg.lstsq(points, disparity[rows[floor], columns[floor]], rcond=None)[0]
    ground = (
        plane[0] * np.arange(left.shape[0])[:, None]
        + plane[1] * np.arange(left.shape[1])
        + plane[2]
    )
    stands = known & (disparity > np.maximum(ground, 30) + 2)
    segments, _ = ndimage.label(ndimage.binary_closing(stands, iterations=3))
    largest = 1 + int(np.argmax(np.bincount(segments.ravel())[1:]))
    return np.asarray(left), segments == largest


def costs(
    net: gradcam.Classifier, seen: np.ndarray, methods: Any, repeats: int = 5
) -> dict[str, float]:
    """The median ratio of an explanation's time to a bare forward pass's, by method."""
    assert net.preprocess is not None
    inputs = net.preprocess([seen])
    bare = benchmark.forward(net, inputs)
    bare()
    found = {}
    for name in methods:
        layer, method = (
            (EARLIER[str(net.layer)], "grad-cam") if name == EARLY else (net.layer, name)
        )
        explainer = gradcam.Explainer(net, layer, method, **SLOW.get(name, {}))
        explainer(inputs)
        ratios = []
        for _ in range(repeats):
            start = time.perf_counter()
            bare()
            middle = time.perf_counter()
            benchmark.finished(explainer(inputs).maps)
            ratios.append((time.perf_counter() - middle) / (middle - start))
        found[name] = statistics.median(ratios)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    warnings.simplefilter("ignore", gradcam.BlankMapWarning)
    start = time.perf_counter()
    seen, classes = chosen_collages(quick)
    methods = (*ONE_PASS, EARLY, *(() if quick else SLOW))
    shares: dict[str, dict[str, np.ndarray]] = {}
    other: dict[str, float] = {}
    control: dict[str, np.ndarray] = {}
    early: dict[str, np.ndarray] = {}
    price: dict[str, dict[str, float]] = {}
    checks = []
    masks: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {}
    for name, made in NETWORKS.items():
        net = made("torch")
        shares[name] = grid(net, seen, classes, methods)
        control[name] = shuffled(net, seen, classes, "grad-cam")
        early[name] = shuffled(net, seen, classes, EARLY)
        price[name] = costs(net, seen[0][:, :224], methods)
        masks[name] = pointed(net, methods)
        in_jax = grid(made("jax"), seen, classes, ONE_PASS)
        other[name] = max(
            float(np.nanmax(np.abs(in_jax[m] - shares[name][m])))
            for m in ("grad-cam", "hires-cam", "layer-cam")
        )
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    net = efficientnet_lite0("torch")
    assert net.preprocess is not None
    for method in ("grad-cam", "guided-backprop"):
        inputs = net.preprocess(list(pictures().values()))
        checks.append(gradcam.sanity_check(net, inputs, net.layer, method=method, steps=12))
    folder = ROOT / "out" / "study" if quick else ROOT / "docs"
    folder.mkdir(parents=True, exist_ok=True)
    text = page(
        methods,
        shares,
        control,
        early,
        price,
        other,
        masks,
        checks,
        len(seen),
        time.perf_counter() - start,
    )
    path = folder / "which-method.md"
    whole = path.read_text(encoding="utf-8") if path.exists() else f"{BEGIN}\n{END}\n"
    marked = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    path.write_text(marked.sub(lambda _: f"{BEGIN}\n\n{text}\n{END}", whole), encoding="utf-8")
    draw(folder / "which-method.png", methods, shares, control)
    draw_checks(folder / "sanity.png", checks)
    kept = {
        n: {
            m: [[None if np.isnan(v) else round(float(v), 4) for v in pair] for pair in values]
            for m, values in some.items()
        }
        for n, some in shares.items()
    }
    found = {
        "shares": kept,
        "shuffled": {n: v.round(4).tolist() for n, v in control.items()},
        "shuffled, before the last ReLU6": {n: v.round(4).tolist() for n, v in early.items()},
    }
    (ROOT / "benchmarks" / "study.json" if not quick else folder / "study.json").write_text(
        json.dumps(found) + "\n"
    )
    print(text)
    return 0


def pointed(net: gradcam.Classifier, methods: Any) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(pointing game (P,), share on the object (P,)) on the P photographs with masks."""
    assert net.preprocess is not None
    known = objects()
    inputs, masks = (
        net.preprocess([picture for picture, *_ in known]),
        np.stack([mask for _, mask, _ in known]),
    )
    classes = [label for *_, label in known]
    maps = {name: explained(net, inputs, classes, name) for name in methods}
    maps["centre"] = metrics.CONTROLS["centre"](to_numpy(inputs), 1, 0)
    maps["uniform"] = np.ones(masks.shape)
    return {
        name: (metrics.pointing_game(one, masks).values, metrics.energy(one, masks).values)
        for name, one in maps.items()
    }


# ------------------------------------------------------------------------------------------------ the page


def page(
    methods: Any,
    shares: Any,
    control: Any,
    early: Any,
    price: Any,
    other: Any,
    masks: Any,
    checks: Any,
    count: int,
    seconds: float,
) -> str:
    from importlib.metadata import version

    versions = ", ".join(
        f"{name} {version(name)}" for name in ("gradcam", "torch", "torchvision", "jax", "flax")
    )
    lines = [
        f"{date.today().isoformat()}, {benchmark.machine()}; {versions}. `make study`, {seconds:.0f} s.",
        "",
        f"{count} collages, of which two classes each are explained: {2 * count} maps for each method and network.",
        "",
        "![the share of each map on its own side](which-method.png)",
        "",
        "| method | demo: share on its side | MobileNetV2 | time over a forward pass, demo |",
        "|---|---|---|---|",
    ]
    order = sorted(methods, key=lambda m: -np.nanmean([np.nanmean(shares[n][m]) for n in shares]))
    for method in order:
        cells = [told(shares[name][method]) for name in NETWORKS]
        lines.append(f"| {method} | {cells[0]} | {cells[1]} | {price['demo'][method]:.1f} |")
    lines += [
        "| *uniform map* | 0.50 | 0.50 | |",
        *(
            f"| *{named}, weights shuffled* | {ranged(some['demo'])} | {ranged(some['mobilenet_v2'])} | |"
            for named, some in (("grad-cam", control), (EARLY, early))
        ),
        "",
        "Means with 95 % bootstrap intervals; of shuffled weights the mean and range over 5 seeds. "
        + " ".join(
            f"{name}: the shares of Grad-CAM, HiRes-CAM and Layer-CAM differ by at most {worst:.0e} between PyTorch "
            "and Flax."
            for name, worst in other.items()
        ),
        "",
        "| | bound | found | |",
        "|---|---|---|---|",
    ]
    for name, least in BOUNDS.items():
        for method, some in (("grad-cam", control), (EARLY, early)):
            share, mean = float(np.nanmean(shares[name][method])), some[name].mean()
            lines.append(f"| {name}, {method} | >= {least} | {share:.3f} | {met(share >= least)} |")
            lines.append(
                f"| {name}, {method}, weights shuffled | 0.4 to 0.6 | {mean:.3f} | {met(0.4 <= mean <= 0.6)} |"
            )
    lines += [
        "",
        "## Photographs with masks",
        "",
        "Of the map's positive part, the share on the object; and whether its highest point is there.",
        "",
        "| method | demo: motorcycle | quokka | MobileNetV2: motorcycle | quokka |",
        "|---|---|---|---|---|",
    ]
    for method in (*order, "centre", "uniform"):
        cells = [
            f"{share:.2f}{'' if method == 'uniform' else ', hit' if hit else ', miss'}"
            for name in NETWORKS
            for hit, share in zip(*masks[name][method], strict=True)
        ]
        named = f"*{method} map*" if method in ("centre", "uniform") else method
        lines.append(f"| {named} | {' | '.join(cells)} |")
    lines += ["", "## Sanity check", "", "![similarity as weights are randomised](sanity.png)", ""]
    lines += [
        "| layers randomised, from the top | "
        + " | ".join(f"{c.method}: rank, SSIM" for c in checks)
        + " |"
    ]
    lines += ["|---|" + "---|" * len(checks)]
    for step in range(len(checks[0].groups)):
        group = checks[0].groups[step]
        name = group[0] if len(group) == 1 else f"{group[0]} to {group[-1]}"
        cells = [f"{c.rank[step].mean():.2f}, {c.structure[step].mean():.2f}" for c in checks]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def told(values: np.ndarray) -> str:
    result = metrics.Result("share", values, "higher")
    low, high = result.interval()
    blank = int(np.isnan(values).sum())
    return f"{result.value:.2f} ({low:.2f}–{high:.2f})" + (f", {blank} blank" if blank else "")


def ranged(values: np.ndarray) -> str:
    return f"{values.mean():.2f} ({values.min():.2f}–{values.max():.2f})"


def met(good: bool) -> str:
    return "met" if good else "**missed**"


def draw(path: Path, methods: Any, shares: Any, control: Any) -> None:
    from gradcam.pictures.charts import Interval, Panel, dots
    from gradcam.pictures.figure import png

    order = sorted(methods, key=lambda m: -np.nanmean([np.nanmean(shares[n][m]) for n in shares]))
    panels = []
    for name, some in shares.items():
        rows = []
        for method in order:
            result = metrics.Result("share", some[method], "higher")
            low, high = result.interval()
            rows.append(Interval(method, low, result.value, high))
        spread = control[name]
        rows.append(
            Interval("weights shuffled", spread.min(), spread.mean(), spread.max(), control=True)
        )
        rows.append(Interval("uniform map", 0.5, 0.5, 0.5, control=True))
        panels.append(Panel(f"{name}: share on its own side", rows))
    path.write_bytes(png(dots(panels), 110))


def draw_checks(path: Path, checks: Any) -> None:
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(8, 3.4), layout="constrained")
    for panel, what in zip(drawn.subplots(1, 2), ("rank", "structure"), strict=True):
        for check in checks:
            values = np.concatenate([np.ones((1, check.rank.shape[1])), getattr(check, what)])
            panel.plot(values.mean(1), "o-", label=check.method, markersize=4)
            panel.fill_between(range(len(values)), values.min(1), values.max(1), alpha=0.15)
        panel.set_title(
            "rank correlation" if what == "rank" else "structural similarity", fontsize=9
        )
        panel.set_xlabel("randomised from the top: steps of 12", fontsize=8)
        panel.axhline(0, color="black", linewidth=0.6)
        panel.legend(frameon=False, fontsize=8)
    drawn.savefig(path, dpi=110)


if __name__ == "__main__":
    sys.exit(main())
