"""Class-activation maps you can check, for any PyTorch or JAX model, at the price of one forward pass.

>>> e = gradcam.explain(model, images, layer="layer4", target=281)    # doctest: +SKIP
>>> e.maps, e.heatmaps(), e.figure(photos)                            # doctest: +SKIP

Importing this imports no framework; each is used where the model that you pass comes from it.
"""

from __future__ import annotations

from gradcam import layouts, maps, methods, model, targets
from gradcam.backends import Split
from gradcam.classifier import Classifier
from gradcam.concepts import Concepts, Words, factorise, words
from gradcam.diagnosis import BlankMapWarning, Diagnosis, Finding
from gradcam.explainer import Explainer, combine, compare, explain, layers
from gradcam.explanation import Explanation
from gradcam.guided import guided_backprop, guided_grad_cam
from gradcam.layouts import Tokens
from gradcam.methods import METHODS
from gradcam.smoothing import Smoothing
from gradcam.verification import Verification, verify

__version__ = "0.1.0"

__all__ = [
    "METHODS",
    "BlankMapWarning",
    "Classifier",
    "Concepts",
    "Diagnosis",
    "Explainer",
    "Explanation",
    "Finding",
    "Smoothing",
    "Split",
    "Tokens",
    "Verification",
    "Words",
    "combine",
    "compare",
    "explain",
    "factorise",
    "guided_backprop",
    "guided_grad_cam",
    "layers",
    "layouts",
    "maps",
    "methods",
    "model",
    "targets",
    "verify",
    "words",
]
