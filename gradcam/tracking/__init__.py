"""Explanations where people already look: TensorBoard, MLflow, Weights & Biases, folders.

    door.py        `gradcam.log`: one explanation, to a writer of any of these
    lightning.py   a callback that explains the same samples every few epochs; needs Lightning
    keras.py       the same for Keras; needs Keras

The last two are imported by name, since they import their framework.
"""

from gradcam.tracking.door import log

__all__ = ["log"]
