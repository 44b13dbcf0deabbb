"""events.jsonl as a log format like the others, read in whatever state the file is.

See record/events.py for the events themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from airank_fast.record import events
from airank_fast.record.entries import BROKEN, Entry, Trouble, quote, strict
from airank_fast.record.events import Event


def read(lines: Iterable[str]) -> Iterator[Entry]:
    """An entry a line; blank lines are skipped, and so is a last line that was cut off."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            event = events.from_line(line.encode())
            if type(event["kind"]) is not str:  # "nan" is read as a number
                raise ValueError(f"a kind that is a word is required, got {event['kind']}")
            yield Entry(number, event)
        except ValueError as error:
            if getattr(lines, "oddities", {}).get("cut_off") == number:
                return
            yield Entry(number, None, (Trouble(BROKEN, f"{quote(line)} ({error})", "an event"),), line[:200])


def parse(lines: Iterable[str]) -> Iterator[Event]:
    """The events; UserError with the number of the first line that is not one."""
    return strict(read(lines))
