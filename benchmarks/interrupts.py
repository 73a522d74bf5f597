"""Ctrl-C at every instant of a call: what stays behind, and does it change a later result?

    python -m benchmarks.interrupts --tries 3000            # at random instants, by a timer
    python -m benchmarks.interrupts --every 1               # at each instant, one after the other

After each try the state of the process is compared with that before, the hooks that are left are
told from all other changes, and the user's own next calls are compared with those before.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch._dynamo
import torch.utils.checkpoint
from torch.utils import _python_dispatch

import gradcam
from benchmarks import instants
from gradcam.backends.torch.sessions import EAGER, NO_FASTPATH, SAME_RANDOM_STATE, Session

IMAGES = torch.linspace(-1, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8)


def network(seed: int = 0) -> torch.nn.Module:
    """A small one with everything that this library treats in a way of its own."""
    nn = torch.nn
    torch.manual_seed(seed)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)
            self.norm = nn.BatchNorm2d(4)
            self.block = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
            self.head = nn.Linear(4, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.norm(self.conv(x)).relu()
            tokens = x.flatten(2).transpose(1, 2)
            tokens = torch.utils.checkpoint.checkpoint(self.block, tokens, use_reentrant=False)
            return self.head(tokens.mean(1))

    return Net().eval()


def calls() -> dict[str, tuple[torch.nn.Module, Callable[[], Any]]]:
    """Models, and calls of them that go through every part of the backend."""
    model = network()
    trained = network().train()
    explain = functools.partial(gradcam.explain, model, IMAGES, "conv", 1)
    found: dict[str, Callable[[], Any]] = {}
    for name in ("grad-cam", "layer-cam", "ablation-cam", "score-cam", "full-grad"):
        found[name] = functools.partial(explain, name, batch=2)
    found["legrad"] = functools.partial(gradcam.explain, model, IMAGES, None, 1, "legrad")
    found["two targets"] = lambda: gradcam.explain(model, IMAGES, "conv", [[1, 2]])
    found["guided"] = lambda: gradcam.guided_backprop(model, IMAGES, 1)
    found["layers"] = lambda: gradcam.layers(model, IMAGES)
    found["verify"] = lambda: gradcam.verify(model, IMAGES, "conv", 1, directions=1, channels=1)
    pairs = {name: (model, call) for name, call in found.items()}
    in_training = functools.partial(
        gradcam.explain, trained, IMAGES, "conv", 1, allow_training=True
    )
    return {**pairs, "in training": (trained, in_training)}


def state(model: torch.nn.Module) -> dict[str, Any]:
    """Everything of the user's, and of the process, that a call may have changed."""
    return {
        "modes": (
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch._C._len_torch_function_stack(),
            torch._C._len_torch_dispatch_stack(),
            torch._C._functorch.get_dynamic_layer_stack_depth(),
            torch._C._dispatch_tls_is_dispatch_key_included(_BATCHED),
            torch._C._autograd._top_saved_tensors_default_hooks(True),
        ),
        "process": (
            torch.utils.checkpoint.CheckpointFunction,
            torch.backends.mha.get_fastpath_enabled(),
            torch._dynamo.eval_frame._stance,
            _python_dispatch._is_in_torch_dispatch_mode,
        ),
        "sessions": (Session.innermost(), [len(s._sessions) for s in _SWITCHES]),
        "training": [module.training for module in model.modules()],
        "weights": sum(float(t.double().sum()) for t in model.state_dict().values()),
        "random": hash(torch.get_rng_state().numpy().tobytes()),
    }


_BATCHED = torch._C._parse_dispatch_key("VmapMode")
_SWITCHES = (NO_FASTPATH, EAGER, SAME_RANDOM_STATE)


def hooks(model: torch.nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


def left_behind(
    model: torch.nn.Module, call: Callable[[], Any], interrupt: Callable[..., bool]
) -> Iterator[str]:
    """What an interrupted call leaves: "hook", or what else has changed."""
    before = state(model)
    kept = hooks(model)
    outputs = None if model.training else model(IMAGES)
    if not interrupt(call):
        yield "not interrupted"
    after = state(model)
    for name, value in before.items():
        if after[name] != value:
            yield f"{name}: {value} became {after[name]}"
    if hooks(model) != kept:
        yield "hook"
    if outputs is not None and not torch.equal(model(IMAGES), outputs):
        yield "the user's own call gives something else"


def main() -> None:
    trials = {
        name: (call, functools.partial(left_behind, model, call))
        for name, (model, call) in calls().items()
    }
    instants.main(__doc__.splitlines()[0], trials)


if __name__ == "__main__":
    main()
