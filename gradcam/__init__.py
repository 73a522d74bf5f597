"""Class-activation maps you can check, for any PyTorch or JAX model, at the price of one forward pass.

>>> e = gradcam.explain(model, images, layer="layer4", target=281)    # doctest: +SKIP
>>> e.maps, e.heatmaps(), e.figure(photos)                            # doctest: +SKIP

Importing this imports no framework; each is used where the model that you pass comes from it.
"""

from __future__ import annotations

from gradcam import layouts, maps, methods, model, targets
from gradcam.backends import Split
from gradcam.classifier import Classifier
from gradcam.explainer import Explainer, combine, compare, explain, layers
from gradcam.explanation import Explanation
from gradcam.layouts import Tokens
from gradcam.methods import METHODS
from gradcam.verification import Verification, verify

__version__ = "0.1.0"

__all__ = [
    "METHODS",
    "Classifier",
    "Explainer",
    "Explanation",
    "Split",
    "Tokens",
    "Verification",
    "combine",
    "compare",
    "explain",
    "layers",
    "layouts",
    "maps",
    "methods",
    "model",
    "targets",
    "verify",
]
