"""Pairs of times and their ratios, on a clock of the test's own."""

from __future__ import annotations

import pytest

from gradcam.benchmark import timing


class Clock:
    def __init__(self, monkeypatch):
        self.now = 0.0
        self.calls = []
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.now)

    def lasting(self, name, length):
        def call():
            self.calls.append(name)
            self.now += length

        return call


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def test_pairs_are_timed_in_turn_and_which_is_first_alternates(clock):
    pairs = timing.pairs(clock.lasting("bare", 2), clock.lasting("call", 5), 3)
    assert pairs == [(5, 2)] * 3
    first, second = ["bare", "call", "bare"], ["bare", "bare", "call"]  # the first is not timed
    assert clock.calls == first + second + first


@pytest.mark.parametrize(("limit", "count"), [(6, 1), (7, 1), (14, 1), (14.5, 2), (30, 4), (99, 5)])
def test_no_pair_is_begun_that_would_exceed_the_limit(clock, limit, count):
    pairs = timing.pairs(clock.lasting("bare", 2), clock.lasting("call", 5), 5, limit)
    assert len(pairs) == count


def test_ratios_and_quartiles():
    ratios = timing.ratios([timing.Pair(4, 2), timing.Pair(3, 3), timing.Pair(9, 3)])
    assert ratios == [2, 1, 3]
    assert timing.quartiles(ratios) == (1.5, 2, 2.5)
