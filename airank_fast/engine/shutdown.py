"""SIGTERM: finish the step, save, close the log. If the step never ends, close the log anyway.

A rank that waits in a collective for a lost peer runs no Python code, so its signal handler would never be
called. The C-level handler still writes to the wake-up pipe, and a thread reads it.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

GRACE_S = 20.0  # torchrun sends SIGKILL 30 s after SIGTERM


class Terminated(Exception):
    """Raised between two steps after SIGTERM."""


class Shutdown:
    """Watches for SIGTERM while it is entered.

    ``last_words`` is called from the watching thread if the main thread has not left the context GRACE_S after
    the signal; the process then ends with status 143.
    """

    def __init__(self, last_words: Callable[[], None]) -> None:
        self._last_words = last_words
        self._requested = threading.Event()
        self._left = threading.Event()

    @property
    def requested(self) -> bool:
        return self._requested.is_set()

    def __enter__(self) -> Shutdown:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._old_handler = signal.signal(signal.SIGTERM, lambda *_: self._requested.set())
        self._old_wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, name="sigterm", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        signal.set_wakeup_fd(self._old_wakeup)
        signal.signal(signal.SIGTERM, self._old_handler)
        os.close(self._writer)

    def _watch(self) -> None:
        while signal_number := os.read(self._reader, 1):
            if signal_number[0] == signal.SIGTERM:
                self._requested.set()
                if not self._left.wait(GRACE_S):
                    self._last_words()
                    os._exit(128 + signal.SIGTERM)
        os.close(self._reader)
