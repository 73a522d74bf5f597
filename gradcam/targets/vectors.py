"""Targets of models whose outputs are embeddings, sentences or numbers."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

from gradcam._arrays import array_namespace, widen
from gradcam._types import Array, Outputs
from gradcam.targets.outputs import (
    as_integers,
    as_numbers,
    check_range,
    check_shapes,
    expand,
    expand_indices,
    gather,
    log_softmax,
    logits,
    squeeze,
)
from gradcam.targets.values import Target

__all__ = ["Regression", "Sentence", "Similarity", "Word"]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Similarity(Target):
    r"""The similarity of the output (N, D) with an embedding: the cosine, or the dot product.

    The cosine is $\langle x, e \rangle / |x| |e|$. The map shows which part of an image looks like
    another image, or fits a caption. The cosine with a vector of zeros is 0. Very small and very
    large vectors lose no accuracy.

    embedding: (D,) for all samples; (N, D), one for each; or (1, K, D) or (N, K, D). A bank of K
        embeddings for all samples is `bank[None]`, (1, K, D): (K, D) would be one for each of K
        samples.
    """

    embedding: Any
    kind: Literal["cosine", "dot"] = "cosine"

    def __post_init__(self) -> None:
        if self.kind not in ("cosine", "dot"):
            raise ValueError(f'`kind` must be "cosine" or "dot", but is {self.kind!r}')
        object.__setattr__(self, "embedding", as_numbers(self.embedding, "embedding", ("D",)))

    def __call__(self, outputs: Outputs) -> Array:
        self.check(outputs)
        vectors = widen(logits(outputs))[:, None, :]
        embedding = expand(self.embedding, ("D",), vectors)
        if self.kind == "cosine":
            vectors = _direction(vectors)
            embedding = _direction(embedding)
        products = array_namespace(vectors).sum(vectors * embedding, axis=-1)
        return squeeze(products, (self.embedding, ("D",)))

    def check(self, outputs: Outputs) -> None:
        shape = tuple(int(n) for n in logits(outputs).shape)
        length = self.embedding.shape[-1]
        if len(shape) != 2 or shape[1] != length:
            raise ValueError(
                f"`embedding` of shape {tuple(self.embedding.shape)} needs outputs (N, {length}), "
                f"but the model returned {shape}"
            )
        check_shapes(shape[0], embedding=(self.embedding, ("D",)))


def _direction(vectors: Array) -> Array:
    """The vectors with unit length. A vector of zeros stays 0, with a finite derivative."""
    xp = array_namespace(vectors)
    # Scaled to 1 at most, because squares of small numbers would underflow.
    size = xp.max(xp.abs(vectors), axis=-1, keepdims=True)
    unit = vectors / xp.where(size == 0, xp.ones_like(size), size)
    square = xp.sum(unit * unit, axis=-1, keepdims=True)
    # The root of 0 has an infinite derivative, so 1 takes its place.
    return unit / xp.sqrt(xp.where(square == 0, xp.ones_like(square), square))


def _token_logits(outputs: Outputs) -> Array:
    """The logits (N, T, V) of V tokens at T positions. Those of another shape are a ValueError."""
    scores = logits(outputs)
    if scores.ndim != 3:
        raise ValueError(
            "a sentence needs outputs of shape (N, T, V), logits of V tokens at T positions, but "
            f"the model returned {tuple(scores.shape)}"
        )
    return scores


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Sentence(Target):
    r"""The log-probability of a sentence, $\sum_t \log p_t(w_t)$, of logits (N, T, V).

    The map shows which part of an image led to the caption. Why this sentence and not another is
    `Sentence(a) - Sentence(b)`.
    Selvaraju et al. 2017, section 8.1, https://arxiv.org/abs/1610.02391

    tokens: (T,) for all samples; (N, T), one for each; or (1, K, T) or (N, K, T). Position t of the
        outputs must be about token t. A causal model's is about token t + 1: pass its tokens from
        the second on, with `ignore` at the end.
    ignore: tokens equal to it, such as padding and the prompt, do not count.
    """

    tokens: Any
    ignore: int = -100

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens", as_integers(self.tokens, "tokens", ("T",)))

    def __call__(self, outputs: Outputs) -> Array:
        self.check(outputs)
        log_probabilities = log_softmax(_token_logits(outputs))
        xp = array_namespace(log_probabilities)
        tokens = xp.matrix_transpose(expand_indices(self.tokens, log_probabilities, ("T",)))
        counts = tokens != self.ignore  # (N, T, K)
        # An ignored token may be no index at all, so token 0 is gathered there, and set to 0.
        chosen = gather(log_probabilities, xp.where(counts, tokens, xp.zeros_like(tokens)))
        total = xp.sum(xp.where(counts, chosen, xp.zeros_like(chosen)), axis=1)
        return squeeze(total, (self.tokens, ("T",)))

    def check(self, outputs: Outputs) -> None:
        samples, positions, vocabulary = (int(n) for n in _token_logits(outputs).shape)
        count = int(self.tokens.shape[-1])
        if count != positions:
            raise ValueError(
                f"`tokens` of shape {tuple(self.tokens.shape)} are {count}, but the outputs have "
                f"{positions} positions; pad them with `ignore`, {self.ignore}"
            )
        check_shapes(samples, tokens=(self.tokens, ("T",)))
        check_range(self.tokens, vocabulary, "tokens", "token", ignore=self.ignore)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Word(Target):
    r"""The log-probability of one word of a sentence, $\log p_t(w)$, of logits (N, T, V).

    It gives a map for each word: `Word([[0, 1, 2]], [[7, 5, 9]])` gives those of three words from
    one forward pass.
    Selvaraju et al. 2017, section 8.1, https://arxiv.org/abs/1610.02391

    position: that of the word in the sentence, an int, (N,), (1, K) or (N, K). A negative one
    counts
        from the end.
    token: the word's index in the vocabulary, in the same shapes.
    """

    position: Any
    token: Any

    def __post_init__(self) -> None:
        for name in ("position", "token"):
            object.__setattr__(self, name, as_integers(getattr(self, name), name))

    def __call__(self, outputs: Outputs) -> Array:
        self.check(outputs)
        log_probabilities = log_softmax(_token_logits(outputs))
        xp = array_namespace(log_probabilities)
        samples, positions, _ = log_probabilities.shape
        token = expand_indices(self.token, log_probabilities)
        chosen = gather(log_probabilities, token[:, None, :])
        chosen = xp.matrix_transpose(chosen)  # (N, K, T)
        position = expand_indices(self.position, log_probabilities)
        position = xp.where(position < 0, position + positions, position)
        # One position may go with K tokens, and K positions with one token.
        count = max(int(chosen.shape[1]), int(position.shape[1]))
        chosen = xp.broadcast_to(chosen, (samples, count, positions))
        position = xp.broadcast_to(position, (position.shape[0], count))
        scores = gather(chosen, position[:, :, None])[..., 0]
        return squeeze(scores, (self.position, ()), (self.token, ()))

    def check(self, outputs: Outputs) -> None:
        samples, positions, vocabulary = (int(n) for n in _token_logits(outputs).shape)
        check_shapes(samples, position=(self.position, ()), token=(self.token, ()))
        check_range(self.position, positions, "position", "position", low=-positions)
        check_range(self.token, vocabulary, "token", "token")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Regression(Target):
    r"""The negative distance of an output from a value: $-(y - v)^2$, or $-|y - v|$.

    Its map shows the evidence that moves the output towards the value. At the value itself the
    slope is 0, so the map is blank. For the evidence that raises the output use the output itself:
    `ClassScore(0)` for outputs (N, 1), or `lambda outputs: outputs` for (N,).

    value: a number for all samples; (N,), one for each; or (1, K) or (N, K).
    index: the column of outputs (N, C), an int, (N,), (1, K) or (N, K). None is for outputs with
        one column, (N,) and (N, 1).
    loss: "squared" or "absolute".
    """

    value: Any
    index: Any = None
    loss: Literal["squared", "absolute"] = "squared"

    def __post_init__(self) -> None:
        if self.loss not in ("squared", "absolute"):
            raise ValueError(f'`loss` must be "squared" or "absolute", but is {self.loss!r}')
        object.__setattr__(self, "value", as_numbers(self.value, "value", ()))
        if self.index is not None:
            object.__setattr__(self, "index", as_integers(self.index, "index"))

    def __call__(self, outputs: Outputs) -> Array:
        self.check(outputs)
        numbers = widen(logits(outputs))
        if numbers.ndim == 1:
            numbers = numbers[:, None]
        if self.index is not None:
            numbers = gather(numbers, expand_indices(self.index, numbers))
        error = numbers - expand(self.value, (), numbers)
        if self.loss == "squared":
            loss = error * error
        else:
            loss = array_namespace(error).abs(error)
        return squeeze(-loss, *self._values().values())

    def _values(self) -> dict[str, tuple[Array, tuple[str, ...]]]:
        """The arrays with the axes of their items, for `check_shapes` and `squeeze`."""
        values: dict[str, tuple[Array, tuple[str, ...]]] = {"value": (self.value, ())}
        if self.index is not None:
            values["index"] = (self.index, ())
        return values

    def check(self, outputs: Outputs) -> None:
        shape = tuple(int(n) for n in logits(outputs).shape)
        columns = math.prod(shape[1:])
        if len(shape) not in (1, 2) or (self.index is None and columns != 1):
            raise ValueError(
                "a regression needs outputs (N,) or (N, 1), or (N, C) and the column as `index`, "
                f"but the model returned {shape} and `index` is {self.index}"
            )
        if self.index is not None:
            check_range(self.index, columns, "index", "column")
        check_shapes(shape[0], **self._values())
