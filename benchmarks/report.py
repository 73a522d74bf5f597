"""The results of benchmarks/peers.py as a page, a picture and JSON."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from common import END, table, write_between, write_json
from goals import PEERS, Row, divided, goals

__all__ = ["extrapolated", "write"]

WHO = ("gradcam", *PEERS, "gradcam (JAX)")
COLOURS = dict(zip(WHO, ("#1b6ac9", "#d1495b", "#edae49", "#6b8f71", "#00b4d8")))
BEGIN = "<!-- written by benchmarks/peers.py -->"
INTRODUCTION = f"""# The price of an explanation

`make bench` runs [peers.py](peers.py), which writes the part between the markers below,
[results.json](results.json) and the picture. `make zoo` checks captures against plain autograd.
[price.py](price.py) prices every method by itself.

{BEGIN}
{END}

## How it grows

<!-- written by benchmarks/growth.py -->
<!-- end of growth -->
"""


def extrapolated(rows: list[Row]) -> list[Row]:
    """Rows of 100 classes for the libraries that run a full pass for each: ten times their 10."""
    more = []
    for row in rows:
        runs_full_passes = row["who"] in ("pytorch-grad-cam", "captum")
        if row["case"] == "10 classes" and runs_full_passes and "ratio" in row:
            tenfold = {key: 10 * row[key] for key in ("ratio", "low", "high", "seconds")}
            more.append({**row, **tenfold, "case": "100 classes", "note": NOTE})
    return more


NOTE = "ten times their 10 classes"


def write(results: Row, folder: Path, readme: Path | None = None) -> None:
    """Write the page, its JSON and its picture to `folder`, and a summary to `readme`."""
    write_json(folder / "results.json", results)
    text = page(results)
    path = folder / "README.md"
    if not path.exists():
        path.write_text(INTRODUCTION, encoding="utf-8")
    write_between(path, BEGIN, text)
    if readme is not None:
        write_between(readme, BEGIN, summary(results))
    picture(results, folder / "bench.png")
    print(text)


SUMMARY = {
    ("one class", 1): "Grad-CAM",
    ("one class", 8): "Grad-CAM of 8 images",
    ("10 classes", 1): "10 classes",
    ("100 classes", 1): "100 classes",
    ("methods", 1): "12 methods",
    ("eigen-cam", 1): "Eigen-CAM",
    ("ablation-cam", 1): "Ablation-CAM, 2048 channels",
}


def summary(results: Row) -> str:
    """ResNet-50's medians, for the main README."""
    groups = dict(grouped(results["rows"]))
    rows = []
    for (case, batch), name in SUMMARY.items():
        by_library = groups.get(("resnet50", batch, case), {})
        # Without the quartiles, which are in brackets.
        cells = [re.sub(r" \(.*\)", "", cell(by_library.get(who))) for who in WHO]
        rows.append((name, *cells))
    rows.append(("peak memory, 16 images", *memory_cells(results["rows"])))
    about = (
        "*ResNet-50, 224 x 224: time and memory over those of a bare forward pass of the same "
        f"framework, medians; `{results['command']}`, {results['date']}, {results['machine']}. ~ "
        "is ten times their 10 classes, > was stopped, — is not offered; torchcam has 4 of the 12 "
        "methods.*"
    )
    return "\n".join([*table(("", *WHO), rows), "", about, ""])


def memory_cells(rows: list[Row]) -> list[str]:
    """Each library's peak memory over that of a forward pass."""
    forward = {}
    by_library = {}
    for row in rows:
        if row["who"] == "forward pass":
            forward[row["framework"]] = row.get("megabytes")
        elif row["case"] == "memory":
            by_library[row["who"]] = row
    cells = []
    for who in WHO:
        row = by_library.get(who, {})
        value = divided(row.get("megabytes"), forward.get(row.get("framework", "")))
        if value is None:
            cells.append("—")
        else:
            cells.append(f"{value:.2f}")
    return cells


