"""Is an explanation any good? Methods beside controls, over photographs, and checks of sanity."""

from __future__ import annotations

from gradcam.evaluation.annotations import Annotation, read_annotations
from gradcam.evaluation.evaluation import DEFAULT, Evaluation, evaluate, predictor
from gradcam.evaluation.sanity import SanityCheck, randomised, sanity_check

__all__ = [
    "DEFAULT",
    "Annotation",
    "Evaluation",
    "SanityCheck",
    "evaluate",
    "predictor",
    "randomised",
    "read_annotations",
    "sanity_check",
]
