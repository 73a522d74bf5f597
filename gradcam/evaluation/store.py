"""Rows of an evaluation, in memory and on disk, so that an evaluation goes on where it was stopped.

A folder holds `settings.json`, what all rows have in common, `rows.jsonl`, a row in each line, and
while an evaluation runs `evaluation.lock`, so that no two write to it:

    {"photograph": "a.jpg", "method": "grad-cam", "content": 1234, "class": 281, "outputs": [...],
     "objects": null, "options": {"grad-cam": {}, "deletion": {}}, "values": {"deletion": 0.31},
     "failed": {}, ...}

The model, by a hash of its weights, is among the settings. A row is used again where all else that
could change its values is the same: the pixels that the network sees (`content`), its `outputs` for
them, the class, the options and, for measures that need them, the `objects`. Methods and measures
of the user's own have a hash of their code among their options.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from gradcam._files import PARTIAL, held, not_written, write_whole

__all__ = ["SCHEMA", "Row", "Store", "json_number", "merged", "opened"]

Row = dict[str, Any]

KEY = ("photograph", "method", "content", "class", "outputs", "objects")
"""What a row is about; the rest was measured."""

SCHEMA = 2
"""The version of both files. 1 had neither "schema", "model" nor "weights" among the settings."""

LOCK = "evaluation.lock"
"""Held by the one evaluation that writes to the folder."""


@contextmanager
def opened(folder: str | os.PathLike[str] | None, settings: Row) -> Iterator[Store]:
    """A store, whose folder nobody else writes to meanwhile.

    Raises a ValueError where the folder holds something else, or another evaluation runs in it.
    """
    if folder is None:
        yield Store(None, settings)
        return
    place = Path(folder)
    with contextlib.ExitStack() as stack:
        try:
            place.mkdir(parents=True, exist_ok=True)
            stack.enter_context(held(place / LOCK, wait=False))
        except BlockingIOError as error:
            raise ValueError(
                f"`out` {place} is being written by another evaluation; wait for it, or choose "
                "another folder"
            ) from error
        except OSError as error:
            raise not_written(place, error) from error
        yield Store(place, settings)


class Store:
    """Rows in memory and, where there is a folder, in a file that grows by each new row."""

    def __init__(self, folder: Path | None, settings: Row) -> None:
        self._rows: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
        self._settings = settings
        self._folder = folder
        if folder is not None:
            self._resume(folder)

    def _resume(self, folder: Path) -> None:
        path = folder / "settings.json"
        if not path.exists():
            if any(file.suffix != PARTIAL and file.name != LOCK for file in folder.iterdir()):
                raise ValueError(
                    f"`out` {folder} is not empty, and holds no evaluation; choose another folder"
                )
            return
        _check_settings(path, _read_settings(path), self._settings)
        rows = folder / "rows.jsonl"
        if rows.exists():
            for row in _read_rows(rows):
                self._keep(row)

    def _keep(self, row: Row) -> None:
        self._rows[row["photograph"], row["method"], row["content"]].append(row)

    def find(self, key: Row, options: Mapping[str, Row], masked: Collection[str]) -> Row:
        """The values that were measured before for this key with these options, as one row.

        options: of the method and of each measure, by name. masked: the measures that depend on the
            objects.
        """
        method = key["method"]
        asked = json.loads(json.dumps(options))  # tuples are lists in a file
        known: Row = {"values": {}, "failed": {}}
        for row in self._rows[key["photograph"], method, key["content"]]:
            if row["class"] != key["class"] or row["options"].get(method) != asked[method]:
                continue
            if not np.allclose(row["outputs"], key["outputs"], rtol=1e-3):
                continue  # another model
            same_objects = row["objects"] == key["objects"]
            values = {}
            for name, value in row["values"].items():
                same_options = row["options"].get(name) == asked.get(name)
                if same_options and (same_objects or name not in masked):
                    values[name] = value
            known = merged(known, {**row, "values": values, "failed": {}})
        return {name: known[name] for name in known if name not in (*KEY, "options")}

    def add(self, row: Row) -> None:
        """Keep a row, which has the fields of `KEY`, "options", "values" and "failed".

        One without values goes to no file: what failed is tried again.
        """
        line = json.dumps(row, allow_nan=False)
        self._keep(json.loads(line))
        if self._folder is not None and row["values"]:
            settings = self._folder / "settings.json"
            if not settings.exists():
                write_whole(settings, json.dumps(self._settings, indent=1) + "\n")
            # Opened anew each time, so that a run that is killed has lost no row.
            _append(self._folder / "rows.jsonl", line + "\n")


def merged(old: Row, new: Row) -> Row:
    """One row of two. A measure that failed in one and has a value in the other did not fail."""
    values = {**old["values"], **new["values"]}
    failed = {**old["failed"], **new["failed"]}
    for name in values:
        failed.pop(name, None)
    return {**old, **new, "values": values, "failed": failed}


def json_number(value: float) -> float | str | None:
    """A number as JSON can hold it: NaN, which is no value, as None, and infinity as "inf"."""
    if np.isnan(value):
        return None
    if np.isinf(value):
        return str(value)
    return value


# ------------------------------------------------------------------------------------ what is read


def _json(text: str) -> Any:
    """A ValueError of anything that is no JSON: NaN, numbers of 5000 digits, endless brackets."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no number of JSON")

    try:
        return json.loads(text, parse_constant=refuse)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _check_settings(path: Path, found: Row, asked: Row) -> None:
    if found.get("schema") != SCHEMA:
        raise ValueError(
            f"{path}: was not written by this version of gradcam: its `schema` is "
            f"{found.get('schema')!r}, and must be {SCHEMA}; choose another folder"
        )
    for name, value in asked.items():
        if found.get(name) != value:
            raise ValueError(
                f"`out` {path.parent} holds an evaluation with other settings: `{name}` was "
                f"{found.get(name)!r}, and is {value!r} now; choose another folder"
            )


