"""Ends worker processes with their parent, even after `kill -9`, when the parent cannot signal them."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator

_WATCH_S = 2.0


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Processes that are forked inside, and end there, leave Ctrl-C, a lost terminal and SIGTERM to `end_with`."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with(parent: int, _worker: int = 0) -> None:
    """Have this process, a worker of the process `parent`, end when that does.

    `parent` is an argument because it may have ended already, which gives this process another one. Ctrl-C, a lost
    terminal, and a SIGTERM to the whole group, as torchrun and batch systems send it, reach the workers too; they
    ignore all three, since the parent decides. A SIGTERM of the parent itself ends them.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    tells_sender = hasattr(signal, "sigtimedwait")  # not on macOS
    how = signal.SIG_BLOCK if tells_sender else signal.SIG_UNBLOCK
    signal.pthread_sigmask(how, {signal.SIGTERM})  # blocked, the thread takes it

    def watch() -> None:
        while os.getppid() == parent:
            if not tells_sender:
                time.sleep(_WATCH_S)
            elif (received := signal.sigtimedwait({signal.SIGTERM}, _WATCH_S)) and received.si_pid == parent:
                os._exit(0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
