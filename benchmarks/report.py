"""What benchmarks/peers.py found, as a page, a picture and JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

__all__ = ["extrapolated", "write"]

Row = dict[str, Any]
WHO = ("gradcam", "pytorch-grad-cam", "torchcam", "captum", "gradcam (JAX)")
COLOURS = dict(zip(WHO, ("#1b6ac9", "#d1495b", "#edae49", "#6b8f71", "#00b4d8")))
BEGIN, END = "<!-- written by benchmarks/peers.py -->", "<!-- end -->"
INTRODUCTION = f"""# The price of an explanation

`make bench` runs [peers.py](peers.py), which writes what is between the markers below, [results.json](results.json) and
the picture. `make zoo` checks captures against plain autograd; [price.py](price.py) prices every method by itself.

{BEGIN}
{END}

## How it grows

<!-- written by benchmarks/growth.py -->
<!-- end of growth -->
"""


def extrapolated(rows: list[Row]) -> list[Row]:
    """100 classes of the libraries whose loop makes a whole pass for each: ten times their 10."""
    return [
        {
            **row,
            **{k: 10 * row[k] for k in ("ratio", "low", "high", "seconds")},
            "case": "100 classes",
            "note": NOTE,
        }
        for row in rows
        if row["case"] == "10 classes"
        and row["who"] in ("pytorch-grad-cam", "captum")
        and "ratio" in row
    ]


NOTE = "ten times their 10 classes"


def write(results: Row, folder: Path, readme: Path | None = None) -> None:
    """The page, its JSON and its picture to `folder`, and the short of it to `readme`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    text = page(results)
    path = folder / "README.md"
    if not path.exists():
        path.write_text(INTRODUCTION, encoding="utf-8")
    between(path, text)
    if readme is not None:
        between(readme, short(results))
    picture(results, folder / "bench.png")
    print(text)


def between(path: Path, text: str) -> None:
    """Write what is between the markers."""
    marked = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    whole = path.read_text(encoding="utf-8")
    path.write_text(marked.sub(lambda _: f"{BEGIN}\n\n{text}\n{END}", whole), encoding="utf-8")


SHORT = {
    ("one class", 1): "Grad-CAM",
    ("one class", 8): "Grad-CAM of 8 images",
    ("10 classes", 1): "10 classes",
    ("100 classes", 1): "100 classes",
    ("methods", 1): "12 methods",
    ("eigen-cam", 1): "Eigen-CAM",
    ("ablation-cam", 1): "Ablation-CAM, 2048 channels",
}


def short(results: Row) -> str:
    """ResNet-50's, for the main README: medians alone."""
    found = {
        (batch, case): some
        for (model, batch, case), some in grouped(results["rows"])
        if model == "resnet50"
    }
    rows = []
    for (case, batch), name in SHORT.items():
        some = found.get((batch, case), {})
        cells = [re.sub(r" \(.*\)", "", cell(some.get(who))) for who in WHO]
        rows.append((name, *cells))
    memory = {
        row["who"]: row.get("megabytes") for row in results["rows"] if row["case"] == "memory"
    }
    plain = {
        row["framework"]: row.get("megabytes")
        for row in results["rows"]
        if row["who"] == "forward pass"
    }
    held = [
        f"{memory[who] / plain['jax' if who == WHO[-1] else 'torch']:.2f}"
        if memory.get(who)
        else "—"
        for who in WHO
    ]
    rows.append(("peak memory, 16 images", *held))
    about = (
        f"*ResNet-50, 224 x 224: time and memory over those of a bare forward pass of the same framework, medians; "
        f"`{results['command']}`, {results['date']}, {results['machine']}. ~ is ten times their 10 classes, > was "
        "stopped, — is not offered; torchcam has 4 of the 12 methods.*"
    )
    return "\n".join([*table(("", *WHO), rows), "", about, ""])