def page(results: Row) -> str:
    """The page's part between the markers."""
    rows = results["rows"]
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    lines = [
        f"{results['date']}, {results['machine']}, Python {results['python']}; {versions}. "
        f"`{results['command']}`, {results['seconds']} s.",
        "",
        "![times over a forward pass](bench.png)",
        "",
        "## Time, over that of a bare forward pass",
        "",
        "Median (quartiles) of ratios, each to a forward pass timed right beside it, under "
        f"`inference_mode` or jitted; at most {results['repeats']} repeats, fewer where one takes "
        "long (`results.json` has the number). Random weights, but for the demo network; the "
        "class that is on top; extractors made beforehand. The machine is a shared one: "
        "differences of a few hundredths are noise. gradcam returns raw maps of the layer's "
        "size, as torchcam and captum do; pytorch-grad-cam's are of the input's size, as are our "
        "`heatmaps`. Several classes and all methods are one call of ours and the peers' "
        "shortest loop. ~ is ten times their 10 classes, > was stopped, — is not offered.",
        "",
        *time_table(rows),
        "",
        "All methods: the 12 that need only activations and gradients. pytorch-grad-cam has the "
        "same 12, torchcam 4 of them, for which one forward pass serves.",
        "",
    ]
    if any(row["case"] == "memory" for row in rows):
        lines += ["## Peak memory above the loaded model", "", *memory_table(rows), ""]
        lines += ["One class, each library in a process of its own.", ""]
    if any(row["case"] == "agreement" for row in rows):
        lines += ["## Agreement of the maps", "", *agreement_table(rows), ""]
        lines += [
            "The largest difference of two maps of which each is scaled to [0, 1]; with "
            "pytorch-grad-cam after its own scaling and resizing. What is larger than rounding "
            "is not the same formula: pytorch-grad-cam adds 1e-6 to Grad-CAM++'s denominator, "
            "which is of gradients squared, and 1e-7 to XGrad-CAM's (torchcam 1e-8), which small "
            "gradients and activations (of random weights, say) do not outweigh; torchcam's "
            "Grad-CAM++ weights are sums of cubed gradients; Score-CAM's masks are resized with "
            "aligned corners by one, and scaled before they are resized by the other. With the "
            "same guards in our formula the first three agree to 1e-5.",
            "",
        ]
    failed = [row for row in rows if "failed" in row or "at_least" in row]
    if failed:
        lines += ["## What failed, or took too long", ""]
        for row in failed:
            lines.append(f"- {row['who']}, {row['model']}, {failure(row)}")
        lines.append("")
    lines += ["## What we set out for", "", *table(("", "bound", "found", ""), goals(rows)), ""]
    return "\n".join(lines)


def failure(row: Row) -> str:
    name = row.get("method", row["case"])
    if "failed" in row:
        return f"{name}, batch {row['batch']}: {row['failed']}"
    return f"{name}: {row['note']}, {row['at_least']:.0f} forward passes"


def time_table(rows: list[Row]) -> list[str]:
    lines = []
    for (model, batch, case), by_library in grouped(rows):
        cells = [cell(by_library.get(who)) for who in WHO]
        lines.append((model, str(batch), case_name(model, case), *cells))
    return table(("model", "batch", "what", *WHO), lines)


ORDER = (
    "one class",
    "heatmaps",
    "10 classes",
    "100 classes",
    "1000 classes",
    "methods",
    "eigen-cam",
    "ablation-cam",
    "score-cam",
)


def grouped(rows: list[Row]) -> list[tuple[tuple[str, int, str], dict[str, Row]]]:
    """The timed rows by model, batch and case, and then by library.

    Models are in the order of the run, cases in that of ORDER.
    """
    models: list[str] = []
    groups: dict[tuple[str, int, str], dict[str, Row]] = {}
    for row in rows:
        if row["case"] not in ORDER:
            continue
        if row["model"] not in models:
            models.append(row["model"])
        group = groups.setdefault((row["model"], row["batch"], row["case"]), {})
        group[row["who"]] = row

    def position(item: tuple[tuple[str, int, str], Any]) -> tuple[int, int, int]:
        model, batch, case = item[0]
        return models.index(model), ORDER.index(case), batch

    return sorted(groups.items(), key=position)


