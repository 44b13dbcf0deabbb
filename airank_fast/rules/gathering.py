"""Finds the runs at a path for `score`: a run directory or a log is one run, a folder holds all runs below it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from airank_fast.errors import UserError
from airank_fast.record.foreign.detect import COMPRESSIONS, PROGRAMS, detect
from airank_fast.record.foreign.read import PARSERS
from airank_fast.rules import trees
from airank_fast.walk import entries

READABLE = {"events", *PARSERS}
_COMPRESSED = "a compressed file, which was not read: its logs as text are required"


class Gathered(NamedTuple):
    """The runs at a path, in order; notes on compressed files, which are not read; errors of unreadable folders."""

    runs: list[Path]
    notes: list[str]
    errors: list[str]


def gather(path: Path) -> Gathered:
    """The runs at a path.

    A folder holds run directories, logs in any format that can be read, and folders of these. Of a run directory only
    events.jsonl is read, of a submission tree only its logs. UserError if there is no run.
    """
    if not path.is_dir():
        if path.suffix in COMPRESSIONS and path.is_file():
            raise UserError(f"{path}: must be a log as text, got a compressed file")
        return Gathered([path], [], [])
    gathered, waiting = Gathered([], [], []), [path]
    while waiting:
        place = waiting.pop()
        try:
            waiting += reversed(_look_into(place, gathered))
        except (OSError, UserError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            gathered.errors.append(f"{place}: must be a directory that can be read, got {reason}")
    if not gathered.runs:
        more = f", {len(gathered.notes)} compressed files" if gathered.notes else ""
        message = f"{path}: must be a directory with logs in a recognised format, got none in it{more}"
        raise UserError(next(iter(gathered.errors), message))
    return gathered


def _look_into(place: Path, gathered: Gathered) -> list[Path]:
    """Adds the runs and notes of one path; returns the paths inside it. OSError or UserError if it is unreadable."""
    if not place.is_dir():
        if place.suffix in COMPRESSIONS:
            gathered.notes.append(f"{place}: {_COMPRESSED}")
            return []
        try:
            gathered.runs.extend([place] if READABLE.intersection(detect(place)) else [])
        except UserError as error:  # such as an archive of several files
            gathered.notes.append(f"{error}; it was not read")
    elif (place / "events.jsonl").is_file():
        gathered.runs.append(place)
    elif trees.is_tree(place):
        gathered.runs.extend(trees.logs_of(place))
    else:
        inside = [Path(entry.path) for entry in entries(place) if not entry.name.startswith(".")]
        return [each for each in inside if _may_hold_runs(each)]
    return []


def _may_hold_runs(path: Path) -> bool:
    try:
        return not path.is_symlink() and (path.is_dir() or (path.is_file() and path.suffix not in PROGRAMS))
    except OSError:
        return True  # reported by `gather`
