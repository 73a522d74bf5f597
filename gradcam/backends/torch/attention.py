"""Attention weights in PyTorch: tapped while a model runs, whether they are fused or not.

`F.scaled_dot_product_attention` returns softmax(Q K^T / sqrt(d)) V and never shows the softmax. A
torch function mode, which belongs to one thread and ends with its context, replaces it by the same
steps, written out, and passes the weights (N, heads, T, T) through the tap. Where the model itself
writes attention out, the mode recognises the softmax by its shape.
"""

from __future__ import annotations

import math
import types
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from gradcam.backends.torch.modes import FunctionMode
from gradcam.backends.torch.sessions import Session

__all__ = ["ATTENTION", "AttentionMode"]

ATTENTION = "<attention>"
"""The path of attention weights (N, heads, T, T); those of the second layer are "<attention>#1"."""

_SOFTMAX = (torch.softmax, F.softmax, torch.Tensor.softmax)


class AttentionMode(FunctionMode):
    """Passes all attention weights of self-attention through `tap(path, weights)`."""

    def __init__(self, tap: Callable[[str, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.tap = tap
        self.session = Session.innermost()
        self.calls = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if Session.innermost() is not self.session:  # an explanation inside this one
            return func(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            return self._fused(*args, **kwargs)
        if func is F.multi_head_attention_forward:
            return self._multi_head()(*args, **kwargs)
        result = func(*args, **kwargs)
        return self._tapped(result) if func in _SOFTMAX else result

    def _tapped(self, weights: torch.Tensor) -> torch.Tensor:
        """The weights through the tap, if they are those of self-attention, (N, heads, T, T)."""
        if weights.ndim != 4 or not _is_square(weights):
            return weights
        path = f"{ATTENTION}#{self.calls}" if self.calls else ATTENTION
        self.calls += 1
        return self.tap(path, weights)

    def _fused(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> torch.Tensor:
        """`F.scaled_dot_product_attention`, as its documentation writes it out."""
        if enable_gqa:
            key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
            value = value.repeat_interleave(query.shape[-3] // value.shape[-3], -3)
        if scale is None:
            scale = 1 / math.sqrt(query.shape[-1])
        scores = query @ key.transpose(-2, -1) * scale
        if is_causal:
            allowed = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
            scores = scores.masked_fill(~allowed, -math.inf)
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, -math.inf)
        elif attn_mask is not None:
            scores = scores + attn_mask
        weights = self._tapped(torch.softmax(scores, dim=-1))
        return torch.dropout(weights, dropout_p, train=dropout_p > 0) @ value

    def _multi_head(self) -> Callable[..., Any]:
        """`F.multi_head_attention_forward` with this attention inside.

        It is that function's own code, run with other globals: its softmax and its fused attention
        are replaced, and it does not dispatch to this mode again.
        """
        function = F.multi_head_attention_forward
        samples = 1  # `softmax` gets (N heads, T, T), which does not tell N

        def softmax(scores: torch.Tensor, dim: int, **kwargs: Any) -> torch.Tensor:
            weights = torch.softmax(scores, dim=dim, **kwargs)
            if not _is_square(weights):
                return weights
            # (N heads, T, T) as (N, heads, T, T) and back
            split = weights.reshape(samples, -1, *weights.shape[-2:])
            return self._tapped(split).reshape(weights.shape)

        def run(query: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            nonlocal samples
            samples = query.shape[1] if query.ndim == 3 else 1
            replaced = {
                **function.__globals__,
                "has_torch_function": lambda _: False,
                "scaled_dot_product_attention": self._fused,
                "softmax": softmax,
            }
            return _with_globals(function, replaced)(query, *args, **kwargs)

        return run


def _is_square(weights: torch.Tensor) -> bool:
    return bool(weights.shape[-1] == weights.shape[-2] > 1)


def _with_globals(function: Any, replaced: dict[str, Any]) -> Callable[..., Any]:
    """The same code, which finds other values under its global names."""
    twin = types.FunctionType(
        function.__code__,
        replaced,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    twin.__kwdefaults__ = function.__kwdefaults__
    return twin
