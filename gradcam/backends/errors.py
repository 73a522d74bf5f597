"""Errors that all backends raise."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

__all__ = ["nothing_guided", "unknown_layer"]


def unknown_layer(path: object, known: Iterable[str]) -> KeyError:
    """The error for a layer that is not there, with the nearest names."""
    near = difflib.get_close_matches(str(path), list(known), n=3)
    hint = "; did you mean " + " or ".join(f'"{name}"' for name in near) + "?" if near else ";"
    return _LayerError(
        f'layer "{path}" is not in the model{hint} gradcam.layers(model, inputs) lists them all'
    )


def nothing_guided(rule: str, smooth: Sequence[str]) -> ValueError:
    """The error where no ReLU was on the way from the score to the input; `smooth` names what was
    there instead.
    """
    names = sorted(set(smooth))
    hint = "guided backpropagation is made for models with ReLUs"
    if names:
        there = " and ".join(names)
        hint = (
            f'the model has {there} there: pass smooth="guided" to have their derivative guided '
            "as well"
        )
    return ValueError(
        f'no ReLU was found between the input and the score, so that rule="{rule}" would be the '
        f"plain gradient; {hint}"
    )


class _LayerError(KeyError):
    def __str__(self) -> str:  # KeyError would show the message's repr
        return str(self.args[0])
