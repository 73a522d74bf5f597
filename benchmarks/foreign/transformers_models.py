"""Hugging Face's transformers: every list of it, in one."""

from __future__ import annotations

from benchmarks.foreign.rows import Row

__all__ = ["rows"]


def rows() -> list[Row]:
    from benchmarks.foreign import transformers_dense, transformers_images, transformers_words

    return [*transformers_images.rows(), *transformers_dense.rows(), *transformers_words.rows()]
