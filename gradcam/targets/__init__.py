"""Targets: the score of each sample that is explained, or K of them, made of the model's outputs.

A target is a function `outputs -> (N,) or (N, K)`. The targets here are frozen values. They can be
added, negated, scaled, printed and compared. They may hold arrays, which a compiling backend takes
as arguments rather than as constants, so that another class needs no new program.

>>> ClassScore(281) - 0.6 * ClassScore(282)
ClassScore(281) - 0.6 * ClassScore(282)
>>> -LogProbability(3)      # the counterfactual: the evidence against class 3
-LogProbability(3)

One table says which samples a value is for, whether it is a class, a mask, a box, an embedding or a
sentence. Let one value have the shape S: () for a class, (H, W) for a mask, (D,) for an embedding.
Then a target takes

    S             one for all samples            scores (N,)
    (N, *S)       one for each sample            scores (N,)
    (1, K, *S)    the same K for all samples     scores (N, K): K maps per sample from one forward
    pass (N, K, *S)    K for each sample              scores (N, K)
"""

from __future__ import annotations

from gradcam.targets.classes import (
    ClassScore,
    FinerScore,
    LogProbability,
    Probability,
    ReST,
    TargetLike,
    TopClass,
    as_target,
    difference,
)
from gradcam.targets.outputs import logits
from gradcam.targets.regions import Detection, Region
from gradcam.targets.values import Combination, Selected, Target, join, split
from gradcam.targets.vectors import Regression, Sentence, Similarity, Word

__all__ = [
    "ClassScore",
    "Combination",
    "Detection",
    "FinerScore",
    "LogProbability",
    "Probability",
    "ReST",
    "Region",
    "Regression",
    "Selected",
    "Sentence",
    "Similarity",
    "Target",
    "TargetLike",
    "TopClass",
    "Word",
    "as_target",
    "difference",
    "join",
    "logits",
    "split",
]
