"""Maps of the input's resolution, each file of rows beside one file of maps.

`maps/part-00000012.zip` is a Zarr (version 3) array (maps, *grid) of float16 in a zip file, with a
chunk for each map, so that one is read without the others. It is in its place before its rows are.
"""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from gradcam._types import Shape
from gradcam.runs.places import Place

__all__ = ["maps_part", "read_map", "written_to"]


def maps_part(number: int) -> str:
    """The name of the file of a shard's maps."""
    return f"maps/part-{number:08d}.zip"


def _zarr() -> Any:
    try:
        import zarr
    except ImportError as error:
        raise ImportError('maps="zarr" needs Zarr: pip install "gradcam[zarr]"') from error
    return zarr


@contextmanager
def written_to(path: Path, grid: Shape) -> Iterator[Callable[[Sequence[np.ndarray]], None]]:
    """A function that adds maps (*grid); at the block's end `path` is the zip file of them all."""
    zarr = _zarr()
    with tempfile.TemporaryDirectory(prefix="gradcam-") as folder:
        array = zarr.create_array(
            folder, shape=(0, *grid), chunks=(1, *grid), dtype="float16", zarr_format=3
        )

        def add(maps: Sequence[np.ndarray]) -> None:
            if maps:
                array.append(np.stack(maps).astype(np.float16), axis=0)

        yield add
        # Chunks are compressed already.
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
            for part in sorted(Path(folder).rglob("*")):
                if part.is_file():
                    file.write(part, part.relative_to(folder).as_posix())


def read_map(place: Place, number: int, index: int) -> np.ndarray:
    """One map of a shard, relative to its scale, as float16."""
    zarr = _zarr()
    with place.reading(maps_part(number)) as path:
        store = zarr.storage.ZipStore(path, mode="r")
        try:
            return np.asarray(zarr.open_array(store, mode="r")[index])
        finally:
            store.close()
