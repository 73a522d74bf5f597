"""The figures of a run, and the page that it writes."""

from __future__ import annotations

import datetime
import importlib.metadata
from collections import Counter
from typing import Any

__all__ = ["page", "summary"]

KINDS = ("right", "told", "wrong in silence")
PACKAGES = ("torch", "timm", "torchvision", "transformers", "keras", "jax", "flax", "equinox")


def counts(rows: list[dict[str, Any]]) -> dict[str, Counter[str]]:
    """How many of each verdict, for each list and in all."""
    found: dict[str, Counter[str]] = {}
    for row in rows:
        found.setdefault(row["list"], Counter())[row["verdict"]] += 1
    found["all"] = Counter(row["verdict"] for row in rows)
    return found


def summary(rows: list[dict[str, Any]]) -> str:
    """A few lines of text."""
    lines = []
    for name, each in counts(rows).items():
        lines.append(
            f"{name}: {sum(each.values())} rows; " + ", ".join(f"{each[k]} {k}" for k in KINDS)
        )
    passes = [row["passes"] for row in rows if row.get("passes")]
    oblong = sum(len(set(row.get("size") or [0])) > 1 for row in rows)
    lines.append(
        f"inputs that are not square: {oblong}; most forward passes: {max(passes, default=0)}"
    )
    return "\n".join(lines)


def _cell(text: Any) -> str:
    """Text that cannot break a table."""
    return " ".join(str(text).replace("|", "\\|").split())


def _row(row: dict[str, Any]) -> str:
    size = " x ".join(map(str, row.get("size") or []))
    passes = "-" if row.get("passes") is None else f"{row['passes']}, {row['again']}"
    found = row.get("axes", "-")
    maps = " x ".join(map(str, (row.get("maps") or [])[1:]))
    layer = f"`{row['layer']}`" if row.get("layer") else "-"
    why = row.get("why", "") or "; ".join(row.get("notes", []))
    why = why if len(why) < 160 else why[:157] + "..."
    cells = [
        row["name"],
        size,
        layer,
        found if found != "-" else f"maps {maps}",
        row.get("told", "-"),
        row.get("oracle", "-"),
        row["verdict"] if row["verdict"] != "wrong in silence" else "**wrong in silence**",
        why,
        passes,
        f"{row['seconds']:.1f}",
    ]
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _versions() -> str:
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def page(rows: list[dict[str, Any]], seconds: float) -> str:
    """docs/foreign-models.md."""
    day = datetime.datetime.now(datetime.UTC).date().isoformat()
    lines = [
        "# Models that nobody here wrote, with no layer named",
        "",
        "Written by `make foreign` (`python -m benchmarks.foreign`): random weights, small inputs, "
        f"batches of two. {day}, {seconds / 60:.0f} minutes; {_versions()}.",
        "",
        "Each model is explained by `gradcam.explain(model, inputs)`. *Right*: the map equals, to "
        "1e-4 of its peak, that of an oracle which takes the layer's output with a plain hook, its "
        "gradient with the framework's own autograd, and the axes from the model's own attributes. "
        "It is not blank, the score is reached from the layer's places, all that the input says "
        "passes through the layer (where the model has such a layer), and it was not chosen too "
        "early. *Told*: not so, but an error or a warning names the cause and a remedy, or the "
        "result says that its axes were guessed. *Wrong in silence*: all else.",
        "",
        "The list `trained` has networks with their own weights, on photographs and a sound. Their "
        "maps must also be at least 1.5 times as high on the object as elsewhere.",
        "",
        "In the column of passes: those of the first call and those of the second; in JAX, traces.",
        "",
        "| list | rows | right | told | wrong in silence |",
        "|---|---|---|---|---|",
    ]
    for name, each in counts(rows).items():
        total = sum(each.values())
        lines.append(f"| {name} | {total} | " + " | ".join(str(each[k]) for k in KINDS) + " |")
    lines += ["", summary(rows).splitlines()[-1] + "."]
    for which in dict.fromkeys(row["list"] for row in rows):
        lines += [
            "",
            f"## {which}",
            "",
            "| model | input | layer | axes as found | how told | axes as documented | verdict "
            "| why | passes, again | s |",
            "|---|---|---|---|---|---|---|---|---|---|",
        ]
        lines += [_row(row) for row in rows if row["list"] == which]
    return "\n".join(lines) + "\n"
