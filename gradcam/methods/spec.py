"""A method as a row: its array math, what it needs and runs, its cost and its paper. All the rows.

A method has one place, its row in `TABLE`. The rest of the library asks the row: which arrays the
function takes, whether the method looks at the score, what `gradcam methods` prints. A method is
never recognised by its name, so a function of your own may have any name.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from gradcam._types import Array, Method
from gradcam.methods import activations, attention, gradients, inputs, scores
from gradcam.methods.procedures import at_attention, at_input, at_layer
from gradcam.methods.run import Procedure

__all__ = [
    "METHODS",
    "TABLE",
    "MethodSpec",
    "as_spec",
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
class MethodSpec:
    """One method. Calling it calls its array math.

    name: as users write it.
    function: the array math. A method without a procedure is called with the arrays of one capture,
        by what it needs: `function(activations, gradients)` for "gradients",
        `function(activations)` for "activations", and
        `function(activations, gradients, curvatures)` for "curvatures".
    needs: the ability or data that the method requires of the model.
    cost: passes through the model in PyTorch, for C channels and S samples or steps. In JAX they
        are as many or fewer: what is below the layer runs once for methods at the layer, and
        nothing is proved.
    procedure: the function that runs the model, where one capture is not enough. It may bring more
        parameters. See `gradcam.methods.run`.
    source: the paper. Where it is empty, the docstring of `function` cites it.
    summary: one line on the method. Where it is empty, it is the first line of that docstring.
    when: when to use the method, for docs/methods.md.
    uses_mean_gradient: whether it uses a gradient only through its mean over positions. A backend
        may have that mean more cheaply than the gradient.
    class_blind: whether it ignores the score, though it needs more than activations.
    gradient_free: whether it looks at the score, but at no gradient.
    has_paper: whether a paper describes it. Where none does, as for a control, nothing is cited.
    """

    name: str
    function: Callable[..., Array]
    needs: Needs
    cost: str
    procedure: Procedure | None = None
    source: str = ""
    summary: str = ""
    when: str = ""
    uses_mean_gradient: bool = False
    class_blind: bool = False
    gradient_free: bool = False
    has_paper: bool = True

    def __call__(self, *arrays: Array, **parameters: Any) -> Array:
        return self.function(*arrays, **parameters)

    @property
    def uses_scores(self) -> bool:
        """Whether its map depends on the score."""
        return self.needs != "activations" and not self.class_blind

    @property
    def uses_layer(self) -> bool:
        """Whether it explains one layer, rather than all attention weights or all biases."""
        return self.needs not in ("attention", "biases")

    @property
    def uses_gradients(self) -> bool:
        """Whether its map depends on the score's gradient at the layer."""
        return self.uses_scores and self.uses_layer and not self.gradient_free

    @property
    def about(self) -> str:
        """One line on the method: `summary`, or the first line of the function's docstring."""
        return self.summary or _docstring(self.function).partition("\n")[0]

    @property
    def paper(self) -> str:
        """The citation: `source`, or the sentence of the function's docstring that has the link.

        Empty where there is neither.
        """
        return self.source or _cited(_docstring(self.function))

    @property
    def parameters(self) -> dict[str, inspect.Parameter]:
        """Its own parameters, by name: those with a default, which tells them from the arrays."""
        parameters = {}
        for name, parameter in inspect.signature(
            self.procedure or self.function
        ).parameters.items():
            if parameter.default is not inspect.Parameter.empty:
                parameters[name] = parameter
        return parameters


def _docstring(function: Callable[..., Any]) -> str:
    return inspect.getdoc(function) or ""


def _cited(text: str) -> str:
    """The sentence of a docstring that has the first link, or nothing.

    >>> _cited("Channels by mean. Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391")
    'Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391'
    """
    prose = " ".join(text.partition("Shapes:")[0].split())
    if "http" not in prose:
        return ""
    before_link = prose[: prose.find("http")]
    # A full stop ends a sentence, but for those of "et al.", "eq." and "eqs."
    start = 0
    for end_of_sentence in re.finditer(r"(?<!\bal)(?<!\beq)(?<!\beqs)\. ", before_link):
        start = end_of_sentence.end()
    return prose[start:]


