"""What a diagnosis reports: the reasons, the findings, and the warning of a blank map."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradcam._warnings import warn
from gradcam.pictures.notebook import table_html, text_html

__all__ = ["REASONS", "BlankMap", "BlankMapWarning", "Diagnosis", "Finding", "warn_blank"]

REASONS: dict[str, str] = {
    "not-finite": "NaN or infinity, and the layer in which it first appeared",
    "flat": "the activations, or those that count in the map, are the same at every position",
    "negative": "all evidence is against the score, and ReLU removes it",
    "saturated": "a softmax or sigmoid is 0 or 1 to the last digit, where its slope is 0",
    "class-token": "a transformer's last block, whose spatial tokens do not reach the output",
    "unused": "the score does not depend on the layer",
    "no-gradient": "the score depends on the layer, but its gradient there is 0",
    "cancels": "neither activations nor gradient are 0, but the method combines them to 0",
    "fusion": "no position has evidence in all layers of a product",
    "target": "the model sees another class in this sample, perhaps that of another sample",
    "changed": "the model gives another score than when it was explained",
    "blank": "the map is 0 everywhere, but the model or its inputs are not there to say why",
}
"""Every reason that a finding may have."""


class BlankMapWarning(UserWarning):
    """A map is 0 everywhere: nothing speaks for the score, or something went wrong.

    `Explanation.diagnose()` says which. To silence it, use
    `warnings.simplefilter("ignore", gradcam.BlankMapWarning)`; to raise it, use `"error"`.
    """


@dataclass(frozen=True)
class Finding:
    """What is wrong with one map.

    reason: a key of `gradcam.diagnosis.REASONS`.
    message: what the cause is in this case and what to do, in one sentence.
    sample: the map's sample. target: its column among K targets, None where there is one target.
    layer: the layer, if the finding is about one.
    amount: for "negative", the sum over positions of the evidence against the score, on the map's
        own scale.
    """

    reason: str
    sample: int
    message: str
    target: int | None = None
    layer: str | None = None
    amount: float | None = None

    def __str__(self) -> str:
        name = f"sample {self.sample}"
        if self.target is not None:
            name += f", target {self.target}"
        return f"{name}: {self.reason}: {self.message}"


@dataclass(frozen=True)
class Diagnosis:
    """The findings of `Explanation.diagnose`. Print it, or iterate over it.

    It is empty, and false, where every map shows something.

    findings: in the order of samples and targets. A cause comes before a hint at what is behind it.
    maps: the number of maps examined.
    """

    findings: tuple[Finding, ...]
    maps: int

    @property
    def reasons(self) -> tuple[str, ...]:
        """Each reason once, in the order of the findings."""
        return tuple(dict.fromkeys(finding.reason for finding in self.findings))

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def __len__(self) -> int:
        return len(self.findings)

    def __getitem__(self, index: int) -> Finding:
        return self.findings[index]

    def __str__(self) -> str:
        if not self.findings:
            maps = "the map" if self.maps == 1 else f"the {self.maps} maps"
            return f"nothing is wrong with {maps}"
        affected = {(finding.sample, finding.target) for finding in self.findings}
        lines = [f"{len(affected)} of {self.maps} maps:"]
        lines += [f"  {finding}" for finding in self.findings]
        return "\n".join(lines)

    def _repr_html_(self) -> str | None:
        if not self.findings:
            return text_html(str(self))
        rows = []
        for one in self.findings:
            place = f"{one.sample}" if one.target is None else f"{one.sample}, {one.target}"
            rows.append((place, one.layer or "", one.reason, one.message))
        return table_html(("sample, target", "layer", "reason", "what to do"), rows)


@dataclass(frozen=True)
class BlankMap:
    """A map that is to be diagnosed: all its values (P,) are the same, or one is not finite.

    column: its column among K targets, 0 where there is one target.
    target: the same, but None where there is one target, as a `Finding` has it.
    layer: the layer of which the map is, if it is of one.
    """

    sample: int
    column: int
    target: int | None
    values: np.ndarray
    layer: str | None = None

    @property
    def index(self) -> tuple[int, int]:
        """The map's place in arrays (N, K)."""
        return self.sample, self.column

    @property
    def zero(self) -> bool:
        return not self.values.any()

    @property
    def flat(self) -> bool:
        return bool(self.values.max() == self.values.min())

    @property
    def finite(self) -> bool:
        return bool(np.isfinite(self.values).all())

    def finding(self, reason: str, message: str, amount: float | None = None) -> Finding:
        """A finding about this map."""
        return Finding(reason, self.sample, message, self.target, self.layer, amount)


def warn_blank(blank: np.ndarray, origin: str) -> None:
    """Warn, at the user's line, of maps that are 0 everywhere.

    blank: booleans (N,) or (N, K). origin: the method, model and layer.
    """
    if not blank.any():
        return
    warn(
        f"{_listed(blank)} 0 everywhere ({origin}); .diagnose() of the explanation says why",
        BlankMapWarning,
    )


def _listed(blank: np.ndarray, limit: int = 8) -> str:
    """Which maps are blank, with the verb, such as "the maps of samples 1, 3 are"."""
    count = int(blank.sum())
    if count == blank.size:
        return "the map is" if count == 1 else f"all {count} maps are"
    if blank.ndim == 1:
        names = [str(sample) for sample in np.flatnonzero(blank)]
        singular = "sample"
        plural = "samples"
    else:
        names = [f"({sample}, {target})" for sample, target in np.argwhere(blank)]
        singular = plural = "(sample, target)"
    if count == 1:
        return f"the map of {singular} {names[0]} is"
    listed = ", ".join(names[:limit])
    if count > limit:
        listed += f" and {count - limit} more"
    return f"the maps of {plural} {listed} are"
