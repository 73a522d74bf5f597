"""What a run has found: rows, looked up, filtered and drawn."""

from __future__ import annotations

import bisect
import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from typing import Any, overload

import numpy as np

from gradcam import maps as map_math
from gradcam.maps import Scaling
from gradcam.pictures import overlay
from gradcam.pictures.colours import ALPHA
from gradcam.runs import attempts
from gradcam.runs.places import Place, opened
from gradcam.runs.plan import About, Plan, read_about
from gradcam.runs.reading import items
from gradcam.runs.rows import Row, columns, read, schema, table
from gradcam.runs.zarrs import read_map

__all__ = ["Results", "results"]

SORTED = ("score", "probability", "scale", "sample", "label_class", "class", "top_class")
"""Columns of numbers, by which rows can be sorted."""


def results(out: str | os.PathLike[str]) -> Results:
    """What lies in the folder of a run, also while it goes on.

    out: as passed to `gradcam.run`. Raises FileNotFoundError where there is no run.
    """
    place = opened(out)
    about = read_about(place)
    if about is None:
        raise FileNotFoundError(f"{place}: holds no run; gradcam.run writes one")
    return Results(place, about)


class Results(Sequence[Row]):
    """The rows of a run, in the order of the source: a sequence of `Row`.

    >>> found = gradcam.results("out")                                   # doctest: +SKIP
    >>> found.wrong().lowest("probability", 10).to_pandas()              # doctest: +SKIP

    Rows are read from the files when they are asked for. What a filter gives holds its rows.
    """

    def __init__(self, place: Place, about: About, rows: Sequence[Row] | None = None) -> None:
        self._place = place
        self.about = about
        self._rows = rows
        self._last: tuple[str, list[Row]] = ("", [])

    def __repr__(self) -> str:
        methods = ", ".join(self.about.settings["methods"])
        model = self.about.settings["model"]
        return f"Results({len(self)} rows: {methods} of {model} over {self.about.source})"

    # ----------------------------------------------------------------------------------- a sequence

    @cached_property
    def _files(self) -> list[str]:
        return sorted(f"rows/{n}" for n in self._place.names("rows") if n.endswith(".parquet"))

    @cached_property
    def _ends(self) -> list[int]:
        """How many rows there are up to the end of each file."""
        import pyarrow.parquet as pq

        ends, total = [], 0
        for name in self._files:
            with self._place.open(name) as file:
                total += pq.read_metadata(file).num_rows
            ends.append(total)
        return ends

    def __len__(self) -> int:
        if self._rows is not None:
            return len(self._rows)
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Results: ...
    def __getitem__(self, index: int | slice) -> Row | Results:
        """A row, or of a slice the results that hold these."""
        if isinstance(index, slice):
            return self._of([self[n] for n in range(*index.indices(len(self)))])
        if not -len(self) <= index < len(self):
            raise IndexError(f"there are {len(self)} rows, and none of number {index}")
        index %= len(self)
        if self._rows is not None:
            return self._rows[index]
        number = bisect.bisect_right(self._ends, index)
        before = self._ends[number - 1] if number else 0
        return self._in(self._files[number])[index - before]

    def __iter__(self) -> Iterator[Row]:
        if self._rows is not None:
            yield from self._rows
            return
        for name in self._files:
            yield from self._in(name)

    def _in(self, name: str) -> list[Row]:
        """The rows of a file; the last one that was read is kept."""
        if self._last[0] != name:
            self._last = (name, read(self._table(name)))
        return self._last[1]

    def _table(self, name: str, columns: Sequence[str] | None = None) -> Any:
        """A file of rows, or some of its columns, as an Arrow table."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        data = self._place.read(name)
        if data is None:
            raise FileNotFoundError(f"{self._place}/{name}: is missing")
        # Arrow's threads may abort a process that ends soon after they have read (26.0.1).
        return pq.ParquetFile(pa.BufferReader(data)).read(columns, use_threads=False)

    def _of(self, rows: Sequence[Row]) -> Results:
        return Results(self._place, self.about, rows)

    # -------------------------------------------------------------------------------------- filters

    def of(self, key: str) -> Results:
        """The rows of one photograph. A KeyError where there is none of that key."""
        found = self._where(("key",), lambda keys: _compute().equal(keys, key))
        if not len(found):
            raise KeyError(f'there is no row with the key "{key}"')
        return found

    def filter(self, keep: Callable[[Row], bool]) -> Results:
        """The rows for which a function of a `Row` is true."""
        return self._of([row for row in self if keep(row)])

    def errors(self) -> Results:
        """The photographs that could not be read or explained."""
        return self._where(("error",), lambda errors: _compute().is_valid(errors))

    def blank(self) -> Results:
        """The maps that are 0 everywhere."""
        return self._where(("blank",), lambda blank: blank)

    def wrong(self) -> Results:
        """Those whose top class is not the one that the source says.

        A ValueError where no label is one of the model's classes: nothing is known then.
        """
        labels = (column for (column,) in self._columns(("label_class",)))
        if all(column.null_count == len(column) for column in labels):
            raise ValueError(
                "no photograph has a label that is one of the model's classes; labels come from "
                'the source (for folders labels="folder"), and names from the classifier\'s '
                "`labels`"
            )
        return self._where(
            ("label_class", "top_class"), lambda label, top: _compute().not_equal(label, top)
        )

    def of_class(self, index: int) -> Results:
        """The maps of one class."""
        return self._where(("class",), lambda classes: _compute().equal(classes, index))

    def lowest(self, column: str, count: int) -> Results:
        """The rows with the lowest values of a column, lowest first; those without a value are left
        out.
        """
        return self._sorted(column, count, 1)

    def highest(self, column: str, count: int) -> Results:
        """The rows with the highest values of a column, highest first; those without a value are
        left out.
        """
        return self._sorted(column, count, -1)

    def _sorted(self, column: str, count: int, sign: int) -> Results:
        if column not in SORTED:
            raise ValueError(f"`column` must be one of {', '.join(SORTED)}, but is {column!r}")
        values = []
        for (found,) in self._columns((column,)):
            kept = found.cast("float64").to_numpy(zero_copy_only=False)
            values.append(kept)
        flat = np.concatenate([np.zeros(0), *values])
        order = np.argsort(sign * flat, kind="stable")  # what has no value comes last
        known = np.count_nonzero(~np.isnan(flat))
        return self._of([self[int(n)] for n in order[: min(count, known)]])

    def _columns(self, names: Sequence[str]) -> Iterator[list[Any]]:
        """These columns of each file, without the others being read."""
        if self._rows is not None:
            table = self.to_arrow()
            yield [table[name].combine_chunks() for name in names]
            return
        for file_name in self._files:
            table = self._table(file_name, list(names))
            yield [table[name] for name in names]

    def _where(self, names: Sequence[str], keep: Callable[..., Any]) -> Results:
        """The rows for which `keep`, a function of these columns, is true."""
        found: list[Row] = []
        files: Sequence[str | None] = self._files if self._rows is None else [None]
        for file_name, values in zip(files, self._columns(names), strict=True):
            mask = _compute().fill_null(keep(*values), False).to_numpy(zero_copy_only=False)
            if mask.any():
                rows = self._rows if file_name is None else self._in(file_name)
                assert rows is not None
                found += [rows[int(n)] for n in np.flatnonzero(mask)]
        return self._of(found)

    def turns(self) -> int:
        """How often the photograph changes from row to row: in the order of the source, how many
        photographs there are. No map is read.
        """
        pairs = [np.zeros((2, 0), np.int64)]
        for shard, sample in self._columns(("shard", "sample")):
            pairs.append(np.stack([shard.to_numpy(), sample.to_numpy()]).astype(np.int64))
        flat = np.concatenate(pairs, axis=1)
        if not flat.size:
            return 0
        return 1 + int(np.count_nonzero((flat[:, 1:] != flat[:, :-1]).any(0)))

    def counts(self) -> dict[str, int]:
        """How many "photographs", "rows", "errors" and "blank" maps there are."""
        counts = {"photographs": 0, "rows": 0, "errors": 0, "blank": 0}
        for shard, sample, error, blank in self._columns(("shard", "sample", "error", "blank")):
            pairs = np.stack([shard.to_numpy(), sample.to_numpy()])
            counts["photographs"] += len(np.unique(pairs, axis=1).T)
            counts["rows"] += len(shard)
            counts["errors"] += len(error) - error.null_count
            counts["blank"] += int(_compute().sum(blank).as_py() or 0)
        return counts

    # ------------------------------------------------------------------------------------- pictures

    def map(self, row: Row) -> np.ndarray:
        """The raw map (*grid) of a row, to the digits of float16."""
        if row.scale is None:
            raise ValueError(f'"{row.key}" has no map: {row.error}')
        values = row.values
        if values is None:
            assert row.index is not None  # it is in a file of maps
            values = read_map(self._place, row.shard, row.index)
        return values.astype(np.float32) * np.float32(row.scale)

    def heatmaps(
        self, key: str | Row, size: Sequence[int] | None = None, how: Scaling = "max"
    ) -> np.ndarray:
        """The maps of a photograph, resized and scaled to [0, 1]: (R, *size) for its R rows, or
        (*size) for one row. See `Explanation.heatmaps`.
        """
        if isinstance(key, Row):
            raw = self.map(key)
            shown = tuple(size or key.size or raw.shape)
            if len(shown) != raw.ndim:  # a guided map has channels
                shown = raw.shape
            resized = map_math.resize(raw[None], shown)
            scaled: np.ndarray = np.asarray(map_math.scale(resized, raw.ndim, how))[0]
            return scaled
        stacked: np.ndarray = np.stack([self.heatmaps(row, size, how) for row in self.of(key)])
        return stacked

    def photograph(self, row: Row | str) -> np.ndarray:
        """The photograph itself, RGB uint8 (H, W, 3), read from the source again.

        Raises ValueError where the source was arrays, which no file holds.
        """
        if isinstance(row, str):
            row = self.of(row)[0]
        shard = self._plan.shard(row.shard)
        if shard.kind == "arrays":
            raise ValueError("the run was over arrays, which it does not keep; pass yours")
        columns = self.about.settings.get("columns")
        for item in items(shard, self.about.root, None, columns):
            if item.sample == row.sample:
                return np.asarray(item.get())
        raise LookupError(f'"{row.key}" is not in the source any more')

    def photographs(self) -> dict[str, Callable[[], np.ndarray]]:
        """By key, functions that read the photographs from the source again.

        Those that could not be read are left out.
        """
        found: dict[str, Callable[[], np.ndarray]] = {}
        for row in self:
            if row.error is None and row.key not in found:
                found[row.key] = partial(self.photograph, row)
        return found

    @cached_property
    def _plan(self) -> Plan:
        return Plan(self._place)

    def seen(
        self, row: Row | str, view: Callable[[np.ndarray], np.ndarray] | None = None
    ) -> np.ndarray:
        """The part of a photograph that the network saw, RGB uint8 (H, W, 3).

        view: the classifier's, which the run does not keep. Without it, a ValueError where the
            network saw the photograph through one of your own.
        """
        name = self.about.settings.get("view")
        if view is None and name is not None and name.startswith("gradcam."):
            module, _, function = name.rpartition(".")
            view = getattr(importlib.import_module(module), function)
        if view is None and name is not None:
            raise ValueError(
                f"the network saw photographs through {name}; pass view=classifier.view"
            )
        photograph = self.photograph(row)
        return photograph if view is None else np.asarray(view(photograph))

    def overlays(
        self,
        key: str | Row,
        view: Callable[[np.ndarray], np.ndarray] | None = None,
        alpha: float = ALPHA,
        colormap: str | None = None,
    ) -> list[Any]:
        """The maps of a photograph in colour over what the network saw of it, as PIL images, one
        for each row. See `seen` and `Explanation.overlay`.
        """
        rows = [key] if isinstance(key, Row) else list(self.of(key))
        picture = overlay.photographs([self.seen(rows[0], view)], 1)[0]
        found = []
        for row in rows:
            heat = self.heatmaps(row, picture.shape[:2])
            found.append(overlay.overlay(picture, heat, alpha, colormap))
        return found

    # -------------------------------------------------------------------------------------- as data

    @property
    def failed(self) -> list[int]:
        """The shards that were given up, since they killed their process three times."""
        return attempts.given_up(self._place)

    @property
    def missing(self) -> int:
        """The shards that have no rows yet."""
        return self.about.shards - len(self._files)

    def to_arrow(self) -> Any:
        """All rows as an Arrow table."""
        import pyarrow as pa

        if self._rows is not None:
            return table(self._rows, schema(self.about.maps, self.about.grid))
        parts = [self._table(name) for name in self._files]
        if not parts:
            return table([], schema(self.about.maps, self.about.grid))
        return pa.concat_tables(parts)

    def to_pandas(self) -> Any:
        """All rows as a pandas data frame, with maps as NumPy arrays of their shape."""
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError("to_pandas needs pandas: pip install pandas") from error

        found: dict[str, list[Any]] = {name: [] for name in columns().values()}
        for row in self:
            for field, name in columns().items():
                found[name].append(getattr(row, field))
        return pd.DataFrame(found)


def _compute() -> Any:
    """pyarrow.compute, imported when it is needed."""
    import pyarrow.compute

    return pyarrow.compute
