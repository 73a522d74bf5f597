"""Maps over three axes as NIfTI files, which lie over the scan that they explain."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gradcam.pictures.shown import Shown

__all__ = ["write_nifti"]


def write_nifti(shown: Shown, path: Path, scan: Any, axes: Sequence[int] = (0, 1, 2)) -> Path:
    """Write the raw map at the scan's size, with the scan's affine.

    scan: the file that the model's input was made of, or a nibabel image.
    axes: for each of the input's axes, the axis of the scan that it shows.
    """
    nibabel = _nibabel()
    if shown.values.ndim != 3:
        raise ValueError(f"a NIfTI file needs a map over three axes, not {shown.values.ndim}")
    if sorted(axes) != [0, 1, 2]:
        raise ValueError(f"`axes` must be an order of 0, 1 and 2, but is {tuple(axes)}")
    if path.name.removesuffix(".gz")[-4:] != ".nii":
        raise ValueError(f"`path` must end with .nii or .nii.gz, but is {str(path)!r}")
    image = scan if hasattr(scan, "affine") else nibabel.load(scan)
    if len(image.shape) < 3:
        raise ValueError(f"`scan` must have three axes, but has the shape {image.shape}")
    values = shown.raw([int(image.shape[axis]) for axis in axes])
    values = np.transpose(values, np.argsort(axes)).astype(np.float32)
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.float32)
    header.set_xyzt_units(*_units(image))
    header["descrip"] = shown.caption.replace("\n", ", ").encode()[:79]
    nibabel.save(nibabel.Nifti1Image(values, image.affine, header), path)
    return path


def _units(image: Any) -> tuple[str, str]:
    if hasattr(image.header, "get_xyzt_units"):
        space, time = image.header.get_xyzt_units()
        return space, time
    return "mm", "unknown"


def _nibabel() -> Any:
    try:
        return importlib.import_module("nibabel")
    except ImportError as error:
        raise ImportError('NIfTI files need nibabel: pip install "gradcam[medical]"') from error
