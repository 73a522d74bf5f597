"""The causes of a blank map, as small functions in the order in which they are told apart.

A rule is a function `rule(probe, blank) -> Finding | None`. A map's cause is the finding of the
first rule that has one, so each rule may rely on the earlier ones having found nothing: `cancels`
knows that activations and gradient are not 0 because `zero_activations` and `no_gradient` come
first. A new cause is one more function, put into a list below where it belongs.

For example, if a ReLU has removed everything from the map of sample 1 at layer "layer4":

    blank = BlankMap(sample=1, column=0, target=None, values=zeros, layer="layer4")
    zero_activations(probe, blank)  # None: the layer's units are on
    negative(probe, blank)          # Finding("negative", sample=1, message="all evidence is ...")
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gradcam.diagnosis.findings import BlankMap, Finding
from gradcam.diagnosis.probe import LayerFacts, Probe

__all__ = ["LAYER_RULES", "MAP_RULES", "METHOD_RULES", "Rule", "cause", "single_position_message"]

Rule = Callable[[Probe, BlankMap], Finding | None]


# ---------------------------------------------------------------------- the map as it was explained


def changed(probe: Probe, blank: BlankMap) -> Finding | None:
    """The model gives another score now, so that nothing it is asked is about this map."""
    if not probe.changed()[blank.sample]:
        return None
    return blank.finding(
        "changed",
        f"the score is {probe.current_scores()[blank.index]:.4g} now, but "
        f"{probe.scores[blank.index]:.4g} was explained: weights or inputs have changed since, or "
        "the model is random; explain it again, and diagnose that",
    )


def not_finite(probe: Probe, blank: BlankMap) -> Finding | None:
    """The map has NaN or infinity."""
    if blank.finite:
        return None
    return blank.finding("not-finite", probe.not_finite()[blank.sample])


# ----------------------------------------------------------------------------- the map of one layer


def single_position(probe: Probe, blank: BlankMap) -> Finding | None:
    """The map has one position and is not 0 there."""
    if blank.values.size > 1 or blank.zero:
        return None
    return blank.finding("flat", single_position_message(blank.layer))


def flat_map(probe: Probe, blank: BlankMap) -> Finding | None:
    """The map is the same at every position, but not 0."""
    if blank.zero:
        return None
    if _facts(probe, blank).varied[blank.sample]:
        # Some channel varies, but not one that has any weight in this map.
        return _flat_activations(blank, "activations that count in this map")
    return _flat_activations(blank, "activations")


def zero_activations(probe: Probe, blank: BlankMap) -> Finding | None:
    """All units of the layer are off."""
    if _facts(probe, blank).active[blank.sample]:
        return None
    return blank.finding(
        "flat",
        f'the activations of layer "{blank.layer}" are 0 at every position: its units are off; '
        "check the input and its normalisation, or choose an earlier layer",
    )


def class_token(probe: Probe, blank: BlankMap) -> Finding | None:
    """The gradient reaches only tokens that are not part of the map."""
    facts = _facts(probe, blank)
    if facts.spatial_gradient[blank.index] or not facts.any_gradient[blank.index]:
        return None
    message = (
        f'the gradient at layer "{blank.layer}" reaches only the tokens in front of the grid, such '
        "as the class token: after the last attention the spatial tokens do not reach the output; "
        "choose an earlier layer"
    )
    earlier = probe.earlier_layer()
    if earlier is not None and earlier != blank.layer:
        message += f'; "{earlier}" is the last whose spatial tokens do'
    return blank.finding("class-token", message)


def saturated(probe: Probe, blank: BlankMap) -> Finding | None:
    """A softmax or sigmoid has no slope, although the class scores before it do change."""
    if not _score_may_be_constant(probe, blank) or not probe.classes.saturated[blank.index]:
        return None
    # If no class score changes either, the layer is unused, and the softmax is not the cause.
    if not probe.dependence(_layer(blank)).any_class[blank.sample]:
        return None
    return blank.finding("saturated", probe.classes.saturation(*blank.index))


def unused(probe: Probe, blank: BlankMap) -> Finding | None:
    """The score is the same whatever the layer's activations are."""
    if not _score_may_be_constant(probe, blank):
        return None
    if probe.dependence(_layer(blank)).score[blank.index]:
        return None
    return blank.finding(
        "unused",
        f'the score does not depend on layer "{blank.layer}": with its output set to zero, negated '
        "or doubled it stays the same; choose a layer on the way to this score, or another target",
    )


