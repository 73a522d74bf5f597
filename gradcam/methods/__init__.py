"""The CAM family: pure functions of arrays, `(..., C, P)` in, `(..., P)` out.

`METHODS` names them all, and `TABLE` says what each needs and costs. Each is signed and unscaled; ReLU comes after
(`gradcam.maps.relu`).
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from gradcam._types import Method
from gradcam.methods.activations import eigen_cam, factorise, fem, kpca_cam, random_cam
from gradcam.methods.attention import attention_rollout, legrad
from gradcam.methods.gradients import (
    cam,
    eigen_grad_cam,
    element_wise,
    grad_cam,
    grad_cam_pp,
    hires_cam,
    layer_cam,
    seg_eigen_cam,
    shapley_cam,
    smooth_grad_cam_pp,
    xgrad_cam,
)
from gradcam.methods.inputs import full_grad
from gradcam.methods.scores import ablation_cam, score_cam

__all__ = [
    "METHODS",
    "POOLED",
    "TABLE",
    "Entry",
    "ablation_cam",
    "as_entry",
    "attention_rollout",
    "cam",
    "eigen_cam",
    "eigen_grad_cam",
    "element_wise",
    "factorise",
    "fem",
    "full_grad",
    "grad_cam",
    "grad_cam_pp",
    "hires_cam",
    "kpca_cam",
    "layer_cam",
    "legrad",
    "random_cam",
    "score_cam",
    "seg_eigen_cam",
    "shapley_cam",
    "smooth_grad_cam_pp",
    "xgrad_cam",
]

Needs = Literal[
    "gradients",
    "activations",
    "curvatures",
    "a linear head",
    "replays",
    "inputs",
    "biases",
    "attention",
]


@dataclass(frozen=True)
class Entry:
    """A method by its name: the function, what it is given, and its price in passes through the model.

    needs: "gradients": `function(activations, gradients)`; "activations": `function(activations)`; "curvatures":
        `function(activations, gradients, curvatures)`. All these come from one capture. The others run the model in
        their own way (`gradcam.procedures`), and `function` is the array math of it.
    cost: C channels, S samples or steps.
    source: the paper of a variant that shares its function with another method.
    """

    name: str
    function: Callable[..., Any]
    needs: Needs
    cost: str
    source: str = ""

    @property
    def about(self) -> str:
        """The first line of its docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]

    @property
    def paper(self) -> str:
        """Where it comes from: `source`, or the sentence of its docstring that has the link."""
        if self.source:
            return self.source
        text = " ".join((inspect.getdoc(self.function) or "").partition("Shapes:")[0].split())
        ends = re.finditer(r"(?<!\bal)(?<!\beq)(?<!\beqs)\. ", text[: text.find("http")])
        return text[max((end.end() for end in ends), default=0) :] if "http" in text else ""


TABLE: tuple[Entry, ...] = (
    Entry("grad-cam", grad_cam, "gradients", "1 forward, 1 backward"),
    Entry("grad-cam++", grad_cam_pp, "gradients", "1 forward, 1 backward"),
    Entry("xgrad-cam", xgrad_cam, "gradients", "1 forward, 1 backward"),
    Entry("hires-cam", hires_cam, "gradients", "1 forward, 1 backward"),
    Entry("layer-cam", layer_cam, "gradients", "1 forward, 1 backward"),
    Entry("element-wise", element_wise, "gradients", "1 forward, 1 backward"),
    Entry("eigen-grad-cam", eigen_grad_cam, "gradients", "1 forward, 1 backward"),
    Entry("seg-eigen-cam", seg_eigen_cam, "gradients", "1 forward, 1 backward"),
    Entry("shapley-cam", shapley_cam, "curvatures", "1 forward, 2 backward"),
    Entry("cam", cam, "a linear head", "1 forward, 3 backward of the head"),
    Entry("eigen-cam", eigen_cam, "activations", "1 forward"),
    Entry("kpca-cam", kpca_cam, "activations", "1 forward"),
    Entry("fem", fem, "activations", "1 forward"),
    Entry("random-cam", random_cam, "activations", "1 forward"),
    Entry(
        "integrated-grad-cam",
        grad_cam,
        "replays",
        "1 forward, S forward and backward of the head",
        "Sattarzadeh et al. 2021, https://arxiv.org/abs/2102.07805",
    ),
    Entry("smooth-grad-cam++", smooth_grad_cam_pp, "inputs", "S forward, S backward"),
    Entry("ablation-cam", ablation_cam, "replays", "1 forward, C forward of the head"),
    Entry("score-cam", score_cam, "inputs", "1 + C forward"),
    Entry(
        "ss-cam",
        score_cam,
        "inputs",
        "1 + C S forward",
        "Naidu and Michael 2020, https://arxiv.org/abs/2006.14255",
    ),
    Entry(
        "is-cam",
        score_cam,
        "inputs",
        "1 + C S forward",
        "Naidu et al. 2020, https://arxiv.org/abs/2010.03023",
    ),
    Entry("full-grad", full_grad, "biases", "1 forward, 1 backward to the input"),
    Entry("legrad", legrad, "attention", "1 forward, 1 backward"),
    Entry("attention-rollout", attention_rollout, "attention", "1 forward"),
)
"""Every method."""

METHODS: dict[str, Callable[..., Any]] = {entry.name: entry.function for entry in TABLE}
"""Name -> function."""

POOLED: frozenset[Method] = frozenset({grad_cam, cam})
"""Methods that use a gradient only by its mean over positions, which may be cheaper to have than the gradient."""


def as_entry(method: str | Method) -> Entry:
    """The table's entry of a name or a function; of a function of your own, an entry that needs gradients."""
    if callable(method):
        known = next((entry for entry in TABLE if entry.function is method), None)
        name = getattr(method, "__name__", type(method).__name__)
        return known or Entry(name, method, "gradients", "1 forward, 1 backward")
    found = next((entry for entry in TABLE if entry.name == method), None)
    if found is None:
        near = difflib.get_close_matches(str(method), METHODS, n=1)
        hint = f'did you mean "{near[0]}"? ' if near else ""
        raise ValueError(
            f'`method` "{method}" is unknown; {hint}The methods are {", ".join(METHODS)}'
        )
    return found


def check_parameters(name: str, function: Callable[..., Any], given: Mapping[str, Any]) -> None:
    """Raise where a method is given a parameter that it does not have."""
    known = [
        parameter.name
        for parameter in inspect.signature(function).parameters.values()
        if parameter.default is not inspect.Parameter.empty
    ]
    for parameter in given:
        if parameter not in known:
            own = f"its own are {', '.join(known)}" if known else "it has none of its own"
            raise TypeError(
                f"`{parameter}` is no option of gradcam.explain and no parameter of {name}; {own}"
            )
