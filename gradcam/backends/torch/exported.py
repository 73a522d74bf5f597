"""Programs of `torch.export` as modules: each operator of the graph is a layer."""

from __future__ import annotations

import os
import weakref
from pathlib import Path
from typing import Any

import torch
from torch import nn

__all__ = ["Exported", "adapt"]

_OF_PROGRAMS: weakref.WeakKeyDictionary[Any, Exported] = weakref.WeakKeyDictionary()
_OF_FILES: dict[Path, tuple[tuple[int, int], Exported]] = {}


class Exported(nn.Module):
    """The program's graph, run node by node, so that each operator's result can be tapped.

    Weights are the program's own. What was fixed when it was exported, such as the size of the
    batch, stays fixed.
    """

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        super().__init__()
        self._program = _Held(program.module(check_guards=False))
        self._names: dict[str, str] = {}
        for node in self._program.module.graph.nodes:
            if node.op == "call_function":
                name = node.name
                while hasattr(self, name):
                    name += "_"
                self._names[node.name] = name
                self.add_module(name, _operator(node.target))
        self.train(False)
        for name, parameter in self._program.module.named_parameters():
            self.register_parameter(name.replace(".", "/"), parameter)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return _Steps(self._program.module, self).run_with(args, kwargs)

    def train(self, mode: bool = True) -> Exported:
        """A program has no modes: what it does was fixed when it was exported."""
        return super().train(False)


class _Held:
    """A module that is not one of the holder's layers."""

    def __init__(self, module: torch.fx.GraphModule) -> None:
        self.module = module


class _Steps(torch.fx.Interpreter):
    def __init__(self, module: torch.fx.GraphModule, layers: Exported) -> None:
        super().__init__(module)
        self._layers = layers

    def run_with(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        takes = self.module._in_spec  # how the program's arguments are flattened
        flat, given = torch.utils._pytree.tree_flatten((args, kwargs))
        if given != takes:
            raise TypeError(
                f"the exported program was called with {given}, but takes {takes}: pass the inputs "
                "as it was exported, an array, a tuple or a mapping"
            )
        found = self.run(*flat, enable_io_processing=False)
        spec: Any = self.module._out_spec
        return torch.utils._pytree.tree_unflatten(list(found), spec)

    def run_node(self, n: torch.fx.Node) -> Any:
        name = self._layers._names.get(n.name)
        if name is None:
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        return getattr(self._layers, name)(*args, **kwargs)


class _Operator(nn.Module):
    def __init__(self, target: Any) -> None:
        super().__init__()
        self._target = target

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._target(*args, **kwargs)


def _operator(target: Any) -> nn.Module:
    """A layer whose type is called as the operator is: AdaptiveAvgPool2D."""
    words = str(getattr(target, "_opname", getattr(target, "__name__", "operator"))).split("_")
    kind = type("".join(word.capitalize() for word in words) or "Operator", (_Operator,), {})
    made: nn.Module = kind(target)
    return made


def adapt(program: Any) -> Exported:
    """The module of a program, or of a `.pt2` file; the same one for the same program or file."""
    if isinstance(program, (str, os.PathLike)):
        return _of_file(Path(program))
    if program not in _OF_PROGRAMS:
        _OF_PROGRAMS[program] = Exported(program)
    return _OF_PROGRAMS[program]


def _of_file(path: Path) -> Exported:
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    stat = path.stat()
    known = _OF_FILES.get(path.resolve())
    if known is not None and known[0] == (stat.st_mtime_ns, stat.st_size):
        return known[1]
    try:
        program = torch.export.load(str(path))
    except Exception as error:  # of a zip file, of JSON, of pickle
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path}: is no program of torch.export ({line})") from error
    made = Exported(program)
    _OF_FILES[path.resolve()] = ((stat.st_mtime_ns, stat.st_size), made)
    return made
