"""Entries, which every format's `read` yields: the event of a line, or the trouble with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from airank_fast.errors import UserError
from airank_fast.record.events import Event

BROKEN = "line"


class Trouble(NamedTuple):
    """A departure of a line from its format. Of kind BROKEN the line cannot be read; of any other it is odd."""

    kind: str
    found: str
    required: str


class Entry(NamedTuple):
    """One line of a log: its number, its event (None: it gives none), its troubles, and its text."""

    number: int
    event: Event | None
    troubles: tuple[Trouble, ...] = ()
    text: str = ""


def strict(entries: Iterable[Entry]) -> Iterator[Event]:
    """The events alone, however oddly they were written; UserError with the number of the first broken line."""
    for number, event, troubles, _ in entries:
        for trouble in troubles:
            if trouble.kind == BROKEN:
                raise UserError(f"line {number}: must be {trouble.required}, got {trouble.found}")
        if event is not None:
            yield event


def quote(text: str, limit: int = 60) -> str:
    """Foreign text in one printable line, shortened in its middle."""
    if len(text) > limit:
        text = f"{text[: limit - 15]} ... {text[-10:]}"
    return repr(text)
