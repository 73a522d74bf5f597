"""What a diagnosis says: the reasons, and how they are shown; and the warning of a blank map."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

__all__ = ["REASONS", "BlankMapWarning", "Diagnosis", "Finding", "Seen", "warn_blank"]

REASONS: dict[str, str] = {
    "not-finite": "NaN or infinity, and the layer in which it first appeared",
    "flat": "the activations, or what the map makes of them, are the same at every position, often 0",
    "negative": "all evidence is against the score, and ReLU cuts it off",
    "saturated": "a softmax or sigmoid at 0 or 1 to the last digit, where it has no slope",
    "class-token": "a transformer's last block, whose spatial tokens do not reach the output",
    "unused": "the score does not depend on the layer",
    "no-gradient": "the score depends on the layer, but its gradient there is 0",
    "cancels": "neither activations nor gradient are 0, but what the method makes of them is",
    "fusion": "the layers of a product see evidence at no common position",
    "target": "the target is not what the model sees in this sample, but perhaps in another of the batch",
    "changed": "the model gives another score than when it was explained",
    "blank": "the map is 0 everywhere, and neither model nor inputs are there to say why",
}
"""Every reason that a finding may have."""


class BlankMapWarning(UserWarning):
    """A map that is 0 everywhere: nothing speaks for the score, or something went wrong on the way.

    `Explanation.diagnose()` says which. To be silent, `warnings.simplefilter("ignore", gradcam.BlankMapWarning)`; to
    have an error instead, `"error"`.
    """


@dataclass(frozen=True)
class Finding:
    """What is wrong with one map.

    reason: a key of `gradcam.diagnosis.REASONS`; message: what that is here, and what to do, in one sentence.
    sample, target: whose map; `target` is the column among K targets, None where there is one.
    layer: where, if it is of one layer. amount: how much evidence there is against the score, summed over positions
    on the map's own scale, for "negative".
    """

    reason: str
    sample: int
    message: str
    target: int | None = None
    layer: str | None = None
    amount: float | None = None

    def __str__(self) -> str:
        which = (
            f"sample {self.sample}"
            if self.target is None
            else f"sample {self.sample}, target {self.target}"
        )
        return f"{which}: {self.reason}: {self.message}"


@dataclass(frozen=True)
class Diagnosis:
    """What `Explanation.diagnose` found: empty, and false, where every map shows something. Print it, or go through it.

    findings: in the order of samples and targets, the cause before what may lie behind it.
    maps: how many were looked at.
    """

    findings: tuple[Finding, ...]
    maps: int

    @property
    def reasons(self) -> tuple[str, ...]:
        """Each reason once, in the order found."""
        return tuple(dict.fromkeys(finding.reason for finding in self.findings))

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def __len__(self) -> int:
        return len(self.findings)

    def __getitem__(self, index: int) -> Finding:
        return self.findings[index]

    def __str__(self) -> str:
        if not self.findings:
            return (
                f"nothing is wrong with {'the map' if self.maps == 1 else f'the {self.maps} maps'}"
            )
        wrong = len({(finding.sample, finding.target) for finding in self.findings})
        return "\n".join(
            [f"{wrong} of {self.maps} maps:", *(f"  {finding}" for finding in self.findings)]
        )


@dataclass(frozen=True)
class Seen:
    """A map that is blank, flat or not finite."""

    sample: int
    target: int | None
    values: np.ndarray
    layer: str

    @property
    def blank(self) -> bool:
        return not self.values.any()

    def finding(
        self, reason: str, message: str, layer: str | None = None, amount: float | None = None
    ) -> Finding:
        return Finding(reason, self.sample, message, self.target, layer, amount)


def warn_blank(blank: np.ndarray, what: str) -> None:
    """Warn, at the user's line, of maps that are 0 everywhere: `blank` is (N,) or (N, K)."""
    if not blank.any():
        return
    names = [
        str(place[0]) if blank.ndim == 1 else f"({place[0]}, {place[1]})"
        for place in np.argwhere(blank)
    ]
    many, left = len(names) > 1, len(names) - 8
    if len(names) == blank.size:
        whose = f"all {blank.size} maps" if many else "the map"
    else:
        of = "sample" if blank.ndim == 1 else "(sample, target)"
        of += "s" if many and blank.ndim == 1 else ""
        listed = ", ".join(names[:8]) + (f" and {left} more" if left > 0 else "")
        whose = f"the map{'s' if many else ''} of {of} {listed}"
    warnings.warn(
        f"{whose} {'are' if many else 'is'} 0 everywhere ({what}); .diagnose() of the explanation says why",
        BlankMapWarning,
        _outside(),
    )


def _outside() -> int:
    """The stack level, for the caller's call of `warnings.warn`, of the first frame that is not of this library."""
    frame, level = sys._getframe(1), 1
    while (
        frame.f_back is not None
        and frame.f_globals.get("__name__", "").partition(".")[0] == "gradcam"
    ):
        frame, level = frame.f_back, level + 1
    return level