def _read_settings(path: Path) -> Row:
    try:
        settings = _json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path}: is no settings file of an evaluation ({error}); "
            "delete it together with rows.jsonl, or choose another folder"
        ) from error
    if not isinstance(settings, dict):
        raise ValueError(
            f"{path}: is no settings file of an evaluation, but a {type(settings).__name__}; "
            "choose another folder"
        )
    return settings


def _read_rows(path: Path) -> list[Row]:
    """The rows of a file. Half a row behind the last line's end is of a run that was stopped."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is no text in UTF-8 ({error}); choose another folder") from error
    *lines, unfinished = text.split("\n")
    rows = [_read_row(line, f"{path}: line {number}") for number, line in enumerate(lines, start=1)]
    if unfinished:
        with contextlib.suppress(ValueError):  # half a row is measured again
            rows.append(_read_row(unfinished, f"{path}"))
        # Whole lines alone, so that the next row starts a line of its own.
        write_whole(path, "".join(json.dumps(row) + "\n" for row in rows))
    return rows


def _read_row(line: str, where: str) -> Row:
    try:
        row = _json(line)
    except ValueError as error:
        raise ValueError(f"{where} is no row of an evaluation ({error}); delete it") from error
    if not isinstance(row, dict):
        raise ValueError(f"{where} is no row of an evaluation, but a {type(row).__name__}")
    for name, is_valid in (FIELDS | OPTIONAL).items():
        if name not in row and name in OPTIONAL:
            continue
        if name not in row:
            raise ValueError(f"{where} is no row of an evaluation: it has no `{name}`; delete it")
        if not is_valid(row[name]):
            raise ValueError(
                f"{where} is no row of an evaluation: its `{name}` is {_shown(row[name])}; "
                "delete it"
            )
    return row


def _shown(value: Any) -> str:
    text = repr(value)
    if len(text) > 60:
        text = text[:57] + "..."
    return text


def _append(path: Path, line: str) -> None:
    """Add a line to a file: as a whole, also where the disk is full."""
    data = line.encode()
    with path.open("ab", buffering=0) as file:
        end = file.tell()
        try:
            while data:
                data = data[file.write(data) :]
        except OSError as error:
            with contextlib.suppress(OSError):
                file.truncate(end)
            raise not_written(path, error) from error


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    """That a float can hold; of JSON's numbers, 1e999 is infinite and 10 ** 400 an int."""
    if _is_integer(value) or isinstance(value, float):
        return bool(abs(value) <= LARGEST)
    return value in ("inf", "-inf")


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_value(value: Any) -> bool:
    """Of a measure: a number, a list of them, or None."""
    if isinstance(value, list):
        return all(element is None or _is_number(element) for element in value)
    return value is None or _is_number(value)


def _is_four_numbers(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(_is_number, value))


def _is_objects(value: Any) -> bool:
    return value is None or isinstance(value, list)


def _maps_names_to(is_valid: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """JSON's keys are always text."""

    def check(value: Any) -> bool:
        return isinstance(value, dict) and all(map(is_valid, value.values()))

    return check


def _is_options(value: Any) -> bool:
    return isinstance(value, dict)


LARGEST = float(np.finfo(np.float64).max)

FIELDS: dict[str, Callable[[Any], bool]] = {
    "photograph": _is_text,
    "method": _is_text,
    "content": _is_integer,
    "class": _is_integer,
    "outputs": _is_four_numbers,
    "objects": _is_objects,
    "options": _maps_names_to(_is_options),
    "values": _maps_names_to(_is_value),
    "failed": _maps_names_to(_is_text),
}
"""The fields that a row must have, and what they must be."""

OPTIONAL: dict[str, Callable[[Any], bool]] = {
    "control": _is_flag,
    "score": _is_number,
    "seconds": _is_number,
}
"""Those that it may have besides."""
