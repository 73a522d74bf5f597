"""What affine layers add to their outputs, which full-grad needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from gradcam.backends.torch.conventions import AffineLayer
from gradcam.backends.torch.sessions import Session
from gradcam.backends.torch.transforms import inside_transforms

__all__ = ["collected_biases"]


def collected_biases(
    layers: Iterable[AffineLayer], session: Session, run: Callable[[], object]
) -> list[tuple[str, torch.Tensor]]:
    """(path, output at an input of zeros) of each call of these layers, in order."""
    biases: list[tuple[str, torch.Tensor]] = []
    for layer in layers:
        session.hook(layer.module, _BiasHook(layer, session, biases))
    run()
    return biases


class _BiasHook:
    """A forward hook that runs its layer once more, at zero."""

    def __init__(
        self, layer: AffineLayer, session: Session, biases: list[tuple[str, torch.Tensor]]
    ) -> None:
        self.layer = layer
        self.session = session
        self.biases = biases
        self.calls = 0

    def __call__(self, module: torch.nn.Module, args: Any, output: Any) -> None:
        if self.session.active:
            path = f"{self.layer.path}#{self.calls}" if self.calls else self.layer.path
            self.calls += 1
            # the function without hooks, so that this call is not counted and no user's hook fires
            inside_transforms(self.keep, path, self.layer.function(torch.zeros_like(args[0])))

    def keep(self, path: str, bias: torch.Tensor) -> torch.Tensor:
        self.biases.append((path, bias.detach()))
        return bias
