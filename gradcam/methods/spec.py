"""What a method is: its array math, what it is given, what it runs, its price and its paper.

A method has one place, its row in `TABLE`. Everything else asks the row: which arrays to hand over, whether the
method looks at the score at all, what `gradcam methods` prints. A method is never recognised by its name, so a
function of your own may be called whatever you like.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypedDict

from gradcam._types import Array, Method
from gradcam.methods import activations, attention, gradients, inputs, scores
from gradcam.methods.procedures import at_attention, at_input, at_layer
from gradcam.methods.run import Procedure

__all__ = [
    "METHODS",
    "TABLE",
    "MethodLike",
    "MethodParameters",
    "MethodSpec",
    "as_spec",
    "check_parameters",
    "with_parameters",
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
    """One method. Called, it is its array math.

    name: as users write it.
    function: the array math. Methods that "needs" one capture are called with that capture's arrays:
        "gradients": `function(activations, gradients)`; "activations": `function(activations)`;
        "curvatures": `function(activations, gradients, curvatures)`.
    needs: what the method asks of the model.
    cost: its price in passes through the model, for C channels and S samples or steps.
    procedure: what it runs, where one capture is not enough: see `gradcam.methods.run`.
    source: the paper, where it is not that of `function`.
    summary: one line on what it is, where that is not the first line of `function`.
    when: when to take it, for the page of methods.
    uses_mean_gradient: it uses a gradient only by its mean over positions, which may be cheaper to have.
    class_blind: it looks at no score, although it is no method of activations alone.
    gradient_free: it looks at the score, but at no gradient.
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

    def __call__(self, *arrays: Array, **parameters: Any) -> Array:
        return self.function(*arrays, **parameters)

    @property
    def uses_scores(self) -> bool:
        """Whether it looks at the score at all."""
        return self.needs != "activations" and not self.class_blind

    @property
    def uses_layer(self) -> bool:
        """Whether it explains a layer, rather than all attention weights or all biases."""
        return self.needs not in ("attention", "biases")

    @property
    def uses_gradients(self) -> bool:
        """Whether it looks at the score's gradient at the layer."""
        return self.uses_scores and self.uses_layer and not self.gradient_free

    @property
    def about(self) -> str:
        """One line on what it is: `summary`, or the first line of the function's docstring."""
        return self.summary or _docstring(self.function).partition("\n")[0]

    @property
    def paper(self) -> str:
        """Where it comes from: `source`, or the sentence of the docstring that has the link."""
        return self.source or _cited(_docstring(self.function))

    @property
    def parameters(self) -> dict[str, inspect.Parameter]:
        """Its own parameters, by name: those that have a default."""
        parameters = inspect.signature(self.procedure or self.function).parameters
        return {
            name: parameter
            for name, parameter in parameters.items()
            if parameter.default is not inspect.Parameter.empty
        }


def _docstring(function: Callable[..., Any]) -> str:
    return inspect.getdoc(function) or ""


def _cited(text: str) -> str:
    """The sentence with the first link, from a docstring; empty where there is none."""
    prose = " ".join(text.partition("Shapes:")[0].split())
    if "http" not in prose:
        return ""
    before_link = prose[: prose.find("http")]
    # A full stop ends a sentence, but for those of "et al.", "eq." and "eqs."
    ends = [end.end() for end in re.finditer(r"(?<!\bal)(?<!\beq)(?<!\beqs)\. ", before_link)]
    return prose[ends[-1] :] if ends else prose


MethodLike: TypeAlias = (
    "str | MethodSpec | Method | tuple[str | MethodSpec | Method, Mapping[str, Any]]"
)
"""A name, a row of `TABLE`, a function of activations and gradients, or one of these with its own parameters."""


