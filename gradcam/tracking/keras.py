"""A callback of Keras that explains the same samples every few epochs."""

from __future__ import annotations

from typing import Any

import keras

from gradcam._numbers import check_whole
from gradcam.explaining.in_one_line import explain
from gradcam.tracking.door import log

__all__ = ["ExplainCallback"]


class ExplainCallback(keras.callbacks.Callback):
    """Explains `inputs` after every `every`-th epoch of training, and logs `to` a writer or folder.

    to, name, photos: as of `gradcam.log`. options: as of `gradcam.explain`.
    """

    def __init__(
        self,
        inputs: Any,
        to: Any,
        every: int = 1,
        name: str = "gradcam",
        photos: Any = None,
        **options: Any,
    ) -> None:
        super().__init__()
        check_whole("every", every, 1)
        self.inputs, self.to, self.every, self.name = inputs, to, every, name
        self.photos, self.options = photos, options

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Called by Keras, whose first epoch is 0."""
        if (epoch + 1) % self.every == 0:
            found = explain(self.model, self.inputs, **self.options)
            log(found, self.to, self.name, epoch + 1, self.photos)
