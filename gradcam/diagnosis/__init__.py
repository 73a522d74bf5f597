"""Why a map is blank: the reasons told apart, from the map's own arrays and a few more passes through the model."""

from __future__ import annotations

from gradcam.diagnosis.findings import REASONS, BlankMapWarning, Diagnosis, Finding, warn_blank
from gradcam.diagnosis.finite import not_finite
from gradcam.diagnosis.reasons import diagnose
from gradcam.diagnosis.source import Source, held

__all__ = [
    "REASONS",
    "BlankMapWarning",
    "Diagnosis",
    "Finding",
    "Source",
    "diagnose",
    "held",
    "not_finite",
    "warn_blank",
]