class MethodParameters(TypedDict, total=False):
    """The parameters of the methods of `TABLE`, as `gradcam.explain` takes them. Each method has only some.

    A function of your own may have others: bind them with `functools.partial`, or pass the pair
    `(function, {"parameter": value})`.
    """

    channels: int | None
    gamma: float
    iterations: int
    k: float
    kernel: Literal["sigmoid", "rbf", "linear"]
    noise: float
    query: int | None
    samples: int
    seed: int
    steps: int
    tolerance: float


ONE_CAPTURE = "1 forward, 1 backward"

TABLE: tuple[MethodSpec, ...] = (
    MethodSpec(
        "grad-cam",
        gradients.grad_cam,
        "gradients",
        ONE_CAPTURE,
        uses_mean_gradient=True,
        when="The first to try, at the last layer with space. Verified, cheap, and what readers know.",
    ),
    MethodSpec(
        "grad-cam++",
        gradients.grad_cam_pp,
        "gradients",
        ONE_CAPTURE,
        when="Where several instances of a class are in view and Grad-CAM marks only the strongest.",
    ),
    MethodSpec(
        "xgrad-cam",
        gradients.xgrad_cam,
        "gradients",
        ONE_CAPTURE,
        when="As Grad-CAM, where channels are active in few places: gradients count where the channel fires.",
    ),
    MethodSpec(
        "hires-cam",
        gradients.hires_cam,
        "gradients",
        ONE_CAPTURE,
        when="Where the map must account for the score: with one linear layer behind, its sum is the score.",
    ),
    MethodSpec(
        "layer-cam",
        gradients.layer_cam,
        "gradients",
        ONE_CAPTURE,
        when='At shallow layers, for finer maps; there with `gamma=2`, and fused over layers by `fusion="max"`.',
    ),
    MethodSpec(
        "element-wise",
        gradients.element_wise,
        "gradients",
        ONE_CAPTURE,
        when="HiResCAM without evidence against the class cancelling evidence for it.",
    ),
    MethodSpec(
        "eigen-grad-cam",
        gradients.eigen_grad_cam,
        "gradients",
        ONE_CAPTURE,
        when="Eigen-CAM that knows the class: smooth maps with little noise.",
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
        when="Where the head is strongly curved (a softmax score, a deep head) and one gradient says too little.",
    ),
    MethodSpec(
        "cam",
        gradients.cam,
        "a linear head",
        "1 forward, 3 backward of the head",
        at_layer.cam,
        uses_mean_gradient=True,
        when="Where the network ends in global average pooling and one linear layer; elsewhere it is an error.",
    ),
    MethodSpec(
        "eigen-cam",
        activations.eigen_cam,
        "activations",
        "1 forward",
        when="What the layer sees at all, whatever the class; also for models without gradients.",
    ),
    MethodSpec(
        "kpca-cam",
        activations.kpca_cam,
        "activations",
        "1 forward",
        when="Eigen-CAM where the positions do not lie along one direction.",
    ),
    MethodSpec(
        "fem",
        activations.fem,
        "activations",
        "1 forward",
        when="A quick look at exceptionally active positions, without a class.",
    ),
    MethodSpec(
        "random-cam",
        activations.random_cam,
        "activations",
        "1 forward",
        when="The control: a method, or a measure of methods, that does not beat it says nothing.",
    ),
    MethodSpec(
        "integrated-grad-cam",
        gradients.grad_cam,
        "replays",
        "1 forward, S forward and backward of the head",
        at_layer.integrated_grad_cam,
        summary="Grad-CAM whose gradients are means as the activations grow from zero.",
        source="Sattarzadeh et al. 2021, https://arxiv.org/abs/2102.07805",
        when="Where the score is saturated, so that the gradient at the activations themselves is small.",
    ),
    MethodSpec(
        "smooth-grad-cam++",
        gradients.smooth_grad_cam_pp,
        "inputs",
        "S forward, S backward",
        at_input.smooth_grad_cam_pp,
        when="Where maps of nearly equal inputs differ: the mean over noisy copies is steadier.",
    ),
    MethodSpec(
        "ablation-cam",
        scores.ablation_cam,
        "replays",
        "1 forward, C forward of the head",
        at_layer.ablation_cam,
        gradient_free=True,
        when="Without trust in gradients: what the score loses with each channel. Only the head runs again.",
    ),
    MethodSpec(
        "score-cam",
        scores.score_cam,
        "inputs",
        "1 + C forward",
        at_input.score_cam,
        gradient_free=True,
        when="Without gradients, on the input: what each channel's region alone scores. Dear; see `channels`.",
    ),
    MethodSpec(
        "ss-cam",
        scores.score_cam,
        "inputs",
        "1 + C S forward",
        at_input.ss_cam,
        gradient_free=True,
        summary="Score-CAM with mean scores over noisy copies of each channel's map.",
        source="Naidu and Michael 2020, https://arxiv.org/abs/2006.14255",
        when="Score-CAM with less noise in its weights, at a multiple of its cost.",
    ),
    MethodSpec(
        "is-cam",
        scores.score_cam,
        "inputs",
        "1 + C S forward",
        at_input.is_cam,
        gradient_free=True,
        summary="Score-CAM with mean scores as each mask grows to the whole of itself.",
        source="Naidu et al. 2020, https://arxiv.org/abs/2010.03023",
        when="Score-CAM with masks that grow, so that no single mask decides.",
    ),
    MethodSpec(
        "full-grad",
        inputs.full_grad,
        "biases",
        "1 forward, 1 backward to the input",
        at_input.full_grad,
        when="At the input's own resolution, with every layer's bias accounted for; for ReLU networks.",
    ),
    MethodSpec(
        "legrad",
        attention.legrad,
        "attention",
        ONE_CAPTURE,
        at_attention.legrad,
        when="For transformers: where the class is sensitive to attention, over all layers.",
    ),
    MethodSpec(
        "attention-rollout",
        attention.attention_rollout,
        "attention",
        "1 forward",
        at_attention.attention_rollout,
        class_blind=True,
        when="For transformers: how tokens mix, whatever the class.",
    ),
)
"""Every method."""

