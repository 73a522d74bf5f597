"""Ctrl-C in JAX's libraries and in Keras, where something is set or put back: nothing stays behind.

`benchmarks/interrupts_others.py` tries all instants.
"""

from __future__ import annotations

import contextlib
import os

import pytest

import gradcam
from benchmarks.instants import Interrupted
from benchmarks.interrupts_others import LIBRARIES, Trial, calls, find_programs, process

SETTING = {"__enter__", "__exit__", "set_trace", "_restore", "restore"}
ON_TORCH = os.environ["KERAS_BACKEND"] == "torch"

pytestmark = [
    pytest.mark.filterwarnings("ignore::gradcam.BlankMapWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of Keras's own arrays in NumPy
    # of Haiku's contexts, which find what inner ones have left
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


class BoomError(Exception):
    pass


def sets(function):
    return function in SETTING


@pytest.fixture(params=LIBRARIES)
def trial(request):
    pytest.importorskip(request.param if request.param in ("haiku", "equinox", "keras") else "flax")
    if ON_TORCH and request.param != "keras":
        pytest.skip("this is the run of Keras on torch")
    return Trial(LIBRARIES[request.param]())


def test_nothing_stays_wherever_a_call_is_interrupted(trial):
    for name, tries in (("layers", 40), ("explain", 5)):
        call = calls(trial.subject)[name]
        call()
        find_programs()
        counted = Interrupted(counts=sets)
        counted(call)
        assert counted.seen >= tries
        for i in range(tries):
            n = i * counted.seen // tries
            found = set(trial.changed(call, Interrupted(n, sets))) - {"not interrupted"}
            assert not found, f"{name}, at instant {n} of {counted.seen}"
    assert not list(trial.results())


def test_nothing_stays_where_a_layer_or_a_target_raises(trial):
    subject = trial.subject

    def target(outputs):
        raise BoomError

    def raises(call):
        try:
            call()
        except Exception:  # each library has its own
            return True
        return False

    def explained():
        gradcam.explain(subject.model, subject.inputs, subject.layer, target)

    assert not list(trial.changed(explained, raises))
    wrong = subject._replace(inputs=subject.inputs[:, :2, :, :2])  # too few channels
    for name, call in calls(wrong).items():
        assert not list(trial.changed(call, raises)), name
    assert not list(trial.results())


def test_the_trial_would_notice_what_stays():
    jax = pytest.importorskip("jax")
    pytest.importorskip("flax")
    trial = Trial(LIBRARIES["linen"]())

    def careless():
        stack.enter_context(jax.enable_x64(True))
        gradcam.layers(trial.subject.model, trial.subject.inputs)

    with contextlib.ExitStack() as stack:
        found = list(trial.changed(careless, Interrupted(500)))
        assert any(line.startswith("enable_x64: ") for line in found)


def test_what_the_user_has_set_around_a_call_stays():
    jax = pytest.importorskip("jax")
    pytest.importorskip("flax")
    subject = LIBRARIES["linen"]()

    def target(outputs):
        raise BoomError

    with jax.transfer_guard("log"), jax.default_matmul_precision("float32"):
        before = process()
        with pytest.raises(BoomError):
            gradcam.explain(subject.model, subject.inputs, subject.layer, target)
        assert process() == before


def test_what_keras_keeps_is_restored_after_its_session_was_cleared():
    keras = pytest.importorskip("keras")
    subject = LIBRARIES["keras"]()
    for _ in range(2):  # all modules are loaded
        gradcam.explain(subject.model, subject.inputs, subject.layer, 1)
    keras.utils.clear_session()

    def target(outputs):
        keras.StatelessScope().__enter__()  # and Ctrl-C at the start of its `__exit__`
        raise KeyboardInterrupt

    before = process()
    with pytest.raises(KeyboardInterrupt):
        gradcam.explain(subject.model, subject.inputs, subject.layer, target)
    assert process() == before
