"""A callback of Lightning that explains the same samples every few epochs."""

from __future__ import annotations

import importlib.util
from typing import Any

if importlib.util.find_spec("lightning"):
    from lightning.pytorch import Callback
else:
    from pytorch_lightning import Callback

from gradcam._numbers import check_whole
from gradcam.explaining.in_one_line import explain
from gradcam.tracking.door import log

__all__ = ["ExplainCallback"]


class ExplainCallback(Callback):
    """Explains `inputs` after every `every`-th epoch, and logs to the trainer's loggers.

    The module is in evaluation mode meanwhile, and each of its parts is in its own mode afterwards.
    name, photos: as of `gradcam.log`. options: as of `gradcam.explain`.
    """

    def __init__(
        self, inputs: Any, every: int = 1, name: str = "gradcam", photos: Any = None, **options: Any
    ) -> None:
        check_whole("every", every, 1)
        self.inputs, self.every, self.name, self.photos = inputs, every, name, photos
        self.options = options

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Called by the trainer."""
        epoch = trainer.current_epoch + 1
        if epoch % self.every or not trainer.is_global_zero:
            return
        modes = {part: part.training for part in pl_module.modules()}
        pl_module.eval()
        try:
            found = explain(pl_module, self.inputs.to(pl_module.device), **self.options)
        finally:
            for part, training in modes.items():
                part.training = training
        for logger in trainer.loggers:
            log(found, logger, self.name, epoch, self.photos)
