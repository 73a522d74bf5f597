"""A model's weights by name, and a copy of the model with others: for checks that randomise them."""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Mapping
from typing import Any

from gradcam._types import Array

__all__ = ["module_of", "replaced", "weights"]


def weights(model: Any) -> dict[str, Array]:
    """The trained arrays, by names that begin with their module's path: parameters, no running statistics."""
    torch, nnx = sys.modules.get("torch"), sys.modules.get("flax.nnx")
    if torch is not None and isinstance(model, torch.nn.Module):
        return {name: parameter.detach() for name, parameter in model.named_parameters()}
    if nnx is not None and isinstance(model, nnx.Module):
        flat = nnx.to_flat_state(nnx.state(model, nnx.Param))
        return {"/".join(map(str, path)): variable.get_value() for path, variable in flat}
    return {name: leaf for name, leaf, trained in _leaves(model)[0] if trained}


def replaced(model: Any, new: Mapping[str, Array]) -> Any:
    """A copy of the model with some weights replaced; the model itself stays as it is."""
    torch, nnx = sys.modules.get("torch"), sys.modules.get("flax.nnx")
    if torch is not None and isinstance(model, torch.nn.Module):
        twin = copy.deepcopy(model)
        with torch.no_grad():
            for name, parameter in twin.named_parameters():
                if name in new:
                    parameter.copy_(new[name])
        return twin
    if nnx is not None and isinstance(model, nnx.Module):
        twin = nnx.clone(model)
        for path, variable in nnx.to_flat_state(nnx.state(twin, nnx.Param)):
            if (name := "/".join(map(str, path))) in new:
                variable.set_value(new[name])
                nnx.update(twin, nnx.from_flat_state([(path, variable)]))
        return twin
    found, rebuilt = _leaves(model)
    return rebuilt([new.get(name, leaf) if trained else leaf for name, leaf, trained in found])


def _leaves(model: Any) -> tuple[list[tuple[str, Any, bool]], Any]:
    """(name, leaf, whether it is a trained array) of a model that JAX sees as a tree, and how to make it of leaves."""
    jax = sys.modules.get("jax")
    if jax is None:
        raise TypeError(
            f"the weights of a {type(model).__name__} cannot be found; pass a PyTorch or JAX model"
        )
    linen = sys.modules.get("flax.linen")
    first = model[0] if isinstance(model, tuple) and model else model
    if linen is not None and isinstance(first, linen.Module) and not isinstance(model, tuple):
        bound, variables = model.unbind()
        found, rebuilt = _leaves((bound, variables))
        return found, lambda leaves: bound.bind(rebuilt(leaves)[1])
    flat, treedef = jax.tree_util.tree_flatten_with_path(model)
    found = []
    for keys, leaf in flat:
        trained = isinstance(leaf, jax.Array) and jax.numpy.issubdtype(
            leaf.dtype, jax.numpy.floating
        )
        names = [_name(key) for key in keys]
        statistics = {"batch_stats", "state"} & set(names)
        names = [name for name in names[1 if isinstance(model, tuple) else 0 :] if name != "params"]
        found.append((_joined(names), leaf, trained and not statistics))
    if not any(trained for _, _, trained in found):
        raise TypeError(
            f"the weights of a {type(model).__name__} cannot be found: it is no tree of JAX arrays; pass a module, or "
            "the pair (module, variables)"
        )
    return found, lambda leaves: jax.tree_util.tree_unflatten(treedef, leaves)


def _name(key: Any) -> str:
    for attribute in ("key", "name"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return f"[{key.idx}]" if hasattr(key, "idx") else str(key)


def _joined(names: list[str]) -> str:
    return re.sub(r"/\[", "[", "/".join(names))


def module_of(name: str) -> str:
    """The path of the module that a weight is in."""
    return re.split(r"[./](?=[^./]*$)", name)[0] if re.search(r"[./]", name) else ""
