"""What lies in a folder of checkpoints, and which of it may be loaded.

In: a folder that runs were saved into, however they ended. Out: its newest whole checkpoint, and in words why newer
ones were passed over. A checkpoint is a folder named by the number of steps done before it; orbax gives it that name
when it is finished.
"""

import itertools
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from planner.checkpoint.about import About, from_data
from planner.checkpoint.seal import fault

_ARRAYS, _ABOUT_FILE, _UNFINISHED = "state", "about/metadata", ".orbax-checkpoint-tmp"


@dataclass(frozen=True)
class Whole:
    """A checkpoint that can be loaded: its folder, the steps done before it, what it says of itself."""

    folder: Path
    count: int
    about: About


@dataclass(frozen=True)
class Survey:
    """The newest whole checkpoint, None where there is none; why newer ones were passed over; damaged ones' folders."""

    newest: Whole | None
    skipped: tuple[str, ...]
    damaged: tuple[Path, ...]


def counts(folder: Path) -> tuple[int, ...]:
    """Steps done before each finished checkpoint in a folder, ascending; damaged ones too."""
    return tuple(sorted(int(p.name) for p in _entries(folder) if p.name.isdecimal()))


def survey(folder: Path) -> Survey:
    """Look for the newest whole checkpoint, reading the files of those newer."""
    skipped: list[str] = []
    damaged: list[Path] = []
    unfinished = _unfinished(folder)
    for count in sorted({*counts(folder), *unfinished}, reverse=True):
        place = folder / str(count)
        if count in unfinished:
            skipped.append(f"{unfinished[count]} is not finished: the run that wrote it ended before")
        if not place.is_dir():
            continue
        found = _look(place)
        if isinstance(found, About):
            return Survey(Whole(place, count, found), tuple(skipped), tuple(damaged))
        damaged.append(place)
        skipped.append(f"{place} is damaged: {found}")
    return Survey(None, tuple(skipped), tuple(damaged))


def _look(checkpoint: Path) -> About | str:
    """What a checkpoint says of itself; what is wrong with it, if it is damaged."""
    return fault(checkpoint / _ARRAYS) or said_by(checkpoint)


def said_by(checkpoint: Path) -> About | str:
    """What a checkpoint says of itself, its arrays unseen; what is wrong with that, if it is damaged."""
    try:
        return from_data(json.loads((checkpoint / _ABOUT_FILE).read_bytes()))
    except OSError as error:
        return f"{_ABOUT_FILE} cannot be read ({error.strerror or error})"
    except ValueError as error:
        return str(error)


def _unfinished(folder: Path) -> dict[int, Path]:
    """Steps done before each checkpoint that orbax has not renamed, and its folder."""
    named = ((p.name.partition(_UNFINISHED), p) for p in _entries(folder))
    return {int(number): p for (number, mark, _), p in named if mark and number.isdecimal()}


def remove_unfinished(folder: Path) -> None:
    """Remove what was left half-written, as far as it lets itself be removed: it is never loaded anyway."""
    for place in _unfinished(folder).values():
        shutil.rmtree(place, ignore_errors=True)


def set_aside(damaged: Path) -> None:
    """Rename a damaged checkpoint, so that its number is free and nothing takes it for one."""
    names = (damaged.with_name(f"{damaged.name}.damaged-{n}") for n in itertools.count(1))
    damaged.rename(next(name for name in names if not name.exists()))


def _entries(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
