"""Asking gradcam: the one module here that imports it."""

from __future__ import annotations

import time
import traceback
import warnings
from typing import Any

import numpy as np

import gradcam
from benchmarks.foreign.judge import Answer
from benchmarks.foreign.rows import Case

__all__ = ["asked"]


def _numpy(array: Any) -> np.ndarray:
    if hasattr(array, "detach"):
        array = array.detach()
    return np.asarray(array)


def _axes(explanation: Any) -> tuple[str, str, bool]:
    """What the result says of its axes, how they were told, and whether they were guessed."""
    axes = getattr(explanation, "axes", None)
    if axes is None:
        return "-", "-", False
    return str(axes.layout), axes.how, axes.how == "guess"


def _ours(error: BaseException) -> bool:
    """Whether the library raised the error itself, and did not meet it in the model."""
    last = traceback.extract_tb(error.__traceback__)[-1].filename
    return "/gradcam/" in last.replace("\\", "/")


def _called(case: Case, explainer: Any, passes: list[int]) -> Any:
    if case.counted is None:
        return explainer(case.inputs, case.target)
    with case.counted(passes):
        return explainer(case.inputs, case.target)


def asked(case: Case) -> tuple[Answer, dict[str, Any]]:
    """The answer with no layer named; and the passes of the first and the second call, and the
    seconds of each.
    """
    first: list[int] = []
    second: list[int] = []
    figures: dict[str, Any] = {"passes": None, "again": None}
    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            explainer = gradcam.Explainer(case.model)
            explanation = _called(case, explainer, first)
        except Exception as error:  # any error is an answer
            text = f"{type(error).__name__}: {error}"
            figures["seconds"] = time.perf_counter() - start
            return Answer(error=text, ours=_ours(error)), figures
        figures["seconds"] = time.perf_counter() - start
    said = [str(one.message) for one in caught if "gradcam" in type(one.message).__module__ or
            "/gradcam/" in str(one.filename) or "gradcam" in str(one.message)]  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _called(case, explainer, second)
    if case.counted is not None:
        figures["passes"], figures["again"] = len(first), len(second)

    def signed() -> np.ndarray:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = gradcam.Explainer(case.model, relu=False)(case.inputs, case.target)
        if found.layer != explanation.layer:
            raise ValueError(f"another layer without ReLU: {found.layer}")
        return _numpy(found.maps)

    axes, how, guessed = _axes(explanation)
    answer = Answer(
        layer=str(explanation.layer),
        maps=_numpy(explanation.maps),
        signed=signed,
        axes=axes,
        told_how=how,
        guessed=guessed,
        warnings=said,
    )
    return answer, figures