def page(results: Row) -> str:
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
        "Median (quartiles) of ratios, each to a forward pass timed right beside it, under `inference_mode` or jitted; "
        f"at most {results['repeats']} repeats, fewer where one takes long (`results.json` has the number). Random "
        "weights, but for the demo network; the class that is on top; extractors made beforehand. The machine is a "
        "shared one: differences of a few hundredths are noise. gradcam returns raw maps of the layer's size, as "
        "torchcam and captum do; pytorch-grad-cam's are of the input's size, as are our `heatmaps`. Several classes "
        "and all methods are one call of ours and the peers' shortest loop. "
        "~ is ten times their 10 classes, > was stopped, — is not offered.",
        "",
        *table(
            ("model", "batch", "what", *WHO),
            (
                (model, str(batch), what(model, case), *(cell(found.get(who)) for who in WHO))
                for (model, batch, case), found in grouped(rows)
            ),
        ),
        "",
        "All methods: the 12 that need only activations and gradients. pytorch-grad-cam has the same 12, torchcam 4 of "
        "them, for which one forward pass serves.",
        "",
    ]
    if any(row["case"] == "memory" for row in rows):
        lines += ["## Peak memory above the loaded model", "", *memory_table(rows), ""]
        lines += ["One class, each library in a process of its own.", ""]
    if any(row["case"] == "agreement" for row in rows):
        lines += ["## Agreement of the maps", "", *agreement_table(rows), ""]
        lines += [
            "The largest difference of two maps of which each is scaled to [0, 1]; with pytorch-grad-cam after its own "
            "scaling and resizing. What is larger than rounding is not the same formula: pytorch-grad-cam adds 1e-6 to "
            "Grad-CAM++'s denominator, which is of gradients squared, and 1e-7 to XGrad-CAM's (torchcam 1e-8), which "
            "small gradients and activations (of random weights, say) do not outweigh; torchcam's Grad-CAM++ weights "
            "are sums of cubed gradients; Score-CAM's masks are resized with aligned corners by one, and scaled before "
            "they are resized by the other. With the same guards in our formula the first three agree to 1e-5.",
            "",
        ]
    if failed := [row for row in rows if "failed" in row or "at_least" in row]:
        lines += ["## What failed, or took too long", ""]
        lines += [f"- {row['who']}, {row['model']}, {described(row)}" for row in failed] + [""]
    lines += ["## What we set out for", "", *table(("", "bound", "found", ""), goals(rows)), ""]
    return "\n".join(lines)


def described(row: Row) -> str:
    what = row.get("method", row["case"])
    if "failed" in row:
        return f"{what}, batch {row['batch']}: {row['failed']}"
    return f"{what}: {row['note']}, {row['at_least']:.0f} forward passes"


def table(head: tuple[str, ...], rows: Any) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def grouped(rows: list[Row]) -> Iterator[tuple[tuple[str, int, str], dict[str, Row]]]:
    """By model, batch and case, in the order of the run with both frameworks side by side."""
    timed = [row for row in rows if row["case"] not in ("memory", "agreement", "classes")]
    models = list(dict.fromkeys(row["model"] for row in timed))
    order = ("one class", "heatmaps", "10 classes", "100 classes", "1000 classes", "methods")
    order += ("eigen-cam", "ablation-cam", "score-cam")
    keys = {(row["model"], row["batch"], row["case"]) for row in timed}
    for key in sorted(keys, key=lambda key: (models.index(key[0]), order.index(key[2]), key[1])):
        yield (
            key,
            {row["who"]: row for row in timed if (row["model"], row["batch"], row["case"]) == key},
        )


NAMES = {"one class": "Grad-CAM", "heatmaps": "its heatmaps, 224 x 224", "methods": "all methods"}
CHANNELS = {"resnet50": 2048, "demo": 1280, "mobilenet_v3_small": 576}


def what(model: str, case: str) -> str:
    if case in ("ablation-cam", "score-cam"):
        channels = 320 if (model, case) == ("demo", "score-cam") else CHANNELS[model]
        return f"{case}, {channels} channels"
    return NAMES.get(case, case)


def cell(row: Row | None) -> str:
    if row is None:
        return "—"
    if "failed" in row:
        return "fails"
    if "at_least" in row:
        return f"> {row['at_least']:.0f}"
    digits = 2 if row["ratio"] < 10 else 1 if row["ratio"] < 100 else 0
    middle, low, high = (f"{row[k]:.{digits}f}" for k in ("ratio", "low", "high"))
    return f"{'~ ' if row.get('note') == NOTE else ''}{middle} ({low}–{high})"


def memory_table(rows: list[Row]) -> list[str]:
    found = [row for row in rows if row["case"] == "memory"]
    bare = {
        (row["model"], row["framework"]): row.get("megabytes")
        for row in found
        if row["who"] == "forward pass"
    }
    shown = []
    for row in found:
        plain = bare.get((row["model"], row["framework"]))
        known = "megabytes" in row and plain
        numbers = (
            (f"{row['megabytes']:.0f}", f"{row['megabytes'] / plain:.2f}")
            if known
            else ("fails", "")
        )
        shown.append((row["model"], str(row["batch"]), row["framework"], row["who"], *numbers))
    return table(("model", "batch", "framework", "who", "MB", "over a forward pass"), shown)


def agreement_table(rows: list[Row]) -> list[str]:
    found = [row for row in rows if row["case"] == "agreement" and "method" in row]
    keys = dict.fromkeys((row["model"], row["method"]) for row in found)
    peers = WHO[1:4]

    def shown(key: tuple[str, str], who: str) -> str:
        row = next((r for r in found if (r["model"], r["method"]) == key and r["who"] == who), None)
        return "—" if row is None else "fails" if "failed" in row else f"{row['difference']:.0e}"

    return table(
        ("model", "method", *peers), ((*key, *(shown(key, who) for who in peers)) for key in keys)
    )


# ------------------------------------------------------------------------------------------------ goals


