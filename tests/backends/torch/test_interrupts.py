"""Ctrl-C, at the instants where something is set or put back: nothing stays behind.

`benchmarks/interrupts.py` tries all instants.
"""

from __future__ import annotations

import signal

import pytest

torch = pytest.importorskip("torch")

import gradcam  # noqa: E402
from benchmarks.instants import Interrupted  # noqa: E402
from benchmarks.interrupts import (  # noqa: E402
    IMAGES,
    calls,
    hooks,
    left_behind,
    network,
)
from gradcam.backends.torch.modes import IgnoreNoGrad, undisturbed  # noqa: E402
from gradcam.backends.torch.sessions import EAGER, NO_FASTPATH, Session  # noqa: E402

SETTING = {"__enter__", "__exit__", "end", "enter", "leave", "restore", "hook", "undo", "remove"}
CALLS = calls()

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def sets(function):
    return function in SETTING


@pytest.mark.parametrize("name", CALLS)
def test_nothing_stays_wherever_a_call_is_interrupted(name):
    model, call = CALLS[name]
    call()
    counted = Interrupted(counts=sets)
    counted(call)
    instants = range(0, counted.seen, max(1, counted.seen // 60))
    assert len(instants) >= 30
    for n in instants:
        found = set(left_behind(model, call, Interrupted(n, sets))) - {"not interrupted"}
        assert not found, f"at instant {n} of {counted.seen}"


def test_the_trial_would_notice_what_stays():
    model = network()

    def careless():
        model.conv.register_forward_hook(lambda *_: None)
        torch.set_grad_enabled(False)
        gradcam.layers(model, IMAGES)

    found = list(left_behind(model, careless, Interrupted(500)))
    torch.set_grad_enabled(True)
    assert "hook" in found
    assert any(line.startswith("modes: ") for line in found)


def test_an_end_that_was_interrupted_is_made_up_for():
    model = network()
    session = Session(NO_FASTPATH, EAGER)

    @undisturbed
    def call():
        session.__enter__()
        session.hook(model.conv, lambda *_: 1 / 0, first=True)
        IgnoreNoGrad().__enter__()
        raise KeyboardInterrupt  # as if at the start of each `__exit__`

    with torch.inference_mode():
        with pytest.raises(KeyboardInterrupt):
            call()
        assert torch.is_inference_mode_enabled()
    assert torch.is_grad_enabled()
    assert Session.innermost() is None
    assert not NO_FASTPATH._sessions
    assert not EAGER._sessions
    assert torch.backends.mha.get_fastpath_enabled()
    assert hooks(model) == 0
    assert torch._C._len_torch_function_stack() == 0


def test_a_real_signal_ends_a_call_and_leaves_nothing():
    model, call = CALLS["ablation-cam"]

    def interrupt(run):
        previous = signal.signal(signal.SIGALRM, signal.default_int_handler)
        try:
            for _ in range(10**6):  # until the timer rings
                signal.setitimer(signal.ITIMER_REAL, 1e-3)
                run()
        except KeyboardInterrupt:
            return True
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)
        return False

    assert not list(left_behind(model, call, interrupt))
