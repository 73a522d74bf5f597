"""Ctrl-C at every instant of a call: what stays behind, and does it change a later result?

    python -m benchmarks.interrupts --tries 3000            # at random instants, by a timer
    python -m benchmarks.interrupts --every 1               # at each instant, one after the other

Python runs a signal's handler when a Python function starts, when a C function has returned, and at
the end of a loop's turn. A profiler is called at the first two of these, and raises there: so the
instants are counted, and the same in every run.

After each try the state of the process is compared with that before, the hooks that are left are
told from all other changes, and the user's own next calls are compared with those before.
"""

from __future__ import annotations

import argparse
import functools
import random
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch._dynamo
import torch.utils.checkpoint
from torch.utils import _python_dispatch

import gradcam
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


# ------------------------------------------------------------------------------------ the instants


def anywhere(function: str) -> bool:
    return True


class Interrupted:
    """Raises KeyboardInterrupt at the n-th instant of the calls that it wraps.

    counts: whether the instants of a Python function of this name are among them.
    """

    def __init__(self, n: int | None = None, counts: Callable[[str], bool] = anywhere) -> None:
        self.left = n
        self.counts = counts
        self.seen = 0

    def _event(self, frame: Any, event: str, _: Any) -> None:
        code = frame.f_code
        if event not in ("call", "c_return") or code.co_filename == __file__:
            return
        if not self.counts(code.co_name):
            return
        self.seen += 1
        if self.left is not None and self.seen > self.left:
            sys.setprofile(None)
            raise KeyboardInterrupt

    def __call__(self, call: Callable[[], Any]) -> bool:
        """Whether the interrupt struck."""
        sys.setprofile(self._event)
        try:
            call()
        except KeyboardInterrupt:
            return True
        finally:
            sys.setprofile(None)
        return False


class Timer:
    """Raises KeyboardInterrupt after so many seconds, as Ctrl-C does."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __call__(self, call: Callable[[], Any]) -> bool:
        """Whether the interrupt struck."""
        try:
            signal.setitimer(signal.ITIMER_REAL, self.seconds)
            try:
                call()
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except KeyboardInterrupt:
            return True
        return False


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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tries", type=int, default=3000, help="by a timer")
    parser.add_argument("--every", type=int, default=0, help="each n-th instant instead")
    parser.add_argument("--only", help="one of the calls")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    found: Counter[str] = Counter()
    chosen = {name: pair for name, pair in calls().items() if options.only in (None, name)}
    tries = 0
    if options.every:
        for name, (model, call) in chosen.items():
            call()
            counted = Interrupted()
            counted(call)
            for n in range(0, counted.seen, options.every):
                tries += 1
                for what in left_behind(model, call, Interrupted(n)):
                    found[f"{name}: {what}"] += 1
            print(name, counted.seen, "instants", flush=True)
    else:
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        draw = random.Random(0)
        seconds = {}
        for name, (_, call) in chosen.items():
            call()
            start = time.perf_counter()
            call()
            seconds[name] = time.perf_counter() - start
        while tries < options.tries:
            name = draw.choice(list(chosen))
            interrupt = Timer(draw.uniform(1e-5, seconds[name]))
            ways = list(left_behind(*chosen[name], interrupt))
            tries += "not interrupted" not in ways
            for what in ways:
                found[f"{name}: {what}"] += 1
    print(tries, "tries")
    for what, count in found.most_common():
        print(count, what)


if __name__ == "__main__":
    main()