ONE_CAPTURE = "1 forward, 1 backward"
"""The cost of a method that needs one capture with gradients."""

TABLE: tuple[MethodSpec, ...] = (
    MethodSpec(
        "grad-cam",
        gradients.grad_cam,
        "gradients",
        ONE_CAPTURE,
        uses_mean_gradient=True,
        when="The first to try, at the last layer with space: verified, cheap and well known.",
    ),
    MethodSpec(
        "grad-cam++",
        gradients.grad_cam_pp,
        "gradients",
        ONE_CAPTURE,
        when="Where several instances of a class are in view and Grad-CAM marks only one.",
    ),
    MethodSpec(
        "xgrad-cam",
        gradients.xgrad_cam,
        "gradients",
        ONE_CAPTURE,
        when="Where channels are active at few positions: gradients count only there.",
    ),
    MethodSpec(
        "hires-cam",
        gradients.hires_cam,
        "gradients",
        ONE_CAPTURE,
        when="Where the map must sum to the score, which it does with one linear layer behind.",
    ),
    MethodSpec(
        "layer-cam",
        gradients.layer_cam,
        "gradients",
        ONE_CAPTURE,
        when='At shallow layers, for finer maps: with `gamma=2`, and `fusion="max"` over layers.',
    ),
    MethodSpec(
        "element-wise",
        gradients.element_wise,
        "gradients",
        ONE_CAPTURE,
        when="Where in HiResCAM evidence against the class would cancel evidence for it.",
    ),
    MethodSpec(
        "eigen-grad-cam",
        gradients.eigen_grad_cam,
        "gradients",
        ONE_CAPTURE,
        when="Where Eigen-CAM should depend on the class: smooth maps with little noise.",
    ),
    MethodSpec(
        "seg-eigen-cam",
        gradients.seg_eigen_cam,
        "gradients",
        ONE_CAPTURE,
        when="For segmentation networks, whose gradients change sign within an object.",
    ),
    MethodSpec(
        "shapley-cam",
        gradients.shapley_cam,
        "curvatures",
        "1 forward, 2 backward",
        when="Where the head is strongly curved, as that of a softmax score or a deep head is.",
    ),
    MethodSpec(
        "cam",
        gradients.cam,
        "a linear head",
        "2 forward, 2 backward",
        at_layer.cam,
        uses_mean_gradient=True,
        when="Where the network ends in global average pooling and one linear layer.",
    ),
    MethodSpec(
        "eigen-cam",
        activations.eigen_cam,
        "activations",
        "1 forward",
        when="What the layer responds to, whatever the class; also for models without gradients.",
    ),
    MethodSpec(
        "kpca-cam",
        activations.kpca_cam,
        "activations",
        "1 forward",
        when="Where the positions do not lie along one direction, as Eigen-CAM assumes.",
    ),
    MethodSpec(
        "fem",
        activations.fem,
        "activations",
        "1 forward",
        when="For a quick look at exceptionally active positions, without a class.",
    ),
    MethodSpec(
        "random-cam",
        activations.random_cam,
        "activations",
        "1 forward",
        when="As a control: a method, or a measure of methods, that does not beat it says nothing.",
        has_paper=False,
    ),
    MethodSpec(
        "integrated-grad-cam",
        gradients.grad_cam,
        "replays",
        "S + 1 forward, S backward",
        at_layer.integrated_grad_cam,
        summary="Grad-CAM whose gradients are means as the activations grow from zero.",
        source="Sattarzadeh et al. 2021, https://arxiv.org/abs/2102.07805",
        when="Where the score is saturated, so that the gradient at the activations is small.",
    ),
    MethodSpec(
        "smooth-grad-cam++",
        gradients.smooth_grad_cam_pp,
        "inputs",
        "S + 1 forward, S backward",
        at_input.smooth_grad_cam_pp,
        when="Where maps of nearly equal inputs differ: a mean over noisy copies varies less.",
    ),
    MethodSpec(
        "ablation-cam",
        scores.ablation_cam,
        "replays",
        "3 forward, C + 2 of the head",
        at_layer.ablation_cam,
        gradient_free=True,
        when="Where gradients are not trusted: the score without each channel, by the head alone.",
    ),
    MethodSpec(
        "score-cam",
        scores.score_cam,
        "inputs",
        "C + 4 forward",
        at_input.score_cam,
        gradient_free=True,
        when="Without gradients: the score of each channel's region alone. Slow; see `channels`.",
    ),
    MethodSpec(
        "ss-cam",
        scores.score_cam,
        "inputs",
        "C S + 4 forward",
        at_input.ss_cam,
        gradient_free=True,
        summary="Score-CAM with mean scores over noisy copies of each channel's map.",
        source="Naidu and Michael 2020, https://arxiv.org/abs/2006.14255",
        when="Where Score-CAM's weights are too noisy, at a multiple of its cost.",
    ),
    MethodSpec(
        "is-cam",
        scores.score_cam,
        "inputs",
        "C S + 4 forward",
        at_input.is_cam,
        gradient_free=True,
        summary="Score-CAM with mean scores as each mask grows to its full value.",
        source="Naidu et al. 2020, https://arxiv.org/abs/2010.03023",
        when="Where no single mask should decide: Score-CAM over masks that grow.",
    ),
    MethodSpec(
        "full-grad",
        inputs.full_grad,
        "biases",
        "2 forward, 1 backward",
        at_input.full_grad,
        when="For a map at the input's own resolution, with all biases; for ReLU networks.",
    ),
    MethodSpec(
        "legrad",
        attention.legrad,
        "attention",
        "2 forward, 1 backward",
        at_attention.legrad,
        when="For transformers: how sensitive the class is to attention, over all layers.",
    ),
    MethodSpec(
        "attention-rollout",
        attention.attention_rollout,
        "attention",
        "2 forward",
        at_attention.attention_rollout,
        class_blind=True,
        when="For transformers: how much each token is mixed in, whatever the class.",
    ),
)
"""All methods, in the order in which they are listed."""

