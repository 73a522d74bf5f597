"""What is wrong with a gradient, as far as the differences show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gradcam.verification.differences import Judgement
from gradcam.verification.report import Check

__all__ = ["Tested", "named", "ratio"]


@dataclass(frozen=True)
class Tested:
    """One direction, tested for all samples and targets at once: arrays (N, [K]).

    claimed: the slope that the gradient claims. scale: the size to which errors are relative.
    flat: where the gradient is 0 and the score stays the same.
    """

    what: str
    claimed: np.ndarray
    scale: np.ndarray
    judged: Judgement
    flat: np.ndarray

    def check(self) -> Check:
        judged = self.judged
        told = ~(judged.kink | judged.lost)
        error = np.where(told, ratio(judged.off, self.scale), 0.0)
        resolution = ratio(judged.resolution, self.scale)
        return Check(
            self.what,
            float(error.max()),
            int(judged.kink.sum()),
            int(judged.kink.size),
            int(self.flat.sum()),
            lost=int(judged.lost.sum()),
            wrong=int(judged.wrong.sum()),
            resolution=float(resolution.max()),
        )


def ratio(error: np.ndarray, scale: np.ndarray | float) -> np.ndarray:
    """error / scale. Where the scale is 0, no error is 0 and any error is infinite."""
    scale = np.broadcast_to(scale, error.shape)
    without_scale = np.where(error == 0, 0.0, np.inf)
    return np.where(scale > 0, error / np.where(scale > 0, scale, 1), error + without_scale)


def named(tested: Sequence[Tested]) -> str:
    """The error of a wrong gradient in words, or nothing where it has no simple one."""
    wrong = np.stack([one.judged.wrong for one in tested]) if tested else np.zeros(0, bool)
    if not wrong.any():
        return ""
    told = ~np.stack([one.judged.kink | one.judged.lost for one in tested])
    claimed = np.stack([one.claimed for one in tested])[told]
    slope = np.stack([one.judged.slope for one in tested])[told]
    size = np.maximum(np.abs(slope), np.stack([one.scale for one in tested])[told])
    if not np.any(claimed):
        return (
            "the gradient is 0, and the score changes: the way from this layer to the score is "
            "detached, as by detach, stop_gradient, or rounding"
        )
    if not np.any(slope):
        return (
            "the gradient is not 0, but replayed activations leave the score as it is: the model "
            "uses this output before the layer returns it, or another one in its place"
        )
    factor = float(np.sum(claimed * slope) / np.sum(slope**2))
    if np.all(np.abs(claimed - factor * slope) <= 0.05 * abs(factor - 1) * size):
        return (
            f"the gradient is {factor:.7g} times the score's slope along all directions: "
            "it is scaled by that, or a like part of the way is detached"
        )
    samples = np.flatnonzero(wrong.reshape(len(wrong), wrong.shape[1], -1).any(axis=(0, 2)))
    if len(samples) < wrong.shape[1]:
        listed = ", ".join(map(str, samples))
        return f"of {wrong.shape[1]} samples only these are wrong: {listed}"
    return ""
