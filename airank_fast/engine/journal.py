"""Where a rank writes its events: rank 0 to the event log, the others nowhere."""

from __future__ import annotations

from typing import Any

from airank_fast.record.events import Event, EventLog


class Journal:
    """``log`` is rank 0's EventLog, None on the other ranks."""

    def __init__(self, log: EventLog | None) -> None:
        self._log = log

    @property
    def history(self) -> list[Event]:
        """The events of the process that this one resumes."""
        return [] if self._log is None else self._log.history

    def emit(self, kind: str, **fields: Any) -> None:
        """Write an event."""
        if self._log is not None:
            self._log.emit(kind, **fields)

    def emit_once(self, kind: str, **fields: Any) -> None:
        """Write an event that a run has once, unless the resumed process has written it."""
        if not any(event["kind"] == kind for event in self.history):
            self.emit(kind, **fields)

    def close(self) -> None:
        """Close the log."""
        if self._log is not None:
            self._log.close()
