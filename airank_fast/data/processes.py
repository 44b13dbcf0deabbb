"""Ends worker processes with their parent, even after `kill -9`, when the parent cannot signal them."""

from __future__ import annotations

import os
import signal
import threading
import time

_WATCH_S = 2.0


def end_with(parent: int, _worker: int = 0) -> None:
    """Have this process, a worker of the process `parent`, end when that does.

    `parent` is an argument because it may have ended already, which gives this process another one. Ctrl-C and a lost
    terminal signal the workers too; they ignore both, since the parent decides.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_WATCH_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