NAMES = {"one class": "Grad-CAM", "heatmaps": "its heatmaps, 224 x 224", "methods": "all methods"}
CHANNELS = {"resnet50": 2048, "demo": 1280, "mobilenet_v3_small": 576}


def case_name(model: str, case: str) -> str:
    if (model, case) == ("demo", "score-cam"):  # at an earlier layer
        return "score-cam, 320 channels"
    if case in ("ablation-cam", "score-cam"):
        return f"{case}, {CHANNELS[model]} channels"
    return NAMES.get(case, case)


def cell(row: Row | None) -> str:
    if row is None:
        return "—"
    if "failed" in row:
        return "fails"
    if "at_least" in row:
        return f"> {row['at_least']:.0f}"
    digits = 2
    if row["ratio"] >= 100:
        digits = 0
    elif row["ratio"] >= 10:
        digits = 1
    text = f"{row['ratio']:.{digits}f} ({row['low']:.{digits}f}–{row['high']:.{digits}f})"
    if row.get("note") == NOTE:
        return f"~ {text}"
    return text


def memory_table(rows: list[Row]) -> list[str]:
    measured = [row for row in rows if row["case"] == "memory"]
    forward = {}
    for row in measured:
        if row["who"] == "forward pass":
            forward[row["model"], row["framework"]] = row.get("megabytes")
    lines = []
    for row in measured:
        numbers = ("fails", "")
        value = divided(row.get("megabytes"), forward.get((row["model"], row["framework"])))
        if value is not None:
            numbers = (f"{row['megabytes']:.0f}", f"{value:.2f}")
        lines.append((row["model"], str(row["batch"]), row["framework"], row["who"], *numbers))
    return table(("model", "batch", "framework", "who", "MB", "over a forward pass"), lines)


def agreement_table(rows: list[Row]) -> list[str]:
    """Each peer's largest difference to our map, by model and method."""
    groups: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        if row["case"] != "agreement" or "method" not in row:
            continue
        text = "fails"
        if "failed" not in row:
            text = f"{row['difference']:.0e}"
        groups.setdefault((row["model"], row["method"]), {})[row["who"]] = text
    lines = []
    for key, by_peer in groups.items():
        lines.append((*key, *(by_peer.get(peer, "—") for peer in PEERS)))
    return table(("model", "method", *PEERS), lines)


# ------------------------------------------------------------------------------------ the picture


def picture(results: Row, path: Path) -> None:
    """A row of dots for each case, on a logarithmic axis of times over a forward pass."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    from gradcam.pictures.figure import png

    groups = []
    for key, by_library in grouped(results["rows"]):
        if key[2] not in ("heatmaps", "1000 classes"):
            groups.append((key, by_library))
    if not groups:
        return
    figure, axes = pyplot.subplots(figsize=(9, 0.32 * len(groups) + 1.6), layout="constrained")
    names = []
    for y, ((model, batch, case), by_library) in enumerate(groups):
        names.append(f"{model}, {case_name(model, case)}, batch {batch}")
        for who, row in by_library.items():
            dot(axes, y, who, row)
    axes.set_yticks(range(len(groups)), names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.grid(axis="x", which="both", alpha=0.2)
    axes.set_xlabel(
        "time over that of a forward pass (1: the explanation is free)\n"
        "open: ten times their 10 classes; arrow: it took longer, and was stopped"
    )
    for who in WHO:
        axes.plot([], [], "o", color=COLOURS[who], label=who)
    figure.legend(loc="outside upper center", ncols=len(WHO), frameon=False, fontsize=9)
    path.write_bytes(png(figure, 110))
    pyplot.close(figure)


def dot(axes: Any, y: int, who: str, row: Row) -> None:
    """One library's ratio: open where it is extrapolated, an arrow where the call was stopped."""
    value = row.get("ratio", row.get("at_least"))
    if value is None:
        return
    colour = COLOURS[who]
    marker = "o"
    if "at_least" in row:
        marker = ">"
    face = colour
    if row.get("note") == NOTE:
        face = "none"
    axes.plot(value, y, marker, color=colour, markerfacecolor=face, markersize=7, alpha=0.9)
