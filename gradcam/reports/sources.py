"""What a report is made of, as samples: explanations, folders that hold some, and runs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np

from gradcam import identity
from gradcam._faults import FAULTS
from gradcam.backends import versions
from gradcam.explaining.explanation import Explanation
from gradcam.explaining.looking import axes_in_words, sample_names, scores_of_classes
from gradcam.explaining.naming import class_name, layer_name
from gradcam.pictures.overlay import photographs
from gradcam.pictures.shown import Shown
from gradcam.reports.samples import Facts, Sample, Samples
from gradcam.runs import Results, Row, results

__all__ = ["samples_of", "weights_of"]

View = Callable[[np.ndarray], np.ndarray]


def samples_of(
    source: Any,
    photos: Any = None,
    names: Sequence[str] | None = None,
    labels: Sequence[Any] | None = None,
    view: View | None = None,
    most: int = 500,
) -> Samples:
    """The samples of whatever `gradcam.report` takes.

    Raises TypeError or ValueError where it is something else, or empty.
    """
    if isinstance(source, (str, os.PathLike)):
        source = _opened(Path(source))
    elif _is_paths(source):
        source = _Saved([Path(folder) for folder in source])
    if isinstance(source, Results):
        return _of_results(source, photos, view, most)
    if isinstance(source, _Saved):
        groups, kept, found = source.groups, source.photographs, source.names
        pictures = kept if photos is None else photos
        samples = _of_explanations(groups, pictures, names or found, labels, most)
        return replace(samples, facts={**samples.facts, **source.facts})
    return _of_explanations(_grouped(source), photos, names, labels, most)


class _Saved:
    """Explanations read from folders, with the photographs and names that lie there."""

    def __init__(self, folders: Sequence[Path], root: Path | None = None) -> None:
        self.groups: list[list[Explanation]] = []
        self.photographs: list[Any] | None = []
        self.names: list[str] = []
        axes: list[str] = []
        choices: list[str] = []
        for folder in folders:
            explanation = Explanation.load(folder)
            self.groups.append([explanation])
            name = folder.name if root in (None, folder) else str(folder.relative_to(root or ""))
            count = len(explanation)
            self.names += [name] if count == 1 else [f"{name} {n}" for n in range(count)]
            manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
            axes += map(str, manifest.get("axes") or [])
            choices += [str(manifest["choice"])] if manifest.get("choice") else []
            kept = [folder / Path(file).name for file in manifest["files"].get("photographs", [])]
            if self.photographs is not None and len(kept) == count:
                self.photographs += kept
            else:
                self.photographs = None
        self.facts = {
            "axes, and how they were told": "; ".join(dict.fromkeys(axes)),
            "why this layer": "; ".join(dict.fromkeys(choices)),
        }


def _is_paths(source: Any) -> bool:
    if not isinstance(source, (list, tuple)) or not source:
        return False
    return all(isinstance(one, (str, os.PathLike)) for one in source)


def _opened(folder: Path) -> Any:
    """What a folder holds: a run, an explanation, or folders of explanations."""
    if "://" in str(folder) or (folder / "run.json").is_file():
        return results(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; pass one that a run or `save` wrote")
    if (folder / "manifest.json").is_file():
        return _Saved([folder], folder)
    found = sorted(path.parent for path in folder.rglob("manifest.json"))
    if not found:
        raise ValueError(f"{folder}: holds neither a run nor a saved explanation")
    return _Saved(found, folder)


# ------------------------------------------------------------------------------------- explanations


def _grouped(source: Any) -> list[list[Explanation]]:
    """Explanations of the same samples together, groups one after the other."""
    if isinstance(source, Explanation):
        return [[source]]
    if isinstance(source, Mapping):
        values = list(source.values())
        if values and all(isinstance(one, Explanation) for one in values):
            return [values]
    if isinstance(source, Sequence) and not isinstance(source, (str, bytes)):
        groups = []
        for one in source:
            groups += _grouped(one)
        if groups:
            return groups
    kind = type(source).__name__
    raise TypeError(
        f"`source` of type {kind} is nothing that a report shows; pass an explanation, what "
        "gradcam.compare gives, a list of these, the results of a run, or the folder of either"
    )


def _of_explanations(
    groups: Sequence[Sequence[Explanation]],
    photos: Any,
    names: Sequence[str] | None,
    labels: Sequence[Any] | None,
    most: int,
) -> Samples:
    for group in groups:
        _check_alike(group)
    total = sum(len(group[0]) for group in groups)
    pictures = None if photos is None else photographs(photos, total)
    if names is None:
        names = sample_names(photos, total)
    for given, what in ((names, "names"), (labels, "labels")):
        if given is not None and len(given) != total:
            raise ValueError(f"`{what}` has {len(given)}, but there are {total} samples")
    each = islice(_each(groups, pictures, names, labels), most)
    return Samples(each, min(total, most), _facts(groups), max(0, total - most))


def _check_alike(group: Sequence[Explanation]) -> None:
    for one in group:
        if len(one) != len(group[0]):
            raise ValueError(
                f"explanations beside each other must be of the same samples, but there are "
                f"{len(group[0])} and {len(one)}; pass a list where they are not"
            )
        if one.maps.ndim - one.scores.ndim != 2:
            raise ValueError(
                f"a report shows maps over two axes, but these have "
                f"{one.maps.ndim - one.scores.ndim}; use .figure()"
            )


def _each(
    groups: Sequence[Sequence[Explanation]],
    pictures: Sequence[np.ndarray] | None,
    names: Sequence[str],
    labels: Sequence[Any] | None,
) -> Iterator[Sample]:
    number = 0
    for group in groups:
        tables = [one.shown() for one in group]
        tops = _tops(group[0])
        notes = _notes(group)
        for n in range(len(group[0])):
            top = tops[n] if tops is not None else ""
            label = "" if labels is None else _label(group[0], labels[number])
            yield Sample(
                name=names[number] or f"sample {number}",
                maps=[shown for table in tables for shown in table[n]],
                photograph=None if pictures is None else pictures[number],
                top=top,
                label=label,
                wrong=bool(label and top and label != top),
                notes=notes.get(n, []),
            )
            number += 1


def _tops(explanation: Explanation) -> list[str] | None:
    """The class with the highest output of each sample, where the outputs are there."""
    scores = scores_of_classes(explanation.outputs)
    if scores is None:
        return None
    return [class_name(int(k), explanation.labels) for k in scores.argmax(-1)]


def _label(explanation: Explanation, label: Any) -> str:
    """A class as its name: of an index the label."""
    if isinstance(label, str) or label is None:
        return label or ""
    return class_name(int(label), explanation.labels)


def _notes(group: Sequence[Explanation]) -> dict[int, list[str]]:
    """What a diagnosis says, by sample."""
    found: dict[int, list[str]] = {}
    for one in group:
        try:
            findings = list(one.diagnose())
        except FAULTS:  # a model that has changed, or is gone, is none of the report's business
            continue
        for finding in findings:
            found.setdefault(finding.sample, []).append(f"{one.method}: {finding.message}")
    return found


def _facts(groups: Sequence[Sequence[Explanation]]) -> Facts:
    every = [one for group in groups for one in group]

    def all_of(values: Iterator[str]) -> str:
        return "; ".join(dict.fromkeys(value for value in values if value))

    axes = [layer for one in every for layer in axes_in_words(one.axes)]
    saved = next((one.versions for one in every if one.versions), None)
    return {
        "model": all_of(one.model for one in every),
        "layer": all_of(layer_name(one.layer) for one in every),
        "why this layer": all_of(str(one.choice or "") for one in every),
        "axes, and how they were told": all_of(iter(axes)),
        "method": all_of(one.method for one in every),
        "versions": ", ".join(f"{k} {v}" for k, v in (saved or versions()).items()),
    }


# --------------------------------------------------------------------------------------------- runs


def _of_results(found: Results, photos: Any, view: View | None, most: int) -> Samples:
    if photos is not None:
        raise ValueError("`photos` is for explanations; a run reads its photographs again")
    settings = found.about.settings
    facts = {
        "model": str(settings.get("model", "")),
        "layer": "; ".join(found.about.layers),
        "why this layer": found.about.choice or "",
        "axes, and how they were told": "; ".join(found.about.axes),
        "method": "; ".join(map(str, settings.get("methods", []))),
        "source": found.about.source,
        "hash of the weights, layers and preprocessing": str(settings.get("weights", "")),
        "hash of the settings": found.about.hash,
        "versions": f"gradcam {settings.get('gradcam', '')}",
    }
    total = found.turns()
    each = islice(_each_of_run(found, view), most)
    return Samples(each, min(total, most), facts, max(0, total - most))


def _each_of_run(found: Results, view: View | None) -> Iterator[Sample]:
    layer = " + ".join(found.about.layers)
    model = str(found.about.settings.get("model", ""))
    for _, group in groupby(found, key=lambda row: (row.shard, row.sample)):
        rows = list(group)
        first = rows[0]
        picture = None
        problem = ""
        if first.error is None:
            try:
                picture = photographs([found.seen(first, view)], 1)[0]
            except (*FAULTS, LookupError) as error:
                problem = str(error)
        maps = [_shown(found, row, layer, model) for row in rows if row.error is None]
        wrong = first.label_class is not None and first.label_class != first.top_class
        yield Sample(
            name=first.key,
            maps=[shown for shown in maps if shown.values.ndim == 2],
            photograph=picture,
            top=first.top_name or "",
            label=first.label or "",
            wrong=wrong,
            error=first.error or "",
            notes=[*(row.reason for row in rows if row.reason), *([problem] if problem else [])],
        )


def _shown(found: Results, row: Row, layer: str, model: str) -> Shown:
    return Shown(
        values=found.map(row),
        name=row.name or "score",
        score=row.score,
        probability=row.probability,
        method=row.method or "",
        layer=layer,
        model=model,
        size=row.size,
    )


def weights_of(model: Any) -> str:
    """The hash of a model's weights and layers."""
    found = identity.identity(model)
    if found.unknown:
        return f"{found.digest} (not told apart: {', '.join(sorted(found.unknown))})"
    return found.digest
