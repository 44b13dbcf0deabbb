"""Which logs a path holds, for commands that read runs: a run directory or a log is itself, a folder all below it."""

from __future__ import annotations

from pathlib import Path

from airank_fast.errors import UserError
from airank_fast.record.foreign.detect import COMPRESSIONS, PROGRAMS, detect
from airank_fast.record.foreign.read import PARSERS
from airank_fast.rules import trees
from airank_fast.walk import entries

READABLE = {"events", *PARSERS}
_COMPRESSED = "a compressed file, which was not read: its logs as text are required"


def gather(path: Path) -> tuple[list[Path], list[str]]:
    """(the runs at a path, in order; notes on files that were left out and could hold one).

    A folder holds run directories, of which events.jsonl is read and nothing beside it, logs in any format that can
    be read, and folders of such; of a submission tree the logs that it hands in. UserError if there is no run.
    """
    if not path.is_dir():
        if path.suffix in COMPRESSIONS and path.is_file():
            raise UserError(f"{path}: must be a log as text, got a compressed file")
        return [path], []
    runs, notes, waiting = [], [], [path]
    while waiting:
        place = waiting.pop()
        if not place.is_dir():
            if place.suffix in COMPRESSIONS:
                notes.append(f"{place}: {_COMPRESSED}")
                continue
            try:
                runs += [place] if READABLE.intersection(detect(place)) else []
            except UserError as error:  # such as an archive of several files
                notes.append(f"{error}; it was not read")
        elif (place / "events.jsonl").is_file():
            runs.append(place)
        elif trees.is_tree(place):
            runs += trees.logs_of(place)
        else:
            inside = [Path(entry.path) for entry in entries(place) if not entry.name.startswith(".")]
            waiting += [each for each in reversed(inside) if _may_hold_runs(each)]
    if not runs:
        more = f", {len(notes)} compressed files" if notes else ""
        raise UserError(f"{path}: must be a directory with logs of a known format, got none in it{more}")
    return runs, notes


def _may_hold_runs(path: Path) -> bool:
    return not path.is_symlink() and (path.is_dir() or (path.is_file() and path.suffix not in PROGRAMS))