def goals(rows: list[Row]) -> Iterator[tuple[str, str, str, str]]:
    timed = {(r["model"], r["case"], r["batch"], r["who"]): r for r in rows if "method" not in r}

    def ratio(model: str, case: str, batch: int, who: str) -> float | None:
        row = timed.get((model, case, batch, who), {})
        found: float | None = row.get("ratio", row.get("at_least"))
        return found

    def over(model: str, case: str, batch: int, peer: str) -> float | None:
        """A peer's time over ours: of calls of the same turn, where there are."""
        turns = timed.get((model, case, batch, peer), {}).get("over_ours")
        theirs, mine = ratio(model, case, batch, peer), ratio(model, case, batch, "gradcam")
        return turns or (theirs / mine if theirs and mine else None)

    def told(
        name: str, bound: str, found: float | None, good: Callable[[float], bool], form: str = ".2f"
    ) -> Any:
        if found is None:
            return name, bound, "not measured", ""
        return name, bound, f"{found:{form}}", "met" if good(found) else "**missed**"

    for who in ("gradcam", "gradcam (JAX)"):
        for case, batch, most, name in (
            ("one class", 1, 1.10, "one class, batch 1"),
            ("one class", 8, 1.05, "one class, batch 8"),
            ("100 classes", 1, 1.2, "100 classes"),
            ("1000 classes", 1, 4.0, "1000 classes"),
            ("methods", 1, 1.25, "all methods"),
            ("eigen-cam", 1, 1.1, "Eigen-CAM"),
            ("ablation-cam", 1, 3.0, "Ablation-CAM"),
        ):
            found = ratio("resnet50", case, batch, who)
            yield told(
                f"{who}, ResNet-50, {name}", f"<= {most}", found, lambda r, most=most: r <= most
            )
        found = ratio("demo", "ablation-cam", 1, who)
        yield told(f"{who}, demo network, Ablation-CAM", "<= 6", found, lambda r: r <= 6)
    batches = [(m, b) for m, c, b, w in timed if c == "one class" and w == "gradcam"]
    for peer, least in (("pytorch-grad-cam", 3.0), ("torchcam", 1.0), ("captum", 1.0)):
        each = {(m, b): over(m, "one class", b, peer) for m, b in batches}
        times = {key: found for key, found in each.items() if found}
        if times:
            (model, batch), worst = min(times.items(), key=lambda item: item[1])
            name = f"one class: {peer}'s time over ours, the least ({model}, batch {batch})"
            yield told(name, f">= {least:g}", worst, lambda r, least=least: r >= least)
    for model in ("demo", "mobilenet_v3_small"):
        for peer in ("pytorch-grad-cam", "torchcam"):
            theirs = over(model, "score-cam", 1, peer)
            found = 1 / theirs if theirs else None
            yield told(
                f"Score-CAM, {model}: our time over {peer}'s", "<= 0.7", found, lambda r: r <= 0.7
            )
    held = {(r["framework"], r["who"]): r["megabytes"] for r in rows if "megabytes" in r}
    for framework, who in (("torch", "gradcam"), ("jax", "gradcam (JAX)")):
        mine, plain = held.get((framework, who)), held.get((framework, "forward pass"))
        found = mine / plain if mine and plain else None
        yield told(
            f"{who}, memory over a forward pass's, batch 16", "<= 1.05", found, lambda r: r <= 1.05
        )
    others = [held[key] for key in held if key[1] in WHO[1:4]]
    found = (
        min(others) / held["torch", "gradcam"] if others and ("torch", "gradcam") in held else None
    )
    yield told("memory of the next best peer over ours, batch 16", ">= 5", found, lambda r: r >= 5)


# ------------------------------------------------------------------------------------------------ the picture


def picture(results: Row, path: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    keep = (
        "one class",
        "10 classes",
        "100 classes",
        "methods",
        "eigen-cam",
        "ablation-cam",
        "score-cam",
    )
    groups = [(key, found) for key, found in grouped(results["rows"]) if key[2] in keep]
    if not groups:
        return
    figure, axes = pyplot.subplots(figsize=(9, 0.32 * len(groups) + 1.6), layout="constrained")
    for at, (_, found) in enumerate(groups):
        for who, row in found.items():
            value = row.get("ratio", row.get("at_least"))
            if value is not None:
                mark = ">" if "at_least" in row else "o"
                filled = "none" if row.get("note") == NOTE else COLOURS[who]
                axes.plot(
                    value,
                    at,
                    mark,
                    color=COLOURS[who],
                    markerfacecolor=filled,
                    markersize=7,
                    alpha=0.9,
                )
    names = [f"{model}, {what(model, case)}, batch {batch}" for (model, batch, case), _ in groups]
    axes.set_yticks(range(len(groups)), names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.grid(axis="x", which="both", alpha=0.2)
    axes.set_xlabel(
        "time over that of a forward pass (1: the explanation is free); open: ten times their 10 classes"
    )
    for who in WHO:
        axes.plot([], [], "o", color=COLOURS[who], label=who)
    figure.legend(loc="outside upper center", ncols=len(WHO), frameon=False, fontsize=9)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
