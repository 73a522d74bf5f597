"""What `verify` reports: one `Check` for each direction, and the `Verification` made of them."""

from __future__ import annotations

from dataclasses import dataclass, field

from gradcam.pictures.notebook import text_html

__all__ = ["Check", "Verification"]


@dataclass(frozen=True)
class Check:
    """One direction of the activations, checked for all samples and targets at once.

    what: "direction" for a random one, "alpha" for one channel lifted at every position.
    error: the largest relative error over samples and targets, without those that are kinks or lost
        in rounding.
    kinks: how many of them are kinks. of: how many there are, N or N times K.
    flat: how many of them test nothing: the gradient is 0, and the score stays the same.
    lost: how many of them rounding lets no step tell. resolution: the relative error that it lets
        be seen, where any are lost.
    wrong: how many of them show a wrong gradient.
    """

    what: str
    error: float
    kinks: int
    of: int
    flat: int = 0
    lost: int = 0
    wrong: int = 0
    resolution: float = 0.0


@dataclass(frozen=True)
class Verification:
    """The report of `verify`. Print it, or call `assert_passed()`.

    verdict: "passed" or "failed"; "inconclusive" where more than half of the random directions'
        points, or of the channels', are kinks or lost in rounding; "untested" where at all others
        the gradient is 0 and the score stays the same.
    dtype: that of the gradients. replay_dtype: that of the differences.
    step: the first that was tried; smaller and larger ones where it did not agree.
    gradient_error: the largest relative error along random directions. 1 is the root mean square
        of the derivative along a random direction.
    alpha_error: the largest error of an alpha, relative to max(largest alpha of the sample, 1e-3
        times the largest sum of absolute gradients). The second counts in front of instance
        normalisation, where all alphas are 0 and only their rounding is left.
    replay_error: the largest difference between the captured scores and those of the captured
        activations replayed, relative to the largest score.
    kinks: points, of `points`, where the score bends within the step (ReLU at zero, a tie in max
        pooling). No derivative exists there, so no gradient is right or wrong, and neither error
        includes them.
    lost: points that the score's own rounding lets no step tell. resolution: the relative error
        that it lets be seen there, and at points that are confirmed by it alone.
    held_zeros: whether activations that are exactly 0 were kept at 0, because a point was wrong or
        most were kinks otherwise. The gradient there is not verified.
    ignored: where the verdict is "untested", whether the score also stays the same for quite other
        activations: zeros, the negated and random ones.
    passes: the forward passes that were run; two of them, or one, had a backward pass too.
    fault: the error in words, where it has a simple one. remark: why no double precision copy was
        used, where that failed.
    """

    layer: str
    dtype: str
    step: float
    tolerance: float
    replay_error: float
    checks: tuple[Check, ...] = field(repr=False)
    held_zeros: bool = False
    ignored: bool = False
    replay_dtype: str = ""
    passes: int = 0
    fault: str = ""
    remark: str = ""

    @property
    def gradient_error(self) -> float:
        return self._largest("direction")

    @property
    def alpha_error(self) -> float:
        return self._largest("alpha")

    @property
    def error(self) -> float:
        return max(self.gradient_error, self.alpha_error, self.replay_error)

    @property
    def kinks(self) -> int:
        return sum(check.kinks for check in self.checks)

    @property
    def points(self) -> int:
        return sum(check.of for check in self.checks)

    @property
    def flat(self) -> int:
        return sum(check.flat for check in self.checks)

    @property
    def lost(self) -> int:
        return sum(check.lost for check in self.checks)

    @property
    def resolution(self) -> float:
        return max((check.resolution for check in self.checks), default=0.0)

    @property
    def verdict(self) -> str:
        wrong = any(check.wrong for check in self.checks)
        if wrong or not self.replay_error <= self.tolerance:  # NaN fails
            return "failed"
        if any(self._is_undecided(what) for what in ("direction", "alpha")):
            return "inconclusive"
        if 0 < self.points == self.kinks + self.lost + self.flat:
            return "untested"
        return "passed"

    @property
    def passed(self) -> bool:
        return self.verdict == "passed"

    def assert_passed(self) -> None:
        """Raise AssertionError, with the report, unless the verdict is "passed"."""
        if not self.passed:
            raise AssertionError(str(self))

    def __str__(self) -> str:
        directions = sum(check.what == "direction" for check in self.checks)
        channels = len(self.checks) - directions
        lines = [
            f'gradients at layer "{self.layer}": {self.verdict}',
            f"  relative error {self.gradient_error:.1e}  "
            f"of the gradient along {directions} random directions",
            f"  relative error {self.alpha_error:.1e}  of alpha, {channels} channels lifted",
            f"  relative error {self.replay_error:.1e}  of the score when the captured activations "
            "are replayed",
            f"  tolerance {self.tolerance:.0e} in {self.dtype}, "
            f"{self.kinks} of {self.points} points at a kink, {self.lost} lost in rounding, "
            f"{self.passes} forward passes",
        ]
        lines += self._notes()
        return "\n".join(lines)

    def _repr_html_(self) -> str | None:
        return text_html(str(self), self.verdict, self.passed)

    def _notes(self) -> list[str]:
        notes = []
        if self.held_zeros:
            notes.append(
                "  activations that are 0 lie on kinks and were kept at 0: the gradient there is "
                "not verified"
            )
        if self.verdict == "untested":
            notes += [
                "  nothing was tested: the gradient is 0, and the score stays the same along all "
                "directions",
                *_cause_of_flatness(self.ignored),
            ]
        if self.verdict == "inconclusive" and self.lost > self.kinks:
            notes.append(
                "  most points are lost in the rounding of the score: an error below "
                f"{self.resolution:.0e} cannot be seen"
            )
        elif self.verdict == "inconclusive":
            notes.append(
                "  most points lie on kinks, where no derivative exists: "
                "try another layer or other inputs"
            )
        if self.verdict == "passed" and self.resolution > self.tolerance:
            notes.append(
                "  the rounding of the score hides an error below "
                f"{self.resolution:.0e} at some points"
            )
        if self.fault:
            notes.append(f"  {self.fault}")
        if self.remark:
            notes.append(f"  {self.remark}")
        if self.verdict == "failed" and self.replay_error > self.tolerance:
            notes += [
                "  replaying the captured activations gives another score: the model is random or "
                "keeps state,",
                "  or the captured activations are not those that the rest of the model saw",
            ]
        return notes

    def _is_undecided(self, what: str) -> bool:
        """Whether most points of this kind are kinks or lost."""
        checks = [check for check in self.checks if check.what == what]
        undecided = sum(check.kinks + check.lost for check in checks)
        return 2 * undecided > sum(check.of for check in checks)

    def _largest(self, what: str) -> float:
        return max((check.error for check in self.checks if check.what == what), default=0.0)


def _cause_of_flatness(ignored: bool) -> list[str]:
    if ignored:
        return [
            "  replaying zeros, negated or random activations gives the same score too: the score "
            "does not",
            "  depend on this layer, or the backend does not put the replayed activations in its "
            "place",
        ]
    return [
        "  other activations change the score, so the layer is used, but it is flat here, as in "
        "front of",
        "  ReLUs that are all off: try another layer or other inputs",
    ]
