"""How often a shard was begun and not finished, because its process died.

A shard is tried twice as it is. From then on photographs go through one by one, and the one that is
being read or explained is written down before: where the process dies twice on the same one, it is
left out, with an error in its row. A process that dies without one is tried once more, and then the
shard has failed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace

from gradcam.runs.places import Place

__all__ = [
    "FOLDER",
    "Attempt",
    "begin",
    "finished",
    "given_up",
    "name_of",
    "note",
    "retry",
    "stopped",
    "tidy",
]

PLAIN = 2
"""Attempts before photographs go one by one."""
MOST = 3
"""Deaths without a photograph being at fault after which a shard has failed."""
BLAMED = 2
"""Deaths on one photograph after which it is left out."""

FOLDER = "attempts"


@dataclass(frozen=True)
class Attempt:
    """deaths: how often the process died. current: the sample that was being explained. blamed: how
    often the process died on each sample, by its number as text. given_up: it is not tried again.
    """

    deaths: int = 0
    current: int | None = None
    blamed: Mapping[str, int] = field(default_factory=dict)
    given_up: bool = False

    @property
    def one_by_one(self) -> bool:
        """Whether photographs must go through one by one."""
        return self.deaths >= PLAIN

    def left_out(self, sample: int) -> bool:
        """Whether the process has died too often on this sample."""
        return self.blamed.get(str(sample), 0) >= BLAMED


def begin(place: Place, number: int) -> Attempt:
    """What is known of a shard that is begun now; its file says that it was.

    The caller holds the shard.
    """
    before = _read(place, number)
    attempt = Attempt()
    if before is not None:
        blamed = dict(before.blamed)
        if before.current is not None:
            key = str(before.current)
            blamed[key] = blamed.get(key, 0) + 1
        deaths = before.deaths + 1
        given_up = before.given_up or deaths - sum(blamed.values()) >= MOST
        attempt = Attempt(deaths, None, blamed, given_up)
    _write(place, number, attempt)
    return attempt


def note(place: Place, number: int, attempt: Attempt, sample: int) -> None:
    """Write down the sample that is read and explained next."""
    _write(place, number, replace(attempt, current=sample))


def finished(place: Place, number: int) -> None:
    """The shard is done: forget its attempts."""
    place.remove(name_of(number))


def stopped(place: Place, number: int, attempt: Attempt) -> None:
    """The shard is not done, but its process lives: this attempt does not count."""
    if attempt.deaths:
        _write(place, number, replace(attempt, deaths=attempt.deaths - 1))
    else:
        place.remove(name_of(number))


def given_up(place: Place) -> list[int]:
    """The shards that are not tried any more."""
    numbers = [int(name[:-5]) for name in place.names(FOLDER) if name[:-5].isdecimal()]
    found = []
    for number in sorted(numbers):
        attempt = _read(place, number)
        if attempt is not None and attempt.given_up:
            found.append(number)
    return found


def tidy(place: Place, is_done: Callable[[int], bool]) -> None:
    """Remove what processes left that were killed when their shard was just done."""
    for name in place.names(FOLDER):
        text, _, ending = name.rpartition(".")
        if ending not in ("json", "lock") or not text.lstrip("-").isdecimal():
            continue
        if is_done(int(text)):
            with place.holding(f"{FOLDER}/{text}.lock", wait=False) as mine:
                if mine:
                    finished(place, int(text))


def retry(place: Place) -> None:
    """Forget all attempts."""
    for name in place.names(FOLDER):
        if name.endswith(".json"):
            place.remove(f"{FOLDER}/{name}")


def name_of(number: int) -> str:
    """The name of the file of a shard's attempts."""
    return f"{FOLDER}/{number}.json"


def _read(place: Place, number: int) -> Attempt | None:
    data = place.read(name_of(number))
    if data is None:
        return None
    try:
        return Attempt(**json.loads(data))
    except (ValueError, TypeError):  # half of it, or not ours
        return Attempt()


def _write(place: Place, number: int, attempt: Attempt) -> None:
    place.write(name_of(number), json.dumps(asdict(attempt)).encode())
