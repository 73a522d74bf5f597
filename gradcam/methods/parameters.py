"""A method's own parameters: which there are, and how they come with a method."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeAlias, TypedDict

from gradcam._checks import check_integer
from gradcam._types import Method
from gradcam.methods.spec import METHODS, MethodSpec, as_spec

__all__ = ["MethodLike", "MethodParameters", "check_parameters", "with_parameters"]

MethodLike: TypeAlias = (
    "str | MethodSpec | Method | tuple[str | MethodSpec | Method, Mapping[str, Any]]"
)
"""A method as a user may pass it.

A name, a row of `TABLE`, a function of activations and gradients, or a pair of one of these and its
parameters, such as `("layer-cam", {"gamma": 2})`.
"""


class MethodParameters(TypedDict, total=False):
    """The parameters of the methods of `TABLE`, as `gradcam.explain` takes them.

    Each method has only some of them; `MethodSpec.parameters` says which.

    A function of your own may have others: bind them with `functools.partial`, or pass the pair
    `(function, {"parameter": value})`.
    """

    accumulate: bool
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


_INTEGERS = {"channels": 1, "iterations": 1, "query": 0, "samples": 1, "seed": 0, "steps": 1}
"""The parameters that are integers, and the least that each may be."""


def with_parameters(
    method: MethodLike, parameters: Mapping[str, Any], caller: str, options: Iterable[str] = ()
) -> tuple[MethodSpec, tuple[tuple[str, Any], ...]]:
    """The method, and its own parameters as sorted pairs, which can be hashed.

    They may come with the method as a pair, or beside it as `parameters`, which then count.
    `caller` is the function that the user called, for the message of `check_parameters`, and
    `options` are those that it has besides.
    """
    if isinstance(method, tuple):
        method, own = method
        parameters = {**own, **parameters}
    spec = as_spec(method)
    check_parameters(spec, parameters, caller, options)
    return spec, tuple(sorted(parameters.items()))


def check_parameters(
    spec: MethodSpec, parameters: Mapping[str, Any], caller: str, options: Iterable[str] = ()
) -> None:
    """Raise a TypeError where a method is given a parameter that it does not have.

    `caller` is the function that the user called, `options` what it takes besides.
    """
    own = ", ".join(spec.parameters)
    hint = "it has none of its own"
    if own:
        hint = f"its own are {own}"
    for name, value in parameters.items():
        if name not in spec.parameters:
            for near in difflib.get_close_matches(name, [*spec.parameters, *options], n=1):
                hint += f"; did you mean `{near}`?"
            raise TypeError(
                f"`{name}` is no option of {caller} and no parameter of {spec.name}; {hint}"
            )
        if METHODS.get(spec.name) is spec and name in _INTEGERS and value is not None:
            check_integer(name, value, _INTEGERS[name])
