"""How a transformers model of a tiny configuration is made, and the truths that its configuration
gives.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from typing import Any

from benchmarks.foreign import torchvision_schemas  # noqa: F401
from benchmarks.foreign.axes import Tokens, Truth, tokens
from benchmarks.foreign.rows import Case, Row, revived, torch_case

__all__ = ["SMALL", "built", "calibrated", "image_row", "patch_grid", "pictures", "stages", "vit"]

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
"""Of a transformer."""


def patch_grid(size: tuple[int, ...], patch: int) -> tuple[int, ...]:
    return tuple(n // patch for n in size)


def vit(size: tuple[int, ...], patch: int, prefix: int = 1, **more: Any) -> Truth:
    """`prefix` tokens, and the patches in the order of rows."""
    grid = patch_grid(size, patch)
    found = tokens(grid, prefix) + (tokens(grid, 0) if prefix else ())
    return Truth(size, "", found, **more)


def pictures(size: tuple[int, ...], **more: Any) -> Truth:
    """Channels first, as everywhere in transformers' convolutional networks."""
    return Truth(size, **more)


def stages(size: tuple[int, ...], *strides: int, prefix: int = 0, **more: Any) -> Truth:
    """Tokens of a pyramid within its stages, pictures between them."""
    found = []
    for stride in strides:
        grid = tuple(math.ceil(n / stride) for n in size)
        found.append(Tokens(grid, prefix))
        if prefix:
            found.append(Tokens(grid, 0))
    return Truth(size, "channels_first", tuple(found), **more)


def built(config: str, model: str, options: dict[str, Any]) -> Any:
    """The model, in evaluation mode, whose attention is the plain one."""
    import torch
    import transformers

    torch.manual_seed(0)
    transformers.logging.set_verbosity_error()
    made = getattr(transformers, model)(getattr(transformers, config)(**options))
    return revived(made).eval()


def calibrated(model: Any, inputs: dict[str, Any]) -> Any:
    """The model whose batch normalisations know the statistics of these inputs.

    Without, the small weights that these networks begin with let every value vanish on its way
    (scores of 1e-32).
    """
    import torch

    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
        norm.train()
    if norms:
        with torch.no_grad():
            model(**inputs)
    return model.eval()


def _image(
    config: str,
    model: str,
    truth: Truth,
    options: dict[str, Any],
    channels: int,
    target: Callable[[Any], Any] | None,
    keyword: str,
) -> Case:
    import torch

    made = built(config, model, options)
    inputs: Any = torch.randn(truth.samples, channels, *truth.size)
    if keyword:
        inputs = {keyword: inputs}
    return torch_case(calibrated(made, inputs), inputs, truth, target)


def image_row(
    name: str,
    truth: Truth,
    config: str = "",
    target: Callable[[Any], Any] | None = None,
    channels: int = 3,
    keyword: str = "pixel_values",
    **options: Any,
) -> Row:
    """The row of a class that is called with images alone; its configuration's name is the usual
    one unless told.
    """
    usual = re.split(r"For(?=[A-Z])|Model", name.split(" ")[0])[0] + "Config"
    make = functools.partial(
        _image, config or usual, name.split(" ")[0], truth, options, channels, target, keyword
    )
    return Row(name, make)
