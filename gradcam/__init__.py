"""Class-activation maps you can check, for any PyTorch or JAX model, at the price of one forward
pass.

>>> e = gradcam.explain(model, images, layer="layer4", target=281)    # doctest: +SKIP
>>> e.maps, e.heatmaps(), e.figure(photos)                            # doctest: +SKIP

Importing this imports no framework; each is used where the model that you pass comes from it. Nor
does it import the rest of the library, which is there when it is first asked for.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradcam import layouts, maps, methods, metrics, model, targets
    from gradcam.backends import Split
    from gradcam.backends.differences import RoughGradientsWarning
    from gradcam.benchmark import Benchmark, Price, bench
    from gradcam.classifier import Classifier
    from gradcam.diagnosis import BlankMapWarning, Diagnosis, Finding
    from gradcam.evaluation import (
        Annotation,
        Evaluation,
        SanityCheck,
        evaluate,
        predictor,
        read_annotations,
        sanity_check,
    )
    from gradcam.explaining.axes import axes, layers
    from gradcam.explaining.combine import combine
    from gradcam.explaining.comparison import Comparison
    from gradcam.explaining.concepts import Concepts, Words, factorise, words
    from gradcam.explaining.explainer import Explainer
    from gradcam.explaining.explanation import Explanation
    from gradcam.explaining.guided import Guided, guided_backprop, guided_grad_cam
    from gradcam.explaining.in_one_line import compare, explain
    from gradcam.explaining.smoothing import Smoothing
    from gradcam.layouts import Tokens
    from gradcam.methods import METHODS, MethodSpec
    from gradcam.metrics import Measure, Result
    from gradcam.model import Layer
    from gradcam.reports import report
    from gradcam.runs import Results, Row, results, run
    from gradcam.space.axes import GuessedAxesWarning, LayerAxes
    from gradcam.space.choice import GuessedLayerWarning, LayerChoice
    from gradcam.tracking import log
    from gradcam.verification import Check, Verification, verify

__version__ = "0.2.0"

__all__ = [
    "METHODS",
    "Annotation",
    "Benchmark",
    "BlankMapWarning",
    "Check",
    "Classifier",
    "Comparison",
    "Concepts",
    "Diagnosis",
    "Evaluation",
    "Explainer",
    "Explanation",
    "Finding",
    "GuessedAxesWarning",
    "GuessedLayerWarning",
    "Guided",
    "Layer",
    "LayerAxes",
    "LayerChoice",
    "Measure",
    "MethodSpec",
    "Price",
    "Result",
    "Results",
    "RoughGradientsWarning",
    "Row",
    "SanityCheck",
    "Smoothing",
    "Split",
    "Tokens",
    "Verification",
    "Words",
    "axes",
    "bench",
    "combine",
    "compare",
    "evaluate",
    "explain",
    "factorise",
    "guided_backprop",
    "guided_grad_cam",
    "layers",
    "layouts",
    "log",
    "maps",
    "methods",
    "metrics",
    "model",
    "predictor",
    "read_annotations",
    "report",
    "results",
    "run",
    "sanity_check",
    "targets",
    "verify",
    "words",
]

_HOME = {
    "Annotation": "evaluation",
    "Benchmark": "benchmark",
    "BlankMapWarning": "diagnosis",
    "Check": "verification",
    "Classifier": "classifier",
    "Comparison": "explaining.comparison",
    "Concepts": "explaining.concepts",
    "Diagnosis": "diagnosis",
    "Evaluation": "evaluation",
    "Explainer": "explaining.explainer",
    "Explanation": "explaining.explanation",
    "Finding": "diagnosis",
    "GuessedAxesWarning": "space.axes",
    "GuessedLayerWarning": "space.choice",
    "Guided": "explaining.guided",
    "Layer": "model",
    "LayerAxes": "space.axes",
    "LayerChoice": "space.choice",
    "METHODS": "methods",
    "Measure": "metrics",
    "MethodSpec": "methods",
    "Price": "benchmark",
    "Result": "metrics",
    "Results": "runs",
    "RoughGradientsWarning": "backends.differences",
    "Row": "runs",
    "SanityCheck": "evaluation",
    "Smoothing": "explaining.smoothing",
    "Split": "backends",
    "Tokens": "layouts",
    "Verification": "verification",
    "Words": "explaining.concepts",
    "axes": "explaining.axes",
    "bench": "benchmark",
    "combine": "explaining.combine",
    "compare": "explaining.in_one_line",
    "evaluate": "evaluation",
    "explain": "explaining.in_one_line",
    "factorise": "explaining.concepts",
    "guided_backprop": "explaining.guided",
    "guided_grad_cam": "explaining.guided",
    "layers": "explaining.axes",
    "log": "tracking",
    "predictor": "evaluation",
    "read_annotations": "evaluation",
    "report": "reports",
    "results": "runs",
    "run": "runs",
    "sanity_check": "evaluation",
    "verify": "verification",
    "words": "explaining.concepts",
}
"""The module of each name that is none itself."""


def __getattr__(name: str) -> Any:
    if name in _HOME:
        found = getattr(importlib.import_module(f"gradcam.{_HOME[name]}"), name)
    elif not name.startswith("_") and importlib.util.find_spec(f"gradcam.{name}"):
        found = importlib.import_module(f"gradcam.{name}")
    else:
        raise AttributeError(f"module 'gradcam' has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