def no_gradient(probe: Probe, blank: BlankMap) -> Finding | None:
    """The score depends on the layer (see `unused`), but not by its gradient."""
    uses_gradients = probe.method.uses_gradients
    if not uses_gradients or _facts(probe, blank).spatial_gradient[blank.index]:
        return None
    return blank.finding(
        "no-gradient",
        f'the score depends on layer "{blank.layer}", but its gradient there is 0: an operation '
        "after the layer blocks it (detach, stop_gradient, argmax, rounding), or the units there "
        "are off or saturated; choose a layer after that, or a method without gradients, such as "
        '"ablation-cam"',
    )


def negative(probe: Probe, blank: BlankMap) -> Finding | None:
    """The map before ReLU is negative."""
    signed = probe.signed_maps(blank.layer)[blank.index]
    if not (signed < 0).any() or (signed > 0).any():
        return None
    total = float(signed[signed < 0].sum())
    return blank.finding(
        "negative",
        f"all evidence is against the score: without ReLU the map lies between {signed.min():.3g} "
        f"and {signed.max():.3g} and sums to {total:.3g}; {_look_at(probe, blank)}",
        total,
    )


def flat_activations(probe: Probe, blank: BlankMap) -> Finding | None:
    """The activations are constant, which a method that centres them turns into 0."""
    if _facts(probe, blank).varied[blank.sample]:
        return None
    return _flat_activations(blank, "activations")


def opposed(probe: Probe, blank: BlankMap) -> Finding | None:
    """The negated score has a map, though this method's signed map shows no evidence against."""
    if not probe.method.uses_scores:
        return None
    against = probe.opposed_maps(blank.layer)[blank.index]
    if not (against > 0).any():
        return None
    total = -float(against.sum())
    return blank.finding(
        "negative",
        f"all evidence is against the score, {total:.3g} summed over positions; "
        f"{_look_at(probe, blank)}",
        total,
    )


def cancels(probe: Probe, blank: BlankMap) -> Finding | None:
    """No other cause is left: always a finding."""
    name = probe.method.name
    if not probe.method.uses_gradients or blank.layer is None:
        message = f"the terms of which {name} is made cancel; try another method or layer"
        return blank.finding("cancels", message)
    return blank.finding(
        "cancels",
        f'neither the activations nor the gradient of layer "{blank.layer}" are 0, but {name} '
        "combines them to 0: they are not 0 at the same position, or cancel in a mean; try "
        'method="layer-cam" or "hires-cam", or another layer',
    )


# ------------------------------------------------------------------------- a method without a layer


def flat_map_of_no_layer(probe: Probe, blank: BlankMap) -> Finding | None:
    """The map is the same at every position, but not 0."""
    if blank.zero:
        return None
    message = "the map is the same at every position; try another method, or check the input"
    return blank.finding("flat", message)


# ----------------------------------------------------------------------------------------- in order

MAP_RULES: tuple[Rule, ...] = (changed, not_finite)
"""For a map as it was explained, of one layer or combined from several."""

LAYER_RULES: tuple[Rule, ...] = (
    single_position,
    flat_map,
    zero_activations,
    class_token,
    saturated,
    unused,
    no_gradient,
    negative,
    flat_activations,
    opposed,
    cancels,
)
"""For the map of each layer."""

METHOD_RULES: tuple[Rule, ...] = (flat_map_of_no_layer, negative, opposed, cancels)
"""For the map of a method that explains no layer, but all attention weights or biases."""


def cause(rules: Sequence[Rule], probe: Probe, blank: BlankMap) -> Finding | None:
    """The finding of the first rule that has one."""
    for rule in rules:
        finding = rule(probe, blank)
        if finding is not None:
            return finding
    return None


# --------------------------------------------------------------------------------- what rules share


def _layer(blank: BlankMap) -> str:
    assert blank.layer is not None, "LAYER_RULES take maps of one layer"
    return blank.layer


def _facts(probe: Probe, blank: BlankMap) -> LayerFacts:
    return probe.layer_facts(_layer(blank))


def _score_may_be_constant(probe: Probe, blank: BlankMap) -> bool:
    """Whether no gradient shows that the score depends on the layer, so that it has to be tried."""
    spatial_gradient = _facts(probe, blank).spatial_gradient[blank.index]
    return probe.method.uses_scores and not spatial_gradient


def _flat_activations(blank: BlankMap, activations: str) -> Finding:
    return blank.finding(
        "flat",
        f'the {activations} of layer "{blank.layer}" are the same at every position; check the '
        "input, or choose an earlier layer",
    )


def single_position_message(layer: str | None) -> str:
    """The message for a layer that has no space."""
    return (
        f'layer "{layer}" has a single position, so its map is one number; choose an earlier '
        "layer, which has space"
    )


def _look_at(probe: Probe, blank: BlankMap) -> str:
    """How evidence against the score is seen."""
    if not probe.method.uses_scores:
        return "look at the signed map, relu=False"
    counterfactual = probe.classes.negated(*blank.index)
    return f"look at the counterfactual, target={counterfactual}, or at the signed map, relu=False"
