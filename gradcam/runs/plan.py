"""What a run is: its settings, and its shards, written once beside the results.

    run.json       the settings, whose hash must be that of a run that goes on
    plan.parquet   the shards: so a run that goes on has the same ones
    rows/          part-00000012.parquet: the rows of a shard that is done
    attempts/      12.json: a shard that was begun and not finished

`settings` holds everything that decides a row. It names the model by a hash of its weights, its
layers and its preprocessing (`gradcam.identity`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from gradcam._files import PARTIAL
from gradcam._types import Shape
from gradcam.runs.places import Place
from gradcam.runs.rows import MapsAs
from gradcam.runs.sources import Listing, Shard, batched

__all__ = ["About", "Plan", "part", "read_about", "write"]

ABOUT = "run.json"
PLAN = "plan.parquet"
VERSION = 1
GROUP = 16
"""Shards in a row group of the plan, which is read as a whole."""


@dataclass(frozen=True)
class About:
    """What is written in `run.json`.

    settings: what decides a row. hash: of them. layers: the paths of the layers that are explained.
    axes: where samples, channels and positions are in each, and how that was told: a guess is
    called one. choice: why these layers, where none was named. root, source: where the photographs
    are. maps: how they are kept; grid: their shape, where all have the same. shards, items: how
    many; items is None where it is not known beforehand.
    """

    settings: Mapping[str, Any]
    hash: str
    layers: tuple[str, ...]
    axes: tuple[str, ...]
    choice: str | None
    root: str
    source: str
    maps: MapsAs
    grid: Shape
    shards: int
    items: int | None
    schema: int = VERSION


def part(number: int) -> str:
    """The name of the file of a shard's rows."""
    return f"rows/part-{number:08d}.parquet"


def hashed(settings: Mapping[str, Any]) -> str:
    """The hash of settings, which must be what JSON can hold."""
    text = json.dumps(settings, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_about(place: Place, settings: Mapping[str, Any] | None = None) -> About | None:
    """The run in a folder; None where there is none.

    Raises ValueError where the folder holds another run than that of `settings`, or no run.
    """
    data = place.read(ABOUT)
    if data is None:
        # A run that was killed before it had a plan has left no more than these.
        begun = {"run.lock", "attempts", PLAN}
        if any(name not in begun and not name.endswith(PARTIAL) for name in place.names()):
            raise ValueError(f"`out` {place} is not empty, and holds no run; choose another folder")
        return None
    try:
        found = json.loads(data)
        about = About(
            **{**found, **{name: tuple(found[name]) for name in ("layers", "axes", "grid")}}
        )
        was = dict(about.settings)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{place}/{ABOUT}: is not of a run of this version of gradcam ({error}); choose "
            "another folder"
        ) from error
    if about.schema != VERSION:
        raise ValueError(
            f"{place}/{ABOUT}: its `schema` is {about.schema!r}, and must be {VERSION}; choose "
            "another folder"
        )
    if settings is not None and hashed(settings) != about.hash:
        changes = [
            f"`{name}` was {was.get(name)!r}, and is {settings.get(name)!r} now"
            for name in {**was, **settings}
            if was.get(name) != settings.get(name)
        ]
        raise ValueError(
            f"`out` {place} holds a run with other settings (hash {about.hash}, now "
            f"{hashed(settings)}): {'; '.join(changes)}; choose another folder"
        )
    return about


def write(place: Place, about: Mapping[str, Any], listing: Listing) -> About:
    """Write a plan of what the source holds, and then what the run is."""
    shards, items = _write_shards(place, listing.shards)
    whole = About(
        **about,
        hash=hashed(about["settings"]),
        root=listing.root,
        source=listing.about,
        shards=shards,
        items=items,
    )
    text = json.dumps(asdict(whole), indent=1, allow_nan=False)
    place.write(ABOUT, text.encode() + b"\n")
    return whole


def _write_shards(place: Place, shards: Iterable[Shard]) -> tuple[int, int | None]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kind = _schema()
    pool = pa.system_memory_pool()  # Arrow's own keeps what it once had
    count = 0
    items: int | None = 0
    with (
        place.writing(PLAN) as path,
        pq.ParquetWriter(path, kind, compression="zstd", memory_pool=pool) as writer,
    ):
        for some in batched(shards, GROUP):
            rows = [_row(shard) for shard in some]
            columns = [
                pa.array([row[f.name] for row in rows], f.type, memory_pool=pool) for f in kind
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=kind))
            count += len(some)
            for shard in some:
                items = None if items is None or shard.items is None else items + shard.items
    return count, items


def _schema() -> Any:
    import pyarrow as pa

    return pa.schema(
        {
            "number": pa.int64(),
            "kind": pa.string(),
            # Bytes: a file's name need not be text.
            "names": pa.list_(pa.binary()),
            "labels": pa.list_(pa.string()),
            "group": pa.int32(),
            "items": pa.int64(),
        }
    )


def _row(shard: Shard) -> dict[str, Any]:
    names = [name.encode("utf-8", "surrogateescape") for name in shard.names]
    own = {name: getattr(shard, name) for name in ("number", "kind", "labels", "group", "items")}
    return {**own, "names": names}


class Plan:
    """The shards of a run, each read when it is asked for."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._last: tuple[int, Any] | None = None

    @cached_property
    def _metadata(self) -> Any:
        import pyarrow.parquet as pq

        with self._open() as file:
            return pq.read_metadata(file)

    def _open(self) -> Any:
        try:
            return self._place.open(PLAN)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{self._place}/{PLAN}: is missing") from error

    def _groups(self, groups: Iterable[int], columns: Sequence[str] | None = None) -> Any:
        """Row groups as an Arrow table: of a plan of many shards the memory holds some."""
        import pyarrow.parquet as pq

        with self._open() as file:
            # Read in this thread: Arrow's may abort a process that ends soon after (26.0.1).
            plan = pq.ParquetFile(file, metadata=self._metadata, pre_buffer=False)
            return plan.read_row_groups(list(groups), columns, use_threads=False)

    def __len__(self) -> int:
        return int(self._metadata.num_rows)

    def items(self) -> list[int | None]:
        """How many photographs each shard has."""
        found = self._groups(range(self._metadata.num_row_groups), ["items"])
        return list(found["items"].to_pylist())

    def shard(self, number: int) -> Shard:
        """The shard of that number."""
        group, index = divmod(number, GROUP)
        if self._last is None or self._last[0] != group:
            self._last = (group, self._groups([group]))
        return _shard(self._last[1].slice(index, 1).to_pylist()[0])


def _shard(row: Mapping[str, Any]) -> Shard:
    names = tuple(name.decode("utf-8", "surrogateescape") for name in row["names"])
    labels = None if row["labels"] is None else tuple(row["labels"])
    return Shard(row["number"], row["kind"], names, labels, row["group"], row["items"])