METHODS: dict[str, MethodSpec] = {spec.name: spec for spec in TABLE}
"""Name -> method. Each can be called with arrays, and passed wherever its name can."""


def as_spec(method: str | MethodSpec | Method) -> MethodSpec:
    """The method of a name, or of a function of `gradcam.methods`; of your own function, one that needs gradients."""
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
    near = difflib.get_close_matches(str(name), METHODS, n=1)
    hint = f'did you mean "{near[0]}"? ' if near else ""
    raise ValueError(f'`method` "{name}" is unknown; {hint}The methods are {", ".join(METHODS)}')


def _function_name(function: Callable[..., Any]) -> str:
    """The function's name; that of a partial says what is bound, so that two of them can be told apart."""
    if isinstance(function, functools.partial):
        bound = [repr(value) for value in function.args]
        bound += [f"{name}={value!r}" for name, value in function.keywords.items()]
        return f"{_function_name(function.func)}({', '.join(bound)})"
    return str(getattr(function, "__name__", type(function).__name__))


def with_parameters(
    method: MethodLike, parameters: Mapping[str, Any], caller: str
) -> tuple[MethodSpec, tuple[tuple[str, Any], ...]]:
    """The method and its own parameters, which may come with it as a pair or beside it; checked."""
    if isinstance(method, tuple):
        method, own = method
        parameters = {**own, **parameters}
    spec = as_spec(method)
    check_parameters(spec, parameters, caller)
    return spec, tuple(sorted(parameters.items()))


def check_parameters(spec: MethodSpec, parameters: Mapping[str, Any], caller: str) -> None:
    """Raise where a method is given a parameter that it does not have; `caller` is the function that was called."""
    known = list(spec.parameters)
    for name in parameters:
        if name not in known:
            own = f"its own are {', '.join(known)}" if known else "it has none of its own"
            raise TypeError(
                f"`{name}` is no option of {caller} and no parameter of {spec.name}; {own}"
            )
