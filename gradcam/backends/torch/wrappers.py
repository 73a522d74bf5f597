"""What PyTorch models come wrapped in, and the paths of their layers without the wrappers.

`torch.compile`, `DataParallel` and activation checkpointing wrap a module, or a part of it, in
another. A layer's path is as the user spelled it: "features.conv" in a compiled model, too, and not
"_orig_mod.features.conv".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

__all__ = [
    "check_model",
    "check_numbers",
    "is_exported",
    "is_wrapper",
    "named",
    "obstacle",
    "path_of",
    "submodule",
    "unwrapped",
    "without_wrappers",
]

_PARALLEL = (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)
_COMPILED = "_orig_mod"
_INSIDE = (_COMPILED, "_checkpoint_wrapped_module")
"""The names under which torch.compile and the wrapper of activation checkpointing keep a module."""


def is_wrapper(module: torch.nn.Module) -> bool:
    """Whether a module adds nothing of its own to the one it wraps."""
    return any(name in module._modules for name in _INSIDE)


def unwrapped(module: torch.nn.Module) -> torch.nn.Module:
    """The user's module inside `torch.compile`, `DataParallel` and `DistributedDataParallel`.

    It shares its weights with the wrapper.
    """
    inner: Any = module
    while True:
        if isinstance(inner, _PARALLEL):
            inner = inner.module
        elif _COMPILED in inner._modules:
            inner = inner._modules[_COMPILED]
        else:
            return inner  # type: ignore[no-any-return]


def without_wrappers(path: str) -> str:
    """A module's or a parameter's path as the user spelled it."""
    return ".".join(part for part in path.split(".") if part not in _INSIDE)


def named(
    module: torch.nn.Module, *, all_names: bool = False
) -> Iterator[tuple[str, torch.nn.Module]]:
    """Path and module of all modules, the model itself with the path "".

    all_names: a module that is in the model twice has both of its paths, else the first.
    """
    for path, part in module.named_modules(remove_duplicate=not all_names):
        if path.rpartition(".")[2] not in _INSIDE:
            yield without_wrappers(path), _innermost(part)


def submodule(module: torch.nn.Module, path: str) -> torch.nn.Module | None:
    """The module of that path, or None if there is none."""
    inner: Any = module
    if not path:
        return _innermost(inner)
    for part in path.split("."):
        while part not in inner._modules and is_wrapper(inner):
            inner = _unwrapped_once(inner)
        if part not in inner._modules or inner._modules[part] is None:
            return None  # TorchScript's `_modules` has no `get`
        inner = inner._modules[part]
    return _innermost(inner)


def path_of(model: torch.nn.Module, layer: torch.nn.Module) -> str:
    """The path of a layer that the user gave as a module; KeyError if it is not in the model."""
    inner = unwrapped(layer)
    for path, module in named(unwrapped(model)):
        if module is inner:
            return path
    raise KeyError(
        f"`layer`, a {type(layer).__name__}, is not a module of this {type(model).__name__}; pass "
        "one of model.modules(), or a path from gradcam.layers(model, inputs)"
    )


def obstacle(module: torch.nn.Module) -> str:
    """The end of an error's sentence: a part of the model that cannot be tapped or differentiated.

    Empty, if there is no such part.
    """
    for path, part in module.named_modules():
        kind = _opaque_kind(part)
        if kind:
            return f'; "{path}" is {kind}, which cannot be tapped or differentiated: {_INSTEAD}'
        if is_exported(part):
            return f'; "{path}" is an exported program, {_UNFLATTEN}'
    return ""


_INSTEAD = (
    "explain the model that it was made from, or pass gradcam.Split(features, head) with a head "
    "that can be differentiated"
)
_UNFLATTEN = (
    "which has lost its layers: pass torch.export.unflatten(program).eval(), or the model that it "
    "was made from"
)


def is_exported(module: torch.nn.Module) -> bool:
    """Whether it is what `torch.export.export(...).module()` gives.

    Its flag says that it trains, which means nothing, and it has no `.eval()`.
    """
    return any(base.__module__ == "torch.export._unlift" for base in type(module).__mro__)


def check_model(module: torch.nn.Module) -> None:
    """Raise a TypeError for a model that has no layers to explain."""
    if isinstance(module, torch.jit.ScriptModule):
        raise TypeError(
            f"the model is TorchScript, which cannot be tapped or differentiated: {_INSTEAD}"
        )
    if is_exported(module):
        raise TypeError(f"the model is an exported program, {_UNFLATTEN}")


def check_numbers(value: Any) -> None:
    """Raise a ValueError for a tensor, or a module with weights, that has no numbers."""
    is_module = isinstance(value, torch.nn.Module)
    tensor = next(value.parameters(), None) if is_module else value
    if getattr(tensor, "is_meta", False) or type(tensor).__name__ == "FakeTensor":
        raise ValueError(
            f"{'the weights of the model' if is_module else '`inputs`'} have a shape and no "
            f"numbers (a {type(tensor).__name__} on the {getattr(tensor, 'device', '')} device); "
            "load the model with its weights, and pass real inputs, outside of any FakeTensorMode"
        )


def _opaque_kind(module: torch.nn.Module) -> str:
    if ".quantized" in type(module).__module__:
        return "quantised"
    return "TorchScript" if isinstance(module, torch.jit.ScriptModule) else ""


def _innermost(module: torch.nn.Module) -> torch.nn.Module:
    while is_wrapper(module):
        module = _unwrapped_once(module)
    return module


def _unwrapped_once(wrapper: Any) -> Any:
    for name in _INSIDE:
        if name in wrapper._modules:
            return wrapper._modules[name]
    raise KeyError(f"a {type(wrapper).__name__} wraps no module")
