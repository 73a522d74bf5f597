"""Runs over data sets: on one machine and on many, each photograph once.

>>> gradcam.run(classifier, "photographs/", "out")            # doctest: +SKIP
>>> gradcam.results("out").lowest("probability", 10)          # doctest: +SKIP
"""

from __future__ import annotations

from gradcam.runs.lookup import Results, results
from gradcam.runs.rows import Row
from gradcam.runs.running import Factory, run, share_of

__all__ = ["Factory", "Results", "Row", "results", "run", "share_of"]
