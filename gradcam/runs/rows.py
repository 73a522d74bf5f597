"""The rows of a run, and the Parquet files that they are kept in.

A row is one map: of one sample, one target, one method. A sample that could not be read or
explained has one row, with its error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeAlias

import numpy as np

from gradcam._types import Shape

__all__ = ["MapsAs", "Row", "columns", "read", "schema", "table"]

MapsAs: TypeAlias = Literal["tensor", "list", "zarr"]
"""How maps are kept: "tensor" is Arrow's fixed-shape tensor, "list" a list beside its shape, "zarr"
a file of its own, in which `index` is the map's place.
"""

SCHEMA = "1"
"""The version of the files; the metadata `gradcam` of each has it."""


@dataclass(frozen=True, eq=False)
class Row:
    """One map, or one error.

    key: of the photograph: its path within the source, or a name that the source has for it.
    shard, sample: which one it is. label: what the source says that it shows. label_class: the
        index of that class, where it is one of the model's.
    target: which of the K targets, from 0. method: its name. class_index, name: what is explained,
        where that is a class; else the target's name. score: its score; probability: that of the
        class.
    top_class, top_name: the class with the highest output.
    values: the map at the layer's own resolution, relative to `scale`, its largest magnitude, as
        float16: the raw map is their product.
    size: that of the input, which pictures are resized to. peak: the highest position, and box:
        that round the evidence, as of `Explanation.boxes`, both in pixels of the input, x first.
    blank: whether the map is 0 everywhere; reason: why, where that was asked for.
    error: why there is no map. index: the map's place in a file of maps, where there are such.
    """

    key: str
    shard: int
    sample: int
    label: str | None = None
    label_class: int | None = None
    target: int | None = None
    method: str | None = None
    class_index: int | None = None
    name: str | None = None
    score: float | None = None
    probability: float | None = None
    top_class: int | None = None
    top_name: str | None = None
    values: np.ndarray | None = None
    scale: float | None = None
    size: Shape | None = None
    peak: Shape | None = None
    box: Shape | None = None
    blank: bool | None = None
    reason: str | None = None
    error: str | None = None
    index: int | None = None


RENAMED = {"class_index": "class", "values": "map"}
"""Columns whose names in a file are not those in Python."""


def columns() -> dict[str, str]:
    """The fields of a row, and the columns of a file that they are."""
    found = {field.name: RENAMED.get(field.name, field.name) for field in fields(Row)}
    del found["index"]  # where maps are in a file of their own alone
    return found


def schema(maps: MapsAs, grid: Shape) -> Any:
    """The Arrow schema of a file; `grid` is the maps' shape, where all have the same."""
    import pyarrow as pa

    tensor = pa.list_(pa.float16())
    if maps == "tensor":
        tensor = pa.fixed_shape_tensor(pa.float16(), grid)
    kinds = {
        "key": pa.string(),
        "shard": pa.int32(),
        "sample": pa.int32(),
        "label": pa.string(),
        "label_class": pa.int32(),
        "target": pa.int32(),
        "method": pa.string(),
        "class_index": pa.int32(),
        "name": pa.string(),
        "score": pa.float32(),
        "probability": pa.float32(),
        "top_class": pa.int32(),
        "top_name": pa.string(),
        "values": tensor,
        "scale": pa.float32(),
        "size": pa.list_(pa.int32()),
        "peak": pa.list_(pa.int32()),
        "box": pa.list_(pa.int32()),
        "blank": pa.bool_(),
        "reason": pa.string(),
        "error": pa.string(),
    }
    arrow = [pa.field(name, kinds[field]) for field, name in columns().items()]
    if maps == "list":
        arrow.append(pa.field("shape", pa.list_(pa.int32())))
    if maps == "zarr":
        arrow = [field for field in arrow if field.name != "map"]
        arrow.append(pa.field("index", pa.int32()))
    return pa.schema(arrow, metadata={b"gradcam": SCHEMA.encode()})


def table(rows: Sequence[Row], kind: Any) -> Any:
    """Rows as an Arrow table of a schema that `schema` made."""
    import pyarrow as pa

    arrays = []
    for field, name in columns().items():
        if name not in kind.names:
            continue
        found = [getattr(row, field) for row in rows]
        if field == "values":
            arrays.append(_maps(found, kind.field(name).type))
        else:
            arrays.append(pa.array(found, kind.field(name).type))
    if "shape" in kind.names:
        shapes = [None if row.values is None else row.values.shape for row in rows]
        arrays.append(pa.array(shapes, kind.field("shape").type))
    if "index" in kind.names:
        arrays.append(pa.array([row.index for row in rows], pa.int32()))
    return pa.Table.from_arrays(arrays, schema=kind)


def _maps(found: Sequence[np.ndarray | None], kind: Any) -> Any:
    import pyarrow as pa

    if not isinstance(kind, pa.FixedShapeTensorType):
        flat = [None if values is None else values.reshape(-1) for values in found]
        return pa.array(flat, kind)
    length = int(np.prod(kind.shape))
    # A map that is missing is NaN: readers before Arrow 23 cannot read tensors that are null.
    block = np.full((len(found), length), np.nan, np.float16)
    for n, values in enumerate(found):
        if values is not None:
            block[n] = values.reshape(-1)
    storage = pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1)), length)
    return pa.ExtensionArray.from_storage(kind, storage)


def read(table: Any) -> list[Row]:
    """The rows of an Arrow table that came from such a file."""
    known = {**columns(), "index": "index", "shape": "shape"}
    found = {
        field: _values(table, name) for field, name in known.items() if name in table.column_names
    }
    shapes = found.pop("shape", None)
    own = () if shapes or "values" not in found else table.schema.field("map").type.shape
    rows = []
    for n in range(table.num_rows):
        row = {field: values[n] for field, values in found.items()}
        if row["scale"] is None:  # an error
            row["values"] = None
        elif "values" in row:
            shape = own if shapes is None else shapes[n]
            row["values"] = np.asarray(row["values"], np.float16).reshape(shape)
        for name in ("size", "peak", "box"):
            if row[name] is not None:
                row[name] = tuple(row[name])
        rows.append(Row(**row))
    return rows


def _values(table: Any, name: str) -> list[Any]:
    import pyarrow as pa

    column = table[name].combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    if isinstance(column.type, pa.FixedShapeTensorType):
        flat = column.storage.values.to_numpy(zero_copy_only=False)
        length = int(np.prod(column.type.shape))
        offset = column.storage.offset
        block = flat[offset * length : (offset + len(column)) * length].reshape(-1, length)
        return list(block)
    return list(column.to_pylist())
