"""Is an explanation any good? Methods beside controls, over photographs, and checks of sanity.

evaluation         `evaluate` and its result
planning           what was asked, checked
run                one photograph: seen, explained, measured
store              rows on disk
annotations        where the object is; annotation_files reads it
prediction         a model as a function of NumPy arrays
sanity             does a map depend on what the model has learned?
"""

from __future__ import annotations

from gradcam.evaluation.annotations import Annotation, read_annotations
from gradcam.evaluation.evaluation import DEFAULT, Evaluation, evaluate
from gradcam.evaluation.prediction import predictor
from gradcam.evaluation.sanity import SanityCheck, randomised, sanity_check
from gradcam.metrics import Measure

__all__ = [
    "DEFAULT",
    "Annotation",
    "Evaluation",
    "Measure",
    "SanityCheck",
    "evaluate",
    "predictor",
    "randomised",
    "read_annotations",
    "sanity_check",
]
