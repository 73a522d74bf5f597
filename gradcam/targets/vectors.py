"""Targets of models that put out vectors: embeddings, sentences, numbers."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from gradcam._arrays import array_namespace, widen
from gradcam._types import Array, Outputs
from gradcam.targets.outputs import (
    check_range,
    check_shapes,
    columns,
    each,
    gathered,
    indices,
    integers,
    log_softmax,
    logits,
    numbers,
)
from gradcam.targets.values import Target

__all__ = ["Regression", "Sentence", "Similarity", "Word"]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Similarity(Target):
    r"""How near an embedding is, of outputs (N, D): the cosine $\langle x, e \rangle / |x| |e|$, or the product alone.

    What of this picture looks like that one, or fits a caption. The cosine with a vector of zeros is 0. Tiny and large
    vectors have the cosine of their directions.

    embedding: (D,) for all samples, (N, D), one for each, or (1, K, D) or (N, K, D). A bank of K embeddings for all
    samples is (1, K, D), `bank[None]`: (K, D) is one for each of K samples.
    """

    embedding: Any
    kind: Literal["cosine", "dot"] = "cosine"

    def __post_init__(self) -> None:
        if self.kind not in ("cosine", "dot"):
            raise ValueError(f'`kind` must be "cosine" or "dot", but is {self.kind!r}')
        object.__setattr__(self, "embedding", numbers(self.embedding, "embedding", ("D",)))

    def __call__(self, outputs: Outputs) -> Array:
        self.check(outputs)
        found = widen(logits(outputs))[:, None, :]
        wanted, xp = each(self.embedding, ("D",), found), array_namespace(found)
        if self.kind == "cosine":
            found, wanted = _direction(found), _direction(wanted)
        return columns(xp.sum(found * wanted, axis=-1), (self.embedding, ("D",)))

    def check(self, outputs: Outputs) -> None:
        found = tuple(int(n) for n in logits(outputs).shape)
        if len(found) != 2 or found[1] != self.embedding.shape[-1]:
            raise ValueError(
                f"`embedding` of shape {tuple(self.embedding.shape)} needs outputs (N, {self.embedding.shape[-1]}), "
                f"but the model returned {found}"
            )
        check_shapes(found[0], embedding=(self.embedding, ("D",)))


def _direction(vectors: Array) -> Array:
    """Of unit length; 0 stays 0, and its derivative finite."""
    xp = array_namespace(vectors)
    size = xp.max(xp.abs(vectors), axis=-1, keepdims=True)
    unit = vectors / xp.where(
        size == 0, xp.ones_like(size), size
    )  # squares of small numbers would underflow
    square = xp.sum(unit * unit, axis=-1, keepdims=True)
    return unit / xp.sqrt(xp.where(square == 0, xp.ones_like(square), square))


def _words(outputs: Outputs) -> Array:
    """Logits (N, T, V)."""
    found = logits(outputs)
    if found.ndim != 3:
        raise ValueError(
            f"a sentence needs outputs of shape (N, T, V), logits of V tokens at T positions, but the model returned "
            f"{tuple(found.shape)}"
        )
    return found


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Sentence(Target):
    r"""The log-probability of a sentence, $\sum_t \log p_t(w_t)$, of logits (N, T, V).

    What of a picture made the caption: Selvaraju et al. 2017, section 8.1, https://arxiv.org/abs/1610.02391. Why this
    one and not another is `Sentence(a) - Sentence(b)`.

    tokens: (T,) for all samples, (N, T), one for each, or (1, K, T) or (N, K, T); those equal to `ignore` (padding, the
    prompt) count for nothing. The outputs at position t must be those for token t: of a causal model, which puts out
    the next token's, pass the tokens from the second on with `ignore` at the end.
    """

    tokens: Any
    ignore: int = -100

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens", integers(self.tokens, "tokens", ("T",)))

    def __call__(self, outputs: Outputs) -> Array:
        self.check(outputs)
        found = log_softmax(_words(outputs))
        xp = array_namespace(found)
        tokens = xp.matrix_transpose(indices(self.tokens, found, ("T",)))  # (N, T, K)
        counted = tokens != self.ignore
        chosen = gathered(found, xp.where(counted, tokens, xp.zeros_like(tokens)))
        total = xp.sum(xp.where(counted, chosen, xp.zeros_like(chosen)), axis=1)
        return columns(total, (self.tokens, ("T",)))

    def check(self, outputs: Outputs) -> None:
        samples, positions, vocabulary = (int(n) for n in _words(outputs).shape)
        if self.tokens.shape[-1] != positions:
            raise ValueError(
                f"`tokens` of shape {tuple(self.tokens.shape)} are {self.tokens.shape[-1]}, but the outputs have "
                f"{positions} positions; pad them with `ignore`, {self.ignore}"
            )
        check_shapes(samples, tokens=(self.tokens, ("T",)))
        check_range(self.tokens, vocabulary, "tokens", "token", ignore=self.ignore)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Word(Target):
    r"""The log-probability of one word of a sentence, $\log p_t(w)$, of logits (N, T, V): a map for each word.

    Selvaraju et al. 2017, section 8.1, https://arxiv.org/abs/1610.02391. Word([[0, 1, 2]], [[7, 5, 9]]) are the maps
    of three words from one forward pass.

    position: where, a negative one counts from the end. token: which. Each an int, (N,), (1, K) or (N, K).
    """

    position: Any
    token: Any

    def __post_init__(self) -> None:
        for name in ("position", "token"):
            object.__setattr__(self, name, integers(getattr(self, name), name))

    def __call__(self, outputs: Outputs) -> Array:
        self.check(outputs)
        found = log_softmax(_words(outputs))
        xp = array_namespace(found)
        chosen = xp.matrix_transpose(
            gathered(found, indices(self.token, found)[:, None, :])
        )  # (N, K, T)
        position = indices(self.position, found)
        position = xp.where(position < 0, position + found.shape[1], position)
        count = max(int(chosen.shape[1]), int(position.shape[1]))
        chosen = xp.broadcast_to(chosen, (chosen.shape[0], count, chosen.shape[2]))
        scores = gathered(
            chosen, xp.broadcast_to(position, (position.shape[0], count))[:, :, None]
        )[..., 0]
        return columns(scores, (self.position, ()), (self.token, ()))

    def check(self, outputs: Outputs) -> None:
        samples, positions, vocabulary = (int(n) for n in _words(outputs).shape)
        check_shapes(samples, position=(self.position, ()), token=(self.token, ()))
        check_range(self.position, positions, "position", "position", low=-positions)
        check_range(self.token, vocabulary, "token", "token")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Regression(Target):
    r"""How near a number is to a value: $-(y - v)^2$, or $-|y - v|$ with `loss="absolute"`.

    Its map is what brings the output towards the value, from wherever it is; at the value both have slope 0, so the
    map is blank. What raises the output is the output itself, `ClassScore(0)` of (N, 1), or `lambda outputs: outputs`.

    value: a number for all samples, (N,), one for each, or (1, K) or (N, K). index: which column of outputs (N, C), an
    int, (N,), (1, K) or (N, K); None where there is only one, as in (N,) and (N, 1).
    """

    value: Any
    index: Any = None
    loss: Literal["squared", "absolute"] = "squared"

    def __post_init__(self) -> None:
        if self.loss not in ("squared", "absolute"):
            raise ValueError(f'`loss` must be "squared" or "absolute", but is {self.loss!r}')
        object.__setattr__(self, "value", numbers(self.value, "value", ()))
        if self.index is not None:
            object.__setattr__(self, "index", integers(self.index, "index"))

    def __call__(self, outputs: Outputs) -> Array:
        self.check(outputs)
        found = widen(logits(outputs))
        xp = array_namespace(found)
        found = found[:, None] if found.ndim == 1 else found
        if self.index is not None:
            found = gathered(found, indices(self.index, found))
        away = found - each(self.value, (), found)
        loss = away * away if self.loss == "squared" else xp.abs(away)
        return columns(
            -loss, (self.value, ()), *(() if self.index is None else ((self.index, ()),))
        )

    def check(self, outputs: Outputs) -> None:
        samples, *rest = (int(n) for n in logits(outputs).shape)
        if len(rest) > 1 or (self.index is None and rest not in ([], [1])):
            raise ValueError(
                f"a regression needs outputs (N,) or (N, 1), or (N, C) and the column as `index`, but the model "
                f"returned {(samples, *rest)} and `index` is {self.index}"
            )
        values: dict[str, tuple[Array, tuple[str, ...]]] = {"value": (self.value, ())}
        if self.index is not None:
            values["index"] = (self.index, ())
            check_range(self.index, rest[0] if rest else 1, "index", "column")
        check_shapes(samples, **values)