METHODS: dict[str, MethodSpec] = {spec.name: spec for spec in TABLE}
"""The methods by name. Each can be called with arrays, and be passed instead of its name."""


def as_spec(method: str | MethodSpec | Method) -> MethodSpec:
    """The row of a method that was passed by its name, as a row, or as a function.

    A function of `gradcam.methods` is found by identity. Any other function becomes a method that
    needs gradients. An unknown name is a ValueError.
    """
    if isinstance(method, MethodSpec):
        return method
    if not callable(method):
        return _named(method)
    for spec in TABLE:
        if spec.function is method:
            return spec
    return MethodSpec(_function_name(method), method, "gradients", ONE_CAPTURE)


def _named(name: str) -> MethodSpec:
    if name in METHODS:
        return METHODS[name]
    hint = ""
    for near in difflib.get_close_matches(str(name), METHODS, n=1):
        hint = f'did you mean "{near}"? '
    raise ValueError(f'`method` "{name}" is unknown; {hint}The methods are {", ".join(METHODS)}')


def _function_name(function: Callable[..., Any]) -> str:
    """The function's name; that of a partial with its bound arguments, so that two differ.

    >>> _function_name(functools.partial(gradients.layer_cam, gamma=2.0))
    'layer_cam(gamma=2.0)'
    """
    if isinstance(function, functools.partial):
        bound = [repr(value) for value in function.args]
        bound += [f"{name}={value!r}" for name, value in function.keywords.items()]
        return f"{_function_name(function.func)}({', '.join(bound)})"
    return str(getattr(function, "__name__", type(function).__name__))
