"""The CAM family.

The array math is pure functions of arrays, `(..., C, P)` in, `(..., P)` out, signed and unscaled;
ReLU comes after (`gradcam.maps.relu`). `TABLE` has a row for each method, `METHODS` names them.

What a method may import: NumPy, the array API (by `gradcam._arrays`), and floors 1 and 2 of
docs/house.md, which are `_types`, `_arrays`, `maps`, `layouts` and `inputs`. It imports no model,
no target and no framework.

gradients, activations, scores,
inputs, attention                array math, by what a method is given
components                       principal components, which several share
procedures                       what methods run where one capture is not enough
run                              what a procedure may ask of a model
spec                             the table
parameters                       a method's own parameters
"""

from __future__ import annotations

import warnings
from typing import Any

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
from gradcam.methods.parameters import MethodLike, MethodParameters
from gradcam.methods.scores import ablation_cam, score_cam
from gradcam.methods.spec import METHODS, TABLE, MethodSpec, as_spec

__all__ = [
    "METHODS",
    "TABLE",
    "MethodLike",
    "MethodParameters",
    "MethodSpec",
    "ablation_cam",
    "as_spec",
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

_RENAMED: dict[str, Any] = {"Entry": MethodSpec, "as_entry": as_spec}


def __getattr__(name: str) -> Any:
    if name not in _RENAMED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    new = _RENAMED[name]
    message = (
        f"gradcam.methods.{name} is now gradcam.methods.{new.__name__}; the old name goes in 0.3"
    )
    warnings.warn(message, DeprecationWarning, stacklevel=2)
    return new
