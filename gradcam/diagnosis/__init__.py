"""Why a map is blank: causes told apart by the map's own arrays and a few more passes.

findings.py     what is reported: `Finding`, `Diagnosis`, `BlankMapWarning` and the warning itself
examination.py  `diagnose`: which maps are wrong, and which rules are applied to them
rules.py        the causes, as a list of small functions in the order in which they are told apart
probe.py        what the rules can ask of the model
classes.py      what the rules can ask of the target and the outputs, without the model
finite.py       the layer in which NaN or infinity first appears
source.py       how an explanation's model is run again
"""

from __future__ import annotations

from gradcam.diagnosis.examination import diagnose
from gradcam.diagnosis.findings import REASONS, BlankMapWarning, Diagnosis, Finding, warn_blank
from gradcam.diagnosis.finite import not_finite
from gradcam.diagnosis.source import Source, reference

__all__ = [
    "REASONS",
    "BlankMapWarning",
    "Diagnosis",
    "Finding",
    "Source",
    "diagnose",
    "not_finite",
    "reference",
    "warn_blank",
]
