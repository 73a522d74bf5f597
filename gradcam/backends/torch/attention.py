"""Attention weights in PyTorch, fused or not: seen while a model runs, and replaced where a tap says so.

A torch function mode, which is the thread's own and ends with its context, computes fused attention step by step, and
finds the softmax of attention that is spelled out.
"""

from __future__ import annotations

import math
import types
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from gradcam.backends.torch.modes import Session

__all__ = ["ATTENTION", "AttentionMode"]

ATTENTION = "<attention>"
"""The path of attention weights (N, heads, T, T); those of the second layer are "<attention>#1"."""

_SOFTMAX = (torch.softmax, F.softmax, torch.Tensor.softmax)


class AttentionMode(TorchFunctionMode):
    """Passes all attention weights of self-attention through `tap(path, weights)`."""

    def __init__(self, tap: Callable[[str, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.tap, self.session, self.calls = tap, Session.innermost(), 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if Session.innermost() is not self.session:  # an explanation inside this one
            return func(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            return self._fused(*args, **kwargs)
        if func is F.multi_head_attention_forward:
            return self._multi_head()(*args, **kwargs)
        result = func(*args, **kwargs)
        if func in _SOFTMAX and result.ndim == 4 and result.shape[-1] == result.shape[-2] > 1:
            return self._tapped(result)
        return result

    def _tapped(self, weights: torch.Tensor) -> torch.Tensor:
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
        """`torch.nn.functional.scaled_dot_product_attention` as its documentation writes it out."""
        if enable_gqa:
            key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
            value = value.repeat_interleave(query.shape[-3] // value.shape[-3], -3)
        scores = (
            query
            @ key.transpose(-2, -1)
            * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
        )
        if is_causal:
            allowed = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
            scores = scores.masked_fill(~allowed, -math.inf)
        if attn_mask is not None:
            masked = attn_mask.dtype == torch.bool
            scores = scores.masked_fill(~attn_mask, -math.inf) if masked else scores + attn_mask
        weights = torch.softmax(scores, dim=-1)
        if weights.ndim == 4 and weights.shape[-1] == weights.shape[-2] > 1:
            weights = self._tapped(weights)
        return torch.dropout(weights, dropout_p, train=dropout_p > 0) @ value

    def _multi_head(self) -> Callable[..., Any]:
        """`F.multi_head_attention_forward` with this attention inside: its own code over other globals."""
        function = F.multi_head_attention_forward

        def softmax(scores: torch.Tensor, dim: int, **kwargs: Any) -> torch.Tensor:
            weights = torch.softmax(scores, dim=dim, **kwargs)
            if weights.shape[-1] != weights.shape[-2] or weights.shape[-1] < 2:
                return weights
            split = weights.reshape(
                samples[0], -1, *weights.shape[-2:]
            )  # (N heads, T, T) as (N, heads, T, T)
            return self._tapped(split).reshape(weights.shape)

        samples = [1]

        def run(query: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            samples[0] = query.shape[1] if query.ndim == 3 else 1
            replaced = {
                **function.__globals__,
                "has_torch_function": lambda _: False,
                "scaled_dot_product_attention": self._fused,
                "softmax": softmax,
            }
            own = types.FunctionType(
                function.__code__,
                replaced,
                function.__name__,
                function.__defaults__,
                function.__closure__,
            )
            own.__kwdefaults__ = function.__kwdefaults__
            return own(query, *args, **kwargs)

        return run
