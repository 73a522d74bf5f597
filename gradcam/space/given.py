"""Whether the layout that a user gave can be: the network may plainly say otherwise."""

from __future__ import annotations

from gradcam._types import Inputs
from gradcam.model import Model
from gradcam.space.axes import LayerAxes, axes_by_evidence, evidence_of
from gradcam.space.evidence import Evidence
from gradcam.space.readings import Reading, agreement

__all__ = ["check_given"]

PLAIN = 0.3
"""Agreement from which on a reading is plain."""

FAR_LESS = 0.5
"""Of that agreement, the share that the given layout must have."""


def check_given(axes: LayerAxes, model: Model, inputs: Inputs) -> None:
    """Raise a ValueError where the network plainly answers as another layout than the given one.

    Where it cannot be asked, or answers to nothing in particular, what the user says is taken.
    """
    evidence = evidence_of(model, inputs, (axes.layer,))
    if evidence is None:
        return
    best = axes_by_evidence(model, inputs, axes.layer, evidence)
    if best is None or best.agreement is None or best.input_axes is None:
        return
    if best.agreement < PLAIN or str(axes.layout) == str(best.layout):
        return
    given = _agreement(axes, best, evidence)
    if given is not None and given < FAR_LESS * best.agreement:
        raise ValueError(
            f'`layout` says that layer "{axes.layer}" is laid out as {axes.layout}, but its values '
            f"answer to the input as {best.layout} (agreement {best.agreement:.2f} against "
            f"{given:.2f}); leave `layout` out, or correct it"
        )


def _agreement(axes: LayerAxes, best: LayerAxes, evidence: Evidence) -> float | None:
    """That of the given layout, along the axes of the input that the best reading runs along; None
    where it has another number of axes.
    """
    seen = evidence.layers[axes.layer]
    assert best.input_axes is not None
    if len(axes.layout.grid) != len(best.input_axes):
        return None
    responses = seen.responses(best.layout.samples)
    return agreement(Reading(axes.layout, best.input_axes), responses)
