"""Whether a faster way to the scores of many variants gives those of the slow way.

The slow way runs the model once for each variant, as its user would. A faster way may not give the
same: a model may mix the samples of its batch, or compute a part where nothing records it. So a
faster way is believed once it has given, for one variant, the score that the slow way gives.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from gradcam._arrays import agree, array_namespace
from gradcam._types import Array

__all__ = ["Together"]

_LOG = logging.getLogger("gradcam")


class Together:
    """Scores of variants (M, N, ...) by passes of several variants, where that is proved.

    alone: one variant (N, ...) -> scores (N,) or (N, K).
    together: variants (M, N, ...) -> scores (M, N) or (M, N, K), in one pass.
    at_once: how many variants a pass may have; asked when one variant has run alone.

    The proof is one pass of two variants: the first one, whose scores alone are known by then, and
    another that is far from it. If the first has the same scores in this company, no sample depends
    on the others in its batch, nor on their number.
    """

    def __init__(
        self,
        alone: Callable[[Array], Array],
        together: Callable[[Array], Array],
        at_once: Callable[[], int] | None = None,
    ) -> None:
        self._alone = alone
        self._together = together
        self._at_once = at_once
        self._proved: bool | None = None

    def __call__(self, variants: Array) -> Array:
        xp = array_namespace(variants)
        scores = []
        if self._proved is None:
            scores.append(self._alone(variants[0])[None])
            rest = variants[1:]
            if len(rest) == 0:
                return scores[0]
            if self._size(rest) > 1:
                self._proved = self._proof(variants[0], scores[0])
            variants = rest
        size = self._size(variants) if self._proved else 1
        for start in range(0, len(variants), size):
            part = variants[start : start + size]
            scores.append(self._together(part) if len(part) > 1 else self._alone(part[0])[None])
        return xp.concat(scores)

    def _size(self, variants: Array) -> int:
        """The number of variants in a pass."""
        return len(variants) if self._at_once is None else self._at_once()

    def _proof(self, variant: Array, alone: Array) -> bool:
        xp = array_namespace(variant)
        far = xp.flip(variant, axis=-1)
        if xp.isdtype(far.dtype, "real floating"):
            far = 2 * far + 1
        try:
            proved = agree(self._together(xp.stack([variant, far]))[:1], alone)
            reason = "samples of a batch depend on each other"
        except Exception as error:  # whatever the model's code raises at a batch of another size
            proved = False
            reason = f"a batch of another size fails: {error}"
        if not proved:
            _LOG.debug("variants run one at a time: %s", reason)
        return proved
