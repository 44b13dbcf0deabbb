"""Ends a run at SIGTERM, Ctrl-C or a lost terminal: finish the step, save, close the log. A second Ctrl-C ends at once.

If the step never ends, the log is closed anyway. A rank that waits in a collective for a lost peer runs no Python code,
so that its signal handler is never called. The C-level handler still writes to the wake-up pipe, and a thread reads it.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Callable

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
GRACE_S = 20.0  # torchrun sends SIGKILL 30 s after the signal
CLOSE_LOG_S = 2.0  # for it, after a second Ctrl-C
ONE_CTRL_C_S = 0.2  # a wrapper may pass on a signal that the terminal has sent as well


class Terminated(Exception):
    """Raised between two steps after a signal."""


class Shutdown:
    """Watches for SIGNALS while it is entered, except those that the process was started to ignore (nohup).

    The watching thread calls ``close_log`` if the main thread has not left the context GRACE_S after the signal, or at
    a second Ctrl-C; the process then ends with ``exit_status``.
    """

    def __init__(self, close_log: Callable[[], None]) -> None:
        self._close_log = close_log
        self._signal: signal.Signals | None = None
        self._left = threading.Event()

    @property
    def requested(self) -> bool:
        """Whether a signal has come."""
        return self._signal is not None

    @property
    def reason(self) -> str:
        """The first signal in lower case: sigterm, sigint or sighup."""
        return (self._signal or signal.SIGTERM).name.lower()

    @property
    def exit_status(self) -> int:
        """128 plus the signal's number, as shells have it: 143, 130 or 129."""
        return 128 + (self._signal or signal.SIGTERM)

    def __enter__(self) -> Shutdown:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        watched = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
        self._old_handlers = {number: signal.signal(number, self._request) for number in watched}
        self._old_wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, name="signals", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        signal.set_wakeup_fd(self._old_wakeup)
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)
        os.close(self._writer)

    def _request(self, number: int, _frame: object = None) -> None:
        self._signal = self._signal or signal.Signals(number)

    def _watch(self) -> None:
        first_at: float | None = None
        deadline: float | None = None
        while True:
            timeout_s = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([self._reader], [], [], timeout_s)[0]:
                if not self._left.is_set():
                    self._close_log()
                    os._exit(self.exit_status)
                break
            byte = os.read(self._reader, 1)
            if not byte:
                break
            if byte[0] not in self._old_handlers:
                continue
            self._request(byte[0])
            now = time.monotonic()
            if first_at is None:
                first_at, deadline = now, now + GRACE_S
            elif byte[0] == signal.SIGINT and now - first_at > ONE_CTRL_C_S and not self._left.is_set():
                self._leave_at_once()
        os.close(self._reader)

    def _leave_at_once(self) -> None:
        closing = threading.Thread(target=self._close_log, daemon=True)
        closing.start()
        closing.join(CLOSE_LOG_S)
        os._exit(128 + signal.SIGINT)
