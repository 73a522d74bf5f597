"""The door: `gradcam.log`."""

from __future__ import annotations

import importlib
import io
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gradcam._numbers import check_whole
from gradcam.backends import entry
from gradcam.pictures.figure import png

if TYPE_CHECKING:
    from gradcam.explaining.comparison import Comparison
    from gradcam.explaining.explanation import Explanation

__all__ = ["log"]


@entry
def log(
    explanation: Explanation | Comparison,
    to: Any,
    name: str = "gradcam",
    step: int | None = None,
    photos: Any = None,
) -> None:
    """Show an explanation, or a comparison, where an experiment is followed.

    to: TensorBoard's `SummaryWriter`, or whatever else has `add_figure` or `add_image`; a run of
        Weights & Biases; the module `mlflow`, which is given the files of `Explanation.save`; a
        logger of Lightning for any of these; or a folder, as a path.
    name: what it is called there. step: how far the training is. photos: as of
        `Explanation.figure`.

    Raises TypeError where `to` is none of these.
    """
    if step is not None:
        check_whole("step", step)
    if isinstance(to, (str, os.PathLike)):
        _save(explanation, Path(to) / name / _at(step), photos)
    elif hasattr(to, "log_artifacts"):  # mlflow, or its client through a logger
        with tempfile.TemporaryDirectory() as folder:
            _save(explanation, Path(folder) / "out", photos)
            to.log_artifacts(f"{folder}/out", artifact_path=f"{name}/{_at(step)}")
    elif hasattr(to, "add_figure"):
        to.add_figure(name, explanation.figure(photos), global_step=step)
    elif hasattr(to, "add_image"):
        to.add_image(name, _pixels(explanation, photos), global_step=step, dataformats="HWC")
    elif type(to).__module__.startswith("wandb"):
        image = importlib.import_module("wandb").Image(_pixels(explanation, photos))
        to.log({name: image}, step=step)
    elif hasattr(to, "experiment"):
        log(explanation, _Artifacts.of(to), name, step, photos)
    else:
        kind = type(to).__name__
        raise TypeError(
            f"`to` of type {kind} is nothing to log to; pass a SummaryWriter, a run of Weights & "
            "Biases, the module mlflow, a logger of Lightning, or a folder"
        )


def _at(step: int | None) -> str:
    return "final" if step is None else f"{step:06d}"


def _save(explanation: Any, folder: Path, photos: Any) -> None:
    """The bundle; of a comparison one for each method."""
    several = explanation if isinstance(explanation, Mapping) else {"": explanation}
    for name, one in several.items():
        one.save(folder / name, photos, overwrite=True, figure=True)


def _pixels(explanation: Any, photos: Any) -> np.ndarray:
    """The figure as RGB uint8 (H, W, 3)."""
    from PIL import Image

    picture = Image.open(io.BytesIO(png(explanation.figure(photos))))
    return np.asarray(picture.convert("RGB"))


class _Artifacts:
    """MLflow's client, which has to be told the run."""

    def __init__(self, client: Any, run: str) -> None:
        self._client = client
        self._run = run

    @classmethod
    def of(cls, logger: Any) -> Any:
        """What a logger of Lightning writes to."""
        if hasattr(logger.experiment, "log_artifacts"):
            return cls(logger.experiment, logger.run_id)
        return logger.experiment

    def log_artifacts(self, folder: str, artifact_path: str) -> None:
        self._client.log_artifacts(self._run, folder, artifact_path)
